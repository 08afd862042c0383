//! State whose sockets cannot be borrowed can still be removed.

use std::net::TcpStream;
use std::path::Path;

use reuseport::status::Steering;
use reuseport::{Attach, Balancer, ErrorKind, Host, Policy, Unborrowable};
use sk_reuseport::maps::{Map, MapData, PerCpuArray};
use test_support::process::close;
use test_support::{InFlight, wait};

use crate::common::cookie;
use crate::common::steering::followed;
use crate::common::world::{
    ROOT, accept_all, alone, host_members, key_of, listeners, more, nothing_pinned, one_line, pins,
    with,
};

/// The counters of the only group, through a descriptor that outlives the pin.
fn counters() -> PerCpuArray<MapData, u64> {
    let groups = Path::new(ROOT).join("groups");
    let pin = pins(&groups).into_iter().find(|path| path.ends_with("counters")).unwrap();
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap().try_into().unwrap()
}

fn all_counts(counters: &PerCpuArray<MapData, u64>) -> Vec<u64> {
    (0..counters.len()).map(|index| counters.get(&index, 0).unwrap().iter().sum::<u64>()).collect()
}

/// The program that was left attached.
fn left() -> Steering {
    Steering::Emptied(Some(Policy::RoundRobin.into()))
}

#[test]
fn a_program_that_was_left_is_told_from_one_that_decides_and_goes_when_a_socket_can_be_borrowed() {
    alone(|| {
        let mut all = listeners(1);
        let host = Host::open().unwrap();
        let key = key_of(&host, &all[0]);
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        let hidden = InFlight::send(all.remove(0));
        wait::until("it is hidden", wait::BOUND, || {
            host.refresh(&key).unwrap().members[0].unborrowable().is_some()
        });
        for before in [Steering::Ours(Policy::RoundRobin.into()), left()] {
            let detached = reuseport::detach(&host, &key).unwrap();
            assert_eq!(detached.before, before);
            assert_eq!(detached.left_attached.unwrap().kind(), ErrorKind::Denied);
        }
        let refused = Balancer::attach(&host, &key, &Attach::default()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Foreign);
        let text = one_line(&refused);
        assert!(text.contains("round-robin") && text.contains("without members"), "{text}");
        assert!(!text.contains("decides there"), "{text}");

        let back = std::net::TcpListener::from(hidden.receive());
        assert!(reuseport::detach(&host, &key).unwrap().left_attached.is_none());
        assert_eq!(host.status(&key).unwrap().steering, Steering::KernelHash);
        drop(back);
    });
}

#[test]
fn a_program_whose_members_have_all_gone_decides_nothing_and_a_watcher_says_so() {
    alone(|| {
        let mut all = listeners(1);
        let host = Host::open().unwrap();
        let key = key_of(&host, &all[0]);
        followed(&key, |group| {
            let late = more(key.address, 1).remove(0);
            let late_cookie = cookie(&late);
            let hidden = InFlight::send(late);
            wait::until("it is hidden", wait::BOUND, || {
                let group = host.refresh(&key).unwrap();
                group.member(late_cookie).unwrap().unborrowable().is_some()
            });
            wait::until("it gets nothing", wait::BOUND, || {
                let status = host.status(&key).unwrap();
                status.decides() && status.unsteered() == 1
            });
            close(all.remove(0));
            wait::until("the watcher says that no member is left", wait::BOUND, || {
                group.reports().iter().any(|report| report.starts_with("Unsteerable("))
            });
            let status = host.status(&key).unwrap();
            assert!(status.steering.is_ours() && !status.decides(), "{status:?}");
            assert_eq!(status.unsteered(), 0, "the kernel's hash serves it");
            let client = TcpStream::connect(key.address).unwrap();
            let back = std::net::TcpListener::from(hidden.receive());
            wait::until("it is served", wait::BOUND, || accept_all(&back) == 1);
            group.settled(1);
            drop(client);
        });
    });
}

#[test]
fn a_group_whose_members_are_all_hidden_is_let_go() {
    alone(|| {
        let all = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &all[0]);
        let (balancer, _) = Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        let counters = counters();
        let hidden: Vec<InFlight> = all.into_iter().map(InFlight::send).collect();
        wait::until("all are hidden", wait::BOUND, || {
            let group = host.refresh(&key).unwrap();
            group.members.iter().all(|m| m.unborrowable() == Some(Unborrowable::NoHolder))
        });

        let detached = balancer.detach().unwrap();
        let why = detached.left_attached.expect("no socket can be borrowed");
        assert_eq!(why.kind(), ErrorKind::Denied, "{why:?}");
        assert!(nothing_pinned());
        assert_eq!(host_members(), 0);
        // The program is attached, has no member to select, and leaves the choice to the kernel's hash.
        let status = host.status(&key).unwrap();
        assert!(status.group.program.is_some() && !status.decides(), "{status:?}");
        assert_eq!((status.steering, status.unsteered()), (left(), 0));
        let before = all_counts(&counters);
        let clients: Vec<TcpStream> =
            (0..20).map(|_| TcpStream::connect(key.address).unwrap()).collect();
        let all: Vec<std::net::TcpListener> =
            hidden.into_iter().map(|socket| socket.receive().into()).collect();
        let mut accepted = 0;
        wait::until("all connections are accepted", wait::BOUND, || {
            accepted += all.iter().map(accept_all).sum::<usize>();
            accepted == clients.len()
        });
        let counted: Vec<u64> =
            all_counts(&counters).iter().zip(before).map(|(now, before)| now - before).collect();
        assert!(counted.contains(&20), "the kernel's hash decided 20 times: {counted:?}");
    });
}

#[test]
fn a_group_with_one_member_that_can_be_borrowed_is_detached() {
    alone(|| {
        let mut all = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &all[0]);
        let (balancer, _) = Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        let hidden = InFlight::send(all.remove(0));
        let detached = balancer.detach().unwrap();
        assert!(detached.left_attached.is_none());
        assert!(host.refresh(&key).unwrap().program.is_none());
        assert!(nothing_pinned());
        drop(hidden);
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
    });
}
