//! What users get wrong, and what machines lack: an error that says what was tried, what the kernel
//! said and what to do, and the group as it was.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

mod common;

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::world::{
    ROOT, World, alone, capable_of, counter, deal, key_at, key_of, listeners, lock_filter, more,
    nobody_capable_of, nothing_pinned, object, one_line, pins, theirs, with, with_object,
};
use common::{Helper, helper_main, tcp};
use reuseport::group::GroupKey;
use reuseport::id::{Slot, Weight};
use reuseport::policy::LeastLoaded;
use reuseport::status::Steering;
use reuseport::{Attach, Balancer, Error, ErrorKind, Host, ObjectSpec, Policy, Result, Stop};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::CapabilitySet;
use sk_reuseport::maps::{Array, Map, MapData, ReusePortSockArray, SockHash, SockMap};
use sk_reuseport::net::Bind;
use test_support::{netns, program, wait};

/// A group, and nothing else.
struct Scene {
    host: Host,
    key: GroupKey,
    members: Vec<TcpListener>,
}

impl Scene {
    fn new(members: usize) -> Self {
        let host = Host::open().unwrap();
        let members = listeners(members);
        let key = key_of(&host, &members[0]);
        Self { host, key, members }
    }

    /// With round-robin attached.
    fn steered(members: usize) -> Self {
        let scene = Self::new(members);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        scene
    }

    fn attach(&self, attach: &Attach) -> Result<()> {
        Balancer::attach(&self.host, &self.key, attach).map(|_| ())
    }

    fn detach(&self) -> Result<()> {
        reuseport::detach(&self.host, &self.key)
    }

    fn set_weight(&self, slot: u16, weight: u16) -> Result<()> {
        let balancer = Balancer::open(&self.host, &self.key)?;
        balancer.set_weights(&self.host, &[(Slot::new(slot), Weight::new(weight).unwrap())])
    }

    fn world(&self) -> World {
        World::of(&self.host, &[(&self.key, &self.members)]).remove(0)
    }

    fn steering(&self) -> Steering {
        self.host.status(&self.key).unwrap().steering
    }

    /// Expects an error of this kind whose text has all of these words, and the group as it was,
    /// with the connections dealt to its members as they were.
    #[track_caller]
    fn refuses(
        &self,
        kind: ErrorKind,
        words: &[&str],
        operation: impl FnOnce(&Self) -> Result<()>,
    ) {
        let (before, served) = (self.world(), deal(&self.members, 12));
        refused(operation(self).unwrap_err(), kind, words);
        assert_eq!(self.world(), before);
        let still = deal(&self.members, 12);
        match before.steering() {
            Steering::Policy { .. } => assert_eq!(still, served),
            _ => assert_eq!(still.iter().sum::<usize>(), 12),
        }
    }
}

#[track_caller]
fn refused(error: Error, kind: ErrorKind, words: &[&str]) {
    let text = one_line(&error);
    assert_eq!(error.kind(), kind, "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
}

#[test]
fn no_such_group() {
    alone(|| {
        let scene = Scene::new(1);
        let port = scene.key.address.port();
        let elsewhere = format!("udp:127.0.0.1:{port}").parse().unwrap();
        let error = scene.host.find(&elsewhere).unwrap_err();
        refused(error, ErrorKind::NotFound, &["no group matches", &scene.key.to_string(), "ls"]);

        let Scene { host, key, members } = scene;
        drop(members);
        let words = ["there is no group", "reuseport ls"];
        let error = Balancer::attach(&host, &key, &Attach::default()).unwrap_err();
        refused(error, ErrorKind::NotFound, &words);
        refused(reuseport::detach(&host, &key).unwrap_err(), ErrorKind::NotFound, &words);
        refused(Balancer::open(&host, &key).unwrap_err(), ErrorKind::NotFound, &["no group"]);
        assert!(nothing_pinned());
    });
}

#[test]
fn a_port_of_two_protocols() {
    alone(|| {
        let scene = Scene::new(1);
        let _udp = Bind::new(scene.key.address).udp_sockets(1).unwrap();
        let port = format!(":{}", scene.key.address.port()).parse().unwrap();
        let error = scene.host.find(&port).unwrap_err();
        let (tcp, udp) = (scene.key.to_string(), format!("udp:{}", scene.key.address));
        refused(error, ErrorKind::Ambiguous, &[&tcp, &udp, "write the full address"]);
    });
}

#[test]
fn an_address_in_two_network_namespaces() {
    let elsewhere = || netns::isolated(|| more("127.0.0.1:8080".parse().unwrap(), 2));
    let _both = (elsewhere(), elsewhere());
    alone(|| {
        let host = Host::open().unwrap();
        let error = host.find(&"tcp:127.0.0.1:8080".parse().unwrap()).unwrap_err();
        refused(error, ErrorKind::Ambiguous, &["matches 2 groups", "netns", "--netns"]);
        // One in one's own namespace is meant before all others.
        let own = more("127.0.0.1:8080".parse().unwrap(), 1);
        assert_eq!(key_of(&host, &own[0]).netns, host.own_netns().unwrap());
    });
}

const TRACING: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);

