//! `cargo xtask vm`: runs tests on another kernel than this machine's. QEMU emulates a machine in
//! software, which boots Debian's cloud kernel (or any other) into a file system that has the test
//! binaries and little else ([`image`]), runs them and goes off ([`machine`]).
//!
//! It is no virtual machine to work in, and it does not compare kernels: a test says itself what it
//! expects of which kernel. Documentation tests do not run there, for cargo does not keep them.

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
use crate::libtest::{Counts, SLOW};
use crate::{prepare, shell};

/// Whose tests run if nobody names others: all that there are, but for xtask's own, which ask nothing
/// of a kernel.
const PACKAGES: [&str; 4] = ["reuseport", "reuseport-cli", "sk-reuseport", "test-support"];

/// How many times longer than on a real machine a test may wait, unless the environment says
/// otherwise: `test-support`'s `wait` reads it.
const SLOWNESS: (&str, &str) = ("REUSEPORT_TEST_SLOWNESS", "10");

/// How many examples a property is tried on, unless the environment says otherwise (proptest's own
/// default is 256): properties are about our own code, which is the same on every kernel.
const PROPERTY_CASES: (&str, &str) = ("PROPTEST_CASES", "16");

/// Variables that begin so are the same in the machine.
const PASSED_ON: [&str; 6] =
    ["REUSEPORT_", "PROPTEST_", "INSTA_", "RUST_BACKTRACE", "RUST_LOG", "RUST_TEST_"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Boot this kernel image instead of Debian's; it needs BPF, BTF, IPv6, cgroups and a serial
    /// console
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The modules of that kernel: its /lib/modules/VERSION [default: all is built in]
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Run the tests of this package (may be repeated)
    #[arg(short, long = "package", value_name = "PACKAGE", default_values = PACKAGES)]
    packages: Vec<String>,
    /// Seconds after which a test binary is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
    /// Run the slow tests too, whose names begin with `slow_`
    #[arg(long)]
    slow: bool,
    /// Run only the tests whose names contain one of these; with `slow_` in one, slow tests too
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Options for the test binaries, such as --test-threads=1
    #[arg(last = true, value_name = "LIBTEST ARGS")]
    libtest: Vec<String>,
    #[arg(skip = Scope::Packages)]
    scope: Scope,
}

impl Args {
    /// What `cargo xtask test` runs, when it has built the whole workspace: all but the slow tests.
    pub(crate) fn everything() -> Self {
        Self {
            kernel: None,
            modules: None,
            packages: PACKAGES.map(str::to_owned).to_vec(),
            timeout: 900,
            slow: false,
            names: Vec::new(),
            libtest: Vec::new(),
            scope: Scope::Workspace,
        }
    }
}

/// Whether the emulated machine, an x86-64 one, can run this machine's binaries.
pub(crate) fn is_possible() -> bool {
    std::env::consts::ARCH == "x86_64"
}

/// What went well, and where.
#[derive(Debug)]
pub(crate) struct Ran {
    counts: Counts,
    release: String,
}

/// `12 passed on Linux 6.1.0`.
impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on Linux {}", self.counts, self.release)
    }
}

/// Makes the machine ready for [`run`] with Debian's kernel: QEMU, and the kernel.
pub(crate) fn prepare() -> Result<()> {
    prepare::for_vm()?;
    debian(&directory(&shell::workspace()?)?).map(drop)
}

/// Where all of this lies.
fn directory(root: &Path) -> Result<PathBuf> {
    Ok(shell::target_directory(root)?.join("vm"))
}

fn debian(directory: &Path) -> Result<Kernel> {
    kernel::debian(&directory.join("kernel"))
}

