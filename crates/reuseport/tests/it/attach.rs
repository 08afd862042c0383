//! Attaching to groups and detaching from them. The counters of the kernel program prove that it
//! made the choice.

use std::net::{SocketAddr, TcpStream};

use crate::common::world::{BY_OPEN, alone, counter, deal, key_at, key_of, listeners, more, with};
use reuseport::id::{Slot, Weight};
use reuseport::status::{GroupStatus, MemberStatus, Steering};
use reuseport::{Attach, Balancer, ErrorKind, Host, Policy};
use sk_reuseport::net::Bind;
use sk_reuseport::programs::SkReuseport;
use test_support::process::close;

fn picks(status: &GroupStatus) -> Vec<u64> {
    let of = |m: &reuseport::status::MemberStatus| m.enrolment.as_ref()?.picks;
    status.members.iter().filter_map(of).collect()
}

fn connect_to(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).unwrap()
}

#[test]
fn the_program_deals_exactly_by_round_robin() {
    alone(|| {
        let listeners = listeners(4);
        let host = Host::open().unwrap();
        let key = key_of(&host, &listeners[0]);
        let (balancer, attached) =
            Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        assert_eq!(attached.changes.enrolled.len(), 4);
        assert_eq!(attached.steering.policy(), Some(Policy::RoundRobin));
        assert_eq!(deal(&listeners, 200), [50; 4]);
        let status = host.status(&key).unwrap();
        assert_eq!(picks(&status), [50; 4]);
        assert_eq!(counter(&status, "picks"), 200);
        assert_eq!(status.unsteered(), 0);
        balancer.detach().unwrap();
        assert_eq!(host.status(&key).unwrap().steering, Steering::KernelHash);
        assert_eq!(deal(&listeners, 20).iter().sum::<usize>(), 20);
    });
}

#[test]
fn a_second_attach_enrols_new_members_and_replaces_the_policy() {
    alone(|| {
        let mut listeners = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &listeners[0]);
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        listeners.extend(Bind::new(key.address).nonblocking(true).listeners(1).unwrap());
        assert_eq!(host.status(&key).unwrap().unsteered(), 1);
        assert_eq!(deal(&listeners, 20), [10, 10, 0]);
        let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!((attached.changes.enrolled.len(), attached.changes.kept), (1, 2));
        assert_eq!(deal(&listeners, 30), [10, 10, 10]);
        let (_, attached) = Balancer::attach(&host, &key, &with(Policy::Random)).unwrap();
        assert_eq!(attached.steering.policy(), Some(Policy::Random));
        let dealt = deal(&listeners, 300);
        assert!(dealt.iter().all(|n| (50..150).contains(n)), "{dealt:?}");
        assert_eq!(counter(&host.status(&key).unwrap(), "picks"), 350);
    });
}

/// Without members of TCP, the host-wide layer that the first attach made is gone by the second one.
#[test]
fn attaching_again_keeps_the_program() {
    for protocol in ["tcp", "udp"] {
        alone(|| {
            let bind = Bind::new("127.0.0.1:0".parse().unwrap());
            let tcp = bind.listeners(2).unwrap();
            let udp = bind.udp_sockets(2).unwrap();
            let address = if protocol == "tcp" { tcp[0].local_addr() } else { udp[0].local_addr() };
            let host = Host::open().unwrap();
            let key = key_at(&host, protocol, address.unwrap());
            let attached = || {
                Balancer::attach(&host, &key, &Attach::default()).unwrap();
                host.refresh(&key).unwrap().program.unwrap().id.unwrap()
            };
            let first = attached();
            assert_eq!([attached(), attached()], [first; 2], "{protocol}");
        });
    }
}

#[test]
fn a_dead_member_is_skipped_and_its_slot_is_freed() {
    alone(|| {
        let mut listeners = listeners(3);
        let host = Host::open().unwrap();
        let key = key_of(&host, &listeners[0]);
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        close(listeners.remove(1));
        assert_eq!(deal(&listeners, 30).iter().sum::<usize>(), 30);
        let status = host.status(&key).unwrap();
        // A fallback takes a turn, so every second connection meets the empty slot.
        assert_eq!((counter(&status, "fallback_active"), counter(&status, "empty_slot")), (15, 15));
        let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(attached.changes.released.len(), 1);
        assert_eq!(deal(&listeners, 30), [15, 15]);
        assert_eq!(counter(&host.status(&key).unwrap(), "empty_slot"), 15);
    });
}

