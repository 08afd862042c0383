//! A group that takes more descriptors than a process may have by default.

use std::net::TcpListener;

use reuseport::{Balancer, Host, Policy};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::world::{
    counter, deal, is_counted, is_steered, key_of, listeners, nothing_pinned, with,
};
use crate::in_own_process;

#[test]
fn slow_a_thousand_members() {
    in_own_process(|| {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        thousand_members();
    });
}

fn thousand_members() {
    let members = listeners(1000);
    let host = Host::open().unwrap();
    let key = key_of(&host, &members[0]);
    let status = is_steered(&host, &key, &members);
    assert_eq!(counter(&status, "picks"), 2000);
    is_counted(&host, &key, &members);
    Balancer::attach(&host, &key, &with(Policy::Hash)).unwrap();
    let dealt = deal(&members, 3000);
    assert!(dealt.iter().filter(|n| **n > 0).count() > 900, "a hash spreads: {dealt:?}");
    Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
    let some: Vec<TcpListener> = members.into_iter().step_by(2).collect();
    // Half of the members died: those that live are still found.
    assert_eq!(deal(&some, 500).iter().sum::<usize>(), 500);
    is_steered(&host, &key, &some);
    reuseport::detach(&host, &key).unwrap();
    assert!(nothing_pinned());
}
