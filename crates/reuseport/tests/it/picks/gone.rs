//! Where connections and datagrams go when the table is empty. None is dropped, and the counters
//! show who decided.

use std::net::SocketAddr;

use reuseport::id::{Slot, State};
use reuseport::status::Steering;
use reuseport::{Host, MemberChange, Policy};
use rustix::net::{Shutdown, listen, shutdown};
use test_support::wait::{self, BOUND};

use crate::common::steered::Steered;
use crate::common::traffic::{Connections, Datagrams, Members};
use crate::common::world::alone;

const MEMBERS: usize = 4;

/// How many are sent at a time: a multiple of the members.
const SENT: usize = 40;

/// Members that round-robin steers.
struct Case<'a, M> {
    members: M,
    steered: Steered<'a>,
}

fn case<M: Members>(at: SocketAddr, check: impl Fn(Case<'_, M>) + Sync) {
    alone(|| {
        let host = Host::open().unwrap();
        // Not the first socket: a shutdown releases a port that the kernel chose.
        let mut members = M::new(at, 1);
        members.open(MEMBERS);
        members.close(1);
        let steered = Steered::new(&host, M::PROTOCOL, members.address(), Policy::RoundRobin);
        check(Case { members, steered });
    });
}

/// Runs a generic case for TCP and UDP over IPv4 and IPv6.
macro_rules! cases {
    ($($(#[$note:meta])* $name:ident),* $(,)?) => { $(
        $(#[$note])*
        #[test]
        fn $name() {
            for at in ["127.0.0.1:0", "[::1]:0"] {
                let at: SocketAddr = at.parse().unwrap();
                case::<Connections>(at, |case| case.$name());
                case::<Datagrams>(at, |case| case.$name());
            }
        }
    )* };
}

cases!(
    all_have_weight_0,
    all_are_standby,
    all_that_had_a_slot_are_closed,
    all_are_closed_and_opened
);

impl<M: Members> Case<'_, M> {
    /// Sends, waits until all have arrived, and counts the arrivals by member.
    #[track_caller]
    fn deal(&mut self) -> Vec<usize> {
        let mut dealt = vec![0; self.members.count()];
        (0..SENT).for_each(|_| self.members.send(0));
        wait::until("everything arrives", BOUND, || {
            self.members.receive(|member, _| dealt[member] += 1);
            dealt.iter().sum::<usize>() == SENT
        });
        dealt
    }

    #[track_caller]
    fn assert_picks(&self, expected: &[usize]) {
        let picks: Vec<_> = (0..MEMBERS).map(|slot| self.steered.picks_of(slot) as usize).collect();
        assert_eq!(picks, expected);
    }

    /// They are draining members, and take turns.
    fn all_have_weight_0(mut self) {
        self.steered.set_weights(&[0; MEMBERS]);
        assert_eq!(self.deal(), [SENT / MEMBERS; MEMBERS]);
        self.steered.assert_counters(&[("fallback_draining", SENT as u64)]);
        self.assert_picks(&[SENT / MEMBERS; MEMBERS]);

        // The third member gets the turns of two that are closed.
        self.members.close(2);
        assert_eq!(self.deal(), [3 * SENT / MEMBERS, SENT / MEMBERS]);
        self.steered.assert_counters(&[("fallback_draining", 2 * SENT as u64)]);
        self.assert_picks(&[10, 10, 40, 20]);
    }

    /// The program selects none of them; the hash of the kernel does.
    fn all_are_standby(mut self) {
        let change = |state| {
            let change = |slot| MemberChange::new(Slot::new(slot)).state(state);
            (0..MEMBERS as u16).map(change).collect::<Vec<_>>()
        };
        self.steered.change(&change(State::Standby));
        self.deal();
        self.steered.assert_counters(&[("fallback_kernel", SENT as u64)]);
        self.assert_picks(&[0; MEMBERS]);

        self.steered.change(&change(State::Active));
        assert_eq!(self.deal(), [SENT / MEMBERS; MEMBERS]);
        let both = [("picks", SENT as u64), ("fallback_kernel", SENT as u64)];
        self.steered.assert_counters(&both);
        self.assert_picks(&[SENT / MEMBERS; MEMBERS]);
    }

    /// The only member has no slot yet: the hash of the kernel selects it.
    fn all_that_had_a_slot_are_closed(mut self) {
        self.members.open(1);
        self.members.close(MEMBERS);
        assert_eq!(self.deal(), [SENT]);
        let left = [("fallback_kernel", SENT as u64), ("empty_slot", SENT as u64)];
        self.steered.assert_counters(&left);
        self.assert_picks(&[0; MEMBERS]);

        self.steered.attach_again();
        assert_eq!(self.deal(), [SENT]);
        let [kernel, empty] = left;
        self.steered.assert_counters(&[("picks", SENT as u64), kernel, empty]);
    }

    /// The group and the attachment end with the last member; the pins stay.
    fn all_are_closed_and_opened(mut self) {
        assert_eq!(self.deal(), [SENT / MEMBERS; MEMBERS]);
        self.members.close(MEMBERS);
        self.members.open(MEMBERS);
        assert_eq!(self.steered.status().steering, Steering::KernelHash);
        self.deal();

        self.steered.attach_again();
        self.steered.assert_counters(&[("picks", SENT as u64)]);
        assert_eq!(self.deal(), [SENT / MEMBERS; MEMBERS]);
        self.steered.assert_counters(&[("picks", 2 * SENT as u64)]);
    }
}

/// Like closing and opening, but the sockets are the same, and each keeps its slot.
#[test]
fn all_stop_listening_and_listen_again() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        case(at.parse().unwrap(), |mut case: Case<'_, Connections>| {
            assert_eq!(case.deal(), [SENT / MEMBERS; MEMBERS]);
            for listener in &case.members.members {
                shutdown(listener, Shutdown::Both).unwrap();
            }
            for listener in &case.members.members {
                listen(listener, SENT as i32).unwrap();
            }
            assert_eq!(case.steered.status().steering, Steering::KernelHash);
            case.deal();

            case.steered.attach_again();
            assert_eq!(case.deal(), [SENT / MEMBERS; MEMBERS]);
            case.steered.assert_counters(&[("picks", 2 * SENT as u64)]);
            case.assert_picks(&[2 * SENT / MEMBERS; MEMBERS]);
        });
    }
}
