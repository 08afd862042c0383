//! Groups to steer, traffic for them, and the state that a failed operation must not change.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::traffic::by_slot;
use reuseport::group::GroupKey;
use reuseport::id::{Cookie, Slot, Weight};
use reuseport::policy::{LeastLoaded, LoadTerms};
use reuseport::status::{GroupStatus, Steering};
use reuseport::{Attach, Balancer, Error, Host, ObjectSpec, Policy};
use rustix::io::Errno;
use sk_reuseport::fault::{Call, Verdict};
use sk_reuseport::maps::{Array, Map, MapData, SkStorage};
use sk_reuseport::net::Bind;
use sk_reuseport::programs::SkReuseport;
use test_support::process::spawn;
use test_support::{bpffs, netns, program, wait};

/// The directory of the library's pins.
pub(crate) const ROOT: &str = "/sys/fs/bpf/reuseport";

/// A policy that needs open connections to be counted, and that compares nothing else: members with as many take
/// turns.
pub(crate) const BY_OPEN: Policy = Policy::LeastLoaded(LeastLoaded::DEFAULT.load(LoadTerms::OPEN));

/// Runs `test` in a network namespace and with a bpffs of its own.
pub(crate) fn alone<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    netns::isolated(|| {
        bpffs::private();
        test()
    })
}

/// A new group.
pub(crate) fn listeners(count: usize) -> Vec<TcpListener> {
    more("127.0.0.1:0".parse().unwrap(), count)
}

/// More members for a group, in the order in which they get slots.
pub(crate) fn more(address: SocketAddr, count: usize) -> Vec<TcpListener> {
    by_slot(Bind::new(address).nonblocking(true).listeners(count).unwrap())
}

pub(crate) fn key_of(host: &Host, listener: &TcpListener) -> GroupKey {
    key_at(host, "tcp", listener.local_addr().unwrap())
}

pub(crate) fn key_at(host: &Host, protocol: &str, address: SocketAddr) -> GroupKey {
    host.find(&format!("{protocol}:{address}").parse().unwrap()).unwrap().key
}

pub(crate) fn with(policy: Policy) -> Attach {
    Attach::from(policy)
}

pub(crate) fn with_object(object: ObjectSpec) -> Attach {
    Attach::from(object)
}

/// An object of `tests/bpf`.
pub(crate) fn object(name: &str) -> ObjectSpec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/bpf/{name}.bpf.o"));
    ObjectSpec::new(path)
}

/// Loads a program of `tests/bpf` without the library, as a foreign program.
pub(crate) fn theirs(name: &str) -> SkReuseport {
    let mut ebpf = sk_reuseport::Ebpf::load_file(object(name).path).unwrap();
    let (program, _) = ebpf.programs().next().unwrap();
    let program = program.to_owned();
    match ebpf.take_program(&program) {
        Some(sk_reuseport::programs::Program::SkReuseport(mut program)) => {
            program.load().unwrap();
            program
        }
        other => panic!("{other:?}"),
    }
}

/// Makes connections, and counts how many each listener accepts.
pub(crate) fn deal(listeners: &[TcpListener], connections: usize) -> Vec<usize> {
    let address = listeners[0].local_addr().unwrap();
    let clients: Vec<TcpStream> =
        (0..connections).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut accepted = vec![0; listeners.len()];
    // connect returns before the last packet of the handshake arrives.
    wait::until("all connections are accepted", wait::BOUND, || {
        for (count, listener) in accepted.iter_mut().zip(listeners) {
            *count += accept_all(listener);
        }
        accepted.iter().sum::<usize>() >= connections
    });
    drop(clients);
    accepted
}

/// Attaches round-robin, and asserts that every member gets its share. Returns the status.
pub(crate) fn is_steered(host: &Host, key: &GroupKey, members: &[TcpListener]) -> GroupStatus {
    Balancer::attach(host, key, &with(Policy::RoundRobin)).unwrap();
    assert_eq!(deal(members, 2 * members.len()), vec![2; members.len()]);
    let status = host.status(key).unwrap();
    assert_eq!(status.unsteered(), 0);
    status
}

/// Attaches [`BY_OPEN`], and asserts that the host layer has registered these members and no others.
pub(crate) fn is_counted(host: &Host, key: &GroupKey, members: &[TcpListener]) {
    Balancer::attach(host, key, &with(BY_OPEN)).unwrap();
    assert_eq!(marked(members), vec![true; members.len()]);
    assert_eq!(host_members(), members.len());
}

/// Whether there is a host layer.
pub(crate) fn has_layer() -> bool {
    Path::new(ROOT).join("host").exists()
}

/// Accepts all connections that wait at a listener, and counts them.
pub(crate) fn accept_all(listener: &TcpListener) -> usize {
    std::iter::from_fn(|| listener.accept().ok()).count()
}

#[track_caller]
pub(crate) fn counter(status: &GroupStatus, reason: &str) -> u64 {
    status.counters.iter().find(|c| c.reason == reason).unwrap().count
}

/// The state that a failed operation must not change.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct World {
    steering: Steering,
    program: Option<u32>,
    slots: Vec<(u64, Option<(Slot, Weight)>)>,
    /// Everything pinned, by path.
    pins: Vec<PathBuf>,
    /// Which sockets of members have a mark of the host layer.
    marked: Vec<bool>,
    /// How many members the host layer has registered.
    host_members: usize,
}

impl World {
    /// The state of these groups, each given with its members.
    pub(crate) fn of(host: &Host, groups: &[(&GroupKey, &[TcpListener])]) -> Vec<Self> {
        let statuses = host.statuses().unwrap();
        let (pins, host_members) = (pins(Path::new(ROOT)), host_members());
        let of = |(key, members): &(&GroupKey, &[TcpListener])| {
            let status = statuses.iter().find(|status| status.group.key == **key).unwrap();
            Self::from_status(status, members, pins.clone(), host_members)
        };
        groups.iter().map(of).collect()
    }

