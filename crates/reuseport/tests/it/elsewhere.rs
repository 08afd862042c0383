//! A program of this tool whose pins are gone, or on another bpffs: recognised, removed, replaced.

use std::net::TcpListener;
use std::path::Path;

use reuseport::group::GroupKey;
use reuseport::status::Steering;
use reuseport::{Attach, Balancer, ErrorKind, Host, Policy, Program};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::CapabilitySet;
use test_support::bpffs;

use crate::common::rights::capable_of;
use crate::common::world::{
    ROOT, alone, counter, deal, key_of, listeners, nothing_pinned, object, one_line, with,
    with_object,
};

/// Attaches on a bpffs that then ends.
fn attach_and_lose(request: &Attach) -> (Host, GroupKey, Vec<TcpListener>) {
    let members = listeners(3);
    let host = Host::open().unwrap();
    let key = key_of(&host, &members[0]);
    mount("bpf", bpffs::PATH, "bpf", MountFlags::empty(), None).unwrap();
    Balancer::attach(&host, &key, request).unwrap();
    assert!(Path::new(ROOT).exists());
    unmount(bpffs::PATH, UnmountFlags::DETACH).unwrap();
    assert!(!Path::new(ROOT).exists());
    (host, key, members)
}

fn steering(host: &Host, key: &GroupKey) -> Steering {
    host.status(key).unwrap().steering
}

#[test]
fn a_program_whose_pins_are_gone_is_recognised_and_detached() {
    alone(|| {
        let (host, key, members) = attach_and_lose(&with(Policy::RoundRobin));
        let known = Steering::Elsewhere(Some(Policy::RoundRobin.into()));
        assert_eq!(steering(&host, &key), known);
        let all = host.statuses().unwrap();
        let listed = all.iter().find(|status| status.group.key == key).unwrap();
        assert_eq!((listed.steering, listed.unsteered()), (known, 0));
        assert_eq!(deal(&members, 9), [3, 3, 3], "it still decides");

        for request in [Attach::default(), with(Policy::Random)] {
            let error = Balancer::attach(&host, &key, &request).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Foreign);
            let said = one_line(&error);
            for word in ["reuseport round-robin", "pinned elsewhere", "`detach`", "--force"] {
                assert!(said.contains(word), "{said}");
            }
        }
        assert_eq!(Balancer::open(&host, &key).unwrap_err().kind(), ErrorKind::Foreign);

        reuseport::detach(&host, &key).unwrap();
        assert_eq!(steering(&host, &key), Steering::KernelHash);
        assert!(nothing_pinned());
        // Its array let the sockets go.
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&members, 9), [3, 3, 3]);
        assert_eq!(counter(&host.status(&key).unwrap(), "picks"), 9);
    });
}

#[test]
fn force_replaces_it() {
    alone(|| {
        let (host, key, members) = attach_and_lose(&with(Policy::Random));
        let force = with(Policy::RoundRobin).force(true);
        let (_, attached) = Balancer::attach(&host, &key, &force).unwrap();
        assert_eq!(attached.changes.enrolled.len(), 3);
        assert!(attached.replaced.is_some());
        assert_eq!(deal(&members, 9), [3, 3, 3]);
        assert_eq!(counter(&host.status(&key).unwrap(), "picks"), 9);
    });
}

#[test]
fn so_is_a_users_own_program() {
    alone(|| {
        let (host, key, _members) = attach_and_lose(&with_object(object("by_source")));
        assert_eq!(steering(&host, &key), Steering::Elsewhere(Some(Program::Object(()))));
        reuseport::detach(&host, &key).unwrap();
        assert_eq!(steering(&host, &key), Steering::KernelHash);
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
    });
}

#[test]
fn a_changed_policy_is_recognised_too() {
    alone(|| {
        let members = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        let (balancer, _) = Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        balancer.set_policy(Policy::Random).unwrap();
        std::fs::remove_dir_all(ROOT).unwrap();
        assert_eq!(steering(&host, &key), Steering::Elsewhere(Some(Policy::Random.into())));
    });
}

/// Opening programs by their ids takes CAP_SYS_ADMIN.
#[test]
fn without_the_right_to_open_it_the_program_is_foreign() {
    alone(|| {
        let (host, key, _members) = attach_and_lose(&with(Policy::RoundRobin));
        let tracing = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let seen = capable_of(tracing, || steering(&host, &key));
        assert_eq!(seen, Steering::Foreign);
    });
}
