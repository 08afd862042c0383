//! Connections whose listener is closed: the kernel's test `migrate_reuseport`, and more.

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

/// The state of the handshake when the listener is closed, and the event that migrates the
/// connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The connection is complete and waits to be accepted.
    Established,
    /// The client's first data has arrived and waits to be accepted (TCP Fast Open), its ACK has
    /// not.
    SynRecv,
    /// The SYN-ACK was sent. Its timer expires, and the kernel sends it again.
    NewSynRecvTimer,
    /// The SYN-ACK was sent. The client's ACK arrives.
    NewSynRecvAck,
}

impl State {
    pub(crate) fn is_new_syn_recv(self) -> bool {
        matches!(self, NewSynRecvTimer | NewSynRecvAck)
    }

    /// The counter of the program.
    fn event(self) -> Event {
        match self {
            Established => Event::EstablishedAtClose,
            SynRecv => Event::SynRecvAtClose,
            NewSynRecvTimer => Event::NewSynRecvAtTimer,
            NewSynRecvAck => Event::NewSynRecvAtAck,
        }
    }
}

/// What decides where connections migrate to.
#[derive(Debug, Clone, Copy)]
enum Decider {
    /// A migrating program.
    Program,
    /// A migrating program with an empty map: the kernel's hash decides.
    EmptyMap,
    /// A migrating program that returns SK_DROP: connections are reset.
    DroppingProgram,
    /// No program, and net.ipv4.tcp_migrate_req is 1: the kernel's hash decides.
    Sysctl,
    /// A program that only selects, and net.ipv4.tcp_migrate_req is 1: the kernel's hash decides.
    SysctlAndSelectingProgram,
    /// A program that only selects: connections are reset.
    SelectingProgram,
    /// No program: connections are reset.
    Nothing,
}

/// Four listeners with 25 connections are closed one after the other; a fifth one stays.
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
        Nothing
    )]
    decider: Decider,
) {
    netns::isolated(|| {
        let mut stage = Stage::new(bound, state);
        put_in_charge(decider, &mut stage);
        stage.listeners.drain(..TARGET as usize).for_each(drop);
        match decider {
            Program | EmptyMap | Sysctl | SysctlAndSelectingProgram => stage.assert_all_arrive(0),
            DroppingProgram | SelectingProgram | Nothing => stage.assert_all_reset(),
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
        Sysctl | Nothing => SkReuseport::detach(listener).unwrap(),
    }
    let by_kernel = matches!(decider, Sysctl | SysctlAndSelectingProgram);
    set_sysctl("net/ipv4/tcp_migrate_req", by_kernel.into());
}

/// Checks the programs' counters, which show the states of the connections.
fn assert_counts(decider: Decider, stage: &Stage) {
    let (programs, event) = (&stage.programs, stage.state.event());
    let dealt = (Event::Dealt, CLIENTS);
    match decider {
        Program | DroppingProgram => programs.assert_only(&[dealt, (event, CLIENTS)]),
        EmptyMap => {
            // The hash may choose a listener that is closed next: then the program runs again.
            let asked = programs.count(event);
            assert!(asked >= CLIENTS, "asked {asked} times");
            programs.assert_only(&[dealt, (event, asked), (Event::LeftToKernel, asked)]);
        }
        Sysctl | SysctlAndSelectingProgram | SelectingProgram | Nothing => {
            programs.assert_only(&[dealt]);
        }
    }
}

/// A listener that was shut down listens again and receives connections: by the kernel's choice if
/// the map is empty, by the program's if the listener is in the map again.
#[rstest]
fn listening_again(
    #[values(LoopbackV4, LoopbackV6)] bound: Bound,
    #[values(Established, SynRecv)] state: State,
) {
    const AGAIN: usize = 1; // the first one would lose its port: see `rules`

    netns::isolated(|| {
        let mut stage = Stage::new(bound, state);
        let (event, target) = (state.event(), TARGET as usize);
        (0..target).for_each(|source| stage.shut_down(source));
        stage.programs.assert_only(&[(Event::Dealt, CLIENTS), (event, CLIENTS)]);
        assert_eq!(stage.programs.occupied(), [TARGET]);

        // Without the target the map is empty, and one listener is left.
        stage.listen(AGAIN);
        stage.shut_down(target);
        assert_eq!(stage.programs.occupied(), []);
        let left = (Event::LeftToKernel, CLIENTS);
        stage.programs.assert_only(&[(Event::Dealt, CLIENTS), (event, 2 * CLIENTS), left]);

        // The target listens and is in the map again.
        stage.listen(target);
        stage.programs.store(TARGET, &stage.listeners[target]);
        stage.shut_down(AGAIN);
        stage.programs.assert_only(&[(Event::Dealt, CLIENTS), (event, 3 * CLIENTS), left]);
        stage.assert_all_arrive(target);
    });
}
