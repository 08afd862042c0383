//! The error for an unknown name, with a suggestion for a misspelt one.

use crate::error::{Error, ErrorKind};

/// A name that stands for no policy, or for no stickiness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{}`{} (known: {})", given.escape_debug(), suggestion(*nearest), known.join(", "))]
pub struct UnknownName {
    /// The kind of name: "policy".
    what: &'static str,
    given: String,
    nearest: Option<&'static str>,
    known: Vec<&'static str>,
}

impl UnknownName {
    /// The known name that is most similar to the given one, if any is similar.
    pub fn nearest(&self) -> Option<&'static str> {
        self.nearest
    }

    /// Every known name.
    pub fn known(&self) -> &[&'static str] {
        &self.known
    }

    /// `given` is none of the `known` names. The comparison ignores parameters after a colon.
    pub(super) fn new(what: &'static str, given: &str, known: Vec<&'static str>) -> Self {
        let word = |name: &'static str| name.split(':').next().unwrap_or(name);
        let lower = given.to_lowercase();
        let lower = lower.split(':').next().unwrap_or_default();
        let nearest = known
            .iter()
            .map(|name| (strsim::damerau_levenshtein(word(name), lower), *name))
            // With up to a third of its letters wrong it counts as misspelt.
            .filter(|(distance, name)| distance * 3 <= word(name).len())
            .min()
            .map(|(_, name)| name);
        Self { what, given: given.into(), nearest, known }
    }
}

impl From<UnknownName> for Error {
    fn from(unknown: UnknownName) -> Self {
        Self::new(ErrorKind::Invalid, unknown.to_string())
    }
}

fn suggestion(nearest: Option<&'static str>) -> String {
    nearest.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default()
}
