//! The emulated machine: QEMU with two serial ports, one for the kernel's messages (a file), one for the
//! output of init and the tests (a pipe). init.sh is the other end.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::libtest::{self, Counts};

pub(super) const QEMU: &str = "qemu-system-x86_64";

/// Without protections that are expensive to emulate and that no test is about: tests take a tenth less of the
/// processor with these and the hardening that [`APPEND`] turns off.
const CPU: &str = "max,smap=off,smep=off,la57=off,umip=off,pku=off";

/// The kernel's command line. A panic ends QEMU. The emulated TSC is as good as the host's; other clock sources
/// emulate a device at every read.
const APPEND: &str = "console=ttyS0 panic=-1 oops=panic tsc=reliable mitigations=off init_on_alloc=0 \
                      randomize_kstack_offset=off hardened_usercopy=off";

/// Begins a message of init, possibly after an incomplete line of a test.
const MARK: u8 = 1;

/// How long the kernel may take to start init; it usually takes four seconds.
const BOOT: Duration = Duration::from_secs(180);

/// How long the machine may be silent. No test takes longer.
const SILENCE: Duration = Duration::from_secs(600);

/// How many of the kernel's messages to show after a crash.
const LAST_WORDS: usize = 25;

/// The result of one test binary.
#[derive(Debug)]
pub(super) struct Finished {
    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub(super) status: i32,
    pub(super) counts: Counts,
    /// Each test and its seconds.
    pub(super) tests: Vec<(String, f64)>,
    /// The tests that failed.
    pub(super) failed: Vec<String>,
    pub(super) took: Duration,
}

/// The result of the run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The kernel's release, and how long it took to boot.
    pub(super) booted: Option<(String, Duration)>,
    /// In the order of the binaries.
    pub(super) finished: Vec<Finished>,
    /// Why it did not finish.
    pub(super) broken: Option<String>,
}

/// Boots the kernel with the archive and shows the output until power-off. `names` are the test
/// binaries.
pub(super) fn run(
    kernel: &Kernel,
    initramfs: &Path,
    console: &Path,
    names: &[&str],
) -> Result<Outcome> {
    let mut machine = Machine::start(kernel, initramfs, console)?;
    let output = machine.0.stdout.take().context("QEMU was started without a pipe")?;
    // The thread ends with QEMU, which ends with `machine`.
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });

    let mut run = Run::new(names);
    loop {
        let booted = run.outcome.booted.is_some();
        let patience = if booted { SILENCE } else { BOOT.saturating_sub(run.start.elapsed()) };
        match lines.recv_timeout(patience) {
            Ok(line) => run.line(&line),
            Err(RecvTimeoutError::Timeout) if booted => {
                run.broken(format!("was silent for {} s", patience.as_secs()));
                break;
            }
            Err(RecvTimeoutError::Timeout) => {
                run.broken(format!("did not start the tests within {} s", BOOT.as_secs()));
                break;
            }
            Err(RecvTimeoutError::Disconnected) => {
                run.gone(machine.ended()?);
                break;
            }
        }
    }
    drop(machine);
    run.ended(console)
}

/// QEMU, killed when dropped unless it has ended.
struct Machine(Child);

