// A program for the API of aya 0.14. The including module defines `lib`: aya, or this crate. The
// parts return what must be the same with both.

use std::convert::TryInto;
use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use lib::maps::array::Array as ArrayByItsPath;
use lib::maps::ring_buf::RingBufItem;
use lib::maps::{
    Array, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray, PerCpuValues,
    ReusePortSockArray, RingBuf, SkStorage, SockHash, SockMap,
};
use lib::pin::PinError;
use lib::programs::iter::{IterLink, IterLinkId};
use lib::programs::links::{FdLink, PinnedLink};
use lib::programs::tp_btf::{BtfTracePointLink, BtfTracePointLinkId};
use lib::programs::{
    BtfTracePoint, Iter, Program, ProgramError, ProgramType, SkReuseport, SkReuseportAttachType,
    SkReuseportError,
};
use lib::sys::SyscallError;
use lib::util::{KernelVersion, nr_cpus};
use lib::{Btf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel, include_bytes_aligned};

use crate::fixtures::{UdpGroup, ready};

/// An object as aya's users embed it.
macro_rules! object {
    ($name:literal) => {
        include_bytes_aligned!(concat!("../../bpf/", $name, ".bpf.o"))
    };
}

/// A structure of a map's values.
#[derive(Clone, Copy)]
#[repr(C)]
struct Changes {
    established: u64,
    closed: u64,
}

// SAFETY: two integers, without padding.
#[allow(unsafe_code, reason = "aya requires it")]
unsafe impl lib::Pod for Changes {}

fn pinned(name: &str) -> PathBuf {
    Path::new(test_support::bpffs::PATH).join(name)
}

fn program<'a>(bpf: &'a mut Ebpf, name: &str) -> &'a mut SkReuseport {
    bpf.program_mut(name).unwrap().try_into().unwrap()
}

/// The option and the error number of a socket option that failed.
fn option_error(result: Result<(), ProgramError>) -> (&'static str, i32) {
    match result {
        Err(ProgramError::SkReuseportError(SkReuseportError::SetsockoptError {
            option,
            io_error,
        })) => (option, io_error.raw_os_error().unwrap()),
        other => panic!("{other:?}"),
    }
}

/// The result of an operation on a map.
fn map_error(result: Result<(), MapError>) -> String {
    match result {
        Ok(()) => "done".to_owned(),
        Err(MapError::SyscallError(SyscallError { io_error, .. })) => {
            format!("system call: {}", io_error.raw_os_error().unwrap())
        }
        Err(MapError::OutOfBounds { index, max_entries }) => {
            format!("{index} of {max_entries}")
        }
        Err(other) => format!("{other:?}"),
    }
}

