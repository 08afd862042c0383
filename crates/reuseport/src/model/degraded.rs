//! What an operation that succeeded could not bring about.

use std::fmt;

use super::status::Uncounted;
use crate::error::Error;

/// What an operation that succeeded could not bring about. Attaching again with the rights that were missing
/// repairs it under traffic.
#[derive(Debug)]
#[non_exhaustive]
pub enum Degraded {
    /// The program cannot read the members' queues, for this reason: without CAP_PERFMON, for example.
    /// `least-loaded` then compares open connections, and no policy passes over a full member.
    QueuesUnread(Error),
    /// The open connections of the members are not counted, for this reason: `least-loaded` then does without
    /// them.
    Uncounted(Uncounted),
}

/// In one line, with the causes and the hint.
impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueuesUnread(why) => why.report().fmt(f),
            Self::Uncounted(why) => write!(f, "open connections are not counted: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn each_kind_is_one_line() {
        let unread = Error::new(ErrorKind::Denied, "cannot read the members' queues")
            .because("this needs CAP_PERFMON")
            .with_hint("attach again");
        assert_eq!(
            Degraded::QueuesUnread(unread).to_string(),
            "cannot read the members' queues: this needs CAP_PERFMON; attach again"
        );
        assert_eq!(
            Degraded::Uncounted(Uncounted::NotAttached).to_string(),
            "open connections are not counted: the programs that count are not attached"
        );
    }
}