impl Machine {
    fn start(kernel: &Kernel, initramfs: &Path, console: &Path) -> Result<Self> {
        let serial = |path: &Path| {
            // A comma ends an option; two stand for one comma.
            format!("file:{}", path.display().to_string().replace(',', ",,"))
        };
        // Remove the messages of an earlier run.
        fs::File::create(console).with_context(|| console.display().to_string())?;
        // The kernel unpacks the archive into at most half of its memory, which also holds the archive.
        let size = fs::metadata(initramfs).with_context(|| initramfs.display().to_string())?.len();
        let memory = format!("{}M", 2048 + 4 * (size >> 20));
        let mut qemu = Command::new(QEMU);
        // Software emulation works the same everywhere, also on virtual machines.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", &memory])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", APPEND])
            .args(["-serial", &serial(console), "-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(Self(qemu.spawn().with_context(|| format!("cannot start {QEMU}"))?))
    }

    /// The exit status, after it closed its output.
    fn ended(&mut self) -> Result<ExitStatus> {
        self.0.wait().with_context(|| format!("cannot wait for {QEMU}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A message of init.
#[derive(Debug, PartialEq)]
enum Event {
    Boot(String),
    Start(usize),
    End(usize, i32),
    Fail(String),
    Done,
}

/// The state of a run.
struct Run<'a> {
    names: &'a [&'a str],
    start: Instant,
    /// The binary that runs.
    running: Option<Running>,
    done: bool,
    outcome: Outcome,
}

struct Running {
    start: Instant,
    counts: Counts,
    tests: Vec<(String, f64)>,
    failed: Vec<String>,
}

impl<'a> Run<'a> {
    fn new(names: &'a [&'a str]) -> Self {
        let outcome = Outcome { booted: None, finished: Vec::new(), broken: None };
        Self { names, start: Instant::now(), running: None, done: false, outcome }
    }

    fn line(&mut self, line: &[u8]) {
        let (text, event) = parse(line);
        if let Some(text) = text {
            println!("{text}");
            if let Some(running) = &mut self.running {
                running.counts.add(&text);
                let test = libtest::timed(&text);
                running.tests.extend(test.map(|(name, seconds)| (name.to_owned(), seconds)));
                running.failed.extend(libtest::failed(&text).map(str::to_owned));
            }
        }
        match event {
            None => {}
            Some(Event::Boot(release)) => {
                println!("Linux {release} is up after {:.1} s", self.start.elapsed().as_secs_f64());
                self.outcome.booted = Some((release, self.start.elapsed()));
            }
            Some(Event::Start(index)) => {
                println!("\n     Running {}", self.names.get(index).unwrap_or(&"?"));
                let (start, counts) = (Instant::now(), Counts::default());
                let (tests, failed) = (Vec::new(), Vec::new());
                self.running = Some(Running { start, counts, tests, failed });
            }
            Some(Event::End(index, status)) => match self.running.take() {
                Some(ran) if index == self.outcome.finished.len() => {
                    let Running { start, counts, tests, failed } = ran;
                    let took = start.elapsed();
                    self.outcome.finished.push(Finished { status, counts, tests, failed, took });
                }
                _ => self.broken(format!("ended binary {index}, which it had not started")),
            },
            Some(Event::Fail(why)) => self.broken(why),
            Some(Event::Done) => self.done = true,
        }
    }

    fn broken(&mut self, why: String) {
        self.outcome.broken.get_or_insert(why);
    }

    /// QEMU ended.
    fn gone(&mut self, status: ExitStatus) {
        if !status.success() {
            // It printed why on the stderr that it inherited.
            self.broken(format!("stopped: {QEMU} ended with {status}"));
        } else if !self.done {
            self.broken("went down".to_owned());
        }
    }

    /// Completes the outcome after the machine has ended.
    fn ended(mut self, console: &Path) -> Result<Outcome> {
        let said = read_lossy(console)?;
        if let Some(why) = &self.outcome.broken {
            let words = last_words(&said);
            println!(
                "\nthe machine's kernel printed {}",
                if words.is_empty() { "nothing" } else { "last:" }
            );
            words.iter().for_each(|line| println!("    {line}"));
            let running = self.outcome.finished.len();
            let during = match self.names.get(running).filter(|_| self.running.is_some()) {
                Some(name) => format!(" while {name} ran"),
                None => String::new(),
            };
            self.outcome.broken = Some(format!("the machine {why}{during}"));
        }
        for complaint in said.lines().filter(|line| is_complaint(line)) {
            println!("the machine's kernel complained: {complaint}");
        }
        Ok(self.outcome)
    }
}

/// A line's text, if any, and the message of init in it.
fn parse(line: &[u8]) -> (Option<String>, Option<Event>) {
    let Some(at) = line.iter().position(|&byte| byte == MARK) else {
        return (Some(String::from_utf8_lossy(line).into_owned()), None);
    };
    let text = (at > 0).then(|| String::from_utf8_lossy(&line[..at]).into_owned());
    let told = String::from_utf8_lossy(&line[at + 1..]);
    let (what, rest) = told.split_once(' ').unwrap_or((&told, ""));
    let event = match what {
        "boot" => Some(Event::Boot(rest.to_owned())),
        "start" => rest.parse().ok().map(Event::Start),
        "end" => rest.split_once(' ').and_then(|(index, status)| {
            Some(Event::End(index.parse().ok()?, status.parse().ok()?))
        }),
        "fail" => Some(Event::Fail(format!("could not start the tests: {rest}"))),
        "done" => Some(Event::Done),
        _ => None,
    };
    (text, event)
}

/// Whether the kernel reports a bug or a crash.
fn is_complaint(line: &str) -> bool {
    const COMPLAINTS: [&str; 7] = [
        "BUG: ",
        "INFO: task ",
        "Initramfs unpacking failed",
        "Kernel panic",
        "Oops: ",
        "WARNING: ",
        "rcu: INFO: ",
    ];
    COMPLAINTS.iter().any(|words| line.contains(words))
}

/// The kernel's messages from the first complaint on, which is more useful than the end of a stack dump;
/// without a complaint, the last messages.
fn last_words(said: &str) -> Vec<&str> {
    let lines: Vec<_> = said.lines().collect();
    let end = lines.len().saturating_sub(LAST_WORDS);
    let first = lines.iter().position(|line| is_complaint(line)).unwrap_or(end);
    lines.into_iter().skip(first).take(LAST_WORDS).collect()
}

fn read_lossy(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn messages_of_init_are_found_after_an_incomplete_line() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(parse(b"test a ... ok"), (text("test a ... ok"), None));
        assert_eq!(parse(b""), (text(""), None));
        assert_eq!(parse(b"\x01boot 6.1.0"), (None, Some(Event::Boot("6.1.0".into()))));
        assert_eq!(parse(b"half\x01end 3 137"), (text("half"), Some(Event::End(3, 137))));
        assert_eq!(parse(b"\x01start 0"), (None, Some(Event::Start(0))));
        assert_eq!(parse(b"\x01done"), (None, Some(Event::Done)));
        assert_eq!(parse(b"\x01end of the world"), (None, None));
    }

    #[test]
    fn a_run_counts_by_binary() {
        let mut run = Run::new(&["a", "b"]);
        for line in [
            "\x01boot 6.1",
            "\x01start 0",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            "\x01end 0 0",
            "\x01start 1",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            "\x01end 1 101",
            "\x01done",
        ] {
            run.line(line.as_bytes());
        }
        let console = tempfile::NamedTempFile::new().unwrap();
        let outcome = run.ended(console.path()).unwrap();
        assert_eq!(outcome.broken, None);
        let seen: Vec<_> =
            outcome.finished.iter().map(|f| (f.status, f.counts.passed, f.counts.failed)).collect();
        assert_eq!(seen, [(0, 3, 0), (101, 1, 2)]);
    }

    #[test]
    fn a_lost_line_is_noticed() {
        let mut run = Run::new(&["a", "b"]);
        for line in ["\x01boot 6.1", "\x01end 0 0", "\x01start 1", "\x01end 1 0", "\x01done"] {
            run.line(line.as_bytes());
        }
        let console = tempfile::NamedTempFile::new().unwrap();
        let outcome = run.ended(console.path()).unwrap();
        assert!(outcome.broken.unwrap().contains("ended binary 0, which it had not started"));
    }

    #[test]
    fn a_crash_names_the_binary_that_ran() {
        let mut run = Run::new(&["a", "b"]);
        for line in ["\x01boot 6.1", "\x01start 0", "\x01end 0 0", "\x01start 1"] {
            run.line(line.as_bytes());
        }
        run.gone(ExitStatus::default());
        let console = tempfile::NamedTempFile::new().unwrap();
        let outcome = run.ended(console.path()).unwrap();
        assert_eq!(outcome.broken.unwrap(), "the machine went down while b ran");
    }

    #[test]
    fn an_emulator_that_does_not_start_is_no_crash() {
        let mut run = Run::new(&["a"]);
        run.gone(ExitStatus::from_raw(1 << 8));
        let console = tempfile::NamedTempFile::new().unwrap();
        let outcome = run.ended(console.path()).unwrap();
        assert!(outcome.broken.unwrap().contains("qemu-system-x86_64 ended with exit status: 1"));
    }

    #[test]
    fn the_last_words_begin_with_the_first_complaint() {
        let dump = "RIP\n".repeat(100);
        let words = format!("booting\n[ 3.3] Kernel panic - not syncing: x\n{dump}");
        assert_eq!(last_words(&words)[..2], ["[ 3.3] Kernel panic - not syncing: x", "RIP"]);
        assert_eq!(last_words(&dump).len(), LAST_WORDS);
        assert_eq!(last_words("booting\nbooted"), ["booting", "booted"]);
    }
}
