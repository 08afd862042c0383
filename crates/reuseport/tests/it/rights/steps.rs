//! The steps: what root prepares, and what the ordinary user attempts.

use crate::common::traffic::by_slot;
use std::error::Error;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use reuseport::borrow::borrow;
use reuseport::group::Group;
use reuseport::{Attach, Balancer, Host};
use rustix::mount::{MountFlags, mount};
use sk_reuseport::maps::{Array, Map, MapData, ReusePortSockArray, SockMap};
use sk_reuseport::net::Bind;
use sk_reuseport::programs::{
    BtfTracePoint, CgroupSock, ProgramInfo, SkReuseport, SkReuseportAttachType,
};
use sk_reuseport::{Ebpf, KernelBtf};
use test_support::loopback;
use test_support::process::spawn;
use test_support::{bpffs, cgroup, wait};

use super::{Outcome, Prepared};
use crate::common::rights::ORDINARY;

const SELECT: &[u8] = include_bytes!("../../../bpf/select.bpf.o");
const HOST: &[u8] = include_bytes!("../../../bpf/host.bpf.o");
const WATCH: &[u8] = include_bytes!("../../../bpf/watch.bpf.o");
/// Attaches to anything, and gives every packet to the socket at index 1 of `sockets`.
const CHOOSE: &[u8] = include_bytes!("../../../../sk-reuseport/tests/bpf/select.bpf.o");

pub(crate) fn make_maps() -> Prepared {
    alone(|| {
        Ebpf::load(SELECT)?;
        ReusePortSockArray::create("sockets", 64)?;
        Ok(())
    })
}

pub(crate) fn load_select() -> Prepared {
    let mut ours = Ebpf::load(SELECT).unwrap();
    let mut theirs = Ebpf::load(CHOOSE).unwrap();
    alone(move || {
        select(&mut ours, "reuseport").load()?;
        select(&mut theirs, "select_socket").load()?;
        select(&mut theirs, "select_or_move").load()?;
        Ok(())
    })
}

pub(crate) fn attach_own() -> Prepared {
    let mut ebpf = chooser();
    alone(move || {
        let sockets = sockets();
        select(&mut ebpf, "select_socket").attach(&sockets[0])?;
        SkReuseport::detach(&sockets[1])?;
        Ok(())
    })
}

pub(crate) fn fill_own() -> Prepared {
    let mut ebpf = chooser();
    alone(move || {
        let mut array: ReusePortSockArray<_> = ebpf.map_mut("sockets").unwrap().try_into()?;
        let sockets = sockets();
        array.set(0, &sockets[0], 0)?;
        array.clear_index(&0)?;
        Ok(())
    })
}

pub(crate) fn open_pinned() -> Prepared {
    pin_for_user(&mut chooser());
    alone(|| open_pins().map(drop))
}

pub(crate) fn open_pinned_by_root() -> Prepared {
    let mut ebpf = chooser();
    pin_for_user(&mut ebpf);
    for name in ["program", "sockets"] {
        chown(pin_path(name), Some(0), Some(0)).unwrap();
    }
    alone(|| open_pins().map(drop))
}

pub(crate) fn make_socket_map() -> Prepared {
    alone(|| {
        let mut map = SockMap::create("sockets", 64)?;
        map.set(0, &sockets()[0], 0)?;
        Ok(())
    })
}

pub(crate) fn list_groups() -> Prepared {
    alone(|| {
        let _sockets = sockets();
        let groups = Host::open()?.groups()?;
        assert!(groups.iter().any(|group| group.key.uid == ORDINARY && group.members.len() == 2));
        Ok(())
    })
}

pub(crate) fn count_open() -> Prepared {
    alone(|| {
        let btf = KernelBtf::from_sys_fs()?;
        let mut ebpf = Ebpf::load(HOST)?;
        let program: &mut BtfTracePoint =
            ebpf.program_mut("count_open").ok_or("no such program")?.try_into()?;
        program.load("inet_sock_set_state", &btf)?;
        program.attach()?;
        Ok(())
    })
}

pub(crate) fn be_told_of_binds() -> Prepared {
    alone(|| {
        let mut ebpf = Ebpf::load(WATCH)?;
        let program: &mut CgroupSock =
            ebpf.program_mut("bound4").ok_or("no such program")?.try_into()?;
        program.load()?;
        program.attach(cgroup::root())?;
        Ok(())
    })
}

pub(crate) fn borrow_from_same_user() -> Prepared {
    let (server, group) = server_of(ORDINARY);
    with(server, move || Ok(borrow(&group.members[0]).map(drop)?))
}

pub(crate) fn borrow_from_root() -> Prepared {
    let (server, group) = server_of(0);
    with(server, move || Ok(borrow(&group.members[0]).map(drop)?))
}

pub(crate) fn mount_bpffs() -> Prepared {
    // Hides the bpffs, in the mount namespace of this thread alone.
    mount("none", bpffs::PATH, "tmpfs", MountFlags::empty(), None).unwrap();
    alone(steer)
}

