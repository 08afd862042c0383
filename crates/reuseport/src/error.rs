//! The crate's error type: what failed, why, and a hint on what to do.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use rustix::io::Errno;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure, for programs. People read the [report](Error::report).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No group, member or program has that name.
    NotFound,
    /// The group exists, but no program of this tool is attached to it.
    NotAttached,
    /// No other generation of members is there to serve.
    NoGeneration,
    /// A newer generation than the named one came. Nothing was changed.
    Superseded,
    /// More than one group matches.
    Ambiguous,
    /// The caller lacks a right: a capability, or the right to trace a process.
    Denied,
    /// The kernel is too old, lacks a build option, or is locked down.
    Unsupported,
    /// Another program's map holds a socket, or another group holds the address.
    Busy,
    /// A program that another owner attached decides for the group.
    Foreign,
    /// The group has more members than slots.
    Full,
    /// Living members cannot be given a slot: they would get nothing.
    Starved,
    /// A process, socket or group disappeared during the operation.
    Vanished,
    /// Another version wrote the pinned state.
    Schema,
    /// A signal stopped the operation. What it had changed is as it was before.
    Interrupted,
    /// The caller's input is wrong.
    Invalid,
    /// A system call failed for another reason.
    System,
}

/// A failed operation.
///
/// [`Display`](fmt::Display) gives the operation that failed and nothing else: "cannot attach to
/// tcp:127.0.0.1:80". The causes follow through [`source`](StdError::source), each with its own text
/// only. [`report`](Self::report) joins all of it into one line.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    failed: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hint: Option<Hint>,
    unchanged: bool,
}

impl Error {
    /// An error of `kind`; `failed` is a clause such as "cannot attach to tcp:127.0.0.1:80".
    pub(crate) fn new(kind: ErrorKind, failed: impl Into<String>) -> Self {
        Self { kind, failed: failed.into(), source: None, hint: None, unchanged: false }
    }

    /// Adds the cause.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a hint, in place of one that is there.
    pub(crate) fn with_hint(mut self, hint: impl Into<Hint>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says that the group is as it was, if the failure is one after which that is not evident.
    pub(crate) fn and_unchanged(mut self) -> Self {
        self.unchanged = self.kind == ErrorKind::System;
        self
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do about it, if known.
    pub fn hint(&self) -> Option<&Hint> {
        self.hint.as_ref()
    }

    /// The failure, every cause, and the hint, in one line.
    ///
    /// # Example
    ///
    /// ```
    /// let error = "3-1".parse::<reuseport::CpuList>().unwrap_err();
    /// assert_eq!(error.to_string(), "`3-1` is not a list of CPUs");
    /// assert_eq!(
    ///     error.report().to_string(),
    ///     "`3-1` is not a list of CPUs; give numbers and ranges, such as 0-3,8",
    /// );
    /// ```
    pub fn report(&self) -> Report<'_> {
        Report(self)
    }
}

/// The operation that failed, without its cause.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.failed)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|e| e.as_ref() as &(dyn StdError + 'static))
    }
}

/// What to do about a failure: a clause such as "try again".
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Run with these capabilities; the caller lacks some.
    Grant {
        /// All that the operation takes.
        needed: Vec<&'static str>,
        /// Those that the calling thread lacks.
        missing: Vec<&'static str>,
    },
    /// The caller is in another user namespace than the initial one, in which these capabilities do not count.
    NotInEffect {
        /// All that the operation takes.
        needed: Vec<&'static str>,
    },
    /// Run a kernel that was built with this option.
    KernelOption(&'static str),
    /// Any other advice.
    Advice(Cow<'static, str>),
}

impl From<&'static str> for Hint {
    fn from(text: &'static str) -> Self {
        Self::Advice(text.into())
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self::Advice(text.into())
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant { needed, missing } => write!(
                f,
                "run it as root, or grant {} (missing here: {})",
                needed.join(" and "),
                missing.join(" and ")
            ),
            Self::NotInEffect { needed } => write!(
                f,
                "{} count for bpf(2) in the initial user namespace only, and this is another one, such as that \
                 of a container: run it on the host",
                needed.join(" and ")
            ),
            Self::KernelOption(option) => {
                write!(f, "use a kernel that was built with {option}")
            }
            Self::Advice(text) => f.write_str(text),
        }
    }
}

/// What became of the group.
pub(crate) const UNCHANGED: &str = "the group is as it was";

/// Prints an error with its causes and its hint in one line: `failed: cause: cause; hint`.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a>(&'a (dyn StdError + 'static));

impl<'a> Report<'a> {
    /// A report of any error, such as one that has an [`Error`] among its causes.
    pub fn new(error: &'a (dyn StdError + 'static)) -> Self {
        Self(error)
    }

    /// The failure and its causes, without the hint: `failed: cause: cause`.
    pub fn causes(&self) -> String {
        self.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    /// The hint of the first [`Error`] in the chain that has one, which knows the operation; else that of
    /// [`sk_reuseport`], which knows the call that failed; else what the kernel's error asks for. After it, whether
    /// the group is as it was, if that was looked at.
    pub fn hint(&self) -> Option<String> {
        let own = || self.errors().find_map(Error::hint).map(Hint::to_string);
        let of_call = || sk_reuseport::hint_of(self.0).map(|hint| hint_of_call(&hint));
        let of_errno = || os_error(self.0).and_then(hint_of_errno).map(str::to_owned);
        let hint = own().or_else(of_call).or_else(of_errno);
        let unchanged = self.errors().any(|error| error.unchanged).then(|| UNCHANGED.to_owned());
        match (hint, unchanged) {
            (Some(hint), Some(unchanged)) => Some(format!("{hint}; {unchanged}")),
            (hint, unchanged) => hint.or(unchanged),
        }
    }

    /// Logs a failure that the operation goes on without. The hint is a field of its own.
    pub(crate) fn warn(&self) {
        tracing::warn!(hint = self.hint(), "{}", self.causes());
    }

    /// The same, after a clause that says what follows from it.
    pub(crate) fn warn_that(&self, what: impl fmt::Display) {
        tracing::warn!(hint = self.hint(), "{what}: {}", self.causes());
    }

    /// Those of this crate among the error and its causes.
    fn errors(&self) -> impl Iterator<Item = &'a Error> + use<'a> {
        self.chain().filter_map(|error| error.downcast_ref::<Error>())
    }

    /// The error and its causes.
    fn chain(&self) -> impl Iterator<Item = &'a (dyn StdError + 'static)> + use<'a> {
        std::iter::successors(Some(self.0), |error: &&'a (dyn StdError + 'static)| {
            (*error).source()
        })
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.causes())?;
        match self.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// In one line: of the verifier's output the complaint and the instruction that it is about.
