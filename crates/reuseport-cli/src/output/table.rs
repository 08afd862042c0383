//! Aligned columns for people. Knows nothing about groups: it pads cells, and gives the last column
//! the rest of the terminal's width.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
pub(crate) const PLAIN: Style = Style::new();

/// Between two columns, and where room is short.
const GAP: usize = 2;
const NARROW_GAP: usize = 1;

/// One cell: text in a style. Colour never carries meaning alone.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    parts: Vec<(String, Style)>,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, style: Style) -> Self {
        Self { parts: vec![(text.into(), style)] }
    }

    /// With a detail in another style, which is left out where room is short.
    pub(crate) fn and(mut self, text: impl Into<String>, style: Style) -> Self {
        self.parts.push((text.into(), style));
        self
    }

    fn width(&self) -> usize {
        self.parts.iter().map(|(text, _)| width(text)).sum()
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, PLAIN)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, PLAIN)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

struct Column {
    title: &'static str,
    align: Align,
    /// Columns with a number are left out where room is short, the highest first.
    optional: Option<u8>,
    cells: Vec<Cell>,
}

impl Column {
    fn width(&self) -> usize {
        let cells = self.cells.iter().map(Cell::width).max().unwrap_or(0);
        cells.max(width(self.title))
    }
}

/// The last column: text fitted to the remaining room.
pub(crate) struct Last<'a> {
    pub(crate) title: &'static str,
    /// Below this width it moves to a separate line below each row.
    pub(crate) least: usize,
    /// The text of a row for a given width; None: no limit.
    pub(crate) text: &'a dyn Fn(usize, Option<usize>) -> String,
}

/// A table under construction, column by column.
pub(crate) struct Table {
    columns: Vec<Column>,
    gap: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { columns: Vec::new(), gap: GAP }
    }
}

impl Table {
    /// Adds a column that is always shown.
    pub(crate) fn column(
        &mut self,
        title: &'static str,
        align: Align,
        cells: impl IntoIterator<Item = Cell>,
    ) -> &mut Self {
        let cells = cells.into_iter().collect();
        self.columns.push(Column { title, align, optional: None, cells });
        self
    }

    /// Adds a column that is left out where room is short; of several, the highest `rank` first.
    pub(crate) fn optional(
        &mut self,
        rank: u8,
        title: &'static str,
        align: Align,
        cells: impl IntoIterator<Item = Cell>,
    ) -> &mut Self {
        self.column(title, align, cells);
        if let Some(column) = self.columns.last_mut() {
            column.optional = Some(rank);
        }
        self
    }

    /// Draws the table in at most `room` columns where that is possible; None: without limit.
    pub(crate) fn draw(mut self, room: Option<usize>, last: &Last<'_>) -> String {
        if let Some(room) = room {
            self.leave_out(room, last.least);
            self.squeeze(room);
        }
        let used = self.used();
        let left = room.map(|room| room.saturating_sub(used));
        let below = left.is_some_and(|left| left < last.least);
        let mut out = String::new();
        self.line(
            &mut out,
            |column| Cell::new(column.title, BOLD),
            |out| {
                if !below {
                    let _ = write!(out, "{BOLD}{}{BOLD:#}", last.title);
                }
            },
        );
        let rows = self.columns.first().map_or(0, |c| c.cells.len());
        for row in 0..rows {
            let cell = |column: &Column| column.cells.get(row).cloned().unwrap_or("".into());
            self.line(&mut out, cell, |out| {
                if !below {
                    out.push_str(&(last.text)(row, left));
                }
            });
            if below {
                const INDENT: &str = "      ";
                let left = room.map(|room| room.saturating_sub(INDENT.len()));
                let text = (last.text)(row, left);
                if !text.is_empty() {
                    let _ = writeln!(out, "{INDENT}{DIM}{text}{DIM:#}");
                }
            }
        }
        out
    }

    /// The room that all columns but the last take.
    fn used(&self) -> usize {
        self.columns.iter().map(|c| c.width() + self.gap).sum()
    }

    /// Narrower gaps and no details, if the columns do not fit otherwise.
    fn squeeze(&mut self, room: usize) {
        if self.used() > room + self.gap {
            self.gap = NARROW_GAP;
        }
        if self.used() > room + self.gap {
            let cells = self.columns.iter_mut().flat_map(|column| &mut column.cells);
            cells.for_each(|cell| cell.parts.truncate(1));
        }
    }

