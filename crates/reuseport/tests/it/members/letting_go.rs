//! State whose sockets cannot be borrowed can still be removed.

use std::net::TcpStream;
use std::path::Path;

use reuseport::{Attach, Balancer, ErrorKind, Host, Policy, Unborrowable};
use sk_reuseport::maps::{Map, MapData, PerCpuArray};
use test_support::{InFlight, wait};

use crate::common::world::{
    ROOT, accept_all, alone, host_members, key_of, listeners, nothing_pinned, pins, with,
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

        let detached = balancer.detach(&host).unwrap();
        let why = detached.left_attached.expect("no socket can be borrowed");
        assert_eq!(why.kind(), ErrorKind::Denied, "{why:?}");
        assert!(nothing_pinned());
        assert_eq!(host_members(), 0);
        // The program is attached, has no member to select, and leaves the choice to the kernel's hash.
        assert!(host.refresh(&key).unwrap().program.is_some());
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
        let detached = balancer.detach(&host).unwrap();
        assert!(detached.left_attached.is_none());
        assert!(host.refresh(&key).unwrap().program.is_none());
        assert!(nothing_pinned());
        drop(hidden);
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
    });
}
