//! Whether newcomers wait before they serve, and for what: a setting of a group.

use std::fmt;
use std::str::FromStr;

use super::name::UnknownName;

/// Whether newcomers wait on standby, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum HoldNew {
    /// They serve at once.
    #[default]
    Off,
    /// Members of a newer generation than the one that serves wait until they are
    /// [promoted](crate::Balancer::promote).
    On,
    /// Each newcomer waits until a thread waits for connections on it: in accept, poll, select, epoll_wait or a read,
    /// or by a request of io_uring. What serves already goes on.
    Accepting,
}

impl HoldNew {
    /// All, in display order.
    pub const ALL: [Self; 3] = [Self::Off, Self::On, Self::Accepting];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Accepting => "accepting",
        }
    }
}

impl fmt::Display for HoldNew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HoldNew {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let known = || Self::ALL.map(Self::name).to_vec();
        let found = Self::ALL.into_iter().find(|one| one.name() == text);
        found.ok_or_else(|| UnknownName::new("time to hold newcomers", text, known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_answered_with_the_nearest() {
        for one in HoldNew::ALL {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        let unknown = "acepting".parse::<HoldNew>().unwrap_err();
        assert_eq!(unknown.nearest(), Some("accepting"));
        assert!("yes".parse::<HoldNew>().is_err());
    }
}
