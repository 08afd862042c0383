//! `cargo xtask vm`: runs tests on another kernel. QEMU emulates a machine in software, which boots
//! Debian's cloud kernel or a given one with a file system of test binaries and little else ([`image`]),
//! runs them and powers off ([`machine`]).
//!
//! Few tests that fail are run once more, one at a time, and the result names them.
//!
//! It has no shell, and it does not compare kernels: a test knows what to expect of which kernel. Tests
//! that do not depend on the kernel do not run there, nor do documentation tests, whose binaries cargo
//! does not keep.

mod binaries;
mod cpio;
mod image;
mod kernel;
mod machine;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::binaries::Scope;
use self::kernel::Kernel;
use crate::again::{self, PassedAlone};
use crate::libtest::{ANY_KERNEL, Counts, SLOW};
use crate::{prepare, shell};

/// The default packages: all whose tests need a kernel.
const PACKAGES: [&str; 4] = ["reuseport", "reuseport-cli", "sk-reuseport", "test-support"];

/// How many times longer than on a real machine a test may wait (read by `test-support`'s `wait`). The
/// environment overrides it.
const SLOWNESS: (&str, &str) = ("REUSEPORT_TEST_SLOWNESS", "10");

/// How many examples a property is tested on (proptest's default is 256); properties do not depend on
/// the kernel. The environment overrides it.
const PROPERTY_CASES: (&str, &str) = ("PROPTEST_CASES", "16");

/// Prefixes of variables that the machine inherits.
const PASSED_ON: [&str; 6] =
    ["REUSEPORT_", "PROPTEST_", "INSTA_", "RUST_BACKTRACE", "RUST_LOG", "RUST_TEST_"];

/// Seconds after which a test binary is killed.
const LIMIT: u64 = 3600;

/// How many of the slowest tests to show.
const SLOWEST: usize = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Boot this kernel image instead of Debian's; it needs BPF, BTF, IPv6, cgroups and a serial
    /// console
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The modules of that kernel: its /lib/modules/VERSION [default: everything is built in]
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Run the tests of this package (repeatable)
    #[arg(short, long = "package", value_name = "PACKAGE", default_values = PACKAGES)]
    packages: Vec<String>,
    /// Kill a test binary after this time
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT)]
    timeout: u64,
    /// Run the slow tests too (those with `slow_` in their names)
    #[arg(long)]
    slow: bool,
    /// Run only the tests whose names contain one of these; slow tests only if one contains `slow_`,
    /// those for any kernel only if one contains `any_kernel::`
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Options for the test binaries, such as --test-threads=1
    #[arg(last = true, value_name = "LIBTEST ARGS")]
    libtest: Vec<String>,
    #[arg(skip = Scope::Packages)]
    scope: Scope,
}

impl Args {
    /// What `cargo xtask test` runs after it has built the workspace: all tests except the slow ones.
    pub(crate) fn everything() -> Self {
        Self {
            kernel: None,
            modules: None,
            packages: PACKAGES.map(str::to_owned).to_vec(),
            timeout: LIMIT,
            slow: false,
            names: Vec::new(),
            libtest: Vec::new(),
            scope: Scope::Workspace,
        }
    }
}

/// Whether the emulated machine, which is x86-64, can run this machine's binaries.
pub(crate) fn is_possible() -> bool {
    std::env::consts::ARCH == "x86_64"
}

/// The results of a run without failures.
#[derive(Debug)]
pub(crate) struct Ran {
    counts: Counts,
    release: String,
    alone: PassedAlone,
}

/// `12 passed on Linux 6.1.0`.
impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on Linux {}{}", self.counts, self.release, self.alone)
    }
}

/// Installs QEMU and downloads Debian's kernel for [`run`].
pub(crate) fn prepare() -> Result<()> {
    prepare::for_vm()?;
    debian(&directory(&shell::workspace()?)?).map(drop)
}

/// The directory of the kernel, the image and the log.
fn directory(root: &Path) -> Result<PathBuf> {
    Ok(shell::target_directory(root)?.join("vm"))
}

fn debian(directory: &Path) -> Result<Kernel> {
    kernel::debian(&directory.join("kernel"))
}

