//! Members that no process has a descriptor of.

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use reuseport::group::Group;
use reuseport::status::State;
use reuseport::{Attach, Balancer, ErrorKind, Host, MemberChange, Policy, Unborrowable, Weight};
use rustix::io::Errno;
use rustix::net::ipproto;
use sk_reuseport::fault::{Call, Verdict, intercept};
use test_support::InFlight;
use test_support::netns::isolated;
use test_support::process::close;
use test_support::wait;

use super::reasons;
use crate::common::helper::Helper;
use crate::common::steering::followed;
use crate::common::world::{
    accept_all, alone, deal, fails_to_attach, key_at, key_of, listeners, more, nothing_pinned,
    object, one_line, with, with_object,
};
use crate::common::{cookie, groups_here, local_address, only_group, tcp, udp};

const HIDDEN: Option<Unborrowable> = Some(Unborrowable::NoHolder);

fn round_robin(partial: bool) -> Attach {
    with(Policy::RoundRobin).partial(partial)
}

#[test]
fn a_socket_without_a_visible_descriptor_is_a_member() {
    for open in [tcp, udp] {
        isolated(|| {
            let host = Host::open().unwrap();
            let seen = open("127.0.0.1:0");
            let address = local_address(&seen).to_string();
            let second = open(&address);
            let known = cookie(&second);
            let second = InFlight::send(second);
            // No process has asked for the cookie of this one.
            let third = InFlight::send(open(&address));

            let group = wait::until_some("two hidden members", wait::BOUND, || {
                let group = only_group(&host);
                let hidden = group.members.iter().filter(|m| m.unborrowable() == HIDDEN).count();
                (hidden == 2).then_some(group)
            });
            assert!(group.complete);
            let reasons = reasons(&group);
            assert_eq!(reasons.get(&Some(cookie(&seen))), Some(&None));
            assert_eq!(reasons.get(&Some(known)), Some(&HIDDEN));
            assert_eq!(reasons.get(&None), Some(&HIDDEN), "{reasons:?}");

            let second = second.receive();
            wait::until("it has a holder again", wait::BOUND, || {
                only_group(&host).member(known).unwrap().unborrowable().is_none()
            });
            close((seen, second, third));
            wait::until("the group ends", wait::BOUND, || groups_here(&host).is_empty());
        });
    }
}

#[test]
fn a_group_of_hidden_members_alone_is_listed() {
    isolated(|| {
        let host = Host::open().unwrap();
        let hidden = InFlight::send(tcp("127.0.0.1:0"));
        wait::until("a hidden member", wait::BOUND, || {
            let groups = groups_here(&host);
            groups.len() == 1 && groups[0].members[0].unborrowable() == HIDDEN
        });
        drop(hidden);
    });
}

#[test]
fn members_of_another_pid_namespace_are_hidden() {
    isolated(|| {
        let own = tcp("127.0.0.1:0");
        let helpers = tcp(&local_address(&own).to_string());
        // Also gives them cookies: the helper cannot ask for that of a socket it does not hold.
        let name = |socket: &OwnedFd, why: &str| format!("{}:{why}", cookie(socket));
        let mut expected = [name(&own, "no-holder"), name(&helpers, "-")];
        expected.sort();
        // Inside, only the helper's own member has a holder.
        let helper = Helper::in_pid_namespace(&helpers, "reasons");
        assert_eq!(helper.said(), expected.join(" "));
    });
}

#[test]
fn a_udp_table_of_the_namespaces_own_is_read_through_descriptors() {
    isolated(|| {
        let setting = "/proc/sys/net/ipv4/udp_child_hash_entries";
        // Linux 6.2. It belongs to the namespace of the thread that opens it.
        if std::fs::write(setting, "128").is_err() {
            return;
        }
        isolated(|| {
            let first = udp("127.0.0.1:0");
            let second = udp(&local_address(&first).to_string());
            let listener = tcp("127.0.0.1:0");
            let groups = groups_here(&Host::open().unwrap());
            let udp = groups.iter().find(|group| group.member(cookie(&first)).is_some()).unwrap();
            assert!(udp.member(cookie(&second)).is_some(), "{udp:?}");
            let tcp = groups.iter().find(|group| group.member(cookie(&listener)).is_some());
            assert!(tcp.unwrap().complete);
        });
    });
}