/// Builds the tests, boots the kernel, runs them there and reports them.
pub(crate) fn run(args: &Args) -> Result<Ran> {
    if !is_possible() {
        bail!("the emulated machine is an x86-64 one, which cannot run this machine's binaries");
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
    let initramfs = directory.join("initramfs.cpio");
    let console = directory.join("console.log");
    let run = image::Run {
        root: &root,
        arguments: &arguments(args),
        environment: &environment(&root, std::env::vars()),
        limit: args.timeout,
    };
    image::write(&initramfs, &built, &kernel.modules, &run)?;
    println!("booting {}; its messages go to {}", kernel.image.display(), console.display());
    let names: Vec<_> = built.tests.iter().map(|test| test.name.as_str()).collect();
    let limit = Duration::from_secs(args.timeout);
    let outcome = machine::run(&kernel, &initramfs, &console, &names, limit)?;
    report(&names, &outcome, start.elapsed(), limit)
}

fn arguments(args: &Args) -> Vec<String> {
    // A serial port is a terminal to them, whatever we print to.
    let colour = if shell::colour() { "always" } else { "never" };
    let mut arguments = vec!["--color".to_owned(), colour.to_owned()];
    if !args.slow && !args.names.iter().any(|name| name.contains(SLOW)) {
        arguments.extend(["--skip", SLOW].map(str::to_owned));
    }
    arguments.extend(args.libtest.iter().cloned());
    arguments.extend(args.names.iter().cloned());
    arguments
}

fn environment(root: &Path, ours: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    // insta would ask cargo, which is not there.
    let root = root.display().to_string();
    let passed_on = |name: &str| PASSED_ON.iter().any(|prefix| name.starts_with(prefix));
    let defaults = [
        SLOWNESS,
        PROPERTY_CASES,
        ("RUST_BACKTRACE", "0"),
        ("INSTA_WORKSPACE_ROOT", &root),
        ("INSTA_UPDATE", "no"),
    ];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
    defaults.into_iter().chain(ours.filter(|(name, _)| passed_on(name))).collect()
}

/// A line for each test binary, one for all of them, and an error unless all is well.
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
    Ok(Ran { counts, release })
}

/// How a binary ended, and what else there is to say of a failure.
fn verdict(finished: &machine::Finished, limit: Duration) -> (&'static str, String) {
    /// Of a process that a signal ended the shell says 128 and the signal's number.
    const KILLED: i32 = 128 + 9;
    match finished.status {
        0 => ("ok", String::new()),
        KILLED if finished.took >= limit => {
            ("TIMED OUT", format!(", killed after {} s", limit.as_secs()))
        }
        status @ 129.. => ("FAILED", format!(", ended by signal {}", status - 128)),
        101 => ("FAILED", String::new()), // what libtest says when tests have failed
        status => ("FAILED", format!(", exit code {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(status: i32, passed: u64) -> machine::Finished {
        let counts = Counts { passed, ..Counts::default() };
        machine::Finished { status, counts, took: Duration::from_secs(20) }
    }

    fn outcome(finished: Vec<machine::Finished>) -> machine::Outcome {
        let booted = Some(("6.1".to_owned(), Duration::from_secs(3)));
        machine::Outcome { booted, finished, broken: None }
    }

    #[test]
    fn a_run_is_well_only_if_every_binary_ended_well_and_something_ran() {
        const LIMIT: Duration = Duration::from_secs(900);
        let reported = |finished| report(&["a", "b"], &outcome(finished), LIMIT, LIMIT);
        assert_eq!(reported(vec![finished(0, 1), finished(0, 2)]).unwrap().counts.passed, 3);
        let error = |finished| reported(finished).unwrap_err().to_string();
        assert_eq!(error(vec![finished(0, 1), finished(101, 2)]), "1 of 2 test binaries failed: b");
        assert!(error(vec![finished(0, 1)]).ends_with("failed: b"));
        assert_eq!(error(vec![finished(0, 0), finished(0, 0)]), "no test ran at all");
    }

    #[test]
    fn the_end_of_a_binary_is_told_from_a_time_out() {
        let of = |status, limit| verdict(&finished(status, 0), Duration::from_secs(limit));
        assert_eq!(of(137, 20), ("TIMED OUT", ", killed after 20 s".to_owned()));
        assert_eq!(of(137, 900), ("FAILED", ", ended by signal 9".to_owned()));
        assert_eq!(of(126, 900), ("FAILED", ", exit code 126".to_owned()));
        assert_eq!(of(0, 20).0, "ok");
    }

    #[test]
    fn the_environment_overrides_the_slowness_and_nothing_else_gets_in() {
        let ours = [("HOME", "/home/x"), ("REUSEPORT_TEST_SLOWNESS", "3"), ("RUST_BACKTRACE", "1")];
        let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = environment(Path::new("/w"), ours.into_iter());
        assert!(!environment.iter().any(|(name, _)| name == "HOME"));
        // They are exported in this order: the last one counts.
        let last = environment.iter().rfind(|(name, _)| name == SLOWNESS.0);
        assert_eq!(last.unwrap().1, "3");
    }
}
