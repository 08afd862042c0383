//! A UDP member that connects to a peer and disconnects again, which members of a group should not
//! do.

use std::net::{SocketAddr, UdpSocket};

use rstest::rstest;
use rustix::io::Errno;
use rustix::net::connect_unspec;
use sk_reuseport::util::KernelVersion;
use test_support::netns;
use zerocopy::IntoBytes as _;

use crate::conformance::group::{Bound, Client, Member, Protocol, receiver};
use crate::conformance::orders::{MapType, Order, Outcome, Program};
use crate::fixtures::errno;
use Bound::*;

/// The member that connects. It was bound last, to a given port: the first one, for which the
/// kernel chose the port, would lose it by disconnecting.
const CONNECTED: usize = 2;

/// An order for the member that connects.
const FOR_IT: Order = Order { index: CONNECTED as u32, index_for_ack: 0, leave_to_kernel: 0 };

/// An order for another member.
const FOR_ANOTHER: Order = Order { index: 0, index_for_ack: 0, leave_to_kernel: 0 };

#[rstest]
fn a_member_that_connects_and_disconnects(
    #[values(LoopbackV4, AnyV4, LoopbackV6, AnyV6)] bound: Bound,
) {
    netns::isolated(|| {
        let group = Group::new(bound);
        let peer = UdpSocket::bind(bound.reached_at(0)).unwrap();
        group.connected().connect(peer.local_addr().unwrap()).unwrap();
        // Later kernels remove a socket from its group when it connects. Earlier ones do so only if
        // connecting changes its address. Stable kernels in between may do either.
        if group.program.cookie(FOR_IT.index).is_none() {
            group.assert_outside(&peer);
        } else {
            assert!(KernelVersion::current().unwrap() < KernelVersion::new(6, 18, 0));
            group.assert_inside(&peer);
        }
    });
}

struct Group {
    bound: Bound,
    members: Vec<Member>,
    program: Program,
}

impl Group {
    fn new(bound: Bound) -> Self {
        let members = Member::group(Protocol::Udp, bound.address(), CONNECTED + 1);
        let mut program = Program::load(MapType::SockArray);
        for (index, member) in (0..).zip(&members) {
            program.store(index, member);
        }
        program.attach(&members[0]);
        Self { bound, members, program }
    }

    fn connected(&self) -> &UdpSocket {
        match &self.members[CONNECTED] {
            Member::Udp(socket) => socket,
            Member::Tcp(_) => unreachable!("they are UDP sockets"),
        }
    }

    /// The member that receives a stranger's order.
    #[track_caller]
    fn stranger_reaches(&self, order: Order) -> usize {
        let _stranger = Client::send(Protocol::Udp, self.at(), order.as_bytes()).unwrap();
        receiver(&self.members, order.as_bytes())
    }

    /// The member that receives the peer's order.
    #[track_caller]
    fn peer_reaches(&self, peer: &UdpSocket, order: Order) -> usize {
        peer.send_to(order.as_bytes(), self.at()).unwrap();
        receiver(&self.members, order.as_bytes())
    }

    fn at(&self) -> SocketAddr {
        self.bound.reached_at(self.members[0].address().port())
    }

    /// While connected, the member only receives from its peer. Disconnected, it stays outside the
    /// group and receives everything, whether or not the program runs: the kernel finds it before
    /// the group, or, with `::1`, prefers it because its score still counts the former peer
    /// (udp6_lib_lookup2).
    fn assert_outside(mut self, peer: &UdpSocket) {
        assert!(Client::is_refused(Protocol::Udp, self.at(), FOR_IT.as_bytes()));
        self.program.assert_only(Outcome::NotSelected, 1);
        assert_eq!(self.peer_reaches(peer, FOR_ANOTHER), CONNECTED);
        self.program.assert_only(Outcome::NotSelected, 1);

        connect_unspec(self.connected()).unwrap();
        assert_eq!(self.program.cookie(FOR_IT.index), None);
        assert_eq!(self.stranger_reaches(FOR_ANOTHER), CONNECTED);
        let error = self.program.try_attach(&self.members[CONNECTED]).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::INVAL), "{error}");
    }

    /// While connected, the member keeps its index and receives from strangers too. Disconnected,
    /// it is a member as before.
    fn assert_inside(self, peer: &UdpSocket) {
        assert_eq!(self.stranger_reaches(FOR_IT), CONNECTED);
        assert_eq!(self.stranger_reaches(FOR_ANOTHER), FOR_ANOTHER.index as usize);
        assert_eq!(self.peer_reaches(peer, FOR_ANOTHER), CONNECTED);

        connect_unspec(self.connected()).unwrap();
        assert_eq!(self.program.cookie(FOR_IT.index), Some(self.members[CONNECTED].cookie()));
        assert_eq!(self.stranger_reaches(FOR_IT), CONNECTED);
        assert_eq!(self.stranger_reaches(FOR_ANOTHER), FOR_ANOTHER.index as usize);
    }
}