#[test]
fn looking_without_rights() {
    alone(|| {
        let open = || Host::open().map(|_| ());
        let both =
            ["cannot list sockets", "not permitted", "missing here: CAP_BPF and CAP_PERFMON"];
        let none = CapabilitySet::empty();
        refused(capable_of(none, open).unwrap_err(), ErrorKind::Denied, &both);
        refused(nobody_capable_of(none, open).unwrap_err(), ErrorKind::Denied, &both);
        let error = capable_of(CapabilitySet::BPF, open).unwrap_err();
        refused(error, ErrorKind::Denied, &["missing here: CAP_PERFMON;"]);
        nobody_capable_of(TRACING, open).unwrap();
    });
}

#[test]
fn changing_things_without_rights() {
    alone(|| {
        let scene = Scene::new(2);
        let maps = ["cannot create the host-wide maps", "not permitted", "missing here: CAP_BPF"];
        let none = CapabilitySet::empty();
        let attach = with(Policy::RoundRobin);
        scene.refuses(ErrorKind::Denied, &maps, |scene| capable_of(none, || scene.attach(&attach)));
        // Rights enough to look, as an ordinary user: what is pinned is root's.
        let theirs = ["/sys/fs/bpf", "Permission denied", "as root"];
        scene.refuses(ErrorKind::Denied, &theirs, |scene| {
            nobody_capable_of(TRACING, || scene.attach(&attach))
        });

        let scene = Scene::steered(2);
        let random = with(Policy::Random);
        let load = ["missing here: CAP_BPF"];
        scene.refuses(ErrorKind::Denied, &load, |scene| capable_of(none, || scene.attach(&random)));
        scene
            .refuses(ErrorKind::Denied, &load, |scene| capable_of(none, || scene.set_weight(0, 5)));
        scene.refuses(ErrorKind::Denied, &theirs, |scene| {
            nobody_capable_of(TRACING, || scene.detach())
        });
    });
}

/// Queues cannot be read then, and it is said; everything else works, and it can be made good.
#[test]
fn least_loaded_without_the_right_to_read_queues() {
    alone(|| {
        let scene = Scene::new(2);
        let least_loaded = with(Policy::LeastLoaded(LeastLoaded::DEFAULT));
        let attach = || Balancer::attach(&scene.host, &scene.key, &least_loaded).unwrap().1.lost;
        let lost = capable_of(CapabilitySet::BPF, attach).unwrap();
        refused(lost, ErrorKind::Denied, &["cannot read the members' queues", "CAP_PERFMON"]);
        assert!(!scene.host.status(&scene.key).unwrap().reads_queues);
        assert_eq!(deal(&scene.members, 10), [5, 5]);
        assert!(attach().is_none());
        assert!(scene.host.status(&scene.key).unwrap().reads_queues);
        scene.detach().unwrap();
    });
}