#[test]
fn a_group_of_a_namespace_with_a_udp_table_of_its_own_is_attached_from_another() {
    alone(|| {
        if std::fs::write("/proc/sys/net/ipv4/udp_child_hash_entries", "128").is_err() {
            return; // before Linux 6.2
        }
        let sockets = isolated(|| {
            let first = udp("127.0.0.1:0");
            let second = udp(&local_address(&first).to_string());
            [first, second]
        });
        let host = Host::open().unwrap();
        let groups = host.groups().unwrap();
        let is_theirs = |group: &&Group| group.member(cookie(&sockets[0])).is_some();
        let group = groups.iter().find(is_theirs).unwrap();
        assert!(!group.complete);
        let (_, attached) = Balancer::attach(&host, &group.key, &Attach::default()).unwrap();
        assert_eq!(attached.changes.enrolled.len(), sockets.len());
    });
}

#[test]
fn attaching_refuses_to_starve_a_hidden_member_unless_that_is_accepted() {
    alone(|| {
        let seen = listeners(2);
        let address = seen[0].local_addr().unwrap();
        let late = more(address, 1).remove(0);
        let hidden_cookie = cookie(&late);
        let hidden = InFlight::send(late);
        let host = Host::open().unwrap();
        let key = key_of(&host, &seen[0]);
        // Until execve, a child of another test has a copy.
        wait::until("it is hidden", wait::BOUND, || {
            host.refresh(&key).unwrap().member(hidden_cookie).unwrap().unborrowable() == HIDDEN
        });

        let error = Balancer::attach(&host, &key, &round_robin(false)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Starved, "{error:?}");
        let text = one_line(&error);
        assert!(text.contains(&format!("cookie:{hidden_cookie}")), "{text}");
        assert!(text.contains("no visible process") && text.contains("--partial"), "{text}");
        assert!(nothing_pinned());
        assert!(host.refresh(&key).unwrap().program.is_none());

        let (balancer, attached) = Balancer::attach(&host, &key, &round_robin(true)).unwrap();
        let [left_out] = &attached.changes.left_out[..] else { panic!("{attached:?}") };
        assert_eq!((left_out.cookie, left_out.is_starving()), (Some(hidden_cookie), true));
        assert_eq!(host.status(&key).unwrap().unsteered(), 1);
        assert_eq!(deal(&seen, 20), [10, 10]);
        assert_eq!(picks_of_enrolled(&host, &key), [10, 10]);
        // The same without the option: it would still get nothing.
        let error = Balancer::attach(&host, &key, &Attach::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Starved);

        // It can be enrolled as soon as a process has it.
        let back = TcpListener::from(hidden.receive());
        let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(attached.changes.enrolled, [hidden_cookie]);
        let all: Vec<TcpListener> = seen.into_iter().chain([back]).collect();
        assert_eq!(deal(&all, 30), [10, 10, 10]);
        balancer.detach().unwrap();
    });
}

#[test]
fn a_udp_socket_that_comes_while_a_hidden_member_is_awaited_is_not_enrolled() {
    alone(|| {
        let seen = udp("127.0.0.1:0");
        let address = local_address(&seen).to_string();
        let hidden = udp(&address);
        let hidden_cookie = cookie(&hidden);
        let hidden = InFlight::send(hidden);
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", local_address(&seen));
        wait::until("it is hidden", wait::BOUND, || {
            host.refresh(&key).unwrap().member(hidden_cookie).unwrap().unborrowable() == HIDDEN
        });
        // The group is listed by three iterators, because a member is hidden. The next one looks again for its
        // holder. A socket that has just been bound may be about to connect.
        let late: Rc<RefCell<Option<OwnedFd>>> = Rc::default();
        let (comes, mut looks) = (Rc::clone(&late), 0);
        let bind = move |call| {
            looks += usize::from(call == Call::BpfIterCreate);
            if looks == 4 {
                comes.borrow_mut().get_or_insert_with(|| udp(&address));
            }
            Verdict::Allow
        };
        let (balancer, attached) =
            intercept(bind, || Balancer::attach(&host, &key, &round_robin(true))).unwrap();
        assert!(late.borrow().is_some());
        assert_eq!(attached.changes.enrolled, [cookie(&seen)]);
        let left_out: Vec<_> = attached.changes.left_out.iter().map(|out| out.cookie).collect();
        assert_eq!(left_out, [Some(hidden_cookie)]);
        assert_eq!(host.status(&key).unwrap().unsteered(), 2);
        balancer.detach().unwrap();
        drop(hidden);
    });
}

