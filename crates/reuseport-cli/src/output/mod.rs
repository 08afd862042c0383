//! Everything that goes to standard output: values as JSON, tables for people.
//!
//! Nothing here reads groups from the kernel: it turns values into text.

mod cpus;
pub(crate) mod doctor;
mod finding;
mod following;
mod foreign;
pub(crate) mod host;
mod mend;
mod note;
mod number;
mod options;
mod table;
mod text;
pub(crate) mod view;
mod words;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use serde::Serialize;

pub(crate) use cpus::notes as cpus;
pub(crate) use finding::findings_at_attach;
pub(crate) use foreign::safe;
pub(crate) use note::{filled, note, wrapped};
pub(crate) use number::{by_number, count};
pub(crate) use table::{Align, BOLD, Cell, DIM, GOOD, Last, NOTE, PLAIN, Table, bar};
pub(crate) use text::{ls, show};
pub(crate) use words::{argument, none_active, not_asked, percent, program_name, split};

/// The reader of the output.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reader {
    /// The inode number of the network namespace that the command runs in, where known.
    pub(crate) own_netns: Option<u32>,
    /// The terminal's columns; None if the output is no terminal.
    pub(crate) width: Option<usize>,
}

impl Reader {
    /// The reader of this process's standard output.
    pub(crate) fn of_stdout() -> Self {
        Self { own_netns: crate::netns::own(), width: width() }
    }
}

/// The columns of the terminal that standard output is; None if it is none.
pub(crate) fn width() -> Option<usize> {
    let size = terminal_size::terminal_size_of(io::stdout());
    size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0)
}

/// The columns of the terminal that standard error is; None if it is none.
pub(crate) fn width_of_stderr() -> Option<usize> {
    let size = terminal_size::terminal_size_of(io::stderr());
    size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0)
}

/// Writes `text` to standard output, with colours only on a terminal and with NO_COLOR unset or
/// empty. Of control characters, only line ends and our own styles are written.
///
/// # Errors
///
/// The write's error; the caller may ignore a broken pipe.
pub(crate) fn print(text: &str) -> io::Result<()> {
    print_moving(&foreign::styled(text))
}

/// The same on standard error.
///
/// # Errors
///
/// As [`print`].
pub(crate) fn print_to_stderr(text: &str) -> io::Result<()> {
    let mut stderr = anstream::AutoStream::auto(io::stderr().lock());
    stderr.write_all(foreign::styled(text).as_bytes())
}

/// The same of a text without foreign names, which may move the cursor.
///
/// # Errors
///
/// As [`print`].
pub(crate) fn print_moving(text: &str) -> io::Result<()> {
    let mut stdout = anstream::AutoStream::auto(io::stdout().lock());
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes `bytes` to standard output as they are.
///
/// # Errors
///
/// The write's error.
pub(crate) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Writes `value` as JSON, indented, with a newline at its end.
///
/// # Errors
///
/// The write's error.
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut text = foreign::json(&serde_json::to_string_pretty(value).map_err(io::Error::from)?);
    text.push('\n');
    print_bytes(text.as_bytes())
}