#[test]
fn members_of_somebody_whom_one_may_not_trace() {
    alone(|| {
        let host = Host::open().unwrap();
        let socket = tcp("127.0.0.1:0");
        let key = key_at(&host, "tcp", common::local_address(&socket));
        let helper = Helper::holding(&socket, "hold");
        drop(socket);
        wait::until("only the helper holds it", wait::BOUND, || {
            host.refresh(&key).unwrap().pids() == [helper.pid()]
        });
        let attach = || {
            capable_of(TRACING, || Balancer::attach(&host, &key, &Attach::default()).map(|_| ()))
        };
        let pid = format!("pid {}", helper.pid());
        let words = ["cannot borrow socket", &pid, "not permitted", "CAP_SYS_PTRACE"];
        refused(attach().unwrap_err(), ErrorKind::Denied, &words);
        assert!(nothing_pinned());

        // Newcomers of his in a group that is steered.
        let own = more(key.address, 1);
        helper.kill();
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        let newcomer = more(key.address, 1).remove(0);
        let helper = Helper::holding(&newcomer.into(), "hold");
        wait::until("only the helper holds it", wait::BOUND, || {
            host.refresh(&key).unwrap().members[1].holders.len() == 1
        });
        let before = World::of(&host, &[(&key, &own)]);
        refused(attach().unwrap_err(), ErrorKind::Denied, &["CAP_SYS_PTRACE"]);
        assert_eq!(World::of(&host, &[(&key, &own)]), before);
        assert_eq!(deal(&own, 12), [12]);
        drop(helper);
    });
}

/// The select program needs no other capability, and nothing else on the way does. Only open
/// connections are not counted.
#[test]
fn attaching_takes_cap_bpf_alone() {
    alone(|| {
        for policy in Policy::ALL {
            let scene = Scene::new(3);
            capable_of(CapabilitySet::BPF, || scene.attach(&with(*policy))).unwrap();
            let dealt = deal(&scene.members, 30);
            let status = scene.host.status(&scene.key).unwrap();
            let picked: Vec<u64> = status
                .members
                .iter()
                .map(|m| m.enrolment.as_ref().unwrap().picks.unwrap())
                .collect();
            assert_eq!(picked, dealt.iter().map(|n| *n as u64).collect::<Vec<_>>());
            assert_eq!(counter(&status, "picks"), 30);
            assert!(status.members.iter().all(|m| m.enrolment.as_ref().unwrap().open.is_none()));
            capable_of(CapabilitySet::BPF, || scene.attach(&with(Policy::Hash))).unwrap();
            capable_of(CapabilitySet::BPF, || scene.detach()).unwrap();
            assert!(nothing_pinned());
        }
    });
}

/// Whoever may not count leaves a layer to whoever may.
#[test]
fn counting_begins_when_somebody_may() {
    alone(|| {
        let scene = Scene::new(2);
        capable_of(CapabilitySet::BPF, || scene.attach(&with(Policy::RoundRobin))).unwrap();
        scene.attach(&Attach::default()).unwrap();
        let clients: Vec<_> =
            (0..6).map(|_| std::net::TcpStream::connect(scene.key.address).unwrap()).collect();
        let status = scene.host.status(&scene.key).unwrap();
        let open: Vec<_> =
            status.members.iter().map(|m| m.enrolment.as_ref().unwrap().open).collect();
        assert_eq!(open, [Some(3), Some(3)]);
        drop(clients);
    });
}

#[test]
fn bpffs_is_mounted_if_we_may() {
    alone(|| {
        let scene = Scene::new(2);
        // Ours, and the one that it hides.
        while unmount("/sys/fs/bpf", UnmountFlags::empty()).is_ok() {}
        assert!(!Path::new("/sys/fs/bpf/progs.debug").exists());
        // Looking needs none and makes none.
        assert_eq!(scene.steering(), Steering::KernelHash);
        assert!(!Path::new("/sys/fs/bpf/progs.debug").exists());
        let caps = TRACING | CapabilitySet::SYS_PTRACE | CapabilitySet::NET_ADMIN;
        let words =
            ["cannot mount", "/sys/fs/bpf", "not permitted", "mount -t bpf bpf /sys/fs/bpf"];
        scene.refuses(ErrorKind::Denied, &words, |scene| {
            capable_of(caps, || scene.attach(&with(Policy::RoundRobin)))
        });
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 10), [5, 5]);
        assert!(!pins(Path::new(ROOT)).is_empty());
    });
}

#[test]
fn a_socket_in_another_socket_array() {
    alone(|| {
        let scene = Scene::new(2);
        let mut theirs = ReusePortSockArray::create("theirs", 4).unwrap();
        theirs.set(0, &scene.members[1], 0).unwrap();
        let words = ["cannot enrol socket", "busy", "one socket array", "take it out there"];
        scene.refuses(ErrorKind::Busy, &words, |scene| scene.attach(&with(Policy::RoundRobin)));
        let error = scene.attach(&with_object(object("first"))).unwrap_err();
        refused(error, ErrorKind::Busy, &words);
        // As soon as it is out of there.
        theirs.clear_index(&0).unwrap();
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 10), [5, 5]);
    });
}

