//! Groups to steer, traffic for them, and what a failed operation must leave as it found it.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use reuseport::group::GroupKey;
use reuseport::id::{Slot, Weight};
use reuseport::status::{GroupStatus, Steering};
use reuseport::{Attach, Balancer, Error, Host, ObjectSpec, Policy};
use rustix::fs::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use sk_reuseport::maps::{Array, Map, MapData, SkStorage};
use sk_reuseport::net::Bind;
use sk_reuseport::programs::SkReuseport;
use test_support::process::spawn;
use test_support::{bpffs, netns, program, wait};

/// Where the library pins.
pub(crate) const ROOT: &str = "/sys/fs/bpf/reuseport";

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

/// More members for a group.
pub(crate) fn more(address: SocketAddr, count: usize) -> Vec<TcpListener> {
    Bind::new(address).nonblocking(true).listeners(count).unwrap()
}

pub(crate) fn key_of(host: &Host, listener: &TcpListener) -> GroupKey {
    key_at(host, "tcp", listener.local_addr().unwrap())
}

pub(crate) fn key_at(host: &Host, protocol: &str, address: SocketAddr) -> GroupKey {
    host.find(&format!("{protocol}:{address}").parse().unwrap()).unwrap().key
}

pub(crate) fn with(policy: Policy) -> Attach {
    Attach { program: Some(policy.into()), ..Attach::default() }
}

pub(crate) fn with_object(object: ObjectSpec) -> Attach {
    Attach { program: Some(object.into()), ..Attach::default() }
}

/// An object of `tests/bpf`.
pub(crate) fn object(name: &str) -> ObjectSpec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/bpf/{name}.bpf.o"));
    ObjectSpec { path, program: None, map: None }
}

/// Loads a program of `tests/bpf` as somebody else would, beside this library.
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

/// Connects so many times, and counts who accepts.
pub(crate) fn deal(listeners: &[TcpListener], connections: usize) -> Vec<usize> {
    let address = listeners[0].local_addr().unwrap();
    let clients: Vec<TcpStream> =
        (0..connections).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut accepted = vec![0; listeners.len()];
    // The last packet of a handshake may still be on its way when connect returns.
    wait::until("all connections are accepted", wait::BOUND, || {
        for (count, listener) in accepted.iter_mut().zip(listeners) {
            *count += accept_all(listener);
        }
        accepted.iter().sum::<usize>() >= connections
    });
    drop(clients);
    accepted
}

/// Attaches, and sees that every member gets its share. Returns the group's status afterwards.
pub(crate) fn is_steered(host: &Host, key: &GroupKey, members: &[TcpListener]) -> GroupStatus {
    Balancer::attach(host, key, &with(Policy::RoundRobin)).unwrap();
    assert_eq!(deal(members, 2 * members.len()), vec![2; members.len()]);
    let status = host.status(key).unwrap();
    assert_eq!(status.unsteered(), 0);
    status
}

/// Whatever is there by now.
pub(crate) fn accept_all(listener: &TcpListener) -> usize {
    std::iter::from_fn(|| listener.accept().ok()).count()
}

#[track_caller]
pub(crate) fn counter(status: &GroupStatus, reason: &str) -> u64 {
    status.counters.iter().find(|c| c.reason == reason).unwrap().count
}

/// What an operation that fails leaves as it found it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct World {
    steering: Steering,
    program: Option<u32>,
    slots: Vec<(u64, Option<(Slot, Weight)>)>,
    /// Everything pinned, by path.
    pins: Vec<PathBuf>,
    /// Which members' sockets bear a mark.
    marked: Vec<bool>,
    /// How many members the host-wide layer believes in.
    host_members: usize,
}

impl World {
    /// What there is of these groups, each with its members.
    pub(crate) fn of(host: &Host, groups: &[(&GroupKey, &[TcpListener])]) -> Vec<Self> {
        let statuses = host.statuses().unwrap();
        let of = |(key, members): &(&GroupKey, &[TcpListener])| {
            let status = statuses.iter().find(|status| status.group.key == **key).unwrap();
            Self::from_status(status, members)
        };
        groups.iter().map(of).collect()
    }

    fn from_status(status: &GroupStatus, members: &[TcpListener]) -> Self {
        let slot = |member: &reuseport::status::MemberStatus| {
            let enrolment = member.enrolment.as_ref();
            (member.member.cookie.get(), enrolment.map(|e| (e.slot, e.weight)))
        };
        Self {
            program: status.group.program.as_ref().and_then(|program| program.id),
            slots: status.members.iter().map(slot).collect(),
            steering: status.steering.clone(),
            pins: pins(Path::new(ROOT)),
            marked: marked(members),
            host_members: host_members(),
        }
    }

