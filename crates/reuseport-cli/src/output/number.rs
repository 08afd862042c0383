//! Numbers of things in sentences.

/// The form of a word for this number of things.
pub(crate) fn by_number<'a>(n: usize, one: &'a str, more: &'a str) -> &'a str {
    if n == 1 { one } else { more }
}

/// A number of things: `1 socket`, `2 sockets`.
pub(crate) fn count(n: usize, one: &str) -> String {
    format!("{n} {one}{}", by_number(n, "", "s"))
}
