//! Socket storage, tracepoints and iterators.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use sk_reuseport::maps::{Array, MapData, MapError, SkStorage};
use sk_reuseport::net::Bind;
use sk_reuseport::programs::links::{FdLink, PinnedLink};
use sk_reuseport::programs::{
    BtfTracePoint, Iter, LinkError, ProgramError, SkReuseport, SkReuseportAttachType,
};
use sk_reuseport::{Btf, Ebpf, EbpfLoader, KernelBtf};
use test_support::loopback;
use test_support::wait::{self, BOUND};
use test_support::{bpffs, netns};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::fixtures::*;

/// The counters of the tracepoint's program for a mark.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Changes {
    established: u64,
    closed: u64,
}

/// The output of the iterator for each marked socket.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes)]
#[repr(C)]
struct Found {
    mark: u64,
    port: u64,
}

const TRACEPOINT: &str = "inet_sock_set_state";

fn btf() -> Btf {
    Btf::from_sys_fs().unwrap()
}

fn tracepoint(ebpf: &mut Ebpf) -> &mut BtfTracePoint {
    let program: &mut BtfTracePoint = ebpf.program_mut("on_state").unwrap().try_into().unwrap();
    match program.load(TRACEPOINT, &btf()) {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => program,
        Err(error) => panic!("{error}"),
    }
}

fn iterator<'a>(ebpf: &'a mut Ebpf, program: &str, over: &str) -> &'a mut Iter {
    let program: &mut Iter = ebpf.program_mut(program).unwrap().try_into().unwrap();
    program.load(over, &btf()).unwrap();
    program
}

fn marks(ebpf: &mut Ebpf) -> SkStorage<MapData, u64> {
    ebpf.take_map("marks").unwrap().try_into().unwrap()
}

/// Opens a connection, which is established on return, and closes it, which completes later.
fn connect_and_close(listener: &TcpListener) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    listener.accept().unwrap();
    drop(client);
}

#[test]
fn a_socket_has_a_value_until_it_is_removed() {
    netns::isolated(|| {
        let listeners = Bind::new(loopback(false)).listeners(2).unwrap();
        let mut marks = marks(&mut Ebpf::load(TRACING).unwrap());
        assert!(matches!(marks.get(&listeners[0], 0), Err(MapError::KeyNotFound)));
        marks.insert(&listeners[0], 3, 0).unwrap();
        marks.insert(&listeners[1], 4, 0).unwrap();
        assert_eq!(marks.get(&listeners[0], 0).unwrap(), 3);
        assert_eq!(marks.get(&listeners[1], 0).unwrap(), 4);
        marks.remove(&listeners[0]).unwrap();
        let gone = marks.remove(&listeners[0]).unwrap_err();
        assert_eq!(errno(&gone), Some(Errno::NOENT));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(marks.insert(&file, 1, 0).is_err());
    });
}

#[test]
fn an_accepted_socket_inherits_its_listeners_value() {
    netns::isolated(|| {
        let listeners = Bind::new(loopback(false)).listeners(1).unwrap();
        let mut marks = marks(&mut Ebpf::load(TRACING).unwrap());
        marks.insert(&listeners[0], 3, 0).unwrap();
        let client = TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        assert_eq!(marks.get(&accepted, 0).unwrap(), 3);
        assert!(matches!(marks.get(&client, 0), Err(MapError::KeyNotFound)));
        // The accepted socket has a copy.
        marks.insert(&listeners[0], 2, 0).unwrap();
        assert_eq!(marks.get(&accepted, 0).unwrap(), 3);
    });
}

/// Whether a new connection of this mark is counted.
fn counts(changes: &Array<MapData, Changes>, mark: u32, listener: &TcpListener) -> bool {
    let established = || changes.get(&mark, 0).unwrap().established;
    let before = established();
    connect_and_close(listener);
    established() > before
}