#[test]
fn weights_are_exact_and_open_connections_are_counted() {
    alone(|| {
        let listeners = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &listeners[0]);
        let (balancer, _) = Balancer::attach(&host, &key, &with(BY_OPEN)).unwrap();
        let status = host.status(&key).unwrap();
        let slot = status.members[0].enrolment.as_ref().unwrap().slot;
        let weight = reuseport::id::Weight::new(9).unwrap();
        balancer.set_weights(&[(slot, weight)]).unwrap();
        let clients: Vec<_> = (0..100).map(|_| connect_to(key.address)).collect();
        let status = host.status(&key).unwrap();
        assert_eq!(picks(&status), [90, 10]);
        let open = |status: &GroupStatus| -> Vec<u64> {
            status.members.iter().map(|m| m.enrolment.as_ref().unwrap().open.unwrap()).collect()
        };
        assert_eq!(open(&status), [90, 10]);
        drop(clients);
        listeners.iter().for_each(|l| while l.accept().is_ok() {});
        test_support::wait::until("no connection is open", test_support::wait::BOUND, || {
            open(&host.status(&key).unwrap()) == [0, 0]
        });
    });
}

#[test]
fn picks_count_as_recent_until_a_share_or_the_policy_changes() {
    alone(|| {
        let listeners = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &listeners[0]);
        let (balancer, _) = Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        let recent = || {
            let status = host.status(&key).unwrap();
            let of = |m: &MemberStatus| m.enrolment.as_ref().unwrap().recent_picks.unwrap();
            status.members.iter().map(of).collect::<Vec<_>>()
        };
        let weight = |of: u16| {
            let weights = [(Slot::new(0), Weight::new(of).unwrap())];
            balancer.set_weights(&weights).unwrap();
        };
        assert_eq!(deal(&listeners, 10), [5, 5]);
        assert_eq!(recent(), [5, 5]);
        for nothing in [Attach::default(), with(Policy::RoundRobin)] {
            Balancer::attach(&host, &key, &nothing).unwrap();
            assert_eq!(recent(), [5, 5], "nothing changed");
        }
        weight(1);
        assert_eq!(recent(), [5, 5], "it had this weight");
        weight(2);
        assert_eq!(recent(), [0, 0]);
        assert_eq!(deal(&listeners, 6), [4, 2]);
        // The two policies fill the same table.
        Balancer::attach(&host, &key, &with(Policy::Random)).unwrap();
        assert_eq!(recent(), [0, 0]);
        assert_eq!(deal(&listeners, 6).iter().sum::<usize>(), 6);
        let third = more(key.address, 1);
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(recent(), [0, 0, 0]);
        drop(third);
    });
}

#[test]
fn a_foreign_program_is_replaced_only_by_force() {
    alone(|| {
        let listeners = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &listeners[0]);
        Balancer::attach(&host, &key, &with(Policy::Hash)).unwrap();
        // A foreign program replaces ours.
        let object = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/select.bpf.o");
        let mut theirs = sk_reuseport::Ebpf::load_file(object).unwrap();
        let program: &mut SkReuseport =
            theirs.program_mut("reuseport").unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(&listeners[0]).unwrap();
        assert_eq!(host.status(&key).unwrap().steering, Steering::Foreign);
        let error = Balancer::attach(&host, &key, &with(Policy::Hash)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign);
        // The first one removes the displaced state; then there is none.
        assert!(reuseport::detach(&host, &key).unwrap().displaced_by.is_some());
        assert_eq!(reuseport::detach(&host, &key).unwrap_err().kind(), ErrorKind::Foreign);
        let force = with(Policy::RoundRobin).force(true);
        let (_, attached) = Balancer::attach(&host, &key, &force).unwrap();
        assert_eq!(attached.replaced.unwrap().id, Some(program.info().unwrap().id()));
        assert_eq!(deal(&listeners, 20), [10, 10]);
    });
}

#[test]
fn detaching_where_no_program_is_attached_is_refused() {
    alone(|| {
        let listeners = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &listeners[0]);
        assert_eq!(reuseport::detach(&host, &key).unwrap_err().kind(), ErrorKind::NotAttached);
        Balancer::attach(&host, &key, &with(Policy::Hash)).unwrap();
        SkReuseport::detach(&listeners[1]).unwrap();
        assert_eq!(host.status(&key).unwrap().steering, Steering::KernelHash);
        assert_eq!(reuseport::detach(&host, &key).unwrap_err().kind(), ErrorKind::NotAttached);
        // Leftover state is gone and does not prevent attaching again.
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&listeners, 20), [10, 10]);
        reuseport::detach(&host, &key).unwrap();
        assert_eq!(std::fs::read_dir("/sys/fs/bpf/reuseport/groups").unwrap().count(), 0);
        assert!(!std::path::Path::new("/sys/fs/bpf/reuseport/host").exists());
    });
}
