//! A supervisor in a world of processes that start, get ready and end at any moment.

mod world;

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use self::world::{LIMITS, Process, World};
use super::*;

fn id(generation: u32, index: u16) -> WorkerId {
    WorkerId { generation, index }
}

#[test]
fn it_starts_when_all_workers_are_ready() {
    let mut world = World::new();
    assert_eq!((world.processes.len(), world.held.len()), (3, 3));
    world.ready(id(1, 1));
    world.ready(id(1, 2));
    assert_eq!((world.held.len(), world.announced), (1, 0));
    world.ready(id(1, 3));
    assert_eq!((world.held.len(), world.announced), (0, 1));
    world.handle(Event::Stop);
    assert_eq!(world.exit, None);
    world.obey();
    assert_eq!((world.exit, world.answers.len()), (Some(0), 0));
}

#[test]
fn a_worker_that_ends_is_held_and_started_again_with_its_sockets() {
    let mut world = World::serves(1);
    world.die(id(1, 2));
    assert_eq!(world.held, BTreeSet::from([id(1, 2)]));
    assert!(world.closed.is_empty());
    world.pass(Duration::from_millis(99));
    assert_eq!(world.processes.len(), 2);
    world.pass(Duration::from_millis(1));
    assert_eq!((world.processes.len(), world.held.len()), (3, 1));
    world.ready(id(1, 2));
    assert!(world.held.is_empty());
    // It was ready for long: it is started soon again.
    world.pass(Duration::from_secs(10));
    world.die(id(1, 2));
    let pause = Tale::Again(id(1, 2), Duration::from_millis(100));
    assert_eq!(world.tales.iter().filter(|tale| **tale == pause).count(), 2);
}

#[test]
fn one_that_ends_again_and_again_is_given_up_and_the_others_go_on() {
    let mut world = World::serves(1);
    for _ in 0..GIVE_UP {
        world.die(id(1, 2));
        world.pass(Duration::from_secs(3));
    }
    assert!(world.tales.contains(&Tale::GivenUp(id(1, 2))));
    assert_eq!((world.processes.len(), &world.closed), (2, &BTreeSet::from([id(1, 2)])));
    world.pass(Duration::from_secs(3600));
    assert_eq!((world.processes.len(), world.exit), (2, None));
    // The next generation has all of them.
    world.reload(None).unwrap();
    world.finish();
    assert_eq!((world.serving, world.processes.len()), (2, 3));
    // If all are given up, it exits.
    for _ in 0..3 * GIVE_UP {
        world
            .processes
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|id| world.die(id));
        world.pass(Duration::from_secs(3));
    }
    assert_eq!(world.exit, Some(3));
}

/// tableflip: "No old code keeps running after a successful upgrade."
#[test]
fn no_old_code_runs_when_a_reload_is_done() {
    for stubborn in [false, true] {
        let mut world = World::serves(1);
        world.reload(None).unwrap();
        world.all_ready();
        world.pass(LIMITS.probation);
        world.handle(Event::Drained);
        assert!(world.answers.is_empty());
        match stubborn {
            false => world.obey(),
            true => {
                world.pass(LIMITS.stop);
                let kill = |id: &WorkerId| world.processes[id].asked == Some(Force::Kill);
                assert!((1..=3).all(|index| kill(&id(1, index))));
                world.obey();
            }
        }
        assert_eq!(world.answers, [Outcome::Done { generation: 2, killed: stubborn }]);
        assert!(world.processes.keys().all(|id| id.generation == 2));
    }
}

/// tableflip: "The new process has a grace period for performing initialisation."
#[test]
fn a_new_generation_has_time_to_get_ready() {
    let mut world = World::serves(1);
    world.reload(None).unwrap();
    world.pass(LIMITS.ready - Duration::from_secs(1));
    assert_eq!((world.serving, world.processes.len()), (1, 6));
    world.all_ready();
    assert_eq!(world.serving, 2);
    world.finish();
    // Not longer.
    world.reload(None).unwrap();
    world.ready(id(3, 2));
    world.pass(LIMITS.ready);
    world.obey();
    let why = Why::NotReady(vec![id(3, 1), id(3, 3)]);
    assert_eq!(world.answers.last(), Some(&Outcome::RolledBack { generation: 3, why }));
    assert_eq!((world.serving, world.processes.len()), (2, 3));
}