/// The kernel takes an array apart some time after its last user has gone.
#[test]
fn an_array_that_was_just_given_up_is_waited_for() {
    alone(|| {
        for _ in 0..5 {
            let scene = Scene::new(2);
            let mut theirs = ReusePortSockArray::create("theirs", 4).unwrap();
            theirs.set(0, &scene.members[1], 0).unwrap();
            drop(theirs);
            scene.attach(&with(Policy::RoundRobin)).unwrap();
            assert_eq!(deal(&scene.members, 10), [5, 5]);
        }
    });
}

#[test]
fn a_newcomer_in_another_map() {
    alone(|| {
        let mut scene = Scene::steered(2);
        scene.members.extend(more(scene.key.address, 1));
        let mut theirs = SockMap::create("theirs", 4).unwrap();
        theirs.set(0, &scene.members[2], 0).unwrap();
        let words = ["cannot enrol socket", "busy", "reuseport detach", "socket map"];
        scene.refuses(ErrorKind::Busy, &words, |scene| scene.attach(&Attach::default()));
        // What it says is true.
        scene.detach().unwrap();
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
    });
}

fn steers_by_a_socket_map(scene: &mut Scene) {
    scene.attach(&with(Policy::RoundRobin)).unwrap();
    assert_eq!(deal(&scene.members, 20), [10, 10]);
    let status = scene.host.status(&scene.key).unwrap();
    assert_eq!((counter(&status, "picks"), counter(&status, "select_error")), (20, 0));
    let map = MapData::from_pin(sockets_of(&scene.key)).unwrap();
    assert!(matches!(Map::from_map_data(map).unwrap(), Map::SockMap(_)));
    // All that can be done with an array can be done with a map.
    scene.members.extend(more(scene.key.address, 1));
    scene.attach(&with(Policy::Random)).unwrap();
    scene.attach(&with(Policy::RoundRobin)).unwrap();
    assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
    drop(scene.members.remove(1));
    scene.attach(&Attach::default()).unwrap();
    assert_eq!(deal(&scene.members, 12), [6, 6]);
    scene.detach().unwrap();
    assert!(nothing_pinned());
}

#[test]
fn sockets_in_somebody_elses_socket_map_are_steered_by_another() {
    alone(|| {
        let mut scene = Scene::new(2);
        let mut theirs = SockMap::create("theirs", 4).unwrap();
        theirs.set(0, &scene.members[0], 0).unwrap();
        steers_by_a_socket_map(&mut scene);
    });
}

#[test]
fn sockets_in_somebody_elses_socket_hash_are_steered_by_a_socket_map() {
    alone(|| {
        let mut scene = Scene::new(2);
        let mut ebpf = sk_reuseport::Ebpf::load_file(object("their_hash").path).unwrap();
        let mut theirs: SockHash<_, u64> = ebpf.take_map("their_hash").unwrap().try_into().unwrap();
        for (key, member) in (7u64..).zip(&scene.members) {
            theirs.insert(key, member.as_fd(), 0).unwrap();
        }
        steers_by_a_socket_map(&mut scene);
    });
}

#[test]
fn a_socket_map_needs_another_capability() {
    alone(|| {
        let scene = Scene::new(2);
        let mut theirs = SockMap::create("theirs", 4).unwrap();
        theirs.set(0, &scene.members[0], 0).unwrap();
        let words = ["not permitted", "missing here: CAP_NET_ADMIN"];
        scene.refuses(ErrorKind::Denied, &words, |scene| {
            capable_of(CapabilitySet::BPF, || scene.attach(&with(Policy::RoundRobin)))
        });
    });
}

#[test]
fn more_members_than_slots() {
    alone(|| {
        let mut scene = Scene::new(3);
        let two = Attach { slots: Some(2), ..with(Policy::RoundRobin) };
        let words = ["cannot enrol the members", "3 members, 2 slots", "--slots"];
        scene.refuses(ErrorKind::Full, &words, |scene| scene.attach(&two));
        for slots in [0, 32_769, u32::MAX] {
            let attach = Attach { slots: Some(slots), ..Attach::default() };
            let words = ["cannot make", "between 1 and 32768"];
            scene.refuses(ErrorKind::Invalid, &words, |scene| scene.attach(&attach));
        }
        scene.members.pop();
        scene.attach(&two).unwrap();
        scene.members.extend(more(scene.key.address, 1));
        scene.refuses(ErrorKind::Full, &["3 members, 2 slots"], |scene| {
            scene.attach(&Attach::default())
        });
        let more_slots = Attach { slots: Some(64), ..Attach::default() };
        let words = ["cannot change the slots", "it has 2", "reuseport detach"];
        scene.refuses(ErrorKind::Invalid, &words, |scene| scene.attach(&more_slots));
        // A slot that is free again is given again.
        drop(scene.members.remove(0));
        scene.attach(&Attach::default()).unwrap();
        assert_eq!(deal(&scene.members, 12), [6, 6]);
    });
}