fn hint_of_call(hint: &sk_reuseport::Hint) -> String {
    use sk_reuseport::Hint::{TooComplex, Types, Verifier};

    let (Verifier { output } | TooComplex { output } | Types { output }) = hint else {
        return hint.to_string();
    };
    let text = hint.to_string();
    let what = text.lines().next().unwrap_or_default();
    match complaint(output) {
        Some(complaint) => format!("{what}: {complaint}; REUSEPORT_LOG=debug shows the whole log"),
        None => what.to_owned(),
    }
}

/// The last line of the verifier's output, after the instruction that precedes it.
fn complaint(output: &str) -> Option<String> {
    let mut lines = output.lines().rev().map(str::trim);
    let last = lines.next().filter(|line| !line.is_empty())?;
    let number = |line: &&str| line.split_once(':').is_some_and(|(n, _)| n.parse::<u32>().is_ok());
    // What follows the semicolon is the state of the registers.
    let instruction = lines.find(number).and_then(|line| line.split(';').next()).map(str::trim_end);
    Some(
        instruction.map_or_else(|| last.to_owned(), |instruction| format!("{instruction}: {last}")),
    )
}

/// The first OS error in the chain of causes.
pub(crate) fn os_error(error: &(dyn StdError + 'static)) -> Option<Errno> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let errno = error.downcast_ref().and_then(Errno::from_io_error);
        if let Some(errno) = errno.or_else(|| error.downcast_ref::<Errno>().copied()) {
            return Some(errno);
        }
        cause = error.source();
    }
    None
}

/// What to do where the kernel, this process or a filesystem has no room, whatever the operation.
fn hint_of_errno(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::MFILE => "this process may open no more files: raise its limit (`ulimit -n`)",
        Errno::NFILE => "the host may open no more files: raise fs.file-max",
        Errno::NOMEM => {
            "the kernel has no memory for it: look at the memory limit of this cgroup (memory.max) and of the host"
        }
        Errno::ROFS => "that filesystem is mounted read-only: mount -o remount,rw",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_report_is_the_failure_its_causes_and_the_hint() {
        let error = Error::new(ErrorKind::Denied, "cannot list sockets")
            .because(io::Error::from_raw_os_error(1))
            .with_hint("run it as root");
        assert_eq!(error.to_string(), "cannot list sockets");
        assert_eq!(
            error.report().to_string(),
            "cannot list sockets: Operation not permitted (os error 1); run it as root"
        );
        assert_eq!(
            error.report().causes(),
            "cannot list sockets: Operation not permitted (os error 1)"
        );
        assert_eq!(error.kind(), ErrorKind::Denied);
    }

    #[test]
    fn what_the_host_lacks_and_what_became_of_the_group_is_said_in_the_hint() {
        let error = |errno: Errno| {
            Error::new(ErrorKind::System, "cannot attach").because(io::Error::from(errno))
        };
        let hint = |error: Error| error.report().hint().unwrap_or_default();
        assert!(hint(error(Errno::MFILE)).contains("ulimit -n"));
        assert!(hint(error(Errno::ROFS)).contains("read-only"));
        assert_eq!(hint(error(Errno::NOSPC)), "");
        assert_eq!(hint(error(Errno::NOSPC).and_unchanged()), UNCHANGED);
        let all = hint(error(Errno::NOMEM).and_unchanged());
        assert!(all.contains("memory.max") && all.ends_with("; the group is as it was"), "{all}");
        let refused = Error::new(ErrorKind::NotFound, "no such group").and_unchanged();
        assert_eq!(refused.report().hint(), None);
    }

    #[test]
    fn of_the_verifiers_output_the_complaint_is_shown_with_its_instruction() {
        let output = "[...]\n6: (79) r1 = *(u64 *)(r1 +8)     ; R1_w=pkt_end(id=0)\n\
                      7: (71) r0 = *(u8 *)(r1 +1)\ninvalid access to packet, off=1 size=1\n\
                      R1 offset is outside of the packet";
        assert_eq!(
            complaint(output).unwrap(),
            "7: (71) r0 = *(u8 *)(r1 +1): R1 offset is outside of the packet"
        );
        assert_eq!(complaint("unknown opcode 8d").unwrap(), "unknown opcode 8d");
        assert_eq!(complaint(""), None);
    }

    #[test]
    fn an_error_as_a_cause_keeps_its_own_causes() {
        let inner = Error::new(ErrorKind::System, "cannot pin a map")
            .because(io::Error::from_raw_os_error(28));
        let outer = Error::new(ErrorKind::System, "cannot attach").because(inner);
        assert_eq!(
            outer.report().to_string(),
            "cannot attach: cannot pin a map: No space left on device (os error 28)"
        );
    }
}
