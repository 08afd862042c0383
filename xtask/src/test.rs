//! `cargo xtask test`: every check there is, the quick ones first, the tests last: on this kernel, then
//! on another. Stops at the first step that fails.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::libtest::{Counts, SLOW};
use crate::{bpf, prepare, shell, vm};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the slow parts: the documentation, the tests on another kernel, and tests whose
    /// names begin with `slow_`
    #[arg(long)]
    quick: bool,
    /// Leave out the tests on another kernel, in an emulated machine: `cargo xtask vm`
    #[arg(long)]
    no_vm: bool,
    /// Run only the tests whose names contain one of these, and no other check
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Runs the steps and ends with one line that sums them up.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = shell::workspace()?;
    let mut steps = Steps::new();
    let elsewhere = Elsewhere::of(args);
    let (mut here, mut there) = (Counts::default(), String::new());
    steps.step("prepare", || {
        prepare::run()?;
        // A kernel that cannot be fetched is better known before the tests than after them.
        if elsewhere == Elsewhere::Run { vm::prepare() } else { Ok(()) }
    })?;
    if args.names.is_empty() {
        check(&root, args, &mut steps)?;
    }
    steps.step("tests", || {
        here = test(&root, args)?;
        Ok(())
    })?;
    match elsewhere {
        Elsewhere::Run => steps.step("vm", || {
            there = vm::run(&vm::Args::everything())?.to_string();
            Ok(())
        })?,
        Elsewhere::No(why) => there = format!("not run on another kernel ({why})"),
    }
    let took = seconds(steps.start.elapsed());
    println!("\nall well: {} steps, in {took}; tests: {here}; {there}", steps.done);
    Ok(())
}

/// Whether the tests run on another kernel too, and if not, why.
#[derive(Clone, Copy, PartialEq)]
enum Elsewhere {
    Run,
    No(&'static str),
}

impl Elsewhere {
    fn of(args: &Args) -> Self {
        match args {
            Args { no_vm: true, .. } => Self::No("--no-vm"),
            Args { quick: true, .. } => Self::No("--quick"),
            Args { names, .. } if !names.is_empty() => Self::No("`cargo xtask vm NAME` does that"),
            _ if !vm::is_possible() => Self::No("the emulated machine is an x86-64 one"),
            _ => Self::Run,
        }
    }
}

/// Everything but the tests.
fn check(root: &Path, args: &Args, steps: &mut Steps) -> Result<()> {
    steps.step("format", || shell::run(shell::cargo(root).args(["fmt", "--all", "--check"])))?;
    steps.step("clippy", || {
        // With every feature, as the tests have them, and with none, as users get them.
        for extra in [["--all-targets", "--all-features"].as_slice(), &[]] {
            let mut cargo = shell::cargo(root);
            cargo.args(["clippy", "--workspace"]).args(extra);
            shell::run(cargo.args(["--", "-D", "warnings"]))?;
        }
        Ok(())
    })?;
    if !args.quick {
        steps.step("docs", || {
            let mut cargo = shell::cargo(root);
            shell::run(cargo.env("RUSTDOCFLAGS", "-Dwarnings").args([
                "doc",
                "--no-deps",
                "--workspace",
            ]))
        })?;
    }
    steps.step("bpf", || bpf::run(&bpf::Args { check: true }))
}

/// Runs the tests, shows what they say, and counts.
fn test(root: &Path, args: &Args) -> Result<Counts> {
    let mut command = test_command(root, args);
    let shown = shell::show(&command);
    // One pipe for both: cargo names on stderr whose results follow on stdout.
    let (output, stdout) = std::io::pipe().context("cannot make a pipe")?;
    let stderr = stdout.try_clone().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    drop(command); // and with it our copies of the pipe's other end

    let mut counts = Counts::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts.add(&line);
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status}): {} passed, {} failed", counts.passed, counts.failed);
    }
    if counts.passed == 0 {
        bail!("`{shown}` ran no test at all");
    }
    Ok(counts)
}

fn test_command(root: &Path, args: &Args) -> Command {
    // They see a pipe, so they have to be told of the terminal behind it.
    let colour = shell::colour();
    let mut cargo = shell::cargo(root);
    // All failures in one run are worth more than the first one sooner.
    cargo.args(["test", "--workspace", "--all-features", "--no-fail-fast"]);
    if colour {
        cargo.args(["--color", "always"]);
    }
    cargo.arg("--");
    if args.quick {
        cargo.args(["--skip", SLOW]);
    }
    if colour {
        cargo.args(["--color", "always"]);
    }
    cargo.args(&args.names);
    cargo
}

/// The steps done so far, and when the first began.
struct Steps {
    start: Instant,
    done: usize,
}

impl Steps {
    fn new() -> Self {
        Self { start: Instant::now(), done: 0 }
    }

    /// Runs one step under a heading and says how long it took.
    fn step(&mut self, name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("== {name}");
        let start = Instant::now();
        let result = run();
        let took = seconds(start.elapsed());
        result.with_context(|| format!("{name} failed after {took}"))?;
        println!("== {name}: {took}\n");
        self.done += 1;
        Ok(())
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
