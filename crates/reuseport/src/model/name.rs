//! Names in messages: lists, and the error for an unknown one with a suggestion for a misspelt one.

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
            .filter_map(|name| Some((misspelt(lower, word(name))?, *name)))
            .min()
            .map(|(_, name)| name);
        Self { what, given: given.into(), nearest, known }
    }
}

/// How far a text is from a name, if it may be that name, misspelt: with up to a third of its letters wrong.
///
/// # Example
///
/// ```
/// use reuseport::group::misspelt;
///
/// assert_eq!(misspelt("polcy", "policy"), Some(1));
/// assert_eq!(misspelt("polcy", "slots"), None);
/// ```
pub fn misspelt(given: &str, name: &str) -> Option<usize> {
    let distance = strsim::damerau_levenshtein(name, given);
    (distance * 3 <= name.len()).then_some(distance)
}

/// Names in a sentence, such as those of members ([`Member::name`](crate::Member::name)). A list longer than
/// `most` is cut, and a name that occurs again is counted.
///
/// # Example
///
/// ```
/// use reuseport::group::listed;
///
/// let names = ["a", "b", "b", "c", "d"].map(str::to_owned);
/// assert_eq!(listed(names.clone(), 9), "a, b (2 times), c, d");
/// assert_eq!(listed(names, 2), "a, b (2 times) and 2 more");
/// ```
pub fn listed(names: impl IntoIterator<Item = String>, most: usize) -> String {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for name in names {
        match counted.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => *times += 1,
            None => counted.push((name, 1)),
        }
    }
    let (some, more) = counted.split_at(counted.len().min(most));
    let shown = some.iter().map(|(name, times)| match times {
        1 => name.clone(),
        times => format!("{name} ({times} times)"),
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match more.iter().map(|(_, times)| times).sum::<usize>() {
        0 => shown,
        more => format!("{shown} and {more} more"),
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
