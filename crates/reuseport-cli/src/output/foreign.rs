//! Names that others chose, of processes, programs, devices, namespaces: none of them moves the cursor of a
//! terminal, changes its colours or begins a line.

use std::fmt::Write as _;

use anstyle::Style;

use super::table::{BOLD, DIM, GOOD, NOTE};

/// In place of a character that is not shown.
const HIDDEN: char = '\u{fffd}';

/// A foreign name or text, in one line.
pub(crate) fn safe(name: &str) -> String {
    name.chars().map(|c| if commands(c) { HIDDEN } else { c }).collect()
}

/// Whether a terminal obeys a character instead of showing it: controls, and what turns the direction of the text.
fn commands(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    c.is_control() || turns
}

/// A whole text with its line ends and our own styles, and with no other control character.
pub(super) fn styled(text: &str) -> String {
    let styles = [BOLD, DIM, GOOD, NOTE].map(|style| style.render().to_string());
    let reset = Style::new().bold().render_reset().to_string();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let ours = styles.iter().chain([&reset]).find(|style| rest.starts_with(style.as_str()));
        let taken = ours.map_or(c.len_utf8(), |style| style.len());
        match ours {
            Some(style) => out.push_str(style),
            None if c != '\n' && commands(c) => out.push(HIDDEN),
            None => out.push(c),
        }
        rest = &rest[taken..];
    }
    out
}

/// JSON in which all control characters but its line ends are escaped: serde_json leaves those above 0x7e.
pub(super) fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c != '\n' && commands(c) {
            // All of them have four digits.
            true => _ = write!(out, "\\u{:04x}", u32::from(c)),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_without_commands_to_the_terminal() {
        assert_eq!(safe("evil\x1b[2J\n"), "evil\u{fffd}[2J\u{fffd}");
        assert_eq!(safe("a\u{202e}b\u{9b}"), "a\u{fffd}b\u{fffd}");
        assert_eq!(safe("Ünïcode"), "Ünïcode");
    }

    #[test]
    fn of_a_text_only_line_ends_and_our_styles_stay() {
        let ours = format!("{BOLD}a{BOLD:#}\n{NOTE}b{NOTE:#}{DIM}c{DIM:#}{GOOD}d{GOOD:#}\n");
        assert_eq!(styled(&ours), ours);
        assert_eq!(styled("%\x1b[2J\r:80\x1b"), "%\u{fffd}[2J\u{fffd}:80\u{fffd}");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = "a\u{9b}\u{7f}\u{202e}\x1b\n";
        let text = json(&serde_json::to_string(value).unwrap());
        assert!(!text.chars().any(commands), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }
}