#[test]
fn attaching_twice_changes_nothing() {
    alone(|| {
        let scene = Scene::steered(3);
        assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
        let before = scene.world();
        for attach in [with(Policy::RoundRobin), Attach::default()] {
            let (_, attached) = Balancer::attach(&scene.host, &scene.key, &attach).unwrap();
            assert!(attached.changes.is_empty());
            assert_eq!(attached.changes.kept, 3);
            assert_eq!(scene.world(), before);
        }
        assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
        assert_eq!(counter(&scene.host.status(&scene.key).unwrap(), "picks"), 24);
    });
}

#[test]
fn detaching_where_nothing_is_attached() {
    alone(|| {
        let scene = Scene::new(2);
        let words = ["nothing of this tool is attached to", &scene.key.to_string()];
        scene.refuses(ErrorKind::NotAttached, &words, |scene| scene.detach());
        scene.refuses(ErrorKind::NotAttached, &words, |scene| scene.set_weight(0, 1));
        assert!(nothing_pinned());
    });
}

#[test]
fn weights_of_nobody_and_where_there_are_none() {
    alone(|| {
        let scene = Scene::steered(2);
        for slot in [2, 63, 64, u16::MAX] {
            let words = ["cannot change the members", &format!("slot {slot} has no member")];
            scene.refuses(ErrorKind::NotFound, &words, |scene| scene.set_weight(slot, 1));
        }
        scene.attach(&with_object(object("first"))).unwrap();
        let words = ["cannot change the members", "the user's own program"];
        scene.refuses(ErrorKind::Invalid, &words, |scene| scene.set_weight(0, 1));
    });
}

#[test]
fn a_program_that_somebody_else_attached_meanwhile() {
    alone(|| {
        let scene = Scene::steered(2);
        let theirs = theirs("leave_it");
        theirs.attach(&scene.members[0]).unwrap();
        let id = theirs.info().unwrap().id();
        let words = ["will not attach to", "program leave_it", &format!("id {id}"), "--force"];
        scene.refuses(ErrorKind::Foreign, &words, |scene| scene.attach(&with(Policy::Random)));
        scene.refuses(ErrorKind::Foreign, &words, |scene| scene.attach(&Attach::default()));
        scene.refuses(ErrorKind::Foreign, &["will not detach from", "leave_it"], |scene| {
            scene.detach()
        });
        scene.refuses(ErrorKind::Foreign, &["will not change", "leave_it"], |scene| {
            scene.set_weight(0, 1)
        });
        let force = Attach { force: true, ..with(Policy::RoundRobin) };
        let (_, attached) = Balancer::attach(&scene.host, &scene.key, &force).unwrap();
        assert_eq!(attached.replaced.unwrap().id, Some(id));
        assert_eq!(deal(&scene.members, 12), [6, 6]);
    });
}

/// A classic program, by which all goes to the first member.
fn attach_classic(socket: &TcpListener) {
    // struct sock_fprog with one instruction, `ret 0`; SO_ATTACH_REUSEPORT_CBPF is 51.
    let script = "import socket, struct, ctypes\n\
                  code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))\n\
                  program = struct.pack('HP', 1, ctypes.addressof(code))\n\
                  socket.socket(fileno=0).setsockopt(socket.SOL_SOCKET, 51, program)";
    let status = std::process::Command::new(program("python3"))
        .args(["-c", script])
        .stdin(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()))
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_classic_program_of_somebody_else() {
    alone(|| {
        let scene = Scene::new(2);
        attach_classic(&scene.members[0]);
        assert_eq!(deal(&scene.members, 10), [10, 0]);
        let words = ["will not attach to", "a classic BPF program", "--force"];
        scene.refuses(ErrorKind::Foreign, &words, |scene| scene.attach(&with(Policy::RoundRobin)));
        let words = ["will not detach from", "a classic BPF program"];
        scene.refuses(ErrorKind::Foreign, &words, |scene| scene.detach());
        assert_eq!(deal(&scene.members, 10), [10, 0]);
        let force = Attach { force: true, ..with(Policy::RoundRobin) };
        scene.attach(&force).unwrap();
        assert_eq!(deal(&scene.members, 10), [5, 5]);
    });
}

