//! Attaching and detaching programs.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use sk_reuseport::net::Bind;
use sk_reuseport::programs::select::{attach, detach};
use sk_reuseport::programs::{
    FdLink, Iter, Program, ProgramError, SkReuseport, SkReuseportAttachType, SkReuseportError,
};
use sk_reuseport::{Btf, Ebpf};
use test_support::loopback;
use test_support::{bpffs, netns};

use crate::fixtures::*;

/// The error number of a refused socket option with this name.
fn refused(result: Result<(), ProgramError>, expected: &str) -> Errno {
    match result.unwrap_err() {
        ProgramError::SkReuseportError(SkReuseportError::SetsockoptError { option, io_error }) => {
            assert_eq!(option, expected);
            Errno::from_io_error(&io_error).unwrap()
        }
        other => panic!("{other}"),
    }
}

const ATTACH: &str = "SO_ATTACH_REUSEPORT_EBPF";
const DETACH: &str = "SO_DETACH_REUSEPORT_BPF";

/// An object whose socket array holds the members in order.
fn filled<T: std::os::fd::AsRawFd>(members: &[T]) -> Ebpf {
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    for (index, member) in members.iter().enumerate() {
        sockets(&mut ebpf).set(index as u32, member, 0).unwrap();
    }
    ebpf
}

#[test]
fn the_program_chooses_the_member_of_a_udp_group() {
    netns::isolated(|| {
        let group = UdpGroup::new(3);
        let mut ebpf = filled(&group.members);
        loaded(&mut ebpf, "select_socket").attach(&group.members[0]).unwrap();
        for index in [2, 0, 1, 1, 2, 0] {
            choose(&mut ebpf, index);
            assert_eq!(group.send(b"x"), index as usize);
        }
        assert_eq!(counted(&ebpf, Counter::Runs), 6);
        assert_eq!(counted(&ebpf, Counter::Picked), 6);
        assert_eq!(counted(&ebpf, Counter::Missed), 0);
    });
}

#[test]
fn the_program_chooses_the_listener_of_a_tcp_group() {
    netns::isolated(|| {
        let listeners = Bind::new(loopback(false)).listeners(3).unwrap();
        let mut ebpf = filled(&listeners);
        loaded(&mut ebpf, "select_socket").attach(&listeners[1]).unwrap();
        for (done, index) in [2, 0, 1, 1].into_iter().enumerate() {
            choose(&mut ebpf, index);
            assert_eq!(connect(&listeners), index as usize);
            assert_eq!(counted(&ebpf, Counter::Picked), done as u64 + 1);
        }
    });
}

#[test]
fn an_index_without_a_socket_leaves_the_choice_to_the_kernel() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let mut ebpf = filled(&group.members);
        loaded(&mut ebpf, "select_socket").attach(&group.members[0]).unwrap();
        choose(&mut ebpf, 5);
        group.send(b"x");
        assert_eq!(counted(&ebpf, Counter::Missed), 1);
        assert_eq!(counted(&ebpf, Counter::Picked), 0);
    });
}

#[test]
fn attaching_through_any_member_replaces_the_program_of_the_whole_group() {
    netns::isolated(|| {
        let group = UdpGroup::new(3);
        // A socket can be in one array only, so the programs share the array of the first object.
        let mut first = filled(&group.members);
        let array = first.take_map("sockets").unwrap();
        let mut second =
            sk_reuseport::EbpfLoader::new().map("sockets", array.data()).load(SELECT).unwrap();
        for member in &group.members {
            let before = (counted(&first, Counter::Picked), counted(&second, Counter::Picked));
            attach_loaded(&mut first, member);
            choose(&mut first, 1);
            assert_eq!(group.send(b"x"), 1);
            attach_loaded(&mut second, member);
            choose(&mut second, 2);
            assert_eq!(group.send(b"x"), 2);
            assert_eq!(counted(&first, Counter::Picked), before.0 + 1);
            assert_eq!(counted(&second, Counter::Picked), before.1 + 1);
        }
    });
}

/// Attaches `select_socket`, and loads it first if necessary.
fn attach_loaded(ebpf: &mut Ebpf, member: &UdpSocket) {
    let program: &mut SkReuseport = ebpf.program_mut("select_socket").unwrap().try_into().unwrap();
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(error) => panic!("{error}"),
    }
    program.attach(member).unwrap();
}