/// The hidden member could not be put back into the array.
#[test]
fn a_failed_replacement_goes_back_to_the_policy_with_the_hidden_members() {
    alone(|| {
        let mut all = listeners(3);
        let host = Host::open().unwrap();
        let key = key_of(&host, &all[0]);
        let (balancer, _) = Balancer::attach(&host, &key, &round_robin(false)).unwrap();
        let before = host.status(&key).unwrap();
        let first = all.remove(0);
        let known = cookie(&first);
        let hidden = InFlight::send(first);
        wait::until("it is hidden", wait::BOUND, || {
            host.refresh(&key).unwrap().member(known).unwrap().unborrowable() == HIDDEN
        });

        let replacement = with_object(object("first")).partial(true);
        let attach = || Balancer::attach(&host, &key, &replacement);
        // Through each of the two other members.
        intercept(fails_to_attach(2, Errno::NOMEM), attach).unwrap_err();
        let after = host.status(&key).unwrap();
        assert_eq!(after.steering, before.steering);
        assert_eq!(after.group.program, before.group.program);
        assert_eq!(after.unsteered(), 0);
        let all: Vec<TcpListener> = std::iter::once(hidden.receive().into()).chain(all).collect();
        assert_eq!(deal(&all, 30), [10, 10, 10]);
        balancer.detach().unwrap();
    });
}

fn picks_of_enrolled(host: &Host, key: &reuseport::group::GroupKey) -> Vec<u64> {
    let status = host.status(key).unwrap();
    status.members.iter().filter_map(|m| m.enrolment.as_ref()?.picks).collect()
}

#[test]
fn a_member_that_is_merely_not_seen_keeps_its_slot_weight_and_drain() {
    alone(|| {
        let mut all = listeners(3);
        let host = Host::open().unwrap();
        let key = key_of(&host, &all[0]);
        let (balancer, _) = Balancer::attach(&host, &key, &round_robin(false)).unwrap();
        let of = |slot: usize| host.status(&key).unwrap().members[slot].enrolment.clone().unwrap();
        let change = |slot, weight, state| MemberChange::new(slot).weight(weight).state(state);
        let (first, second) = (of(0).slot, of(1).slot);
        let weight = Weight::new(3);
        let changes = [change(first, weight, None), change(second, None, Some(State::Draining))];
        balancer.change_members(&changes).unwrap();

        let third = all.pop().unwrap();
        let cookies = [cookie(&all[0]), cookie(&all[1])];
        let hidden: Vec<InFlight> = all.into_iter().map(InFlight::send).collect();
        wait::until("two are hidden", wait::BOUND, || {
            let group = host.refresh(&key).unwrap();
            cookies.iter().all(|c| group.member(*c).unwrap().unborrowable() == HIDDEN)
        });
        let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert!(attached.changes.is_empty(), "{attached:?}");
        assert_eq!((of(0).weight, of(1).state), (weight.unwrap(), State::Draining));
        assert_eq!(host.status(&key).unwrap().unsteered(), 0);

        // 3 of 4 go to the hidden member.
        let before = picks_of_enrolled(&host, &key);
        let clients: Vec<_> =
            (0..8).map(|_| std::net::TcpStream::connect(key.address).unwrap()).collect();
        let picks: Vec<u64> =
            picks_of_enrolled(&host, &key).iter().zip(before).map(|(n, b)| n - b).collect();
        assert_eq!(picks, [6, 0, 2]);
        drop(clients);

        // They close: the kernel empties their slots.
        close(hidden);
        wait::until("their slots are freed", wait::BOUND, || {
            Balancer::attach(&host, &key, &Attach::default()).unwrap();
            host.status(&key).unwrap().members.len() == 1
        });
        let third = [third];
        // What waited at them has migrated.
        accept_all(&third[0]);
        assert_eq!(deal(&third, 4), [4]);
    });
}