#[test]
fn sockets_that_forbid_attaching() {
    alone(|| {
        let scene = Scene::new(2);
        lock_filter(&scene.members[0]);
        // One member that does not forbid it is enough.
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 12), [6, 6]);
        lock_filter(&scene.members[1]);
        // Members come, go and change their shares without a new attachment.
        scene.set_weight(0, 2).unwrap();
        assert_eq!(deal(&scene.members, 12), [8, 4]);
        scene.set_weight(0, 1).unwrap();
        let words = ["cannot attach to", "SO_LOCK_FILTER", "not permitted"];
        scene.refuses(ErrorKind::Denied, &words, |scene| scene.attach(&with(Policy::Random)));
        // The kernel asks nobody when a program is taken off.
        scene.detach().unwrap();
        scene.refuses(ErrorKind::Denied, &words, |scene| scene.attach(&with(Policy::Random)));
        assert!(nothing_pinned());
    });
}

#[test]
fn a_kernel_without_type_information() {
    alone(|| {
        let scene = Scene::new(2);
        mount("none", "/sys/kernel/btf", "tmpfs", MountFlags::empty(), None).unwrap();
        let error = Host::open().unwrap_err();
        let words = ["cannot list sockets", "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"];
        refused(error, ErrorKind::Unsupported, &words);
        // The select program does without; open connections are not counted, queues not read.
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 10), [5, 5]);
        scene.detach().unwrap();
    });
}

#[test]
fn objects_that_cannot_be_used() {
    let path = |path: &str| ObjectSpec { path: path.into(), program: None, map: None };
    let named = |object: ObjectSpec, program: Option<&str>, map: Option<&str>| ObjectSpec {
        path: object.path,
        program: program.map(str::to_owned),
        map: map.map(str::to_owned),
    };
    let here = |name: &str| path(&format!("{}/{name}", env!("CARGO_MANIFEST_DIR")));
    let two = || object("two");
    let cases: [(ObjectSpec, &[&str]); 11] = [
        (path("/nonexistent.o"), &["cannot use /nonexistent.o", "No such file"]),
        (path("/dev/null"), &["cannot use /dev/null"]),
        (path("/etc"), &["cannot use /etc"]),
        (here("Cargo.toml"), &["cannot use", "Cargo.toml", "ELF"]),
        (here("bpf/host.bpf.o"), &["no program that selects sockets", "SEC(\"sk_reuseport\")"]),
        (object("leave_it"), &["no map for sockets"]),
        (two(), &["3 programs that select", "--program", "counting, from_narrow, from_small"]),
        (named(two(), Some("from_small"), None), &["2 maps for sockets", "--map", "narrow, small"]),
        (named(two(), Some("nix"), None), &["no program `nix`", "from_small"]),
        (named(two(), Some("from_small"), Some("nix")), &["no map `nix`"]),
        (named(two(), Some("from_small"), Some("no_sockets")), &["`no_sockets` must be a socket"]),
    ];
    alone(|| {
        for scene in [Scene::new(2), Scene::steered(2)] {
            for (object, words) in &cases {
                scene.refuses(ErrorKind::Invalid, words, |scene| {
                    scene.attach(&with_object(object.clone()))
                });
            }
        }
    });
}

