//! `cargo xtask test`: every check there is, the quick ones first, the tests last. Stops at the first
//! step that fails.

use std::io::{BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{bpf, prepare, shell};

/// Tests that take seconds rather than moments begin their names so; `--quick` leaves them out.
const SLOW: &str = "slow_";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the slow parts: the documentation, and tests whose names begin with `slow_`
    #[arg(long)]
    quick: bool,
    /// Run only the tests whose names contain one of these, and no other check
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Runs the steps and ends with one line that sums them up.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = shell::workspace()?;
    let mut steps = Steps::new();
    let mut counts = Counts::default();
    steps.step("prepare", prepare::run)?;
    if args.names.is_empty() {
        check(&root, args, &mut steps)?;
    }
    steps.step("tests", || {
        counts = test(&root, args)?;
        Ok(())
    })?;
    println!(
        "\nall well: {} steps, {} tests passed, {} ignored, {} left out, in {}",
        steps.done,
        counts.passed,
        counts.ignored,
        counts.filtered,
        seconds(steps.start.elapsed())
    );
    Ok(())
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
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
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

/// What the lines `test result: ok. 3 passed; 0 failed; 1 ignored; ...` add up to.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    filtered: u64,
}

impl Counts {
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = result.split([' ', ';', '.']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                "filtered" => self.filtered += number,
                _ => {}
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up_and_others_do_not() {
        let mut counts = Counts::default();
        for line in [
            "running 5 tests",
            "test 7 passed ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 12 filtered out; \
             finished in 0.00s",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out; \
             finished in 2.71s",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 7, failed: 2, ignored: 1, filtered: 13 });
    }
}
