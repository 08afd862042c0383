//! Operations that lack a capability, and kernels and sockets that refuse them.

use std::path::Path;

use reuseport::policy::LeastLoaded;
use reuseport::status::{Steering, Uncounted};
use reuseport::{Attach, Balancer, Degraded, ErrorKind, Host, Policy};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::CapabilitySet;
use test_support::wait;

use super::{Scene, TRACING, refused};
use crate::common::helper::Helper;
use crate::common::rights::{capable_of, user_capable_of};
use crate::common::world::{
    BY_OPEN, ROOT, World, alone, counter, deal, key_at, lock_filter, more, nothing_pinned, pins,
    with,
};
use crate::common::{local_address, tcp};

#[test]
fn looking_without_rights() {
    alone(|| {
        let open = || Host::open().map(|_| ());
        let both =
            ["cannot list sockets", "not permitted", "missing here: CAP_BPF and CAP_PERFMON"];
        let none = CapabilitySet::empty();
        refused(capable_of(none, open).unwrap_err(), ErrorKind::Denied, &both);
        refused(user_capable_of(none, open).unwrap_err(), ErrorKind::Denied, &both);
        let error = capable_of(CapabilitySet::BPF, open).unwrap_err();
        refused(error, ErrorKind::Denied, &["missing here: CAP_PERFMON)"]);
        user_capable_of(TRACING, open).unwrap();
    });
}

#[test]
fn changing_things_without_rights() {
    alone(|| {
        let scene = Scene::new(2);
        let maps = ["cannot make the maps for", "not permitted", "missing here: CAP_BPF"];
        let none = CapabilitySet::empty();
        let attach = with(Policy::RoundRobin);
        scene.refuses(ErrorKind::Denied, &maps, |scene| capable_of(none, || scene.attach(&attach)));
        // An ordinary user who may list groups: the pins belong to root.
        let theirs = ["/sys/fs/bpf", "Permission denied", "as root"];
        scene.refuses(ErrorKind::Denied, &theirs, |scene| {
            user_capable_of(TRACING, || scene.attach(&attach))
        });

        let scene = Scene::steered(2);
        let random = with(Policy::Random);
        let load = ["missing here: CAP_BPF"];
        scene.refuses(ErrorKind::Denied, &load, |scene| capable_of(none, || scene.attach(&random)));
        scene
            .refuses(ErrorKind::Denied, &load, |scene| capable_of(none, || scene.set_weight(0, 5)));
        scene.refuses(ErrorKind::Denied, &theirs, |scene| {
            user_capable_of(TRACING, || scene.detach())
        });
    });
}

/// Queues cannot be read and connections are not counted, and the result says so; all else works, and attaching
/// again repairs it.
#[test]
fn least_loaded_without_the_right_to_read_queues() {
    alone(|| {
        let scene = Scene::new(2);
        let least_loaded = with(Policy::LeastLoaded(LeastLoaded::DEFAULT));
        let attach = || Balancer::attach(&scene.host, &scene.key, &least_loaded).unwrap();
        let (balancer, attached) = capable_of(CapabilitySet::BPF, attach);
        loses_queues_and_counts(attached.degraded);
        let status = scene.host.status(&scene.key).unwrap();
        assert!(!status.reads_queues);
        assert_eq!(status.uncounted, Some(Uncounted::NotAttached));
        assert_eq!(deal(&scene.members, 10), [5, 5]);
        let set_policy = || balancer.set_policy(Policy::Hash).unwrap();
        let degraded = capable_of(CapabilitySet::BPF, set_policy).degraded;
        assert!(matches!(degraded[..], [Degraded::QueuesUnread(_)]), "it compares no counts");
        assert!(attach().1.degraded.is_empty());
        let status = scene.host.status(&scene.key).unwrap();
        assert!(status.reads_queues);
        assert_eq!(status.uncounted, None);
        scene.detach().unwrap();
    });
}

#[track_caller]
fn loses_queues_and_counts(degraded: Vec<Degraded>) {
    let [Degraded::QueuesUnread(why), Degraded::Uncounted(Uncounted::NotAttached)] =
        <[_; 2]>::try_from(degraded).unwrap()
    else {
        panic!("it lost something else")
    };
    refused(why, ErrorKind::Denied, &["cannot read the members' queues", "CAP_PERFMON"]);
}

#[test]
fn members_of_a_process_that_may_not_be_traced() {
    alone(|| {
        let host = Host::open().unwrap();
        let socket = tcp("127.0.0.1:0");
        let key = key_at(&host, "tcp", local_address(&socket));
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

        // A new member of that process in a steered group.
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

/// Only open connections are not counted then.
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
            capable_of(CapabilitySet::BPF, || scene.attach(&with(Policy::RoundRobin))).unwrap();
            capable_of(CapabilitySet::BPF, || scene.detach()).unwrap();
            assert!(nothing_pinned());
        }
    });
}

#[test]
fn the_first_attach_with_the_right_to_trace_starts_counting() {
    alone(|| {
        let scene = Scene::new(2);
        capable_of(CapabilitySet::BPF, || scene.attach(&with(BY_OPEN))).unwrap();
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
fn bpffs_is_mounted_with_the_right_to_mount() {
    alone(|| {
        let scene = Scene::new(2);
        // The private bpffs, and the one below it.
        while unmount("/sys/fs/bpf", UnmountFlags::empty()).is_ok() {}
        assert!(!Path::new("/sys/fs/bpf/progs.debug").exists());
        // Reading the state neither needs a bpffs nor mounts one.
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
fn sockets_that_forbid_attaching() {
    alone(|| {
        let scene = Scene::new(2);
        lock_filter(&scene.members[0]);
        // One member that permits it is enough.
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 12), [6, 6]);
        lock_filter(&scene.members[1]);
        // Weights change without attaching again.
        scene.set_weight(0, 2).unwrap();
        assert_eq!(deal(&scene.members, 12), [8, 4]);
        scene.set_weight(0, 1).unwrap();
        let words = ["cannot attach to", "SO_LOCK_FILTER", "not permitted"];
        scene.refuses(ErrorKind::Denied, &words, |scene| scene.attach(&with(Policy::Random)));
        // The kernel checks SO_LOCK_FILTER only when a program is attached.
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
        // Selecting works without it; open connections are not counted and queues not read.
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 10), [5, 5]);
        scene.detach().unwrap();
    });
}