/// The one message of several lines: what the verifier said is for whoever wrote the program.
#[test]
fn an_object_that_the_verifier_refuses() {
    alone(|| {
        for scene in [Scene::new(2), Scene::steered(2)] {
            let before = scene.world();
            let error = scene.attach(&with_object(object("refused"))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            let text = error.to_string();
            assert!(text.lines().next().unwrap().contains("the verifier refused"), "{text}");
            assert!(text.contains("invalid access to packet"), "{text}");
            assert_eq!(scene.world(), before);
            assert_eq!(deal(&scene.members, 12).iter().sum::<usize>(), 12);
        }
    });
}

#[test]
fn an_object_whose_map_is_too_small() {
    alone(|| {
        let small = ObjectSpec {
            program: Some("from_small".to_owned()),
            map: Some("small".to_owned()),
            ..object("two")
        };
        for scene in [Scene::new(3), Scene::steered(3)] {
            let words = ["3 members, 2 slots", "more elements"];
            scene.refuses(ErrorKind::Full, &words, |scene| {
                scene.attach(&with_object(small.clone()))
            });
        }
    });
}

#[test]
fn an_object_replaces_a_policy_and_a_policy_an_object() {
    alone(|| {
        let mut scene = Scene::steered(2);
        scene.attach(&with_object(object("first"))).unwrap();
        assert_eq!(scene.steering(), Steering::Object);
        assert_eq!(deal(&scene.members, 10), [10, 0]);
        // With an array that nobody can read.
        let narrow = ObjectSpec {
            program: Some("from_narrow".to_owned()),
            map: Some("narrow".to_owned()),
            ..object("two")
        };
        scene.attach(&with_object(narrow)).unwrap();
        assert_eq!(deal(&scene.members, 10), [0, 10]);
        scene.members.extend(more(scene.key.address, 1));
        scene.attach(&Attach::default()).unwrap();
        assert_eq!(scene.host.status(&scene.key).unwrap().unsteered(), 0);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
        scene.detach().unwrap();
        assert!(nothing_pinned());
    });
}

/// A group's directory.
fn directory_of(key: &GroupKey) -> PathBuf {
    let port = format!("-{}-net{}-", key.address.port(), key.netns.cookie);
    let groups = std::fs::read_dir(Path::new(ROOT).join("groups")).unwrap();
    let found = groups.flatten().find(|e| e.file_name().to_string_lossy().contains(&port));
    found.unwrap().path()
}

fn sockets_of(key: &GroupKey) -> PathBuf {
    directory_of(key).join("sockets")
}

/// Writes over a group's header; returns what was there.
fn change_header(key: &GroupKey, change: impl FnOnce(&mut [u8; 256])) -> [u8; 256] {
    let map = MapData::from_pin(directory_of(key).join("header")).unwrap();
    let mut map: Array<_, [u8; 256]> = Map::from_map_data(map).unwrap().try_into().unwrap();
    let old = map.get(&0, 0).unwrap();
    let mut new = old;
    change(&mut new);
    map.set(0, new, 0).unwrap();
    old
}

/// A state that this version does not understand is refused by name, and left alone, whatever else
/// is done on the host.
#[track_caller]
fn is_left_alone(scene: &Scene, words: &[&str]) {
    let other = Scene::steered(2);
    let directory = directory_of(&scene.key);
    let words: Vec<&str> = words.iter().copied().chain([directory.to_str().unwrap()]).collect();
    let header = || std::fs::read_dir(&directory).unwrap().count();
    let pinned = header();
    for operation in [Scene::detach, |scene: &Scene| scene.attach(&Attach::default())] {
        scene.refuses(ErrorKind::Schema, &words, operation);
    }
    let force = Attach { force: true, ..with(Policy::Random) };
    scene.refuses(ErrorKind::Schema, &words, |scene| scene.attach(&force));
    // The others are shown and served.
    let statuses = scene.host.statuses().unwrap();
    let steering = |key: &GroupKey| {
        statuses.iter().find(|status| status.group.key == *key).unwrap().steering.clone()
    };
    assert_eq!(steering(&scene.key), Steering::Foreign);
    assert!(matches!(steering(&other.key), Steering::Policy { .. }));
    other.attach(&with(Policy::Random)).unwrap();
    other.detach().unwrap();
    assert_eq!(header(), pinned);
}

#[test]
fn state_of_another_version() {
    alone(|| {
        let scene = Scene::steered(2);
        let old = change_header(&scene.key, |header| header[8] = 2);
        is_left_alone(&scene, &["schema 2", "this version knows schema 1"]);
        change_header(&scene.key, |header| *header = old);
        change_header(&scene.key, |header| header[0] = b'R');
        is_left_alone(&scene, &["was not written by this program"]);
        change_header(&scene.key, |header| *header = old);
        // Nothing was taken from its members meanwhile.
        let open = |scene: &Scene| -> Vec<Option<u64>> {
            let status = scene.host.status(&scene.key).unwrap();
            status.members.iter().map(|m| m.enrolment.as_ref().unwrap().open).collect()
        };
        let clients: Vec<_> =
            (0..4).map(|_| std::net::TcpStream::connect(scene.key.address).unwrap()).collect();
        assert_eq!(open(&scene), [Some(2), Some(2)]);
        drop(clients);
    });
}

#[test]
fn state_with_a_header_of_another_length_or_without_one() {
    alone(|| {
        let scene = Scene::steered(2);
        let header = directory_of(&scene.key).join("header");
        std::fs::remove_file(&header).unwrap();
        is_left_alone(&scene, &["nothing is pinned there"]);
        let longer: Array<_, [u8; 512]> = Array::create(1, 0).unwrap();
        longer.map_data().pin(&header).unwrap();
        is_left_alone(&scene, &["its header has another length"]);
        std::fs::remove_file(&header).unwrap();
        let mut program = theirs("leave_it");
        program.pin(&header).unwrap();
        is_left_alone(&scene, &["cannot open the state"]);
    });
}

/// What is left of a state whose group is gone is removed, but not another version's.
#[test]
fn a_dead_groups_state_goes_unless_it_is_another_versions() {
    alone(|| {
        let broken = Scene::steered(1);
        let newer = Scene::steered(1);
        let kept = directory_of(&newer.key);
        std::fs::remove_file(directory_of(&broken.key).join("picks")).unwrap();
        change_header(&newer.key, |header| header[8] = 2);
        drop((broken, newer));
        let scene = Scene::steered(1);
        let groups: Vec<_> =
            std::fs::read_dir(Path::new(ROOT).join("groups")).unwrap().flatten().collect();
        assert_eq!(groups.len(), 2, "{groups:?}");
        assert!(kept.join("header").exists());
        drop(scene);
    });
}

#[test]
fn a_lock_that_somebody_keeps() {
    alone(|| {
        let scene = Scene::new(1);
        std::fs::create_dir(ROOT).unwrap();
        let theirs = File::open(ROOT).unwrap();
        flock(&theirs, FlockOperation::LockExclusive).unwrap();
        let stop = Stop::default();
        let attach = Attach { stop: stop.clone(), ..Attach::default() };
        std::thread::scope(|scope| {
            let attaching = scope.spawn(|| scene.attach(&attach));
            let begin = Instant::now();
            wait::until("some time to pass", wait::BOUND, || {
                begin.elapsed() > Duration::from_millis(50)
            });
            assert!(!attaching.is_finished());
            stop.set();
            let error = attaching.join().unwrap().unwrap_err();
            refused(
                error,
                ErrorKind::Interrupted,
                &["cannot lock", ROOT, "the group is as it was"],
            );
        });
        drop(theirs);
        scene.attach(&Attach::default()).unwrap();
    });
}

#[test]
fn udp_sockets_are_refused_like_listeners() {
    alone(|| {
        let host = Host::open().unwrap();
        let sockets: Vec<UdpSocket> =
            Bind::new("127.0.0.1:0".parse().unwrap()).udp_sockets(3).unwrap();
        let key = key_at(&host, "udp", sockets[0].local_addr().unwrap());
        let attach = |attach: &Attach| Balancer::attach(&host, &key, attach).map(|_| ());
        let full = Attach { slots: Some(2), ..with(Policy::RoundRobin) };
        refused(attach(&full).unwrap_err(), ErrorKind::Full, &["3 members, 2 slots"]);
        let mut theirs = ReusePortSockArray::create("theirs", 4).unwrap();
        theirs.set(0, &sockets[1], 0).unwrap();
        refused(attach(&with(Policy::Hash)).unwrap_err(), ErrorKind::Busy, &["take it out"]);
        drop(theirs);
        let mut theirs = SockMap::create("theirs", 4).unwrap();
        wait::until("the array is gone", wait::BOUND, || theirs.set(0, &sockets[1], 0).is_ok());
        attach(&with(Policy::RoundRobin)).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..12 {
            client.send_to(b"datagram", key.address).unwrap();
        }
        let status = host.status(&key).unwrap();
        let picks: Vec<_> =
            status.members.iter().map(|m| m.enrolment.as_ref().unwrap().picks.unwrap()).collect();
        assert_eq!(picks, [4, 4, 4]);
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned());
    });
}

/// Not a test of its own: what the helper processes run.
#[test]
#[ignore = "runs in helper processes"]
fn helper() {
    helper_main();
}
