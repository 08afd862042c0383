//! Selecting sockets, and the program's context: the kernel's test `select_reuseport`, and more.

mod checks;

use std::net::SocketAddr;

use rstest::rstest;
use test_support::netns;
use zerocopy::IntoBytes as _;

use crate::conformance::group::{Bound, Client, Member, Protocol, allow_data_in_syns, receiver};
use crate::conformance::orders::{MapType, Order, Program};
use crate::fixtures::ready;
use Bound::*;
use Check::*;
use MapType::*;

/// The capacity of the program's maps.
const MEMBERS: u32 = 32;

/// The checks of a group. The functions in [`checks`] describe each.
#[derive(Debug, Clone, Copy)]
enum Check {
    Context,
    EachIndex,
    MissingMap,
    TooShort,
    OutOfRange,
    ClosedMember,
    OtherGroup,
    KernelHash,
    Detach,
    SynCookies,
}

#[rstest]
fn tcp(
    #[values(SockArray, SockMap, SockHash)] from: MapType,
    #[values(LoopbackV4, AnyV4, LoopbackV6, AnyV6, AnyV6ReachedByV4)] bound: Bound,
    #[values(
        Context,
        EachIndex,
        MissingMap,
        TooShort,
        OutOfRange,
        ClosedMember,
        OtherGroup,
        KernelHash,
        Detach,
        SynCookies
    )]
    check: Check,
) {
    run(from, Protocol::Tcp, bound, check);
}

#[rstest]
fn udp(
    #[values(SockArray, SockMap, SockHash)] from: MapType,
    #[values(LoopbackV4, AnyV4, LoopbackV6, AnyV6, AnyV6ReachedByV4)] bound: Bound,
    #[values(
        Context,
        EachIndex,
        MissingMap,
        TooShort,
        OutOfRange,
        ClosedMember,
        OtherGroup,
        KernelHash,
        Detach
    )]
    check: Check,
) {
    run(from, Protocol::Udp, bound, check);
}

fn run(from: MapType, protocol: Protocol, bound: Bound, check: Check) {
    netns::isolated(|| {
        let mut group = Group::new(from, protocol, bound);
        match check {
            Context => group.context(),
            EachIndex => group.each_index(),
            MissingMap => group.missing_map(),
            TooShort => group.too_short(),
            OutOfRange => group.out_of_range(),
            ClosedMember => group.closed_member(),
            OtherGroup => group.other_group(),
            KernelHash => group.kernel_hash(),
            Detach => group.detach(),
            SynCookies => group.syn_cookies(),
        }
    });
}

/// A group of 32 members with the program: index `i` holds member `i`.
struct Group {
    protocol: Protocol,
    bound: Bound,
    members: Vec<Member>,
    program: Program,
    /// The address for clients.
    at: SocketAddr,
}

impl Group {
    fn new(from: MapType, protocol: Protocol, bound: Bound) -> Self {
        allow_data_in_syns();
        let members = Member::group(protocol, bound.address(), MEMBERS as usize);
        let mut program = Program::load(from);
        for (index, member) in (0..).zip(&members) {
            program.store(index, member);
        }
        program.attach(&members[0]);
        let at = bound.reached_at(members[0].address().port());
        Self { protocol, bound, members, program, at }
    }

    /// Sends an order. Returns the client and the member that received it.
    #[track_caller]
    fn deliver(&self, order: Order) -> (Client, usize) {
        let client = Client::send(self.protocol, self.at, order.as_bytes()).unwrap();
        let member = receiver(&self.members, order.as_bytes());
        (client, member)
    }

    /// Sends a payload that no member may receive.
    #[track_caller]
    fn assert_refused(&self, payload: &[u8]) {
        assert!(Client::is_refused(self.protocol, self.at, payload), "not refused");
        let got = ready(&self.members, std::time::Duration::ZERO);
        assert_eq!(got, None, "a member received it");
    }
}
