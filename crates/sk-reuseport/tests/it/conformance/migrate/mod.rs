//! What becomes of connections whose listener closes: the kernel's `migrate_reuseport`, and more.

mod program;
mod stage;

use rstest::rstest;
use sk_reuseport::programs::SkReuseport;
use test_support::netns;

use crate::conformance::group::{Bound, set_sysctl};
use Bound::*;
use Decider::*;
use State::*;
use program::{Event, TARGET};
use stage::{CLIENTS, Stage};

/// How far the handshake is when the listener closes, and what moves the connection on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Complete: the connection waits to be accepted.
    Established,
    /// The client's first data is there and waits to be accepted (TCP Fast Open); its ACK is not.
    SynRecv,
    /// The SYN-ACK is on its way; the kernel sends it again when its timer expires.
    NewSynRecvTimer,
    /// The SYN-ACK is on its way; the client's ACK arrives.
    NewSynRecvAck,
}

impl State {
    pub(crate) fn is_new_syn_recv(self) -> bool {
        matches!(self, NewSynRecvTimer | NewSynRecvAck)
    }

    /// How the program counts it.
    fn event(self) -> Event {
        match self {
            Established => Event::EstablishedAtClose,
            SynRecv => Event::SynRecvAtClose,
            NewSynRecvTimer => Event::NewSynRecvAtTimer,
            NewSynRecvAck => Event::NewSynRecvAtAck,
        }
    }
}

/// Who says where connections go.
#[derive(Debug, Clone, Copy)]
enum Decider {
    /// A migrating program.
    Program,
    /// A migrating program that finds its map empty: the kernel's hash.
    EmptyMap,
    /// A migrating program that says SK_DROP: nobody.
    DroppingProgram,
    /// No program, and net.ipv4.tcp_migrate_req is 1: the kernel's hash.
    Sysctl,
    /// A program that only selects, and the same: the kernel's hash.
    SysctlAndSelectingProgram,
    /// A program that only selects: nobody.
    SelectingProgram,
    /// No program: nobody.
    Nobody,
}

/// Four listeners with 25 connections close one after the other; a fifth one stays.
#[rstest]
fn closing(
    #[values(LoopbackV4, LoopbackV6)] bound: Bound,
    #[values(Established, SynRecv, NewSynRecvTimer, NewSynRecvAck)] state: State,
    #[values(
        Program,
        EmptyMap,
        DroppingProgram,
        Sysctl,
        SysctlAndSelectingProgram,
        SelectingProgram,
        Nobody
    )]
    decider: Decider,
) {
    netns::isolated(|| {
        let mut stage = Stage::new(bound, state);
        put_in_charge(decider, &mut stage);
        stage.listeners.drain(..TARGET as usize).for_each(drop);
        match decider {
            Program | EmptyMap | Sysctl | SysctlAndSelectingProgram => stage.assert_all_arrive(0),
            DroppingProgram | SelectingProgram | Nobody => stage.assert_all_reset(),
        }
        assert_counts(decider, &stage);
    });
}

fn put_in_charge(decider: Decider, stage: &mut Stage) {
    let listener = &stage.listeners[1];
    match decider {
        Program => {}
        EmptyMap => stage.programs.clear(TARGET),
        DroppingProgram => stage.programs.attach("give_up", listener),
        SelectingProgram | SysctlAndSelectingProgram => {
            stage.programs.attach("only_deal", listener)
        }
        Sysctl | Nobody => SkReuseport::detach(listener).unwrap(),
    }
    let by_kernel = matches!(decider, Sysctl | SysctlAndSelectingProgram);
    set_sysctl("net/ipv4/tcp_migrate_req", by_kernel.into());
}

/// What the programs were asked, which tells in what state they found the connections.
fn assert_counts(decider: Decider, stage: &Stage) {
    let (programs, event) = (&stage.programs, stage.state.event());
    let dealt = (Event::Dealt, CLIENTS);
    match decider {
        Program | DroppingProgram => programs.assert_only(&[dealt, (event, CLIENTS)]),
        EmptyMap => {
            // The hash may choose one that closes next: then the program is asked again.
            let asked = programs.count(event);
            assert!(asked >= CLIENTS, "asked {asked} times");
            programs.assert_only(&[dealt, (event, asked), (Event::LeftToKernel, asked)]);
        }
        Sysctl | SysctlAndSelectingProgram | SelectingProgram | Nobody => {
            programs.assert_only(&[dealt]);
        }
    }
}

/// A listener that was shut down listens again and gets connections, by the kernel's choice where the
/// map is empty, by the program's where it is in the map again.
#[rstest]
fn listening_again(
    #[values(LoopbackV4, LoopbackV6)] bound: Bound,
    #[values(Established, SynRecv)] state: State,
) {
    const AGAIN: usize = 1; // the first one has no port of its own: see the rules

    netns::isolated(|| {
        let mut stage = Stage::new(bound, state);
        let (event, target) = (state.event(), TARGET as usize);
        (0..target).for_each(|source| stage.shut_down(source));
        stage.programs.assert_only(&[(Event::Dealt, CLIENTS), (event, CLIENTS)]);
        assert_eq!(stage.programs.occupied(), [TARGET]);

        // The map is empty when the target has gone, and the kernel knows one who listens.
        stage.listen(AGAIN);
        stage.shut_down(target);
        assert_eq!(stage.programs.occupied(), []);
        let left = (Event::LeftToKernel, CLIENTS);
        stage.programs.assert_only(&[(Event::Dealt, CLIENTS), (event, 2 * CLIENTS), left]);

        // The target listens again, and is in the map again.
        stage.listen(target);
        stage.programs.store(TARGET, &stage.listeners[target]);
        stage.shut_down(AGAIN);
        stage.programs.assert_only(&[(Event::Dealt, CLIENTS), (event, 3 * CLIENTS), left]);
        stage.assert_all_arrive(target);
    });
}