    /// Whose program decides.
    pub(crate) fn steering(&self) -> &Steering {
        &self.steering
    }

    /// Members that have a slot.
    pub(crate) fn enrolled(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| slot.is_some()).count()
    }

    /// Members that the host-wide layer believes in, all groups together.
    pub(crate) fn host_members(&self) -> usize {
        self.host_members
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { steering, program, slots, pins, marked, host_members } = self;
        let groups = Path::new(ROOT).join("groups");
        // The group's own directory is a long name.
        let name = |pin: &PathBuf| {
            let path = pin.strip_prefix(&groups).map_or(pin.as_path(), |path| path);
            path.file_name().unwrap_or(pin.as_os_str()).to_string_lossy().into_owned()
        };
        write!(f, "\n  {steering:?} by {program:?}, slots {slots:?}, marked {marked:?}")?;
        write!(f, ", {host_members} host members\n  pins:")?;
        pins.iter().try_for_each(|pin| write!(f, " {}", name(pin)))
    }
}

/// Everything below a directory, in order; nothing if it is not there.
pub(crate) fn pins(directory: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        found.insert(entry.path());
        found.extend(pins(&entry.path()));
    }
    found.into_iter().collect()
}

/// Nothing of ours is pinned but the directories that stay.
pub(crate) fn nothing_pinned() -> bool {
    let root = Path::new(ROOT);
    pins(root).iter().all(|path| *path == root.join("groups"))
}

fn pinned(name: &str) -> Option<MapData> {
    MapData::from_pin(Path::new(ROOT).join("host").join(name)).ok()
}

/// Which of the sockets bear a mark of the host-wide layer's.
pub(crate) fn marked<S: AsFd>(sockets: &[S]) -> Vec<bool> {
    let Some(marks) = pinned("marks") else { return vec![false; sockets.len()] };
    let marks: SkStorage<_, [u32; 4]> = Map::from_map_data(marks).unwrap().try_into().unwrap();
    sockets.iter().map(|socket| marks.get(&socket.as_fd(), 0).is_ok()).collect()
}

/// The members that the host-wide layer has given an index: (epoch, connections open).
pub(crate) fn host_members() -> usize {
    let Some(members) = pinned("members") else { return 0 };
    let members: Array<_, [u64; 2]> = Map::from_map_data(members).unwrap().try_into().unwrap();
    let members = members.mapped().unwrap();
    (0..members.len()).filter(|index| members.get(*index).unwrap()[0] >> 32 != 0).count()
}

/// What the host-wide layer believes to be open, by index, where that is not 0. At an index that is
/// nobody's it may be anything: a count that was under way when the index was taken back.
pub(crate) fn open_by_index() -> Vec<(u32, u32)> {
    let members = pinned("members").expect("a group keeps the layer");
    let members: Array<_, [u32; 4]> = Map::from_map_data(members).unwrap().try_into().unwrap();
    let members = members.mapped().unwrap();
    let open = |index| {
        let [_, used, opened, closed] = members.get(index).unwrap();
        let open = opened.wrapping_sub(closed);
        (used != 0 && open != 0).then_some((index, open))
    };
    (0..members.len()).filter_map(open).collect()
}

/// One line that says what was tried and ends with more than that.
#[track_caller]
pub(crate) fn one_line(error: &Error) -> String {
    let text = error.report().to_string();
    assert!(!text.contains('\n'), "more than a line: {text}");
    assert!(text.len() < 600, "too long: {text}");
    text
}

/// Forbids everybody to attach a program through this socket (`SO_LOCK_FILTER`), which no safe
/// function does that we have.
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

/// Runs `body` in a thread that has these capabilities and no others.
pub(crate) fn capable_of<T: Send>(wanted: CapabilitySet, body: impl FnOnce() -> T + Send) -> T {
    let reduced = || {
        let sets = CapabilitySets {
            effective: wanted,
            permitted: wanted,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).unwrap();
        body()
    };
    thread::scope(|scope| scope.spawn(reduced).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The same, as an ordinary user.
pub(crate) fn nobody_capable_of<T: Send>(
    wanted: CapabilitySet,
    body: impl FnOnce() -> T + Send,
) -> T {
    let as_nobody = || {
        const NOBODY: u32 = 65_534;
        set_keep_capabilities(true).unwrap();
        let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        capable_of(wanted, body)
    };
    thread::scope(|scope| scope.spawn(as_nobody).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
