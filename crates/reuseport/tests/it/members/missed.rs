//! Members that one walk over the kernel's tables does not find, and the next one does.

use reuseport::id::Weight;
use reuseport::{Attach, Balancer, Host, MemberChange, Policy, State};
use rustix::net::{Shutdown, listen, shutdown};
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::maps::SockMap;

use crate::common::cookie;
use crate::common::world::{alone, deal, key_of, listeners, with};

/// A socket map keeps a listener that stops, and so the tables alone tell who has left.
#[test]
fn a_member_that_only_the_first_walk_misses_keeps_its_slot() {
    alone(|| {
        let members = listeners(2);
        // The group gets a socket map, because a socket is in another one.
        let mut theirs = SockMap::create("theirs", 4).unwrap();
        theirs.set(0, &members[1], 0).unwrap();
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        let (balancer, _) = Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        let slot = |host: &Host| {
            let status = host.status(&key).unwrap();
            let member =
                status.members.iter().find(|m| m.member.cookie == Some(cookie(&members[0])));
            member.unwrap().enrolment.as_ref().map(|of| (of.slot, of.weight, of.state))
        };
        let (first, ..) = slot(&host).unwrap();
        let weight = Weight::new(2).unwrap();
        let weigh = MemberChange::new(first).weight(weight);
        balancer.change_members(&[weigh]).unwrap();

        // It does not listen during the walk that lists the group.
        let moving = members[0].try_clone().unwrap();
        let mut walks = 0;
        let moves = move |call| {
            walks += usize::from(call == Call::BpfIterCreate);
            match (call, walks) {
                (Call::BpfIterCreate, 1) => shutdown(&moving, Shutdown::Both).unwrap(),
                (Call::BpfIterCreate, 2) => listen(&moving, 16).unwrap(),
                _ => {}
            }
            Verdict::Allow
        };
        let (_, attached) =
            intercept(moves, || Balancer::attach(&host, &key, &Attach::default())).unwrap();
        assert_eq!(attached.changes.released, []);
        assert_eq!(slot(&host), Some((first, weight, State::Active)));
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(deal(&members, 9), [6, 3]);
        balancer.detach().unwrap();
    });
}