/// tableflip: "Crashing during initialisation is OK."
#[test]
fn a_new_generation_that_dies_is_taken_back() {
    // Before it is ready; on trial; on probation.
    for phase in 0..3 {
        let mut world = World::serves(1);
        world.reload((phase == 1).then_some(Duration::from_secs(300))).unwrap();
        if phase > 0 {
            world.all_ready();
        }
        world.pass(LIMITS.probation - Duration::from_secs(1));
        assert_eq!(world.serving, if phase == 2 { 2 } else { 1 });
        world.die(id(2, 3));
        assert_eq!(world.serving, 1);
        world.obey();
        let why = Why::Died(id(2, 3));
        assert_eq!(world.answers, [Outcome::RolledBack { generation: 2, why }]);
        assert_eq!(world.processes.keys().collect::<Vec<_>>(), [&id(1, 1), &id(1, 2), &id(1, 3)]);
        assert!(world.processes.values().all(|process| process.asked.is_none()));
        // The number of a generation is not used again.
        assert_eq!(world.reload(None), Ok(3));
    }
}

/// tableflip: "Only a single upgrade is ever run in parallel."
#[test]
fn a_second_reload_is_refused() {
    let mut world = World::serves(1);
    world.reload(None).unwrap();
    assert_eq!(world.reload(None), Err(Busy { stops: false }));
    world.handle(Event::Stop);
    assert_eq!(world.answers, [Outcome::Stopped]);
    assert_eq!(world.reload(None), Err(Busy { stops: true }));
}

#[test]
fn an_old_worker_that_ends_on_probation_is_there_for_a_rollback() {
    let mut world = World::serves(1);
    world.reload(None).unwrap();
    world.all_ready();
    world.die(id(1, 1));
    world.pass(Duration::from_secs(1));
    assert!(world.processes.contains_key(&id(1, 1)));
    world.die(id(2, 1));
    world.finish();
    assert_eq!((world.serving, world.processes.len(), world.held.len()), (1, 3, 0));
}

#[test]
fn a_new_generation_that_dies_after_its_probation_gives_way_while_an_old_one_is_left() {
    let mut world = World::serves(1);
    world.reload(None).unwrap();
    world.all_ready();
    world.pass(LIMITS.probation);
    for _ in 0..GIVE_UP {
        (1..=3).for_each(|index| world.die(id(2, index)));
        world.pass(Duration::from_secs(2));
    }
    assert_eq!(world.serving, 1);
    let why = Why::GivenUp;
    assert_eq!(world.answers, [Outcome::RolledBack { generation: 2, why }]);
    assert_eq!(world.exit, None);
}

#[test]
fn a_group_that_cannot_be_changed_leaves_the_old_generation_serving() {
    for trial in [None, Some(Duration::from_secs(1))] {
        let mut world = World::serves(1);
        world.reload(trial).unwrap();
        world.steers = false;
        world.all_ready();
        world.obey();
        let why = Why::Steering;
        assert_eq!(world.answers, [Outcome::RolledBack { generation: 2, why }]);
        assert_eq!(world.reload(trial), Ok(3));
        assert_eq!(world.answers.len(), 2);
    }
}