pub(crate) fn steer_own() -> Prepared {
    own_directory(ORDINARY);
    alone(steer)
}

pub(crate) fn steer_own_in_roots_directory() -> Prepared {
    own_directory(0);
    alone(steer)
}

pub(crate) fn steer_roots_server() -> Prepared {
    own_directory(ORDINARY);
    let (server, group) = server_of(0);
    with(server, move || steer_group(&Host::open()?, &group))
}

pub(crate) fn open_by_id() -> Prepared {
    let mut ebpf = chooser();
    let program: ProgramInfo = select(&mut ebpf, "select_socket").info().unwrap();
    let map = ebpf.map("sockets").unwrap().data().info().unwrap().id();
    alone(move || {
        program.fd()?;
        MapData::from_id(map)?;
        drop(ebpf);
        Ok(())
    })
}

// The parts of the steps.

fn alone(attempt: impl FnOnce() -> Outcome + Send + 'static) -> Prepared {
    (Box::new(attempt), None)
}

fn with(server: Server, attempt: impl FnOnce() -> Outcome + Send + 'static) -> Prepared {
    (Box::new(attempt), Some(server))
}

/// A group of two sockets that belong to the user of the calling thread.
pub(crate) fn sockets() -> Vec<UdpSocket> {
    by_slot(Bind::new(loopback(false)).udp_sockets(2).unwrap())
}

pub(crate) fn select<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SkReuseport {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// An object whose program is loaded and selects the socket at index 1.
pub(crate) fn chooser() -> Ebpf {
    let mut ebpf = Ebpf::load(CHOOSE).unwrap();
    let mut choice: Array<_, u32> = ebpf.map_mut("choice").unwrap().try_into().unwrap();
    choice.set(0, 1, 0).unwrap();
    select(&mut ebpf, "select_socket").load().unwrap();
    ebpf
}

fn pin_path(name: &str) -> PathBuf {
    Path::new(bpffs::PATH).join(name)
}

/// Pins the program and the array so that only the ordinary user may open them.
pub(crate) fn pin_for_user(ebpf: &mut Ebpf) {
    select(ebpf, "select_socket").pin(pin_path("program")).unwrap();
    ebpf.map("sockets").unwrap().data().pin(pin_path("sockets")).unwrap();
    for name in ["program", "sockets"] {
        chown(pin_path(name), Some(ORDINARY), Some(ORDINARY)).unwrap();
        let mode = std::fs::metadata(pin_path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "only its owner may open it");
    }
}

pub(crate) fn open_pins()
-> Result<(SkReuseport, ReusePortSockArray<MapData>), Box<dyn Error + Send + Sync>> {
    let program = SkReuseport::from_pin(pin_path("program"), SkReuseportAttachType::Select)?;
    let array = Map::from_map_data(MapData::from_pin(pin_path("sockets"))?)?.try_into()?;
    Ok((program, array))
}

/// Makes the directory for pins with the mode that the library gives it.
fn own_directory(user: u32) {
    let directory = pin_path("reuseport");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o750)).unwrap();
    chown(directory, Some(user), Some(user)).unwrap();
}

/// Attaches a policy to sockets of the calling thread, changes it, detaches it.
fn steer() -> Outcome {
    let sockets = sockets();
    let host = Host::open()?;
    let group = host.find(&format!("udp:{}", sockets[0].local_addr()?).parse()?)?;
    steer_group(&host, &group)
}

fn steer_group(host: &Host, group: &Group) -> Outcome {
    let (_, attached) = Balancer::attach(host, &group.key, &Attach::default())?;
    assert!(!attached.changes.enrolled.is_empty());
    let status = host.status(&group.key)?;
    assert!(status.steering.selection().is_some(), "{:?}", status.steering);
    let change = Attach::from(reuseport::Policy::Random);
    let (balancer, _) = Balancer::attach(host, &group.key, &change)?;
    balancer.detach()?;
    Ok(())
}

/// A process that holds a socket, killed when this is dropped.
pub(crate) struct Server(pub(crate) Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process of a user that alone holds a socket, and the group of that socket.
fn server_of(user: u32) -> (Server, Group) {
    let socket = Bind::new(loopback(false)).udp_sockets(1).unwrap().remove(0);
    let address = socket.local_addr().unwrap();
    // The user must be able to read the program, or no ordinary user may trace it.
    let mut sleep = Command::new("sleep");
    sleep.arg("infinity").stdin(OwnedFd::from(socket)).uid(user).gid(user);
    let server = spawn(&mut sleep).unwrap();
    drop(sleep); // and with it this process's copy of the socket
    let pid = server.id();
    let server = Server(server);
    // Until execve, children of other tests have copies of all descriptors.
    let host = Host::open().unwrap();
    let spec = format!("udp:{address}").parse().unwrap();
    let group = wait::until_some("one holder", wait::BOUND, || {
        host.find(&spec).ok().filter(|group| group.pids() == [pid])
    });
    (server, group)
}