    fn leave_out(&mut self, room: usize, least: usize) {
        while self.used() + least > room {
            let candidate = self
                .columns
                .iter()
                .enumerate()
                .filter_map(|(index, column)| Some((column.optional?, index)))
                .max();
            let Some((_, index)) = candidate else { return };
            self.columns.remove(index);
        }
    }

    fn line(
        &self,
        out: &mut String,
        cell: impl Fn(&Column) -> Cell,
        last: impl FnOnce(&mut String),
    ) {
        let start = out.len();
        for column in &self.columns {
            let cell = cell(column);
            let pad = column.width().saturating_sub(cell.width());
            if column.align == Align::Right {
                out.extend(std::iter::repeat_n(' ', pad));
            }
            for (text, style) in &cell.parts {
                let _ = write!(out, "{style}{text}{style:#}");
            }
            let after = if column.align == Align::Left { pad + self.gap } else { self.gap };
            out.extend(std::iter::repeat_n(' ', after));
        }
        last(out);
        let end = out[start..].trim_end().len() + start;
        out.truncate(end);
        out.push('\n');
    }
}

/// How many columns a text takes. Names are short and nearly always ASCII: a character counts one.
pub(crate) fn width(text: &str) -> usize {
    text.chars().count()
}

/// `text` in at most `room` columns, its end replaced by `…` where it is longer.
pub(crate) fn shortened(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(room.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A name that another user chose (of a process, a program, a namespace), made safe for a terminal:
/// a process name must not move our cursor.
pub(crate) fn safe(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A bar of `share` (0 to 1) of `room` columns, drawn in eighths.
pub(crate) fn bar(share: f64, room: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * room as f64 * 8.0).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    bar.push_str(EIGHTHS[eighths % 8]);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::default();
        table
            .column("NAME", Align::Left, ["a".into(), "bbbbbb".into()])
            .optional(1, "N", Align::Right, ["1".into(), "1000".into()])
            .optional(2, "SKEW", Align::Right, ["0 %".into(), "12 %".into()]);
        table
    }

    fn drawn(room: Option<usize>) -> String {
        let text = |row: usize, room: Option<usize>| {
            let text = ["first row", "second row"][row];
            room.map_or(text.to_owned(), |room| shortened(text, room))
        };
        let last = Last { title: "LAST", least: 8, text: &text };
        anstream::adapter::strip_str(&table().draw(room, &last)).to_string()
    }

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_spaces() {
        assert_eq!(
            drawn(None),
            "NAME       N  SKEW  LAST\n\
             a          1   0 %  first row\n\
             bbbbbb  1000  12 %  second row\n"
        );
    }

    #[test]
    fn where_room_is_short_optional_columns_go_first_then_the_last_one_moves_below() {
        assert_eq!(
            drawn(Some(29)),
            "NAME       N  SKEW  LAST\na          1   0 %  first row\nbbbbbb  1000  12 %  second r…\n"
        );
        assert_eq!(
            drawn(Some(22)),
            "NAME       N  LAST\na          1  first r…\nbbbbbb  1000  second …\n"
        );
        assert_eq!(drawn(Some(12)), "NAME\na\n      first…\nbbbbbb\n      secon…\n");
    }

    #[test]
    fn where_columns_do_not_fit_gaps_shrink_then_details_go() {
        let drawn = |room| {
            let mut table = Table::default();
            table.column("NAME", Align::Left, [Cell::from("abcd").and(", more", DIM)]).column(
                "N",
                Align::Right,
                ["1".into()],
            );
            let last = Last { title: "LAST", least: 8, text: &|_, _| String::new() };
            anstream::adapter::strip_str(&table.draw(Some(room), &last)).to_string()
        };
        assert_eq!(drawn(13), "NAME        N\nabcd, more  1\n");
        assert_eq!(drawn(12), "NAME       N\nabcd, more 1\n");
        assert_eq!(drawn(11), "NAME N\nabcd 1\n");
    }

    #[test]
    fn bars_are_drawn_in_eighths() {
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(0.53125, 4), "██▏");
        assert_eq!(bar(1.5, 2), "██");
        assert_eq!(bar(0.0, 4), "");
    }

    #[test]
    fn names_cannot_carry_escape_sequences() {
        assert_eq!(safe("evil\x1b[2J\n"), "evil\u{fffd}[2J\u{fffd}");
    }
}
