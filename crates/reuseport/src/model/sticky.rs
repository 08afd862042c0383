//! Stickiness: what overrides the policy for a flow that already has a member.

use std::fmt;
use std::str::FromStr;

use super::name::UnknownName;

/// What overrides the policy for a flow that already has a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Stickiness {
    /// Nothing: the policy decides for every connection or datagram.
    #[default]
    None,
}

impl Stickiness {
    /// Every kind of stickiness, in display order.
    pub const ALL: &'static [Self] = &[Self::None];

    /// The name, in kebab case: what [`Display`](fmt::Display) shows and [`FromStr`] reads.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
        }
    }

    /// One line of help.
    pub const fn help(self) -> &'static str {
        match self {
            Self::None => "the policy decides for every connection or datagram",
        }
    }

    /// The number in the pinned state and for the kernel program. Numbers never change their meaning.
    ///
    /// | number | stickiness |
    /// |---|---|
    /// | 0 | `none` |
    /// | 1 | reserved for `flow` |
    /// | 2 | reserved for `quic` |
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::None => 0,
        }
    }

    /// The stickiness with this number; `None` if this version knows none.
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|stickiness| stickiness.code() == code)
    }
}

/// The name in kebab case.
impl fmt::Display for Stickiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Stickiness {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = || Self::ALL.iter().map(|stickiness| stickiness.name()).collect();
        let found = Self::ALL.iter().copied().find(|stickiness| stickiness.name() == name);
        found.ok_or_else(|| UnknownName::new("stickiness", name, known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_convert_back_to_the_stickiness() {
        for stickiness in Stickiness::ALL.iter().copied() {
            assert_eq!(stickiness.to_string().parse(), Ok(stickiness));
            assert_eq!(Stickiness::from_code(stickiness.code()), Some(stickiness));
        }
        assert_eq!([1, 2].map(Stickiness::from_code), [None; 2]);
        assert_eq!(Stickiness::None.code(), 0);
        assert_eq!(
            "quick".parse::<Stickiness>().unwrap_err().to_string(),
            "unknown stickiness `quick` (known: none)"
        );
    }
}