/// Builds the tests, runs them on the kernel, and reports the results.
pub(crate) fn run(args: &Args) -> Result<Ran> {
    if !is_possible() {
        bail!("the emulated machine is x86-64, which cannot run this machine's binaries");
    }
    let start = Instant::now();
    prepare::for_vm()?;
    let root = shell::workspace()?;
    let directory = directory(&root)?;
    let kernel = match &args.kernel {
        Some(image) => kernel::given(image, args.modules.as_deref())?,
        None => debian(&directory)?,
    };
    let built = binaries::build(&root, &args.packages, args.scope)?;

    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let names: Vec<_> = built.tests.iter().map(|test| test.name.as_str()).collect();
    let limit = Duration::from_secs(args.timeout);
    let boot = |arguments: &[String]| {
        let initramfs = directory.join("initramfs.cpio");
        let console = directory.join("console.log");
        let run = image::Run {
            root: &root,
            arguments,
            environment: &environment(&root, std::env::vars()),
            limit: args.timeout,
        };
        image::write(&initramfs, &built, &kernel.modules, &run)?;
        println!("booting {}, which logs to {}", kernel.image.display(), console.display());
        machine::run(&kernel, &initramfs, &console, &names)
    };
    let outcome = boot(&arguments(args))?;
    let ran = report(&names, &outcome, start.elapsed(), limit);
    let mut counts = Counts::default();
    outcome.finished.iter().for_each(|one| counts += one.counts);
    match (ran, few_failed(&outcome, counts)) {
        (Err(error), Some(failed)) => {
            println!("\n{error}\nonce more, one at a time: {}\n", failed.join(", "));
            let start = Instant::now();
            let mut arguments = common_arguments();
            arguments.extend(again::alone(&failed).map(str::to_owned));
            let outcome = boot(&arguments)?;
            let second = report(&names, &outcome, start.elapsed(), limit)?;
            let counts = again::add_up(&failed, counts, second.counts)?;
            Ok(Ran { counts, release: second.release, alone: PassedAlone(failed) })
        }
        (ran, _) => ran,
    }
}

/// The tests that failed, if that is all that went wrong, and if they are few.
fn few_failed(outcome: &machine::Outcome, counts: Counts) -> Option<Vec<String>> {
    let failed: Vec<_> = outcome.finished.iter().flat_map(|one| one.failed.clone()).collect();
    let explained = |one: &machine::Finished| {
        one.status == 0 || (one.status == 101 && one.failed.len() as u64 == one.counts.failed)
    };
    let all = outcome.broken.is_none() && outcome.finished.iter().all(explained);
    again::if_few(failed, counts).filter(|_| all)
}

fn common_arguments() -> Vec<String> {
    // The tests print to a serial port, which is a terminal.
    let color = if shell::color() { "always" } else { "never" };
    // For the list of slow tests; RUSTC_BOOTSTRAP allows it on a stable toolchain.
    ["--color", color, "-Z", "unstable-options", "--report-time"].map(str::to_owned).to_vec()
}

fn arguments(args: &Args) -> Vec<String> {
    let mut arguments = common_arguments();
    let named = |part: &str| args.names.iter().any(|name| name.contains(part));
    let slow = (!args.slow).then_some(SLOW);
    for part in
        ANY_KERNEL.into_iter().chain(slow).filter(|part| !named(part.trim_end_matches("::")))
    {
        arguments.extend(["--skip", part].map(str::to_owned));
    }
    arguments.extend(args.libtest.iter().cloned());
    arguments.extend(args.names.iter().cloned());
    arguments
}

fn environment(root: &Path, ours: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    // insta would start cargo, which is missing there.
    let root = root.display().to_string();
    let passed_on = |name: &str| PASSED_ON.iter().any(|prefix| name.starts_with(prefix));
    let defaults = [
        SLOWNESS,
        PROPERTY_CASES,
        ("RUST_BACKTRACE", "0"),
        ("RUSTC_BOOTSTRAP", "1"),
        ("INSTA_WORKSPACE_ROOT", &root),
        ("INSTA_UPDATE", "no"),
    ];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
    defaults.into_iter().chain(ours.filter(|(name, _)| passed_on(name))).collect()
}

/// Prints a line for each test binary, the slowest tests, and a summary.
fn report(
    names: &[&str],
    outcome: &machine::Outcome,
    took: Duration,
    limit: Duration,
) -> Result<Ran> {
    println!();
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    for (index, name) in names.iter().enumerate() {
        let Some(finished) = outcome.finished.get(index) else {
            let started = index == outcome.finished.len() && outcome.booted.is_some();
            println!("{:11}  {name}", if started { "DID NOT END" } else { "not run" });
            failed.push(*name);
            continue;
        };
        counts += finished.counts;
        let (word, why) = verdict(finished, limit);
        let seconds = finished.took.as_secs_f64();
        println!("{word:11}  {name:width$}  {seconds:6.1} s  {}{why}", finished.counts);
        if finished.status != 0 {
            failed.push(*name);
        }
    }
    println!("\nthe slowest tests:");
    for (seconds, name, binary) in slowest(names, &outcome.finished) {
        println!("    {seconds:6.1} s  {binary}: {name}");
    }
    let release = match &outcome.booted {
        Some((release, boot)) => {
            let (boot, took) = (boot.as_secs_f64(), took.as_secs_f64());
            println!("vm: {counts}, on Linux {release} (booted in {boot:.1} s), in {took:.1} s");
            release.clone()
        }
        None => String::new(),
    };
    if let Some(why) = &outcome.broken {
        bail!("{why}");
    }
    if !failed.is_empty() {
        bail!("{} of {} test binaries failed: {}", failed.len(), names.len(), failed.join(", "));
    }
    if counts.passed == 0 {
        bail!("no test ran at all");
    }
    Ok(Ran { counts, release, alone: PassedAlone::default() })
}

