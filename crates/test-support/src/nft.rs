//! Rules of netfilter, by nft(8), in the network namespace of the calling thread.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::process::spawn;
use crate::program::program;

/// Adds rules, in the language of nft.
///
/// # Errors
///
/// What nft prints, if the kernel refuses them.
///
/// # Panics
///
/// If nft is not installed.
pub fn try_add(rules: &str) -> Result<(), String> {
    let mut nft = Command::new(program("nft"));
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut nft = spawn(&mut nft).unwrap_or_else(|error| panic!("cannot start nft: {error}"));
    let mut input = nft.stdin.take().expect("standard input is a pipe");
    let written = input.write_all(rules.as_bytes());
    drop(input);
    let output = nft.wait_with_output().unwrap_or_else(|error| panic!("nft: {error}"));
    if output.status.success() && written.is_ok() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "))
}

/// Adds rules, in the language of nft.
///
/// # Panics
///
/// If the kernel refuses them, or nft is not installed.
pub fn add(rules: &str) {
    try_add(rules).unwrap_or_else(|error| panic!("nft refuses the rules: {error}"));
}