/// Maps of aya-ebpf, a constant, attaching through one member and detaching through another.
pub(crate) fn select_and_detach() -> (Vec<usize>, u64, (&'static str, i32)) {
    let group = UdpGroup::new(3);
    let mut got = Vec::new();
    let mut runs = 0;
    for choice in [2u32, 0, 1] {
        let mut bpf = EbpfLoader::new()
            .override_global("CHOICE", &choice, true)
            .load(object!("legacy"))
            .unwrap();
        let mut sockets: ReusePortSockArray<_> =
            bpf.take_map("SOCKETS").unwrap().try_into().unwrap();
        for (index, socket) in group.members.iter().enumerate() {
            sockets.set(index as u32, socket, 0).unwrap();
        }
        let select: &mut SkReuseport = bpf.program_mut("choose").unwrap().try_into().unwrap();
        select.load().unwrap();
        select.attach(&group.members[0]).unwrap();
        let counter: Array<MapData, u64> = bpf.take_map("RUNS").unwrap().try_into().unwrap();
        drop(bpf);
        got.push(group.send(b"x"));
        runs += counter.get(&0, 0).unwrap();
        for index in 0..3 {
            sockets.clear_index(&index).unwrap();
        }
    }
    SkReuseport::detach(&group.members[2]).unwrap();
    (got, runs, option_error(SkReuseport::detach(&group.members[0])))
}

/// Maps of clang, shared by the programs of an object.
pub(crate) fn select_with_clangs_maps() -> (Vec<usize>, Vec<u64>) {
    let group = UdpGroup::new(2);
    let mut bpf = Ebpf::load(object!("select")).unwrap();
    {
        let map = bpf.map_mut("narrow_sockets").unwrap();
        let mut sockets: ReusePortSockArray<&mut MapData> = map.try_into().unwrap();
        for (index, socket) in group.members.iter().enumerate() {
            sockets.set(index as u32, &socket.as_raw_fd(), 0).unwrap();
        }
    }
    let select = program(&mut bpf, "select_narrow");
    select.load().unwrap();
    select.attach(group.members[1].as_fd()).unwrap();
    let mut got = Vec::new();
    for choice in [1u32, 0, 1, 7] {
        let mut map: Array<_, u32> = bpf.map_mut("choice").unwrap().try_into().unwrap();
        map.set(0, choice, 0).unwrap();
        got.push(group.send(b"x"));
    }
    got.pop(); // the kernel's hash, which is keyed with a secret
    let counters: ArrayByItsPath<_, u64> = bpf.map("counters").unwrap().try_into().unwrap();
    (got, counters.iter().map(Result::unwrap).collect())
}

/// Sockets that a socket array accepts or refuses.
pub(crate) fn socket_array() -> Vec<String> {
    let group = UdpGroup::new(2);
    let mut bpf = Ebpf::load(object!("legacy")).unwrap();
    let mut sockets: ReusePortSockArray<MapData> =
        bpf.take_map("SOCKETS").unwrap().try_into().unwrap();
    let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut said = vec![
        map_error(sockets.set(0, &group.members[0], 0)),
        map_error(sockets.set(0, &group.members[0], 0)),
        map_error(sockets.set(1, &group.members[0], 0)),
        map_error(sockets.set(1, &plain, 0)),
        map_error(sockets.set(8, &group.members[1], 0)),
        map_error(sockets.clear_index(&0)),
        map_error(sockets.clear_index(&0)),
        map_error(sockets.clear_index(&8)),
        map_error(sockets.set(5, &group.members[0], 1)),
    ];
    let indices: Result<Vec<u32>, MapError> = sockets.indices().collect();
    said.push(format!("{:?}", indices.unwrap()));
    let wrong: Result<SockMap<MapData>, MapError> = bpf.take_map("RUNS").unwrap().try_into();
    said.push(format!("{}", matches!(wrong, Err(MapError::InvalidMapType { map_type: 2 }))));
    said
}

/// Refused operations.
pub(crate) fn refusals() -> Vec<(&'static str, i32)> {
    let mut bpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::DEBUG | VerifierLogLevel::STATS)
        .load(object!("refused"))
        .unwrap();
    let refused = program(&mut bpf, "read_beyond");
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(matches!(refused.attach(&plain), Err(ProgramError::NotLoaded)));
    assert!(matches!(refused.fd(), Err(ProgramError::NotLoaded)));
    assert!(matches!(refused.unload(), Err(ProgramError::NotLoaded)));
    let mut said = match refused.load() {
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            assert!(verifier_log.to_string().contains("invalid access to packet"));
            vec![("load", io_error.raw_os_error().unwrap())]
        }
        other => panic!("{other:?}"),
    };

    let mut bpf = Ebpf::load(object!("select")).unwrap();
    let select = program(&mut bpf, "select_or_move");
    select.load().unwrap();
    assert!(matches!(select.load(), Err(ProgramError::AlreadyLoaded)));
    said.push(option_error(select.attach(&plain)));
    said.push(option_error(SkReuseport::detach(&plain)));
    let wrong: Result<&mut Iter, ProgramError> =
        bpf.program_mut("select_socket").unwrap().try_into();
    assert!(matches!(wrong, Err(ProgramError::UnexpectedProgramType)));
    assert!(matches!(Ebpf::load(&[]), Err(EbpfError::ParseError(_))));
    assert!(matches!(
        Ebpf::load_file("/no/such/file.o"),
        Err(EbpfError::FileError { path, .. }) if path == Path::new("/no/such/file.o")
    ));
    let wrong: Result<HashMap<_, u32, u64>, MapError> = bpf.map("choice").unwrap().try_into();
    assert!(matches!(wrong, Err(MapError::InvalidMapType { map_type: 2 })));
    let wrong: Result<Array<_, u64>, MapError> = bpf.map("choice").unwrap().try_into();
    assert!(matches!(wrong, Err(MapError::InvalidValueSize { size: 8, expected: 4 })));
    said
}