#[test]
fn detaching_through_any_member_affects_the_whole_group_and_needs_no_program() {
    netns::isolated(|| {
        for through in 0..3 {
            let group = UdpGroup::new(3);
            let mut ebpf = filled(&group.members);
            loaded(&mut ebpf, "select_socket").attach(&group.members[0]).unwrap();
            group.send(b"x");
            assert_eq!(counted(&ebpf, Counter::Runs), 1);

            ebpf.program_mut("select_socket").unwrap().unload().unwrap();
            SkReuseport::detach(&group.members[through]).unwrap();
            for _ in 0..4 {
                group.send(b"x");
            }
            assert_eq!(counted(&ebpf, Counter::Runs), 1);
            for member in &group.members {
                assert_eq!(refused(SkReuseport::detach(member), DETACH), Errno::NOENT);
            }
        }
    });
}

#[test]
fn dropping_program_and_object_detaches_nothing() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let mut ebpf = filled(&group.members);
        loaded(&mut ebpf, "select_socket").attach(&group.members[0]).unwrap();
        choose(&mut ebpf, 1);
        let counters = ebpf.take_map("counters").unwrap();
        let counters: sk_reuseport::maps::Array<_, u64> = counters.try_into().unwrap();
        drop(ebpf);
        for done in 1..=3 {
            assert_eq!(group.send(b"x"), 1);
            assert_eq!(counters.get(&(Counter::Picked as u32), 0).unwrap(), done);
        }
        SkReuseport::detach(&group.members[0]).unwrap();
    });
}

#[test]
fn the_attachment_ends_with_the_last_socket_of_the_group() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let address = group.address();
        let mut ebpf = filled(&group.members);
        loaded(&mut ebpf, "select_socket").attach(&group.members[0]).unwrap();
        drop(group);
        once_closed(|| UdpSocket::bind(address).is_ok());
        let again = Bind::new(address).udp_sockets(1).unwrap();
        assert_eq!(refused(SkReuseport::detach(&again[0]), DETACH), Errno::NOENT);
    });
}

#[test]
fn a_program_attached_before_bind_stays_with_the_socket() {
    netns::isolated(|| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        sockopt::set_socket_reuseport(&socket, true).unwrap();
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        loaded(&mut ebpf, "select_socket").attach(&socket).unwrap();
        rustix::net::bind(&socket, &loopback(false)).unwrap();
        let socket = UdpSocket::from(socket);
        let client = UdpSocket::bind(loopback(false)).unwrap();
        client.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        socket.recv(&mut [0; 8]).unwrap();
        assert_eq!(counted(&ebpf, Counter::Runs), 1);
    });
}

#[test]
fn a_socket_without_reuseport_is_refused() {
    netns::isolated(|| {
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        let program = loaded(&mut ebpf, "select_socket");
        let plain = TcpListener::bind(loopback(false)).unwrap();
        assert_eq!(refused(program.attach(&plain), ATTACH), Errno::INVAL);
        let message = report(&program.attach(&plain).unwrap_err());
        assert!(message.contains("SO_REUSEPORT, set before bind"), "{message}");
        assert!(SkReuseport::detach(&plain).is_err());
        let unbound = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        assert_eq!(refused(program.attach(&unbound), ATTACH), Errno::INVAL);
    });
}

#[test]
fn reuseport_after_bind_joins_nothing() {
    netns::isolated(|| {
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        let program = loaded(&mut ebpf, "select_socket");
        let late = UdpSocket::bind(loopback(false)).unwrap();
        sockopt::set_socket_reuseport(&late, true).unwrap();
        assert_eq!(refused(program.attach(&late), ATTACH), Errno::INVAL);
        assert_eq!(refused(SkReuseport::detach(&late), DETACH), Errno::NOENT);
        let late = TcpListener::bind(loopback(false)).unwrap();
        sockopt::set_socket_reuseport(&late, true).unwrap();
        assert_eq!(refused(program.attach(&late), ATTACH), Errno::INVAL);
        assert_eq!(refused(SkReuseport::detach(&late), DETACH), Errno::NOENT);
        // The next socket that binds to its address forms a group with it.
        let second = Bind::new(late.local_addr().unwrap()).listeners(1).unwrap();
        program.attach(&late).unwrap();
        SkReuseport::detach(&second[0]).unwrap();
    });
}

#[test]
fn binding_without_reuseport_to_the_address_of_a_group_is_refused() {
    netns::isolated(|| {
        let udp = UdpGroup::new(2);
        let error = UdpSocket::bind(udp.address()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        let listeners = Bind::new(loopback(false)).listeners(2).unwrap();
        let error = TcpListener::bind(listeners[0].local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    });
}

#[test]
fn groups_do_not_touch_each_other() {
    netns::isolated(|| {
        let (steered, other) = (UdpGroup::new(2), UdpGroup::new(2));
        let mut ebpf = filled(&steered.members);
        loaded(&mut ebpf, "select_socket").attach(&steered.members[0]).unwrap();
        assert_eq!(refused(SkReuseport::detach(&other.members[0]), DETACH), Errno::NOENT);
        other.send(b"x");
        assert_eq!(counted(&ebpf, Counter::Runs), 0);
    });
}

#[test]
fn a_locked_socket_is_refused_with_the_reason() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        lock_filter(&group.members[0]);
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        let result = loaded(&mut ebpf, "select_socket").attach(&group.members[0]);
        let message = report(result.as_ref().unwrap_err());
        assert_eq!(refused(result, ATTACH), Errno::PERM);
        assert!(message.contains("SO_LOCK_FILTER"), "{message}");
    });
}

