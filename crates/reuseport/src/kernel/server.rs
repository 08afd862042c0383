//! What a process runs as, to recognise servers.

use std::fs::File;
use std::io::Read as _;

use crate::model::group::Holder;
use crate::model::server::{Server, recognise};

/// As many bytes of a process's arguments are read.
const ENOUGH: u64 = 4096;

/// The server that a holder is, if it is known: by its name, or else by its arguments, where the caller's /proc
/// shows them.
pub(crate) fn server_of(holder: &Holder) -> Option<&'static Server> {
    recognise(&holder.comm, []).or_else(|| {
        let arguments = arguments_of(holder.pid)?;
        recognise(&holder.comm, arguments.split('\0'))
    })
}

/// The arguments, each with a NUL at its end.
fn arguments_of(pid: u32) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(ENOUGH).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_those_of_the_process() {
        let own = arguments_of(std::process::id()).unwrap();
        let first = std::env::args().next().unwrap();
        assert_eq!(own.split('\0').next(), Some(&first[..]));
        assert_eq!(arguments_of(0), None);
    }
}