/// Pinned programs and maps.
pub(crate) fn pins() -> Vec<String> {
    let mut said = Vec::new();
    let group = UdpGroup::new(1);
    let mut bpf = Ebpf::load(object!("select")).unwrap();
    let select = program(&mut bpf, "select_socket");
    assert!(matches!(select.pin(pinned("early")), Err(PinError::NoFd { .. })));
    select.load().unwrap();
    select.pin(pinned("program")).unwrap();
    match select.pin(pinned("program")) {
        Err(PinError::SyscallError(SyscallError { io_error, .. })) => {
            said.push(format!("{:?}", io_error.kind()));
        }
        other => panic!("{other:?}"),
    }
    select.unload().unwrap();
    let mut again =
        SkReuseport::from_pin(pinned("program"), SkReuseportAttachType::Select).unwrap();
    again.attach(&group.members[0]).unwrap();
    assert!(matches!(again.load(), Err(ProgramError::AlreadyLoaded)));
    said.push(format!("{:?}", again.info().unwrap().name_as_str()));
    again.unpin().unwrap();
    said.push(format!("{}", pinned("program").exists()));
    match SkReuseport::from_pin(pinned("program"), SkReuseportAttachType::Select) {
        Err(ProgramError::SyscallError(SyscallError { io_error, .. })) => {
            said.push(format!("{:?}", io_error.kind()));
        }
        other => panic!("{other:?}"),
    }

    bpf.map("choice").unwrap().pin(pinned("choice")).unwrap();
    let mut choice: Array<_, u32> = bpf.map_mut("choice").unwrap().try_into().unwrap();
    choice.set(0, 3, 0).unwrap();
    let data = MapData::from_pin(pinned("choice")).unwrap();
    let same: Array<_, u32> = Map::from_map_data(data).unwrap().try_into().unwrap();
    said.push(same.get(&0, 0).unwrap().to_string());
    same.pin(pinned("choice2")).unwrap();
    match MapData::from_pin(pinned("nothing")) {
        Err(MapError::SyscallError(SyscallError { io_error, .. })) => {
            said.push(format!("{:?}", io_error.kind()));
        }
        other => panic!("{other:?}"),
    }

    std::fs::create_dir(pinned("maps")).unwrap();
    let load = || {
        EbpfLoader::new()
            .default_map_pin_directory(pinned("maps"))
            .map_pin_path("counters", pinned("counted"))
            .load(object!("pinned"))
            .unwrap()
    };
    let (one, other) = (load(), load());
    for name in ["shared_counts", "counters"] {
        let id = |bpf: &Ebpf| match bpf.map(name).unwrap() {
            Map::Array(data) => data.info().unwrap().id(),
            other => panic!("{other:?}"),
        };
        said.push((id(&one) == id(&other)).to_string());
    }
    said.push((pinned("maps/shared_counts").exists() && pinned("counted").exists()).to_string());
    said
}

