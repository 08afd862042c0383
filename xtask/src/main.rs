//! `cargo xtask`: what the repository needs beyond cargo. One file per subcommand; what they share
//! (finding the workspace, running a command) is in `shell`, making the machine ready in `prepare`,
//! what test binaries print in `libtest`, how source files are found in `source`.

mod again;
mod api;
mod arrows;
mod bench;
mod bpf;
mod interop;
mod libtest;
mod prepare;
mod servers;
mod shell;
mod simulate;
mod soak;
mod source;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds the BPF objects and runs every check")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare the public interface of the libraries with the committed text
    Api(api::Args),
    /// Print the floors of each crate; fail on an import that points up and on circles
    Arrows(arrows::Args),
    /// Measure the costs of loading, selecting and listing
    Bench(bench::Args),
    /// Compile the BPF sources with clang-14 into the committed objects
    Bpf(bpf::Args),
    /// Run the recipes in docs/recipes/ with servers that the other tests do not need (`interop_`)
    Interop(interop::Args),
    /// Simulate policies among up to 1,024 workers
    Simulate(simulate::Args),
    /// Run the long versions of tests (those with `soak_` in their names), or restart servers (`restarts`)
    Soak(soak::Args),
    /// Install what the tests need, then run all checks and all tests
    Test(test::Args),
    /// Run tests on another kernel, in an emulated machine
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Api(args) => api::run(&args),
        Command::Arrows(args) => arrows::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Bpf(args) => bpf::run(&args),
        Command::Interop(args) => interop::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Vm(args) => vm::run(&args).map(drop),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
