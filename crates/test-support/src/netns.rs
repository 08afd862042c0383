//! Private network namespaces: tests run in parallel, and their ports do not collide.

use std::panic;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// Runs `test` on a new thread, in a new network namespace whose loopback is up. Threads and
/// processes that `test` starts are in it too; the namespace ends with the last of them.
///
/// `/proc/self` and `/proc/net` belong to the first thread of the process, which is not in it: read
/// `/proc/thread-self/ns/net` and `/proc/thread-self/net`. The namespace has its own abstract Unix
/// sockets, but not its own files, pins (see [`crate::bpffs`]) or process ids.
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
    // The thread has the name of the test, so that panics are reported under it.
    let name = thread::current().name().unwrap_or("isolated").to_owned();
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, inside)
            .unwrap_or_else(|error| panic!("cannot start a thread: {error}"));
        thread.join().unwrap_or_else(|cause| panic::resume_unwind(cause))
    })
}

/// Uses netlink directly, because ip(8) would be a process for each test.
fn bring_loopback_up() {
    let answer = try_bring_loopback_up();
    answer.unwrap_or_else(|errno| panic!("cannot bring loopback up: {errno}"));
}

fn try_bring_loopback_up() -> rustix::io::Result<()> {
    // linux/rtnetlink.h, linux/netlink.h, linux/if.h, net/flow.h
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_AND_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    const LOOPBACK_IFINDEX: u32 = 1;

    let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, None)?; // NETLINK_ROUTE is 0
    // struct nlmsghdr: length, type, flags, sequence, port.
    let mut request = 32u32.to_ne_bytes().to_vec();
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST_AND_ACK.to_ne_bytes());
    request.extend([0; 8]);
    // struct ifinfomsg: family and type, index, flags, mask of the flags to change.
    for word in [0, LOOPBACK_IFINDEX, IFF_UP, IFF_UP] {
        request.extend(word.to_ne_bytes());
    }
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 64];
    recv(&socket, &mut answer, RecvFlags::empty())?;
    // After the header, struct nlmsgerr begins with the error, negative, or 0.
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    if error == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-error)) }
}
