//! State that an earlier version pinned: it is shown, and the first change takes it over, under traffic.

use std::net::TcpListener;

use reuseport::group::GroupKey;
use reuseport::id::{Slot, State, Weight};
use reuseport::status::GroupStatus;
use reuseport::{Attach, Balancer, Host, MemberChange, Policy, Result};

use crate::common::previous::{downgrade, is_downgraded};
use crate::common::world::{
    alone, deal, key_of, listeners, more, nothing_pinned, object, with, with_object,
};
use test_support::process::close;

/// Attaches, drains slot 0 and gives slot 1 the weight 3, and makes that the state of an earlier version.
fn steered_before(attach: &Attach) -> (Host, GroupKey, Vec<TcpListener>) {
    let host = Host::open().unwrap();
    let members = listeners(3);
    let key = key_of(&host, &members[0]);
    let (balancer, _) = Balancer::attach(&host, &key, attach).unwrap();
    if attach.program.as_ref().and_then(|program| program.selection()).is_some() {
        balancer.change_members(&[drain(0), weigh(1)]).unwrap();
    }
    downgrade(&key);
    (host, key, members)
}

fn drain(slot: u16) -> MemberChange {
    MemberChange::new(Slot::new(slot)).state(State::Draining)
}

fn weigh(slot: u16) -> MemberChange {
    MemberChange::new(Slot::new(slot)).weight(Weight::new(3))
}

fn roles(status: &GroupStatus) -> Vec<(u32, u16, State)> {
    let enrolled = status.members.iter().filter_map(|member| member.enrolment.as_ref());
    enrolled.map(|e| (e.slot.index(), e.weight.get(), e.state)).collect()
}

const ROLES: [(u32, u16, State); 3] =
    [(0, 1, State::Draining), (1, 3, State::Active), (2, 1, State::Active)];

#[test]
fn it_is_shown_and_goes_on_deciding() {
    alone(|| {
        let (host, key, members) = steered_before(&with(Policy::RoundRobin));
        let status = host.status(&key).unwrap();
        assert_eq!(status.steering.policy(), Some(Policy::RoundRobin));
        assert_eq!(roles(&status), ROLES);
        assert_eq!(deal(&members, 8), [0, 6, 2]);
        assert!(is_downgraded(&key), "looking changes nothing");
    });
}

#[test]
fn the_first_change_takes_it_over_with_weights_drains_and_picks() {
    type Operation = fn(&Host, &GroupKey) -> Result<()>;
    let attach: Operation = |host, key| Balancer::attach(host, key, &Attach::default()).map(|_| ());
    let policy: Operation = |host, key| {
        Balancer::open(host, key)?.set_policy(Policy::Random)?;
        Balancer::open(host, key)?.set_policy(Policy::RoundRobin).map(|_| ())
    };
    let weight: Operation =
        |host, key| Balancer::open(host, key)?.change_members(&[weigh(1)]).map(|_| ());
    for operation in [attach, policy, weight] {
        alone(|| {
            let (host, key, members) = steered_before(&with(Policy::RoundRobin));
            assert_eq!(deal(&members, 8), [0, 6, 2]);
            operation(&host, &key).unwrap();
            assert!(!is_downgraded(&key));
            let status = host.status(&key).unwrap();
            assert_eq!(roles(&status), ROLES);
            let picks = |status: &GroupStatus| -> Vec<u64> {
                status
                    .members
                    .iter()
                    .map(|m| m.enrolment.as_ref().unwrap().picks.unwrap())
                    .collect()
            };
            assert_eq!(picks(&status), [0, 6, 2]);
            assert_eq!(deal(&members, 8), [0, 6, 2]);
            assert_eq!(picks(&host.status(&key).unwrap()), [0, 12, 4]);
            reuseport::detach(&host, &key).unwrap();
            assert!(nothing_pinned());
        });
    }
}

#[test]
fn it_can_be_detached() {
    alone(|| {
        let (host, key, members) = steered_before(&with(Policy::RoundRobin));
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned());
        assert_eq!(deal(&members, 8).iter().sum::<usize>(), 8);
    });
}

#[test]
fn a_refused_change_does_not_take_it_over() {
    alone(|| {
        let (host, key, _members) = steered_before(&with(Policy::RoundRobin));
        let balancer = Balancer::open(&host, &key).unwrap();
        balancer.change_members(&[weigh(9)]).unwrap_err();
        assert!(is_downgraded(&key));
    });
}

#[test]
fn the_server_may_have_restarted_meanwhile() {
    alone(|| {
        let (host, key, members) = steered_before(&with(Policy::RoundRobin));
        let address = key.address;
        // The address is bound again: else the state would be removed.
        close(members);
        let members = more(address, 3);
        let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(attached.changes.enrolled.len(), 3);
        assert!(!is_downgraded(&key));
        assert_eq!(roles(&host.status(&key).unwrap()), ROLES);
        // The slots that serve are taken first.
        assert_eq!(deal(&members, 8), [6, 2, 0]);
    });
}

#[test]
fn a_users_own_program_goes_on() {
    alone(|| {
        let (host, key, mut members) = steered_before(&with_object(object("first")));
        let id =
            |status: &GroupStatus| status.group.program.as_ref().and_then(|program| program.id);
        let before = id(&host.status(&key).unwrap());
        members.extend(more(key.address, 1));
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        let status = host.status(&key).unwrap();
        assert_eq!((id(&status), status.unsteered()), (before, 0), "the program is the same");
        assert!(!is_downgraded(&key));
        assert_eq!(deal(&members, 4)[0], 4);
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned());
    });
}
