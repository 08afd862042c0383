//! What the tests of this directory share: the objects, groups of sockets, and the programs' own
//! counters, which prove that it was a program that made a choice.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sk_reuseport::Ebpf;
use sk_reuseport::maps::{Array, MapData, ReusePortSockArray};
use sk_reuseport::net::{Bind, loopback};
use sk_reuseport::programs::SkReuseport;
use test_support::wait::BOUND;

pub(crate) const SELECT: &[u8] = include_bytes!("../bpf/select.bpf.o");
pub(crate) const SOCKMAPS: &[u8] = include_bytes!("../bpf/sockmaps.bpf.o");
pub(crate) const MAPS: &[u8] = include_bytes!("../bpf/maps.bpf.o");
pub(crate) const HALF_DESCRIBED: &[u8] = include_bytes!("../bpf/half_described.bpf.o");
pub(crate) const PINNED: &[u8] = include_bytes!("../bpf/pinned.bpf.o");
pub(crate) const TRACING: &[u8] = include_bytes!("../bpf/tracing.bpf.o");
pub(crate) const LEGACY: &[u8] = include_bytes!("../bpf/legacy.bpf.o");
pub(crate) const REFUSED: &[u8] = include_bytes!("../bpf/refused.bpf.o");
pub(crate) const UNLICENSED: &[u8] = include_bytes!("../bpf/unlicensed.bpf.o");
pub(crate) const OTHER: &[u8] = include_bytes!("../bpf/other.bpf.o");

/// What the programs count: `enum counter` of `bpf/count.h`.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    Runs,
    Picked,
    Missed,
    Migrated,
}

pub(crate) fn counted(ebpf: &Ebpf, what: Counter) -> u64 {
    let counters: Array<_, u64> = ebpf.map("counters").unwrap().try_into().unwrap();
    counters.get(&(what as u32), 0).unwrap()
}

/// A loaded program of an object.
pub(crate) fn loaded<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SkReuseport {
    let program: &mut SkReuseport = ebpf.program_mut(name).unwrap().try_into().unwrap();
    program.load().unwrap();
    program
}

/// Sets the index of the socket that `select.bpf.c` selects.
pub(crate) fn choose(ebpf: &mut Ebpf, index: u32) {
    let mut choice: Array<_, u32> = ebpf.map_mut("choice").unwrap().try_into().unwrap();
    choice.set(0, index, 0).unwrap();
}

/// Sets the index of the socket that `select.bpf.c` moves connections to.
pub(crate) fn choose_for_migrating(ebpf: &mut Ebpf, index: u32) {
    let mut choice: Array<_, u32> = ebpf.map_mut("choice").unwrap().try_into().unwrap();
    choice.set(1, index, 0).unwrap();
}

pub(crate) fn sockets(ebpf: &mut Ebpf) -> ReusePortSockArray<&mut MapData> {
    ebpf.map_mut("sockets").unwrap().try_into().unwrap()
}

/// UDP sockets of one group, and somebody who sends to it from one and the same port, so that the
/// kernel's hash would always choose the same member.
pub(crate) struct UdpGroup {
    pub(crate) members: Vec<UdpSocket>,
    client: UdpSocket,
}

impl UdpGroup {
    pub(crate) fn new(members: usize) -> Self {
        let members = Bind::new(loopback(false)).udp_sockets(members).unwrap();
        let client = UdpSocket::bind(loopback(false)).unwrap();
        Self { members, client }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.members[0].local_addr().unwrap()
    }

    /// Sends a datagram and returns the index of the member that got it.
    pub(crate) fn send(&self, payload: &[u8]) -> usize {
        self.client.send_to(payload, self.address()).unwrap();
        let member = ready(&self.members, BOUND).expect("a datagram arrives");
        let mut buffer = [0; 2048];
        let length = self.members[member].recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], payload);
        member
    }
}

/// The index of the first of these that has something to read (or accept) within `bound`.
pub(crate) fn ready<T: AsFd>(sockets: &[T], bound: Duration) -> Option<usize> {
    let mut polled: Vec<PollFd<'_>> =
        sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    let bound = Timespec::try_from(bound).unwrap();
    poll(&mut polled, Some(&bound)).unwrap();
    polled.iter().position(|polled| polled.revents().contains(PollFlags::IN))
}

/// Connects to a group and returns the index of the listener that has the connection in its queue.
pub(crate) fn connect(listeners: &[TcpListener]) -> usize {
    let _client = TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
    let member = ready(listeners, BOUND).expect("a connection arrives");
    listeners[member].accept().unwrap();
    member
}

/// Waits until a condition holds that follows from closing descriptors: another test that starts a
/// process at this moment has copies of all of them in it until it executes its program.
#[track_caller]
pub(crate) fn once_closed(condition: impl FnMut() -> bool) {
    test_support::wait::until("what was closed is gone", BOUND, condition);
}

/// A socket's cookie, as the kernel tells its owner.
pub(crate) fn cookie(socket: impl AsFd) -> u64 {
    rustix::net::sockopt::socket_cookie(socket).unwrap()
}

/// The error number at the bottom of an error.
pub(crate) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

pub(crate) fn is_close_on_exec(fd: BorrowedFd<'_>) -> bool {
    rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
}

/// Takes every capability but these from this thread, which the test then ends with.
pub(crate) fn keep_only(capabilities: rustix::thread::CapabilitySet) {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

    let inheritable = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets { effective: capabilities, permitted: capabilities, inheritable },
    )
    .unwrap();
}
