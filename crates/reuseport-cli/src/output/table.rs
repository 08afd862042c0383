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
    /// Instead of the parts, where the columns do not fit otherwise.
    short: Option<String>,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, style: Style) -> Self {
        Self { parts: vec![(text.into(), style)], short: None }
    }

    /// With a detail in another style, which is left out where room is short.
    pub(crate) fn and(mut self, text: impl Into<String>, style: Style) -> Self {
        self.parts.push((text.into(), style));
        self
    }

    /// With a shorter text, for a column whose texts are cut.
    pub(crate) fn or(mut self, short: impl Into<String>) -> Self {
        self.short = Some(short.into());
        self
    }

    fn shorten(&mut self) {
        if let Some(short) = self.short.take() {
            self.parts.truncate(1);
            self.parts.iter_mut().for_each(|(text, _)| text.clone_from(&short));
        }
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

#[derive(Debug, Clone)]
struct Column {
    title: &'static str,
    align: Align,
    give: Give,
    cells: Vec<Cell>,
}

/// What a column does where room is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Give {
    /// It stays.
    Nothing,
    /// Its texts are cut, if all else does not do.
    Cut,
    /// It is left out, if all else does not do.
    Last,
    /// It is left out, the highest number first.
    Rank(u8),
}

/// The least width of a column whose texts are cut.
const CUT: usize = 12;

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
#[derive(Debug, Clone)]
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
        self.add(Give::Nothing, title, align, cells)
    }

    /// Adds a column that is left out where room is short; of several, the highest `rank` first.
    pub(crate) fn optional(
        &mut self,
        rank: u8,
        title: &'static str,
        align: Align,
        cells: impl IntoIterator<Item = Cell>,
    ) -> &mut Self {
        self.add(Give::Rank(rank), title, align, cells)
    }

    /// Adds a column on the left whose texts are cut where the columns do not fit otherwise.
    pub(crate) fn cut(
        &mut self,
        title: &'static str,
        cells: impl IntoIterator<Item = Cell>,
    ) -> &mut Self {
        self.add(Give::Cut, title, Align::Left, cells)
    }

    /// Adds a column on the left that is left out where the columns do not fit otherwise.
    pub(crate) fn at_last(
        &mut self,
        title: &'static str,
        cells: impl IntoIterator<Item = Cell>,
    ) -> &mut Self {
        self.add(Give::Last, title, Align::Left, cells)
    }

    fn add(
        &mut self,
        give: Give,
        title: &'static str,
        align: Align,
        cells: impl IntoIterator<Item = Cell>,
    ) -> &mut Self {
        self.columns.push(Column { title, align, give, cells: cells.into_iter().collect() });
        self
    }

    /// Draws the table in at most `room` columns where that is possible; None: without limit.
    pub(crate) fn draw(mut self, room: Option<usize>, last: &Last<'_>) -> String {
        let below = room.is_some_and(|room| !self.fit(room, last.least));
        // Each looks at every row.
        let widths: Vec<usize> = self.columns.iter().map(Column::width).collect();
        let used = self.used();
        let left = room.map(|room| room.saturating_sub(used));
        let mut out = String::new();
        self.line(
            &mut out,
            &widths,
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
            self.line(&mut out, &widths, cell, |out| {
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

    /// Makes room for the last column, or else for the others alone. Returns whether the last one fits next to them.
    fn fit(&mut self, room: usize, least: usize) -> bool {
        let mut with_last = self.clone();
        let beside = |table: &Self| table.used() + least <= room;
        if !with_last.narrow(beside) {
            with_last.shorten();
        }
        if beside(&with_last) {
            *self = with_last;
            return true;
        }
        // Nothing follows the last gap.
        let fits = |table: &Self| table.used() <= room + table.gap;
        if self.narrow(fits) {
            return false;
        }
        self.shorten();
        if !fits(self) {
            self.columns.retain(|column| column.give != Give::Last);
        }
        self.cut_to(room + self.gap);
        false
    }

    /// Leaves out columns, then makes the gaps narrower, then leaves out details, until it fits. Returns whether it
    /// does.
    fn narrow(&mut self, fits: impl Fn(&Self) -> bool) -> bool {
        while !fits(self) {
            let ranks =
                self.columns.iter().enumerate().filter_map(|(at, column)| match column.give {
                    Give::Rank(rank) => Some((rank, at)),
                    _ => None,
                });
            match ranks.max() {
                Some((_, at)) => drop(self.columns.remove(at)),
                None if self.gap > NARROW_GAP => self.gap = NARROW_GAP,
                None => {
                    let cells = self.columns.iter_mut().flat_map(|column| &mut column.cells);
                    cells.for_each(|cell| cell.parts.truncate(1));
                    return fits(self);
                }
            }
        }
        true
    }

    fn shorten(&mut self) {
        self.cuttable().flat_map(|column| &mut column.cells).for_each(Cell::shorten);
    }

    fn cuttable(&mut self) -> impl Iterator<Item = &mut Column> {
        self.columns.iter_mut().filter(|column| column.give == Give::Cut)
    }

    fn cut_to(&mut self, room: usize) {
        let excess = self.used().saturating_sub(room);
        for column in self.cuttable() {
            let width = column.width().saturating_sub(excess).max(CUT);
            for (text, _) in column.cells.iter_mut().flat_map(|cell| &mut cell.parts) {
                *text = shortened(text, width);
            }
        }
    }

    fn line(
        &self,
        out: &mut String,
        widths: &[usize],
        cell: impl Fn(&Column) -> Cell,
        last: impl FnOnce(&mut String),
    ) {
        let start = out.len();
        for (column, width) in self.columns.iter().zip(widths) {
            let cell = cell(column);
            let pad = width.saturating_sub(cell.width());
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

    /// That takes seconds where each line looks at all others.
    #[test]
    fn a_table_of_very_many_rows_is_drawn() {
        const ROWS: usize = 20_000;

        let mut table = Table::default();
        table.column("NUMBER", Align::Right, (0..ROWS).map(|row| row.to_string().into()));
        let last = Last { title: "SQUARE", least: 6, text: &|row, _| (row * row).to_string() };
        let drawn = table.draw(Some(80), &last);
        assert_eq!(drawn.lines().count(), 1 + ROWS);
        assert!(drawn.ends_with(" 19999  399960001\n"), "{}", &drawn[drawn.len() - 40..]);
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
        // Narrower gaps go before the last column moves below, where there is room for the others.
        assert_eq!(drawn(Some(15)), "NAME   LAST\na      first r…\nbbbbbb second …\n");
        assert_eq!(
            drawn(Some(14)),
            "NAME       N\na          1\n      first r…\nbbbbbb  1000\n      second …\n"
        );
        assert_eq!(drawn(Some(11)), "NAME\na\n      firs…\nbbbbbb\n      seco…\n");
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
    fn where_the_columns_alone_do_not_fit_texts_are_cut_and_a_column_goes() {
        let drawn = |room| {
            let mut table = Table::default();
            table
                .at_last("WHERE", ["here".into()])
                .column("NAME", Align::Left, ["abcdefgh".into()])
                .cut("PROGRAM", [Cell::from("the program of a user").or("program of a user")])
                .column("N", Align::Right, ["123".into()]);
            let last = Last { title: "LAST", least: 8, text: &|_, _| String::new() };
            anstream::adapter::strip_str(&table.draw(Some(room), &last)).to_string()
        };
        let row = |room| drawn(room).lines().nth(1).unwrap().to_owned();
        assert_eq!(row(40), "here  abcdefgh the program of a user 123");
        assert_eq!(row(39), "here  abcdefgh program of a user 123");
        assert_eq!(row(35), "abcdefgh program of a user 123");
        assert_eq!(row(29), "abcdefgh program of a us… 123");
        assert_eq!(row(9), "abcdefgh program of … 123");
    }

    #[test]
    fn bars_are_drawn_in_eighths() {
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(0.53125, 4), "██▏");
        assert_eq!(bar(1.5, 2), "██");
        assert_eq!(bar(0.0, 4), "");
    }
}
