//! A network of one's own: tests run in parallel, and no port of one clashes with another's.

use std::panic;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a fresh thread, in a new network namespace whose loopback is up. The threads and
/// processes that `test` starts are in it too; the namespace ends with the last of them.
///
/// `/proc/self` and `/proc/net` speak of the process's first thread, which is not in it: read
/// `/proc/thread-self/ns/net` and `/proc/thread-self/net`. Abstract Unix sockets are the namespace's
/// own; files, pinned objects ([`crate::bpffs`] has more) and process ids are not.
///
/// # Panics
///
/// Like `test` itself; also without the right to make a namespace (CAP_SYS_ADMIN).
pub fn isolated<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|errno| {
            panic!("cannot make a network namespace: {errno}; tests run as root")
        });
        bring_loopback_up();
        test()
    };
    // The thread bears the test's name, so that a panic is reported under it.
    let name = thread::current().name().unwrap_or("isolated").to_owned();
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, inside)
            .unwrap_or_else(|error| panic!("cannot start a thread: {error}"));
        thread.join().unwrap_or_else(|cause| panic::resume_unwind(cause))
    })
}

fn bring_loopback_up() {
    let output = Command::new(crate::program("ip"))
        .args(["link", "set", "lo", "up"])
        .output()
        .unwrap_or_else(|error| panic!("cannot start ip: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cannot bring loopback up: {said}");
}