/// How a binary ended, and details of a failure.
fn verdict(finished: &machine::Finished, limit: Duration) -> (&'static str, String) {
    /// The shell's exit code for a signal is 128 and the signal's number.
    const KILLED: i32 = 128 + 9;
    match finished.status {
        0 => ("ok", String::new()),
        KILLED if finished.took >= limit => {
            ("TIMED OUT", format!(", killed after {} s", limit.as_secs()))
        }
        status @ 129.. => ("FAILED", format!(", ended by signal {}", status - 128)),
        101 => ("FAILED", String::new()), // libtest: a test failed
        status => ("FAILED", format!(", exit code {status}")),
    }
}

/// The tests that took longest, with their binaries.
fn slowest<'a>(
    names: &[&'a str],
    finished: &'a [machine::Finished],
) -> Vec<(f64, &'a str, &'a str)> {
    let of = |(binary, finished): (&&'a str, &'a machine::Finished)| {
        let binary = *binary;
        finished.tests.iter().map(move |(name, seconds)| (*seconds, name.as_str(), binary))
    };
    let mut tests: Vec<_> = names.iter().zip(finished).flat_map(of).collect();
    tests.sort_by(|a, b| b.0.total_cmp(&a.0));
    tests.truncate(SLOWEST);
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(status: i32, passed: u64) -> machine::Finished {
        let counts = Counts { passed, ..Counts::default() };
        let (tests, failed) = (Vec::new(), Vec::new());
        machine::Finished { status, counts, tests, failed, took: Duration::from_secs(20) }
    }

    fn outcome(finished: Vec<machine::Finished>) -> machine::Outcome {
        let booted = Some(("6.1".to_owned(), Duration::from_secs(3)));
        machine::Outcome { booted, finished, broken: None }
    }

    #[test]
    fn a_run_passes_only_if_every_binary_passed_and_a_test_ran() {
        const LIMIT: Duration = Duration::from_secs(900);
        let reported = |finished| report(&["a", "b"], &outcome(finished), LIMIT, LIMIT);
        assert_eq!(reported(vec![finished(0, 1), finished(0, 2)]).unwrap().counts.passed, 3);
        let error = |finished| reported(finished).unwrap_err().to_string();
        assert_eq!(error(vec![finished(0, 1), finished(101, 2)]), "1 of 2 test binaries failed: b");
        assert!(error(vec![finished(0, 1)]).ends_with("failed: b"));
        assert_eq!(error(vec![finished(0, 0), finished(0, 0)]), "no test ran at all");
    }

    #[test]
    fn a_few_failed_tests_get_a_second_chance_and_a_crash_does_not() {
        let with = |status, failed: &[&str], counted| {
            let mut one = finished(status, 3);
            one.counts.failed = counted;
            one.failed = failed.iter().copied().map(str::to_owned).collect();
            outcome(vec![finished(0, 1), one])
        };
        let few_failed = |outcome: &machine::Outcome| {
            let mut counts = Counts::default();
            outcome.finished.iter().for_each(|one| counts += one.counts);
            few_failed(outcome, counts)
        };
        assert_eq!(few_failed(&with(101, &["a", "b"], 2)), Some(vec!["a".into(), "b".into()]));
        assert_eq!(few_failed(&with(0, &[], 0)), None);
        assert_eq!(few_failed(&with(101, &["a"], 2)), None, "one is not named");
        assert_eq!(few_failed(&with(139, &["a"], 1)), None, "it crashed");
        let broken = machine::Outcome { broken: Some("went down".into()), ..with(101, &["a"], 1) };
        assert_eq!(few_failed(&broken), None);
    }

    #[test]
    fn a_time_out_is_no_other_signal() {
        let of = |status, limit| verdict(&finished(status, 0), Duration::from_secs(limit));
        assert_eq!(of(137, 20), ("TIMED OUT", ", killed after 20 s".to_owned()));
        assert_eq!(of(137, 900), ("FAILED", ", ended by signal 9".to_owned()));
        assert_eq!(of(126, 900), ("FAILED", ", exit code 126".to_owned()));
        assert_eq!(of(0, 20).0, "ok");
    }

    #[test]
    fn the_environment_overrides_the_slowness_and_other_variables_stay_out() {
        let ours = [("HOME", "/home/x"), ("REUSEPORT_TEST_SLOWNESS", "3"), ("RUST_BACKTRACE", "1")];
        let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = environment(Path::new("/w"), ours.into_iter());
        assert!(!environment.iter().any(|(name, _)| name == "HOME"));
        // They are exported in this order, so the last one counts.
        let last = environment.iter().rfind(|(name, _)| name == SLOWNESS.0);
        assert_eq!(last.unwrap().1, "3");
    }
}
