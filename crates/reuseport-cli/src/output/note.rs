//! Notes for people: in one colour, wrapped where the terminal is narrower.

use crate::output::foreign::safe;
use crate::output::table::{NOTE, width};

/// A note of one or more lines, with a newline at its end. `room` is the terminal's width; None: no limit.
pub(crate) fn note(text: &str, room: Option<usize>) -> String {
    format!("{NOTE}{}{NOTE:#}\n", wrapped(text, room).trim_end_matches('\n'))
}

/// Lines that are not longer than `room`, where that is possible, with a newline at the end; None: as they are.
pub(crate) fn wrapped(text: &str, room: Option<usize>) -> String {
    let room = room.unwrap_or(usize::MAX);
    text.lines().flat_map(|line| wrapped_line(line, room)).map(|line| line + "\n").collect()
}

/// A line that is too long ends after its first semicolon, if that fits, and else where a word ends.
fn wrapped_line(line: &str, room: usize) -> Vec<String> {
    if width(line) <= room {
        return vec![line.to_owned()];
    }
    match line.split_once("; ") {
        Some((first, rest)) if width(first) < room => {
            std::iter::once(format!("{first};")).chain(filled(rest, room)).collect()
        }
        _ => filled(line, room),
    }
}

/// As many words to a line as fit.
pub(crate) fn filled(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words(text) {
        match lines.last_mut().filter(|line| width(line) + 1 + width(&word) <= room) {
            Some(line) => {
                line.push(' ');
                line.push_str(&word);
            }
            None => lines.push(word),
        }
    }
    lines
}

/// A text that begins with `head` and is indented by four columns from its second line on, with a newline at its end.
/// Foreign characters in it command no terminal.
pub(super) fn paragraph(head: &str, text: &str, room: Option<usize>) -> String {
    const INDENT: usize = 4;

    let text = safe(text);
    // The first line is shorter by what the head takes beyond the indentation.
    let more = width(&anstream::adapter::strip_str(head).to_string()).saturating_sub(INDENT);
    let room = room.map_or(usize::MAX, |width| width.saturating_sub(INDENT).max(20));
    let lines = filled(&format!("{}{text}", PAD.to_string().repeat(more)), room);
    let mut out = head.to_owned();
    for (at, line) in lines.iter().enumerate() {
        match at {
            0 => out.push_str(line.trim_start_matches(PAD)),
            _ => out.push_str(&format!("\n{:INDENT$}{line}", "")),
        }
    }
    out.push('\n');
    out
}

/// Takes a column, and ends no word.
const PAD: char = '\u{a0}';

/// The words of a text; a command in backticks is one.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut quoted = false;
    for word in text.split(' ') {
        match words.last_mut().filter(|_| quoted) {
            Some(last) => {
                last.push(' ');
                last.push_str(word);
            }
            None => words.push(word.to_owned()),
        }
        quoted ^= word.matches('`').count() % 2 == 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str, room: usize) -> String {
        anstream::adapter::strip_str(&note(text, Some(room))).to_string()
    }

    #[test]
    fn a_note_that_fits_is_one_line() {
        assert_eq!(plain("one; two", 8), "one; two\n");
        let text = anstream::adapter::strip_str(&note("one; two", None)).to_string();
        assert_eq!(text, "one; two\n");
    }

    #[test]
    fn a_longer_one_breaks_after_the_semicolon_and_then_between_words() {
        assert_eq!(plain("one; two", 7), "one;\ntwo\n");
        assert_eq!(plain("one; two three", 7), "one;\ntwo\nthree\n");
        assert_eq!(plain("one two three; four", 8), "one two\nthree;\nfour\n");
        assert_eq!(plain("hint: one two\nthree", 9), "hint: one\ntwo\nthree\n");
    }

    #[test]
    fn a_command_stays_in_one_line() {
        assert_eq!(
            plain("run `reuseport attach :80` again", 12),
            "run\n`reuseport attach :80`\nagain\n"
        );
    }
}
