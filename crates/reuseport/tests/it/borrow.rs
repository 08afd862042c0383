//! Borrowing sockets from other processes.

use crate::common::helper::Helper;
use crate::common::{cookie, only_group, tcp};
use reuseport::borrow::borrow;
use reuseport::group::Member;
use reuseport::{ErrorKind, Host};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::os::fd::AsRawFd;
use test_support::netns::isolated;
use test_support::wait;

fn only_member(host: &Host) -> Member {
    only_group(host).members.remove(0)
}

/// A member that only the helper holds.
fn foreign_member(host: &Host) -> (Helper, Member) {
    let helper = Helper::holding(&tcp("127.0.0.1:0"), "hold");
    let member = held_by(&[helper.pid()], host);
    (helper, member)
}

/// The only member, as soon as exactly these processes hold it: until execve, a child of another
/// test has copies of all descriptors.
fn held_by(pids: &[u32], host: &Host) -> Member {
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    wait::until_some(&format!("the holders to be {pids:?}"), wait::BOUND, || {
        let mut group = only_group(host);
        (group.pids() == pids).then(|| group.members.remove(0))
    })
}

#[test]
fn a_socket_of_another_process_is_borrowed_and_given_back() {
    isolated(|| {
        let host = Host::open().unwrap();
        let (helper, member) = foreign_member(&host);
        let borrowed = borrow(&member).unwrap();
        assert_eq!(Some(cookie(&borrowed)), member.cookie);
        // While it is borrowed, this process is a holder too.
        held_by(&[helper.pid(), std::process::id()], &host);
        drop(borrowed);
        assert_eq!(held_by(&[helper.pid()], &host), member);
    });
}

#[test]
fn a_socket_of_this_process_can_be_borrowed() {
    isolated(|| {
        let socket = tcp("127.0.0.1:0");
        let member = only_member(&Host::open().unwrap());
        assert_eq!(cookie(borrow(&member).unwrap()), cookie(&socket));
    });
}

#[test]
fn a_socket_is_borrowed_from_the_next_holder_if_the_first_one_closed_it() {
    isolated(|| {
        let (helper, mut member) = foreign_member(&Host::open().unwrap());
        // Descriptors of another socket and of a file, and process ids that cannot exist.
        let other = tcp("127.0.0.1:0");
        let file = std::fs::File::open("/dev/null").unwrap();
        let known = member.holders[0].clone();
        let holder = |pid, fd| {
            let mut holder = known.clone();
            (holder.pid, holder.fd) = (pid, fd);
            holder
        };
        let own = std::process::id();
        let no_such_pid = 1 << 22;
        member.holders.splice(
            0..0,
            [
                holder(own, other.as_raw_fd() as u32),
                holder(own, file.as_raw_fd() as u32),
                holder(own, 999_999),
                holder(no_such_pid, 0),
                holder(0, 0),
                holder(u32::MAX, u32::MAX),
            ],
        );
        assert_eq!(Some(cookie(borrow(&member).unwrap())), member.cookie);

        helper.kill();
        let error = borrow(&member).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Vanished, "{error}");
    });
}

#[test]
fn a_process_that_has_ended_lends_nothing() {
    isolated(|| {
        let (helper, member) = foreign_member(&Host::open().unwrap());
        helper.kill();
        let error = borrow(&member).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Vanished, "{error}");
    });
}

#[test]
fn borrowing_without_the_right_to_trace_names_the_capability() {
    isolated(|| {
        let (_helper, member) = foreign_member(&Host::open().unwrap());
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::SYS_PTRACE;
        sets.permitted -= CapabilitySet::SYS_PTRACE;
        set_capabilities(None, sets).unwrap();
        let error = borrow(&member).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.report().to_string().contains("CAP_SYS_PTRACE"), "{error}");
    });
}

#[test]
fn a_member_without_visible_holders_cannot_be_borrowed() {
    isolated(|| {
        let _socket = tcp("127.0.0.1:0");
        let mut member = only_member(&Host::open().unwrap());
        member.holders.clear();
        let error = borrow(&member).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.hint().unwrap().to_string().contains("pid namespace"), "{error}");
    });
}