/// Arrays and hash maps.
pub(crate) fn plain_maps() -> (Vec<u32>, Vec<String>) {
    let mut bpf = EbpfLoader::new().map_max_entries("hash", 3).load(object!("maps")).unwrap();
    let mut per_cpu: PerCpuArray<MapData, u32> =
        bpf.take_map("per_cpu").unwrap().try_into().unwrap();
    let values: PerCpuValues<u32> =
        (0..nr_cpus().unwrap() as u32).collect::<Vec<_>>().try_into().unwrap();
    per_cpu.set(1, values, 0).unwrap();
    let per_cpu_values = per_cpu.get(&1, 0).unwrap().iter().copied().collect();

    let mut hash: HashMap<_, u32, u64> = bpf.map_mut("hash").unwrap().try_into().unwrap();
    hash.insert(1, 10, 0).unwrap();
    let (key, value) = (&2, &20);
    hash.insert(key, value, 0).unwrap();
    hash.insert(3u32, 30u64, 0).unwrap();
    let mut said = vec![
        map_error(hash.insert(4, 40, 0)),
        map_error(hash.insert(1, 11, 1)),
        map_error(hash.remove(&3)),
        map_error(hash.remove(&3)),
        format!("{}", matches!(hash.get(&3, 0), Err(MapError::KeyNotFound))),
        format!("{}", hash.keys().count()),
    ];
    let mut pairs: Vec<(u32, u64)> = hash.iter().map(Result::unwrap).collect();
    pairs.sort_unstable();
    for pair in &hash {
        let (key, value) = pair.unwrap();
        assert_eq!(IterableMap::get(&hash, &key).unwrap(), value);
    }

    let lru: HashMap<MapData, u32, u64> = bpf.take_map("lru").unwrap().try_into().unwrap();
    said.push(format!("{}", lru.iter().count()));
    let mut own: Array<MapData, u64> = Array::create(2, 0).unwrap();
    own.set(1, 7, 0).unwrap();
    said.push(map_error(own.set(2, 7, 0)));
    said.push(format!("{:?}", own.iter().map(Result::unwrap).collect::<Vec<u64>>()));
    let wide = Ebpf::load(object!("sockmaps")).unwrap();
    let wrong: Result<SockHash<_, u32>, MapError> = wide.map("by_key").unwrap().try_into();
    said.push(format!("{}", matches!(wrong, Err(MapError::InvalidKeySize { .. }))));
    said.push(format!("{pairs:?} {}", own.len()));
    (per_cpu_values, said)
}

/// A queue of records.
pub(crate) fn queue() -> (Vec<Vec<u8>>, bool) {
    let group = UdpGroup::new(1);
    let mut bpf = Ebpf::load(object!("maps")).unwrap();
    let mut records = RingBuf::try_from(bpf.take_map("records").unwrap()).unwrap();
    let work = program(&mut bpf, "work");
    work.load().unwrap();
    work.attach(&group.members[0]).unwrap();
    let mut got = Vec::new();
    for argument in 0..10u8 {
        let (small, large) = (1u8, 2u8);
        group.send(&[small, 0, 0, 0, argument, 0, 0, 0]);
        group.send(&[large, 0, 0, 0, argument, 0, 0, 0]);
        while let Some(record) = records.next() {
            let record: RingBufItem<'_> = record;
            got.push(record.to_vec());
        }
    }
    group.send(&[1, 0, 0, 0, 0, 0, 0, 0]);
    (got, ready(&[records.as_fd()], std::time::Duration::from_secs(10)).is_some())
}

/// Socket storage, and a program at a tracepoint.
pub(crate) fn storage_and_tracepoint() -> (Vec<String>, [u64; 2]) {
    let btf = Btf::from_sys_fs().unwrap();
    let mut bpf = Ebpf::load(object!("tracing")).unwrap();
    let mut marks: SkStorage<MapData, u64> = bpf.take_map("marks").unwrap().try_into().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut said =
        vec![format!("{}", matches!(marks.get(&listener, 0), Err(MapError::KeyNotFound)))];
    marks.insert(&listener, 1, 0).unwrap();

    let tracepoint: &mut BtfTracePoint = bpf.program_mut("on_state").unwrap().try_into().unwrap();
    said.push(format!("{}", matches!(tracepoint.load("nothing", &btf), Err(ProgramError::Btf(_)))));
    tracepoint.load("inet_sock_set_state", &btf).unwrap();
    let id: BtfTracePointLinkId = tracepoint.attach().unwrap();
    let link: BtfTracePointLink = tracepoint.take_link(id).unwrap();
    let link: FdLink = link.into();
    drop(link.pin(pinned("link")).unwrap());

    let changes: Array<MapData, Changes> = bpf.take_map("changes").unwrap().try_into().unwrap();
    drop(bpf);
    let connect = || {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let mark = marks.get(&accepted, 0).unwrap();
        drop((client, accepted));
        mark
    };
    said.push(connect().to_string());
    let closed = || changes.get(&1, 0).unwrap().closed;
    test_support::wait::until("it counts", test_support::wait::BOUND, || closed() == 1);
    let link: FdLink = PinnedLink::from_pin(pinned("link")).unwrap().unpin().unwrap();
    said.push(connect().to_string());
    test_support::wait::until("it counts", test_support::wait::BOUND, || closed() == 2);
    let Changes { established, closed } = changes.get(&1, 0).unwrap();
    drop(link);
    let counts = || {
        let before = changes.get(&1, 0).unwrap().established;
        connect();
        changes.get(&1, 0).unwrap().established > before
    };
    // A process that another test is starting has a copy of the link for a moment.
    test_support::wait::until("it no longer counts", test_support::wait::BOUND, || !counts());

    marks.remove(&listener).unwrap();
    said.push(map_error(marks.remove(&listener)));
    (said, [established, closed])
}

