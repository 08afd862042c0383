//! The checks of a group.

use std::time::Duration;

use rustix::io::Errno;
use sk_reuseport::programs::SkReuseport;
use test_support::wait::{self, BOUND};
use zerocopy::IntoBytes as _;

use super::{Group, MEMBERS};
use crate::conformance::group::{Bound, Member, Protocol, set_sysctl};
use crate::conformance::orders::{Order, Outcome};
use crate::fixtures::{errno, ready};

/// An order for a member in the middle.
const ORDER: Order = Order { index: 7, index_for_ack: 7, leave_to_kernel: 0 };

impl Group {
    /// Every field of the context is right.
    pub(super) fn context(&self) {
        const ETH_P_IP: u16 = 0x0800;
        const ETH_P_IPV6: u16 = 0x86dd;
        const AF_INET: u32 = 2;
        const AF_INET6: u32 = 10;

        let (client, member) = self.deliver(ORDER);
        assert_eq!(member as u32, ORDER.index);
        let (sight, from) = (self.program.sight(), client.address());
        let eth_protocol = if self.at.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 };
        assert_eq!(sight.eth_protocol, u32::from(eth_protocol.to_be()));
        assert_eq!(sight.ip_protocol, self.protocol.number());
        assert_eq!(sight.bind_inany, u32::from(self.bound.is_any()));
        // The transport header and the payload. UDP's header has 8 bytes, TCP's 20 and options.
        assert_eq!(sight.len, sight.header + size_of::<Order>() as u32);
        assert!(sight.header == 8 || (self.protocol == Protocol::Tcp && sight.header >= 20));
        assert!((sight.header..=sight.len).contains(&sight.direct), "{sight:?}");
        assert_eq!((sight.source(), u32::from(from.port())), (from.ip(), sight.source_port));
        let at = (self.at.ip(), u32::from(self.at.port()));
        assert_eq!((sight.destination(), sight.destination_port), at);
        // The socket that the kernel found.
        let family = if self.bound.address().is_ipv4() { AF_INET } else { AF_INET6 };
        assert_eq!((sight.sk_family, sight.sk_port), (family, u32::from(self.at.port())));
        assert_eq!((sight.migrating, sight.error), (0, 0));
        self.program.assert_only(Outcome::Selected, 1);
    }

    /// Each index selects the socket that was stored there.
    pub(super) fn each_index(&self) {
        for index in 0..MEMBERS {
            let (_, member) = self.deliver(Order { index, ..ORDER });
            assert_eq!(member as u32, index);
            assert_eq!(self.program.cookie(index), Some(self.members[member].cookie()));
        }
        self.program.assert_only(Outcome::Selected, u64::from(MEMBERS));
    }

    /// Without a map to select from, the program drops.
    pub(super) fn missing_map(&mut self) {
        self.program.remove_map();
        self.assert_refused(ORDER.as_bytes());
        self.program.assert_only(Outcome::NoMap, 1);
    }

    /// The program cannot read beyond the data, and drops.
    pub(super) fn too_short(&self) {
        let order = ORDER;
        let bytes = order.as_bytes();
        self.assert_refused(&bytes[..bytes.len() - 1]);
        self.assert_refused(&[]);
        self.program.assert_only(Outcome::NoOrder, 2);
    }

    /// An index beyond the map selects nothing.
    pub(super) fn out_of_range(&self) {
        for (times, index) in (1..).zip([MEMBERS, u32::MAX]) {
            self.assert_refused(Order { index, ..ORDER }.as_bytes());
            self.assert_not_selected(Errno::NOENT, times);
        }
    }

    /// The index of a closed member selects nothing, and the others select the same members.
    pub(super) fn closed_member(&mut self) {
        drop(self.members.remove(ORDER.index as usize));
        // The kernel removes the socket from the map some time after close(2).
        let program = &self.program;
        wait::until("the index is empty", BOUND, || program.cookie(ORDER.index).is_none());
        self.assert_refused(ORDER.as_bytes());
        self.assert_not_selected(Errno::NOENT, 1);
        let (_, member) = self.deliver(Order { index: ORDER.index + 1, ..ORDER });
        assert_eq!(member as u32, ORDER.index, "the next one moved up");
    }

    /// A socket of another group is not selected. The error names the difference.
    pub(super) fn other_group(&mut self) {
        let other_protocol = match self.protocol {
            Protocol::Tcp => Protocol::Udp,
            Protocol::Udp => Protocol::Tcp,
        };
        let (same, other) = match self.bound.address().is_ipv4() {
            true => (Bound::LoopbackV4, Bound::LoopbackV6),
            false => (Bound::LoopbackV6, Bound::LoopbackV4),
        };
        let strangers = [
            (Errno::PROTOTYPE, other_protocol, same),
            (Errno::AFNOSUPPORT, self.protocol, other),
            (Errno::BADFD, self.protocol, same),
        ];
        self.program.clear(ORDER.index);
        for (times, (errno, protocol, bound)) in (1..).zip(strangers) {
            let stranger = Member::group(protocol, bound.address(), 1).remove(0);
            self.program.store(ORDER.index, &stranger);
            self.assert_refused(ORDER.as_bytes());
            self.assert_not_selected(errno, times);
            self.program.clear(ORDER.index);
            assert_eq!(ready(&[stranger], Duration::ZERO), None);
        }
    }

    /// If selecting fails and the program passes, the hash in the context decides, scaled to the
    /// number of sockets.
    pub(super) fn kernel_hash(&self) {
        const CLIENTS: u64 = 16;

        let order = Order { index: MEMBERS, index_for_ack: MEMBERS, leave_to_kernel: 1 };
        let mut chosen = Vec::new();
        for _ in 0..CLIENTS {
            let (_, member) = self.deliver(order);
            let sight = self.program.sight();
            assert_eq!(Errno::from_raw_os_error(-sight.error), Errno::NOENT);
            // reciprocal_scale, in reuseport_select_sock_by_hash.
            let scaled = (u64::from(sight.hash) * u64::from(MEMBERS)) >> 32;
            assert_eq!(member as u64, scaled);
            chosen.push(member);
        }
        self.program.assert_only(Outcome::LeftToKernel, CLIENTS);
        chosen.dedup();
        assert!(chosen.len() > 1, "one hash for all clients");
    }

    /// A detached program does not run, and detaching again fails, until it is attached again.
    pub(super) fn detach(&mut self) {
        let middle = self.members.len() / 2;
        SkReuseport::detach(&self.members[middle]).unwrap();
        for member in [&self.members[middle], &self.members[0]] {
            let error = SkReuseport::detach(member).unwrap_err();
            assert_eq!(errno(&error), Some(Errno::NOENT), "{error}");
        }
        // An order that the program would refuse.
        self.deliver(Order { index: MEMBERS, ..ORDER });
        assert_eq!(self.program.outcomes().iter().sum::<u64>(), 0, "a detached program ran");
        self.program.attach(&self.members[middle]);
        let (_, member) = self.deliver(ORDER);
        assert_eq!(member as u32, ORDER.index);
        self.program.assert_only(Outcome::Selected, 1);
    }

    /// With SYN cookies the program runs at the SYN and at the ACK that returns the cookie. The
    /// second choice counts.
    pub(super) fn syn_cookies(&self) {
        const ALWAYS: u32 = 2;

        set_sysctl("net/ipv4/tcp_syncookies", ALWAYS);
        let order = Order { index: 3, index_for_ack: 12, leave_to_kernel: 0 };
        let (client, member) = self.deliver(order);
        assert_eq!(member as u32, order.index_for_ack);
        self.program.assert_only(Outcome::Selected, 2);
        let sight = self.program.sight();
        assert_eq!(sight.source_port, u32::from(client.address().port()));
        assert_eq!(sight.len, sight.header + size_of::<Order>() as u32);
    }

    #[track_caller]
    fn assert_not_selected(&self, errno: Errno, times: u64) {
        assert_eq!(Errno::from_raw_os_error(-self.program.sight().error), errno);
        self.program.assert_only(Outcome::NotSelected, times);
    }
}
