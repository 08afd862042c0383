//! `cargo xtask test`: all checks, then the tests on this kernel, then those on another kernel. Stops at
//! the first step that fails.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::again::{self, PassedAlone};
use crate::libtest::{self, Counts, SLOW};
use crate::{api, arrows, bpf, prepare, shell, vm};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Skip the slow parts: documentation, the tests on another kernel, and tests whose names contain
    /// `slow_`
    #[arg(long)]
    quick: bool,
    /// Skip the tests on another kernel, in an emulated machine (`cargo xtask vm`)
    #[arg(long)]
    no_vm: bool,
    /// Run only the tests whose names contain one of these, and no checks
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Runs the steps and prints a summary.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = shell::workspace()?;
    let mut steps = Steps::default();
    let elsewhere = Elsewhere::of(args);
    let (mut here, mut there) = (String::new(), String::new());
    steps.step("prepare", || {
        prepare::run()?;
        // Fail here, not after the tests, if the kernel cannot be downloaded.
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
        Elsewhere::No(why) => there = format!("not run ({why})"),
    }
    println!("\nall passed; seconds by step:\n{steps}\nhere: {here}\nother kernel: {there}");
    Ok(())
}

/// Whether the tests also run on another kernel, and if not, why.
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
            Args { names, .. } if !names.is_empty() => Self::No("use `cargo xtask vm NAME`"),
            _ if !vm::is_possible() => Self::No("the emulated machine is x86-64"),
            _ => Self::Run,
        }
    }
}

/// All checks except the tests.
fn check(root: &Path, args: &Args, steps: &mut Steps) -> Result<()> {
    steps.step("arrows", || arrows::run(&arrows::Args {}))?;
    steps.step("api", || api::run(&api::Args { update: false }))?;
    steps.step("format", || shell::run(shell::cargo(root).args(["fmt", "--all", "--check"])))?;
    steps.step("clippy", || {
        // With all features, as the tests have them, and with none, as users do.
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

/// Runs the tests, and few that failed once more. Returns the counts as text.
fn test(root: &Path, args: &Args) -> Result<String> {
    let names: Vec<&str> = args.names.iter().map(String::as_str).collect();
    let skip: &[&str] = if args.quick { &["--skip", SLOW] } else { &[] };
    let first = run_tests(test_command(root, &[skip, &names].concat()))?;
    let (Some(error), counts) = (first.error, first.counts) else {
        return Ok(first.counts.to_string());
    };
    let failed = again::if_few(first.failed, counts).filter(|_| !first.crashed);
    let Some(failed) = failed else { bail!(error) };
    println!("\n{error}\nonce more, one at a time: {}\n", failed.join(", "));
    let second = run_tests(test_command(root, &again::alone(&failed).collect::<Vec<_>>()))?;
    if let Some(error) = second.error {
        bail!(error);
    }
    let counts = again::add_up(&failed, counts, second.counts)?;
    Ok(format!("{counts}{}", PassedAlone(failed)))
}

/// What one run of the tests gave.
struct Ran {
    counts: Counts,
    failed: Vec<String>,
    /// Whether a test binary ended without a result.
    crashed: bool,
    error: Option<String>,
}

/// Runs the tests, shows their output, and counts the results.
fn run_tests(mut command: Command) -> Result<Ran> {
    let shown = shell::show(&command);
    // One pipe for both: cargo prints headings on stderr for the results on stdout.
    let (output, stdout) = std::io::pipe().context("cannot make a pipe")?;
    let stderr = stdout.try_clone().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    drop(command); // and its copies of the pipe's other end

    let (mut counts, mut failed) = (Counts::default(), Vec::new());
    let (mut begun, mut ended) = (0, 0);
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts.add(&line);
        failed.extend(libtest::failed(&line).map(str::to_owned));
        begun += u32::from(libtest::begins(&line));
        ended += u32::from(line.starts_with(libtest::RESULT));
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{shown}`"))?;
    let error = if !status.success() {
        let Counts { passed, failed, .. } = counts;
        Some(format!("`{shown}` failed ({status}): {passed} passed, {failed} failed"))
    } else if counts.passed == 0 {
        Some(format!("`{shown}` ran no test at all"))
    } else {
        None
    };
    Ok(Ran { counts, failed, crashed: begun != ended, error })
}

/// `cargo test` with these arguments of libtest.
fn test_command(root: &Path, arguments: &[&str]) -> Command {
    // The tests see a pipe, not the terminal behind it.
    let color: &[&str] = if shell::color() { &["--color", "always"] } else { &[] };
    let mut cargo = shell::cargo(root);
    // All failures in one run are more useful than an early end.
    cargo.args(["test", "--workspace", "--all-features", "--no-fail-fast"]).args(color);
    cargo.arg("--").args(color).args(arguments);
    cargo
}

/// The completed steps and how long each took.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    /// Runs one step under a heading.
    fn step(&mut self, name: &'static str, run: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("== {name}");
        let start = Instant::now();
        let result = run();
        let took = start.elapsed();
        result.with_context(|| format!("{name} failed after {:.1} s", took.as_secs_f64()))?;
        println!("== {name}: {:.1} s\n", took.as_secs_f64());
        self.0.push((name, took));
        Ok(())
    }
}

/// A table: step, seconds.
impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.iter().map(|(_, took)| *took).sum();
        for (name, took) in self.0.iter().chain([&("total", total)]) {
            writeln!(f, "    {name:8} {:7.1}", took.as_secs_f64())?;
        }
        Ok(())
    }
}
