//! Starting processes, and closing descriptors while other tests start processes.
//!
//! Between fork(2) and execve(2) a child has a copy of every descriptor of the test's process,
//! those of other tests included. A listener that is closed at that moment stays open: it gets
//! connections, and no test accepts them. So [`spawn`] and [`close`] exclude each other.

use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

static FORKING: RwLock<()> = RwLock::new(());

/// Starts a process. Tests start all processes with this function or [`output`].
///
/// # Errors
///
/// As [`Command::spawn`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    // It returns when the child has called execve, which closes the copies.
    let _forking = FORKING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Runs a process to its end and collects what it prints, like [`Command::output`].
///
/// # Errors
///
/// As [`Command::output`].
pub fn output(command: &mut Command) -> io::Result<Output> {
    spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
}

/// Like [`output`], while tests start no other process: the process that runs sees each socket of this
/// process with its true holders.
///
/// # Errors
///
/// As [`Command::output`].
pub fn output_undisturbed(command: &mut Command) -> io::Result<Output> {
    let forking = FORKING.write().unwrap_or_else(PoisonError::into_inner);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let _not_forking = RwLockWriteGuard::downgrade(forking);
    child.wait_with_output()
}

/// Drops a value, and with it its descriptors, when no child has copies of them: a socket that is
/// closed so is gone from its group when this returns.
pub fn close<T>(value: T) {
    let _not_forking = FORKING.read().unwrap_or_else(PoisonError::into_inner);
    drop(value);
}

/// A command that runs one test of this test binary, ignored or not, in a process of its own. The
/// test is the function `test` of the module that [`module_path!`] names.
///
/// # Panics
///
/// If the path of the test binary is unknown.
pub fn rerun(module: &str, test: &str) -> Command {
    let mut command = Command::new(this_binary());
    command.args(only(module, test));
    command
}

/// Like [`rerun`], started by `wrapper`, which takes a command line after its own arguments.
///
/// # Panics
///
/// As [`rerun`].
pub fn rerun_under(mut wrapper: Command, module: &str, test: &str) -> Command {
    wrapper.arg(this_binary()).args(only(module, test));
    wrapper
}

fn this_binary() -> std::path::PathBuf {
    std::env::current_exe().unwrap_or_else(|e| panic!("cannot find the test binary: {e}"))
}

/// libtest names a test by its path without the crate.
fn only(module: &str, test: &str) -> [String; 3] {
    let name = match module.split_once("::") {
        Some((_, module)) => format!("{module}::{test}"),
        None => test.to_owned(),
    };
    ["--exact".into(), name, "--include-ignored".into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_named_without_its_crate() {
        assert_eq!(only("it::open::members", "helper")[1], "open::members::helper");
        assert_eq!(only("features", "plays")[1], "plays");
    }
}
