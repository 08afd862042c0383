//! Standard output for something that changes: on a terminal a table is redrawn in place, anywhere
//! else only its last state is printed.

use std::io::{self, IsTerminal};

use anstream::{AutoStream, ColorChoice};

use crate::output;

/// Narrower than this, lines wrap and cannot be found again.
const LEAST_WIDTH: usize = 72;
/// The width of text for nobody in particular.
const DEFAULT_WIDTH: usize = 80;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Screen {
    live: bool,
    width: usize,
    /// How many lines the passing text has that is shown now.
    passing: usize,
}

impl Screen {
    pub(crate) fn of_stdout() -> Self {
        let stdout = io::stdout();
        let width = output::Reader::of_stdout().width.unwrap_or(DEFAULT_WIDTH);
        // Where colour is unwanted, so are cursor movements.
        let live = stdout.is_terminal()
            && AutoStream::choice(&stdout) != ColorChoice::Never
            && width >= LEAST_WIDTH;
        Self { live, width, passing: 0 }
    }

    /// The columns that tables may take.
    pub(crate) fn width(&self) -> usize {
        self.width.min(100)
    }

    /// Shows text until the next text comes; does nothing but on a terminal.
    pub(crate) fn show(&mut self, text: &str) -> io::Result<()> {
        if !self.live {
            return Ok(());
        }
        self.print(text)?;
        self.passing = text.lines().count();
        Ok(())
    }

    /// Prints text that stays, in place of what is shown in passing.
    pub(crate) fn print(&mut self, text: &str) -> io::Result<()> {
        // CPL: to the start of the line so many lines up; ED: erase from there to the end.
        let back = match std::mem::take(&mut self.passing) {
            0 => String::new(),
            lines => format!("\x1b[{lines}F\x1b[J"),
        };
        output::print(&format!("{back}{text}"))
    }
}