/// rustix has no SO_LOCK_FILTER, and these tests have no unsafe code, so Python sets it.
fn lock_filter(socket: &UdpSocket) {
    const PROGRAM: &str = "import socket; s = socket.socket(fileno=0); \
                           s.setsockopt(socket.SOL_SOCKET, 44, 1)";
    let fd: OwnedFd = socket.as_fd().try_clone_to_owned().unwrap();
    let status = std::process::Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(fd)
        .status()
        .expect("python3 is installed");
    assert!(status.success());
}

#[test]
fn a_descriptor_that_is_no_program_is_refused() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        let ebpf = Ebpf::load(SELECT).unwrap();
        let map = ebpf.map("choice").unwrap().data();
        let errno = refused(attach(&group.members[0], map), ATTACH);
        assert_eq!(errno, Errno::INVAL);
    });
}

#[test]
fn other_kinds_of_sockets_are_refused_with_the_reason() {
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    let program = loaded(&mut ebpf, "select_socket");
    let unix = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    let mptcp = Some(rustix::net::ipproto::MPTCP);
    let mptcp = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, mptcp).unwrap();
    sockopt::set_socket_reuseport(&mptcp, true).unwrap();
    for socket in [unix, mptcp] {
        let message = report(&program.attach(&socket).unwrap_err());
        assert!(message.contains("only TCP and UDP sockets"), "{message}");
    }
}

#[test]
fn a_program_that_another_library_loaded_is_attached_by_its_descriptor() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let mut theirs = aya::Ebpf::load(SELECT).unwrap();
        let program: &mut aya::programs::SkReuseport =
            theirs.program_mut("select_socket").unwrap().try_into().unwrap();
        program.load().unwrap();
        attach(&group.members[1], program.fd().unwrap()).unwrap();
        group.send(b"x");
        let counters: aya::maps::Array<_, u64> =
            theirs.map("counters").unwrap().try_into().unwrap();
        assert_eq!(counters.get(&(Counter::Runs as u32), 0).unwrap(), 1);
        detach(&group.members[0]).unwrap();
        assert_eq!(refused(detach(&group.members[0]), DETACH), Errno::NOENT);
    });
}

#[test]
fn a_pinned_program_outlives_its_object_and_is_opened_again() {
    netns::isolated(|| {
        bpffs::private();
        let path = format!("{}/program", bpffs::PATH);
        let group = UdpGroup::new(2);
        let mut ebpf = filled(&group.members);
        let program = loaded(&mut ebpf, "select_socket");
        let id = program.info().unwrap().id();
        program.pin(&path).unwrap();
        let error = program.pin(&path).unwrap_err();
        assert!(report(&error).contains("pinned there already"), "{error}");
        program.unload().unwrap();
        assert!(matches!(program.fd(), Err(ProgramError::NotLoaded)));
        assert!(matches!(program.unload(), Err(ProgramError::NotLoaded)));
        assert!(matches!(program.attach(&group.members[0]), Err(ProgramError::NotLoaded)));

        let mut again = SkReuseport::from_pin(&path, SkReuseportAttachType::Select).unwrap();
        assert_eq!(again.info().unwrap().id(), id);
        assert!(matches!(again.load(), Err(ProgramError::AlreadyLoaded)));
        again.attach(&group.members[0]).unwrap();
        group.send(b"x");
        assert_eq!(counted(&ebpf, Counter::Picked), 1);

        again.unpin().unwrap();
        assert!(!std::path::Path::new(&path).exists());
        again.unpin().unwrap(); // no pin is left: does nothing
        drop(again);
        group.send(b"x");
        assert_eq!(counted(&ebpf, Counter::Picked), 2, "removing the pin detached");
    });
}

#[test]
fn a_pin_must_be_a_program_of_this_type() {
    netns::isolated(|| {
        bpffs::private();
        let at = |name: &str| format!("{}/{name}", bpffs::PATH);
        let mut ebpf = Ebpf::load(TRACING).unwrap();
        ebpf.map("changes").unwrap().pin(at("map")).unwrap();
        let program: &mut Iter = ebpf.program_mut("each_task").unwrap().try_into().unwrap();
        program.load("task", &Btf::from_sys_fs().unwrap()).unwrap();
        program.pin(at("iterator")).unwrap();
        let id = program.attach().unwrap();
        FdLink::from(program.take_link(id).unwrap()).pin(at("link")).unwrap();

        let open = |name: &str| SkReuseport::from_pin(at(name), SkReuseportAttachType::Select);
        for name in ["map", "iterator", "link"] {
            assert!(matches!(open(name), Err(ProgramError::UnexpectedProgramType)), "{name}");
        }
        let error = open("nothing").unwrap_err();
        assert!(matches!(error, ProgramError::SyscallError(_)));
        assert_eq!(errno(&error), Some(Errno::NOENT));
        assert!(report(&error).contains("nothing is pinned there"), "{error}");
    });
}

