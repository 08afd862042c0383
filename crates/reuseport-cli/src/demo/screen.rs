//! Standard output for changing content: a terminal shows a table redrawn in place; other outputs
//! get its last state only.

use std::io::{self, IsTerminal};

use anstream::{AutoStream, ColorChoice};

use crate::output;

/// Narrower than this, lines wrap and cannot be found again.
const LEAST_WIDTH: usize = 72;
/// The width if the output is no terminal.
const DEFAULT_WIDTH: usize = 80;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Screen {
    live: bool,
    width: usize,
    /// Lines of transient text on the screen.
    passing: usize,
}

impl Screen {
    pub(crate) fn of_stdout() -> Self {
        let stdout = io::stdout();
        let width = output::Reader::of_stdout().width.unwrap_or(DEFAULT_WIDTH);
        // Without colours, no cursor movements either.
        let live = stdout.is_terminal()
            && AutoStream::choice(&stdout) != ColorChoice::Never
            && width >= LEAST_WIDTH;
        Self { live, width, passing: 0 }
    }

    /// The columns that tables may take.
    pub(crate) fn width(&self) -> usize {
        self.width.min(100)
    }

    /// Shows transient text until the next text replaces it; only on a terminal.
    pub(crate) fn show(&mut self, text: &str) -> io::Result<()> {
        if !self.live {
            return Ok(());
        }
        self.print(text)?;
        self.passing = text.lines().count();
        Ok(())
    }

    /// Prints permanent text, in place of transient text.
    pub(crate) fn print(&mut self, text: &str) -> io::Result<()> {
        // CPL: to the start of the line `lines` lines up; ED: erase from there to the end.
        let back = match std::mem::take(&mut self.passing) {
            0 => String::new(),
            lines => format!("\x1b[{lines}F\x1b[J"),
        };
        output::print_moving(&format!("{back}{text}"))
    }
}
