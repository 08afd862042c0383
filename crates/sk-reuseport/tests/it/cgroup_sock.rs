//! Programs of the root cgroup that run when sockets are bound.

use std::net::UdpSocket;

use rustix::thread::gettid;
use sk_reuseport::Ebpf;
use sk_reuseport::maps::{HashMap, MapData};
use sk_reuseport::programs::cgroup_sock::CgroupSockLinkId;
use sk_reuseport::programs::{CgroupSock, FdLink, PinnedLink, ProgramError, ProgramType};
use test_support::{bpffs, cgroup, loopback, netns};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::fixtures::*;

#[derive(Clone, Copy, Debug, Default, PartialEq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Bound {
    ipv4: u64,
    ipv6: u64,
    last_port: u64,
}

/// The object, for binds of the calling thread.
struct Counter {
    ebpf: Ebpf,
    thread: u32,
}

impl Counter {
    fn new() -> Self {
        let mut ebpf = Ebpf::load(BINDS).unwrap();
        let thread = gettid().as_raw_pid().unsigned_abs();
        let mut threads: HashMap<&mut MapData, u32, Bound> =
            ebpf.map_mut("threads").unwrap().try_into().unwrap();
        threads.insert(thread, Bound::default(), 0).unwrap();
        Self { ebpf, thread }
    }

    fn program(&mut self, name: &str) -> &mut CgroupSock {
        self.ebpf.program_mut(name).unwrap().try_into().unwrap()
    }

    fn attach(&mut self, name: &str) -> CgroupSockLinkId {
        let program = self.program(name);
        program.load().unwrap();
        program.attach(cgroup::root()).unwrap()
    }

    fn bound(&self) -> Bound {
        let threads: HashMap<_, u32, Bound> = self.ebpf.map("threads").unwrap().try_into().unwrap();
        threads.get(&self.thread, 0).unwrap()
    }
}

#[test]
fn programs_of_a_cgroup_run_next_to_each_other_as_long_as_their_links_live() {
    netns::isolated(|| {
        let (mut first, mut second) = (Counter::new(), Counter::new());
        first.attach("bound4");
        let link = second.attach("bound4");
        second.attach("bound6");
        let socket = UdpSocket::bind(loopback(false)).unwrap();
        let last_port = u64::from(socket.local_addr().unwrap().port());
        assert_eq!(first.bound(), Bound { ipv4: 1, ipv6: 0, last_port });
        assert_eq!(second.bound(), Bound { ipv4: 1, ipv6: 0, last_port });
        UdpSocket::bind(loopback(true)).unwrap();
        assert_eq!((first.bound().ipv6, second.bound().ipv6), (0, 1));
        second.program("bound4").detach(link).unwrap();
        UdpSocket::bind(loopback(false)).unwrap();
        assert_eq!((first.bound().ipv4, second.bound().ipv4), (2, 1));
        // The links go with the object.
        drop(first);
        UdpSocket::bind(loopback(false)).unwrap();
        assert_eq!(second.bound().ipv4, 1);
    });
}

#[test]
fn a_program_of_a_cgroup_can_refuse_a_bind_and_be_pinned_with_its_link() {
    netns::isolated(|| {
        bpffs::private();
        let mut counter = Counter::new();
        assert!(matches!(
            counter.program("refuse").attach(cgroup::root()),
            Err(ProgramError::NotLoaded)
        ));
        let id = counter.attach("refuse");
        let program = counter.program("refuse");
        assert_eq!(program.info().unwrap().program_type(), ProgramType::CgroupSock);
        let link: FdLink = program.take_link(id).unwrap().into();
        let path = format!("{}/link", bpffs::PATH);
        drop(link.pin(&path).unwrap());
        UdpSocket::bind(loopback(false)).unwrap_err();
        UdpSocket::bind(loopback(true)).unwrap();
        drop(PinnedLink::from_pin(&path).unwrap().unpin().unwrap());
        UdpSocket::bind(loopback(false)).unwrap();
    });
}

#[test]
fn a_program_is_not_attached_to_what_is_no_cgroup() {
    let mut ebpf = Ebpf::load(BINDS).unwrap();
    let program: &mut CgroupSock = ebpf.program_mut("bound4").unwrap().try_into().unwrap();
    program.load().unwrap();
    let error = program.attach(std::fs::File::open("/proc").unwrap()).unwrap_err();
    assert!(error.to_string().contains("BPF_LINK_CREATE"), "{error}");
}