    fn from_status(
        status: &GroupStatus,
        members: &[TcpListener],
        pins: Vec<PathBuf>,
        host_members: usize,
    ) -> Self {
        let slot = |member: &reuseport::status::MemberStatus| {
            let enrolment = member.enrolment.as_ref();
            (member.member.cookie.map_or(0, Cookie::get), enrolment.map(|e| (e.slot, e.weight)))
        };
        Self {
            program: status.group.program.as_ref().and_then(|program| program.id),
            slots: status.members.iter().map(slot).collect(),
            steering: status.steering,
            pins,
            marked: marked(members),
            host_members,
        }
    }

    /// The program that decides.
    pub(crate) fn steering(&self) -> &Steering {
        &self.steering
    }

    /// Members that have a mark of the host layer.
    pub(crate) fn marked(&self) -> usize {
        self.marked.iter().filter(|marked| **marked).count()
    }

    /// How many members the host layer has registered, of all groups.
    pub(crate) fn host_members(&self) -> usize {
        self.host_members
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { steering, program, slots, pins, marked, host_members } = self;
        let groups = Path::new(ROOT).join("groups");
        // The name of the group's directory is long.
        let name = |pin: &PathBuf| {
            let path = pin.strip_prefix(&groups).map_or(pin.as_path(), |path| path);
            path.file_name().unwrap_or(pin.as_os_str()).to_string_lossy().into_owned()
        };
        write!(f, "\n  {steering:?} by {program:?}, slots {slots:?}, marked {marked:?}")?;
        write!(f, ", {host_members} host members\n  pins:")?;
        pins.iter().try_for_each(|pin| write!(f, " {}", name(pin)))
    }
}

/// All paths below a directory, sorted; empty if it does not exist.
pub(crate) fn pins(directory: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        found.insert(entry.path());
        found.extend(pins(&entry.path()));
    }
    found.into_iter().collect()
}

/// The directory of the only program in a group's directory.
pub(crate) fn program_in(directory: &Path) -> PathBuf {
    let programs: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("program-"))
        .collect();
    let [only] = <[_; 1]>::try_from(programs).unwrap();
    only
}

/// Whether the library has nothing pinned but the directories that stay.
pub(crate) fn nothing_pinned() -> bool {
    let root = Path::new(ROOT);
    pins(root).iter().all(|path| *path == root.join("groups"))
}

fn pinned(name: &str) -> Option<MapData> {
    MapData::from_pin(Path::new(ROOT).join("host").join(name)).ok()
}

/// Which of the sockets have a mark of the host layer.
pub(crate) fn marked<S: AsFd>(sockets: &[S]) -> Vec<bool> {
    let Some(marks) = pinned("marks") else { return vec![false; sockets.len()] };
    let marks: SkStorage<_, [u32; 4]> = Map::from_map_data(marks).unwrap().try_into().unwrap();
    sockets.iter().map(|socket| marks.get(&socket.as_fd(), 0).is_ok()).collect()
}

/// How many members have an index in the host layer.
pub(crate) fn host_members() -> usize {
    let Some(members) = pinned("members") else { return 0 };
    let members: Array<_, [u64; 2]> = Map::from_map_data(members).unwrap().try_into().unwrap();
    let members = members.mapped().unwrap();
    (0..members.len()).filter(|index| members.get(*index).unwrap()[0] >> 32 != 0).count()
}

/// The open connections that the host layer counts, by index, without zeros. Unused indices are
/// left out: a count that was under way when an index was released may leave any number there.
pub(crate) fn open_by_index() -> Vec<(u32, u32)> {
    let members = pinned("members").expect("a group keeps the host layer");
    let members: Array<_, [u32; 4]> = Map::from_map_data(members).unwrap().try_into().unwrap();
    let members = members.mapped().unwrap();
    let open = |index| {
        let [_, used, opened, closed] = members.get(index).unwrap();
        let open = opened.wrapping_sub(closed);
        (used != 0 && open != 0).then_some((index, open))
    };
    (0..members.len()).filter_map(open).collect()
}

/// The message of an error, which must be a line of reasonable length. A hint may list what to choose from.
#[track_caller]
pub(crate) fn one_line(error: &Error) -> String {
    let text = error.report().to_string();
    assert!(!error.report().causes().contains('\n'), "more than a line: {text}");
    assert!(text.lines().skip(1).all(|line| line.starts_with("  ")), "more than a hint: {text}");
    assert!(text.len() < 600, "too long: {text}");
    text
}

/// Forbids attaching a program through this socket (`SO_LOCK_FILTER`). Python does it, because
/// rustix has no safe function for it.
pub(crate) fn lock_filter(socket: impl AsFd) {
    let script = "import socket; socket.socket(fileno=0).setsockopt(socket.SOL_SOCKET, 44, 1)";
    python_with(socket, script);
}

/// Runs a Python script whose standard input is a socket.
pub(crate) fn python_with(socket: impl AsFd, script: &str) {
    let mut python = Command::new(program("python3"));
    python.args(["-c", script]).stdin(socket.as_fd().try_clone_to_owned().unwrap());
    assert!(spawn(&mut python).unwrap().wait().unwrap().success());
}

/// Fails to attach through each of so few members, with this error. What was attached before may be attached
/// again.
pub(crate) fn fails_to_attach(mut members: usize, errno: Errno) -> impl FnMut(Call) -> Verdict {
    move |call| match call {
        Call::AttachReuseportEbpf if members > 0 => {
            members -= 1;
            Verdict::Fail(errno.raw_os_error())
        }
        _ => Verdict::Allow,
    }
}