#[test]
fn after_a_supervisor_was_killed_a_reload_is_finished_or_taken_back() {
    let now = Instant::now();
    let all = |generation| (1..=3).map(move |index| (id(generation, index), true));
    let resumed = |serving| {
        let machine = Machine::resume(LIMITS, serving, all(1).chain(all(2)), now);
        let mut world = World::with(machine, now);
        world.serving = serving;
        for (id, _) in all(1).chain(all(2)) {
            world.processes.insert(id, Process { ready: true, asked: None });
        }
        world.settle();
        world.finish();
        world
    };
    let world = resumed(1);
    let why = Why::Interrupted;
    assert_eq!(world.answers, [Outcome::RolledBack { generation: 2, why }]);
    assert_eq!(world.processes.len(), 3);
    assert_eq!(world.announced, 1);
    let world = resumed(2);
    assert_eq!(world.answers, [Outcome::Done { generation: 2, killed: false }]);
    assert!(world.processes.keys().all(|id| id.generation == 2));
    // One that has ended meanwhile is started.
    let machine = Machine::resume(LIMITS, 1, [(id(1, 1), true), (id(1, 2), false)], now);
    let mut world = World::with(machine, now);
    world.processes.insert(id(1, 1), Process { ready: true, asked: None });
    world.settle();
    assert_eq!((world.processes.len(), world.held.len()), (2, 1));
}

#[derive(Debug, Clone)]
enum Step {
    Ready(u16),
    AllReady,
    Die(u16),
    Obey,
    Pass(u64),
    Drained,
    Reload(Option<u64>),
    Steers(bool),
    Starts(bool),
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u16).prop_map(Step::Ready),
        3 => Just(Step::AllReady),
        4 => (0..6_u16).prop_map(Step::Die),
        3 => Just(Step::Obey),
        4 => (1..40_000_u64).prop_map(Step::Pass),
        2 => Just(Step::Drained),
        3 => proptest::option::of(1..20_u64).prop_map(Step::Reload),
        1 => any::<bool>().prop_map(Step::Steers),
        1 => any::<bool>().prop_map(Step::Starts),
    ]
}

fn all_steps() -> impl Strategy<Value = Vec<Step>> {
    (vec(step(), 0..80), any::<bool>()).prop_map(|(mut steps, stops)| {
        if stops {
            steps.insert(steps.len() / 2, Step::Stop);
        }
        steps
    })
}

proptest! {
    /// The world asserts at each action: one reload at a time; no old worker is asked to end before the new ones'
    /// probation is over and one of them is ready; only what is ready is promoted; no worker runs twice, or without its
    /// sockets; a reload is answered when the other generation has ended. Here: whatever happened, it comes to rest, with
    /// one generation, whose living workers are ready and not held; or it has exited.
    #[test]
    fn any_sequence_keeps_the_promises(steps in all_steps()) {
        let mut world = World::new();
        for step in steps {
            let nth = |n: u16| world.processes.keys().nth(usize::from(n)).copied();
            match step {
                Step::Ready(n) => nth(n).into_iter().for_each(|id| world.ready(id)),
                Step::AllReady => world.all_ready(),
                Step::Die(n) => nth(n).into_iter().for_each(|id| world.die(id)),
                Step::Obey => world.obey(),
                Step::Pass(milliseconds) => world.pass(Duration::from_millis(milliseconds)),
                Step::Drained => world.handle(Event::Drained),
                Step::Reload(trial) => drop(world.reload(trial.map(Duration::from_secs))),
                Step::Steers(steers) => world.steers = steers,
                Step::Starts(starts) => world.starts = starts,
                Step::Stop => world.handle(Event::Stop),
            }
        }
        world.finish();
        if world.exit.is_none() {
            prop_assert_eq!(&world.machine.phase, &Phase::Idle);
            prop_assert_eq!(world.machine.serving(), world.serving);
            prop_assert!(!world.processes.is_empty());
            for (id, process) in &world.processes {
                prop_assert_eq!(id.generation, world.serving);
                prop_assert!(process.ready && process.asked.is_none() && !world.held.contains(id));
            }
            prop_assert_eq!(world.reload, None);
            prop_assert!(world.reload(None).is_ok());
        }
        prop_assert!(!world.stopping || world.exit.is_some());
    }
}
