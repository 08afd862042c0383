//! The one error of this crate: what was tried, what the kernel said, what to do.

use std::error::Error as StdError;
use std::fmt;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is: for programs; people read the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No group, member or program by that name exists.
    NotFound,
    /// The group exists, but nothing of ours is attached to it.
    NotAttached,
    /// More than one group matches.
    Ambiguous,
    /// The caller may not do this: a capability or the right to trace a process is missing.
    Denied,
    /// The kernel is too old, was built without it, or is locked down.
    Unsupported,
    /// A socket or a group is in somebody else's hands.
    Busy,
    /// A program of somebody else decides for the group.
    Foreign,
    /// More members than slots.
    Full,
    /// A process, socket or group went away meanwhile.
    Vanished,
    /// The state that is pinned was written by another version.
    Schema,
    /// A signal asked us to stop; nothing was changed.
    Interrupted,
    /// The caller's input is wrong.
    Invalid,
    /// A system call failed for another reason.
    System,
}

/// What was tried, what the kernel said, and what to do about it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    tried: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    remedy: Option<String>,
}

impl Error {
    /// An error of `kind` about what was `tried`: "cannot attach to tcp:127.0.0.1:80".
    pub(crate) fn new(kind: ErrorKind, tried: impl Into<String>) -> Self {
        Self { kind, tried: tried.into(), source: None, remedy: None }
    }

    /// With what the kernel, or the layer below, said.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// With what the reader can do about it, as a clause: "run it as root".
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do about it, where we know.
    pub fn what_to_do(&self) -> Option<&str> {
        self.remedy.as_deref()
    }
}

/// One line: what was tried, every cause below it, and the remedy.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tried)?;
        let mut said = String::new();
        let mut cause = self.source.as_ref().map(|e| e.as_ref() as &dyn StdError);
        while let Some(error) = cause {
            // Many errors print their own cause: say each thing once.
            let text = error.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|e| e.as_ref() as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn one_line_says_what_was_tried_what_the_kernel_said_and_what_to_do() {
        let error = Error::new(ErrorKind::Denied, "cannot list sockets")
            .because(io::Error::from_raw_os_error(1))
            .remedy("run it as root");
        assert_eq!(
            error.to_string(),
            "cannot list sockets: Operation not permitted (os error 1); run it as root"
        );
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
}