/// An iterator.
pub(crate) fn iterator() -> bool {
    let btf = Btf::from_sys_fs().unwrap();
    let mut bpf = Ebpf::load(object!("tracing")).unwrap();
    let tasks: &mut Iter = bpf.program_mut("each_task").unwrap().try_into().unwrap();
    tasks.load("task", &btf).unwrap();
    let id: IterLinkId = tasks.attach().unwrap();
    let link: IterLink = tasks.take_link(id).unwrap();
    let mut listed = Vec::new();
    link.into_file().unwrap().read_to_end(&mut listed).unwrap();
    let own = std::process::id().to_ne_bytes();
    listed.chunks_exact(4).any(|pid| pid == own)
}

/// Constants and variables.
pub(crate) fn constants() -> (Vec<u64>, Vec<bool>) {
    let group = UdpGroup::new(1);
    let mut words = Vec::new();
    for factor in [3u32, 4] {
        let pair: &[u32] = &[5, 0, 6, 0];
        let mut bpf = EbpfLoader::new()
            .override_global("factor", &factor, true)
            .override_global("pair", pair, true)
            .override_global("no_such_variable", &0u8, false)
            .load(object!("maps"))
            .unwrap();
        let work = program(&mut bpf, "work");
        work.load().unwrap();
        work.attach(&group.members[0]).unwrap();
        group.send(&[5, 0, 0, 0, 9, 0, 0, 0]);
        for section in [".data", ".bss"] {
            let section: Array<_, u64> = bpf.map(section).unwrap().try_into().unwrap();
            words.push(section.get(&0, 0).unwrap());
        }
    }
    let refused = |name, value: &[u8]| {
        let result = EbpfLoader::new().override_global(name, value, true).load(object!("maps"));
        matches!(result, Err(EbpfError::ParseError(_)))
    };
    (words, vec![refused("no_such_variable", &[1]), refused("factor", &[1])])
}

/// The names of maps and programs.
pub(crate) fn what_an_object_has() -> (Vec<String>, Vec<String>, bool) {
    let mut bpf = Ebpf::load(object!("select")).unwrap();
    let mut maps: Vec<String> = bpf.maps().map(|(name, _)| name.to_owned()).collect();
    let mut programs: Vec<String> = bpf
        .programs()
        .map(|(name, program)| {
            let Program::SkReuseport(select) = program else { panic!("{name}") };
            assert!(matches!(program.prog_type(), ProgramType::SkReuseport));
            assert!(matches!(SkReuseport::PROGRAM_TYPE, ProgramType::SkReuseport));
            assert!(select.fd().is_err());
            name.to_owned()
        })
        .collect();
    maps.sort_unstable();
    programs.sort_unstable();
    for (_, program) in bpf.programs_mut() {
        let select: &mut SkReuseport = program.try_into().unwrap();
        select.load().unwrap();
        assert!(select.fd().unwrap().try_clone().is_ok());
    }
    let loaded = bpf.programs().all(|(_, program)| program.fd().is_ok());
    assert_eq!(bpf.maps_mut().count(), maps.len());
    assert!(bpf.take_map("sockets").is_some());
    assert!(bpf.take_map("sockets").is_none());
    assert!(bpf.program("nothing").is_none());
    (maps, programs, loaded)
}

/// Kernel versions.
pub(crate) fn kernel_versions() -> (bool, bool, u32) {
    let current = KernelVersion::current().unwrap();
    (
        current >= KernelVersion::new(4, 19, 0),
        current < KernelVersion::new(200, 0, 0),
        KernelVersion::new(5, 14, 3).code(),
    )
}