#[test]
fn a_tracepoints_program_runs_as_long_as_its_link_lives() {
    netns::isolated(|| {
        let listener = &Bind::new(loopback(false)).listeners(1).unwrap()[0];
        let mut ebpf = Ebpf::load(TRACING).unwrap();
        marks(&mut ebpf).insert(listener, 1, 0).unwrap();
        let changes: Array<_, Changes> = ebpf.take_map("changes").unwrap().try_into().unwrap();
        let counts = || counts(&changes, 1, listener);
        let program = tracepoint(&mut ebpf);
        assert!(matches!(program.load(TRACEPOINT, &btf()), Err(ProgramError::AlreadyLoaded)));
        let id = program.attach().unwrap();
        assert!(counts());
        wait::until("its end is counted too", BOUND, || changes.get(&1, 0).unwrap().closed == 1);

        // A link that was taken out lasts until it is dropped.
        let link = program.take_link(id).unwrap();
        assert!(matches!(program.take_link(id), Err(ProgramError::NotAttached)));
        assert!(matches!(program.detach(id), Err(ProgramError::NotAttached)));
        assert!(counts());
        drop(link);
        once_closed(|| !counts());

        let id = program.attach().unwrap();
        assert!(counts());
        program.detach(id).unwrap();
        once_closed(|| !counts());
        // Unloading drops the links that are left.
        program.attach().unwrap();
        assert!(counts());
        program.unload().unwrap();
        once_closed(|| !counts());
    });
}

#[test]
fn a_pinned_link_outlives_program_and_process() {
    netns::isolated(|| {
        bpffs::private();
        let at = |name: &str| format!("{}/{name}", bpffs::PATH);
        let listener = &Bind::new(loopback(false)).listeners(1).unwrap()[0];
        let mut ebpf = Ebpf::load(TRACING).unwrap();
        marks(&mut ebpf).insert(listener, 2, 0).unwrap();
        let changes: Array<_, Changes> = ebpf.take_map("changes").unwrap().try_into().unwrap();
        let counts = || counts(&changes, 2, listener);

        let program = tracepoint(&mut ebpf);
        program.pin(at("program")).unwrap();
        let id = program.attach().unwrap();
        let link: FdLink = program.take_link(id).unwrap().into();
        assert!(is_close_on_exec(link.as_fd()));
        drop(link.pin(at("link")).unwrap());
        drop(ebpf);
        assert!(counts());

        let pinned = PinnedLink::from_pin(at("link")).unwrap();
        let link = pinned.unpin().unwrap();
        assert!(!std::path::Path::new(&at("link")).exists());
        assert!(counts());
        drop(link);
        once_closed(|| !counts());

        // The pinned program can be attached again.
        let mut program = BtfTracePoint::from_pin(at("program")).unwrap();
        program.attach().unwrap();
        assert!(counts());
        drop(program);
        once_closed(|| !counts());

        let wrong = PinnedLink::from_pin(at("program")).unwrap_err();
        assert!(matches!(wrong, LinkError::InvalidLink), "{wrong}");
        let nothing = PinnedLink::from_pin(at("link")).unwrap_err();
        assert!(matches!(nothing, LinkError::SyscallError(_)), "{nothing}");
        let wrong = SkReuseport::from_pin(at("program"), SkReuseportAttachType::Select);
        assert!(matches!(wrong, Err(ProgramError::UnexpectedProgramType)));
    });
}

#[test]
fn an_iterator_lists_the_tasks_each_time_it_is_opened() {
    let mut ebpf = Ebpf::load(TRACING).unwrap();
    let program = iterator(&mut ebpf, "each_task", "task");
    let id = program.attach().unwrap();
    let link = program.take_link(id).unwrap();
    let own = std::process::id().to_ne_bytes();
    let list = |mut file: std::fs::File| {
        assert!(is_close_on_exec(file.as_fd()));
        let mut listed = Vec::new();
        file.read_to_end(&mut listed).unwrap();
        listed.chunks_exact(4).filter(|pid| **pid == own).count()
    };
    assert!(list(link.open().unwrap()) >= 1);
    assert!(list(link.open().unwrap()) >= 1);
    assert!(list(link.into_file().unwrap()) >= 1);
}

#[test]
fn an_iterator_lists_the_threads_of_one_process() {
    let mut ebpf = Ebpf::load(TRACING).unwrap();
    let program = iterator(&mut ebpf, "each_task", "task");
    let mut list = |pid: u32| -> std::collections::BTreeSet<Vec<u8>> {
        let id = program.attach_to_process(pid.try_into().unwrap()).unwrap();
        let mut listed = Vec::new();
        program.take_link(id).unwrap().into_file().unwrap().read_to_end(&mut listed).unwrap();
        listed.chunks_exact(4).map(<[u8]>::to_vec).collect()
    };
    let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let (own, other_pid) = (list(std::process::id()), list(other.id()));
    drop(other.stdin.take());
    other.wait().unwrap();
    assert_eq!((own.len(), other_pid.len()), (1, 1));
    assert_ne!(own, other_pid);
    // Above every pid.
    assert!(list(1 << 30).is_empty());
}