#[test]
fn a_program_is_loaded_again_after_it_was_unloaded() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        let program = loaded(&mut ebpf, "select_socket");
        assert!(matches!(program.load(), Err(ProgramError::AlreadyLoaded)));
        program.unload().unwrap();
        program.load().unwrap();
        program.attach(&group.members[0]).unwrap();
        group.send(b"x");
        assert_eq!(counted(&ebpf, Counter::Runs), 1);
    });
}

#[test]
fn a_program_keeps_the_maps_it_names_until_it_is_loaded() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        let names: Vec<String> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
        for name in names.iter().filter(|name| *name != "counters") {
            drop(ebpf.take_map(name).unwrap());
        }
        // New descriptors must not get a number that an instruction refers to.
        let _others: Vec<_> = (0..8).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        loaded(&mut ebpf, "select_socket").attach(&group.members[0]).unwrap();
        group.send(b"x");
        assert_eq!(counted(&ebpf, Counter::Missed), 1);
    });
}

#[test]
fn a_program_that_was_taken_out_is_loaded_after_its_object_is_gone() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        let counters = ebpf.take_map("counters").unwrap();
        let mut program = ebpf.take_program("select_socket").unwrap();
        assert!(ebpf.take_program("select_socket").is_none());
        drop(ebpf);
        let _others: Vec<_> = (0..8).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let program: &mut SkReuseport = (&mut program).try_into().unwrap();
        program.load().unwrap();
        program.attach(&group.members[0]).unwrap();
        group.send(b"x");
        let counters: sk_reuseport::maps::Array<_, u64> = counters.try_into().unwrap();
        assert_eq!(counters.get(&(Counter::Missed as u32), 0).unwrap(), 1);
    });
}

#[test]
fn cap_bpf_is_enough_to_load_and_attach() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        keep_only(rustix::thread::CapabilitySet::BPF);
        let mut ebpf = filled(&group.members);
        loaded(&mut ebpf, "select_or_move").attach(&group.members[0]).unwrap();
        choose(&mut ebpf, 1);
        assert_eq!(group.send(b"x"), 1);
        assert_eq!(counted(&ebpf, Counter::Picked), 1);
    });
}

#[test]
fn attaching_a_loaded_program_needs_no_capability() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let mut ebpf = filled(&group.members);
        let program = loaded(&mut ebpf, "select_socket");
        keep_only(rustix::thread::CapabilitySet::empty());
        program.attach(&group.members[0]).unwrap();
        SkReuseport::detach(&group.members[0]).unwrap();
    });
}

#[test]
fn the_section_determines_the_attach_type() {
    let ebpf = Ebpf::load(SELECT).unwrap();
    let kind = |name: &str| {
        let program: &SkReuseport = ebpf.program(name).unwrap().try_into().unwrap();
        program.attach_type()
    };
    assert!(matches!(kind("select_socket"), SkReuseportAttachType::Select));
    assert!(matches!(kind("select_or_move"), SkReuseportAttachType::SelectOrMigrate));
    let mut names: Vec<&str> = ebpf.programs().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["select_narrow", "select_or_move", "select_socket"]);
    assert!(ebpf.program("nothing").is_none());
    assert_eq!(ebpf.program("select_socket").unwrap().prog_type(), SkReuseport::PROGRAM_TYPE);
}

#[test]
fn the_kernels_description_of_a_program() {
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    assert!(matches!(ebpf.program("select_socket").unwrap().info(), Err(ProgramError::NotLoaded)));
    let program = loaded(&mut ebpf, "select_socket");
    let info = program.info().unwrap();
    assert!(info.id() > 0);
    assert_eq!(info.name_as_str(), Some("select_socket"));
    assert_eq!(info.program_type(), SkReuseport::PROGRAM_TYPE);
    assert_eq!(info.created_by_uid(), 0);
    let same = info.fd().unwrap();
    assert!(is_close_on_exec(same.as_fd()));
    let copy = program.fd().unwrap().try_clone().unwrap();
    assert!(is_close_on_exec(copy.as_fd()));
    let Program::SkReuseport(_) = ebpf.program("select_socket").unwrap() else {
        panic!("a select program");
    };
}