/// Updates a group of which a hidden member closes before the `nth` slot is read. Returns whether that was read.
fn update_while_it_closes(nth: usize) -> bool {
    let mut all = listeners(2);
    let host = Host::open().unwrap();
    let key = key_of(&host, &all[0]);
    let (balancer, _) = Balancer::attach(&host, &key, &round_robin(false)).unwrap();
    let second = all.remove(1);
    let known = cookie(&second);
    let mut hidden = Some(InFlight::send(second));
    wait::until("it is hidden", wait::BOUND, || {
        host.refresh(&key).unwrap().member(known).unwrap().unborrowable() == HIDDEN
    });
    let read = Rc::new(Cell::new(0));
    let count = Rc::clone(&read);
    let closes = move |call| {
        if call == Call::BpfMapLookupElem && count.replace(count.get() + 1) == nth {
            close(hidden.take());
        }
        Verdict::Allow
    };
    let update = || Balancer::attach(&host, &key, &Attach::default());
    let (_, attached) =
        intercept(closes, update).unwrap_or_else(|e| panic!("slot {nth}: {}", e.report()));
    let left_out = &attached.changes.left_out;
    assert!(left_out.iter().all(|left| left.cookie == Some(known) && !left.is_starving()));
    if read.get() > nth {
        update().unwrap();
        assert_eq!(host.status(&key).unwrap().members.len(), 1);
        assert_eq!(deal(&all, 4), [4]);
    }
    balancer.detach().unwrap();
    read.get() > nth
}

#[test]
fn a_hidden_member_that_closes_after_it_was_listed_is_no_failure() {
    alone(|| {
        let slots = (0..).take_while(|nth| update_while_it_closes(*nth)).count();
        assert!(slots >= 4, "{slots}");
    });
}

#[test]
fn a_watcher_goes_on_without_a_member_that_cannot_be_enrolled() {
    alone(|| {
        let seen = listeners(2);
        let key = key_of(&Host::open().unwrap(), &seen[0]);
        followed(&key, |group| {
            let late = more(key.address, 1).remove(0);
            let late_cookie = cookie(&late);
            let hidden = InFlight::send(late);
            wait::until("it is reported", wait::BOUND, || {
                let reports = group.reports();
                reports.iter().any(|report| {
                    report.contains("no visible process")
                        && report.contains(&late_cookie.to_string())
                }) || reports.iter().any(|report| report.contains(&late_cookie.to_string()))
            });
            let third = more(key.address, 1);
            wait::until("the next one is enrolled all the same", wait::BOUND, || {
                let status = group.host.status(&key).unwrap();
                let of = |m: &&reuseport::status::MemberStatus| m.enrolment.is_some();
                status.members.iter().filter(of).any(|m| m.member.cookie == Some(cookie(&third[0])))
            });
            let told = || {
                let reports = group.reports();
                reports.iter().filter(|report| report.contains("no visible process")).count()
            };
            let before = told();
            let again = TcpListener::from(hidden.receive());
            group.settled(4);
            assert!(told() <= before + 1, "it is reported once, not at every look");
            drop(again);
        });
    });
}

/// An MPTCP listener; `None` if the kernel has none.
fn mptcp(address: &str) -> Option<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let address: std::net::SocketAddr = address.parse().unwrap();
    let (family, flags) = (AddressFamily::INET, SocketFlags::CLOEXEC);
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::MPTCP)).ok()?;
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    bind(&socket, &address).unwrap();
    listen(&socket, 64).unwrap();
    Some(socket)
}

#[test]
fn an_mptcp_listener_is_a_member_that_no_program_can_select() {
    alone(|| {
        let seen = listeners(1);
        let address = seen[0].local_addr().unwrap();
        let Some(mptcp) = mptcp(&address.to_string()) else { return };
        let host = Host::open().unwrap();
        let key = key_of(&host, &seen[0]);
        let group = host.refresh(&key).unwrap();
        assert_eq!(group.members.len(), 2, "{group:?}");
        let member = group.members.iter().find(|member| member.mptcp).unwrap();
        assert_eq!(member.unborrowable(), Some(Unborrowable::Mptcp));
        let own = std::process::id();
        assert!(member.holders.iter().any(|holder| holder.pid == own), "{member:?}");

        let error = Balancer::attach(&host, &key, &round_robin(false)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Starved);
        assert!(one_line(&error).contains("MPTCP"), "{error:?}");
        let (balancer, attached) = Balancer::attach(&host, &key, &round_robin(true)).unwrap();
        assert_eq!(attached.changes.left_out.len(), 1);
        assert_eq!(deal(&seen, 6), [6]);
        assert_eq!(picks_of_enrolled(&host, &key), [6]);
        let status = host.status(&key).unwrap();
        assert_eq!(picks_of_enrolled(&host, &key).len() + status.unsteered(), 2);
        balancer.detach().unwrap();
        close(mptcp.as_fd());
    });
}
