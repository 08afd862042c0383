//! Members whose user changed after they were bound: the kernel compares it only when a socket joins its group.

use std::collections::BTreeSet;
use std::os::unix::fs::fchown;

use reuseport::{Balancer, Host, Policy};

use crate::common::world::{alone, key_at, with};
use crate::common::{cookie, local_address, udp};

#[test]
fn a_udp_member_whose_user_changed_is_enrolled() {
    alone(|| {
        let first = udp("127.0.0.1:0");
        let address = local_address(&first);
        let second = udp(&address.to_string());
        let both = BTreeSet::from([cookie(&first), cookie(&second)]);
        fchown(&second, Some(1000), None).unwrap();

        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", address);
        assert_eq!(host.refresh(&key).unwrap().members.len(), 2);
        let (balancer, attached) =
            Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        assert_eq!(attached.changes.enrolled.into_iter().collect::<BTreeSet<_>>(), both);
        assert_eq!(host.status(&key).unwrap().unsteered(), 0);
        balancer.detach().unwrap();
    });
}