#[test]
fn an_iterator_over_a_map_lists_the_sockets_with_a_value() {
    netns::isolated(|| {
        let listeners = Bind::new(loopback(false)).listeners(2).unwrap();
        let port = u64::from(listeners[0].local_addr().unwrap().port());
        let mut ebpf = Ebpf::load(TRACING).unwrap();
        let mut marks = marks(&mut ebpf);
        marks.insert(&listeners[0], 1, 0).unwrap();
        marks.insert(&listeners[1], 2, 0).unwrap();
        let program = iterator(&mut ebpf, "each_mark", "bpf_sk_storage_map");
        let id = program.attach_to_map(marks.map_data()).unwrap();
        let link = program.take_link(id).unwrap();
        let list = || {
            let mut listed = Vec::new();
            link.open().unwrap().read_to_end(&mut listed).unwrap();
            let mut found: Vec<Found> = listed
                .chunks_exact(size_of::<Found>())
                .map(|bytes| Found::read_from_bytes(bytes).unwrap())
                .collect();
            found.sort_unstable_by_key(|found| found.mark);
            found
        };
        assert_eq!(list(), [Found { mark: 1, port }, Found { mark: 2, port }]);
        marks.remove(&listeners[0]).unwrap();
        assert_eq!(list(), [Found { mark: 2, port }]);
        // This kind of iterator needs a map.
        assert!(program.attach().is_err());
    });
}

#[test]
fn a_pinned_iterator_is_attached_again() {
    netns::isolated(|| {
        bpffs::private();
        let path = format!("{}/iterator", bpffs::PATH);
        let mut ebpf = Ebpf::load(TRACING).unwrap();
        iterator(&mut ebpf, "each_task", "task").pin(&path).unwrap();
        drop(ebpf);
        let mut program = Iter::from_pin(&path).unwrap();
        let id = program.attach().unwrap();
        let mut listed = Vec::new();
        program.take_link(id).unwrap().into_file().unwrap().read_to_end(&mut listed).unwrap();
        assert!(!listed.is_empty());
        program.unpin().unwrap();
        assert!(Iter::from_pin(&path).is_err());
    });
}

#[test]
fn raw_kernel_types_work_like_parsed_ones() {
    netns::isolated(|| {
        let kernel = KernelBtf::from_sys_fs().unwrap();
        let listener = &Bind::new(loopback(false)).listeners(1).unwrap()[0];
        let port = u64::from(listener.local_addr().unwrap().port());
        let mut ebpf = EbpfLoader::new().kernel_btf(&kernel).load(TRACING).unwrap();
        let mut marks = marks(&mut ebpf);
        marks.insert(listener, 1, 0).unwrap();
        let program: &mut Iter = ebpf.program_mut("each_mark").unwrap().try_into().unwrap();
        program.load("bpf_sk_storage_map", &kernel).unwrap();
        let id = program.attach_to_map(marks.map_data()).unwrap();
        let mut file = program.take_link(id).unwrap().into_file().unwrap();
        let mut listed = Vec::new();
        file.read_to_end(&mut listed).unwrap();
        assert_eq!(Found::read_from_bytes(&listed).unwrap(), Found { mark: 1, port });
        let error = program.load("no_such_iterator", &kernel).unwrap_err();
        assert!(report(&error).contains("bpf_iter_no_such_iterator"), "{error}");
    });
}

#[test]
fn missing_kernel_types_are_named() {
    let mut ebpf = Ebpf::load(TRACING).unwrap();
    let program: &mut BtfTracePoint = ebpf.program_mut("on_state").unwrap().try_into().unwrap();
    assert!(matches!(program.attach(), Err(ProgramError::NotLoaded)));
    let error = program.load("no_such_tracepoint", &btf()).unwrap_err();
    assert!(report(&error).contains("btf_trace_no_such_tracepoint"), "{error}");
    let program: &mut Iter = ebpf.program_mut("each_task").unwrap().try_into().unwrap();
    let error = program.load("no_such_iterator", &btf()).unwrap_err();
    assert!(report(&error).contains("bpf_iter_no_such_iterator"), "{error}");
}

#[test]
fn tracing_needs_cap_perfmon_and_the_message_says_so() {
    netns::isolated(|| {
        let kernel = btf();
        keep_only(rustix::thread::CapabilitySet::BPF);
        let mut ebpf = Ebpf::load(TRACING).unwrap();
        let program: &mut BtfTracePoint = ebpf.program_mut("on_state").unwrap().try_into().unwrap();
        let error = program.load(TRACEPOINT, &kernel).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::PERM));
        assert!(report(&error).contains("CAP_PERFMON"), "{error}");
    });
}
