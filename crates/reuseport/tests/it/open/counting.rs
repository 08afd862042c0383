//! Two programs count, because the kernel skips a program that already runs on the same CPU.

use std::fs;
use std::path::PathBuf;

use test_support::wait::{self, BOUND};

use super::{Scene, ends_at_zero, none_open};

const PROGRAMS: [&str; 2] = ["count_open", "count_nested"];

/// The iterator that recounts.
const WALK: &str = "recount";

fn pin(program: &str) -> PathBuf {
    ["/sys/fs/bpf/reuseport/host", program].iter().collect()
}

fn opens_and_closes(scene: &Scene) {
    drop(scene.pairs(3));
    none_open();
}

#[test]
fn each_program_counts_alone() {
    for program in PROGRAMS {
        ends_at_zero(2, |scene| {
            fs::remove_file(pin(program)).unwrap();
            opens_and_closes(scene);
        });
    }
}

/// A connection that is open when one of the two is removed or attached is still counted once.
#[test]
fn the_next_change_attaches_a_missing_program() {
    for program in PROGRAMS {
        ends_at_zero(2, |scene| {
            let before = scene.pairs(3);
            fs::remove_file(pin(program)).unwrap();
            let without = scene.pairs(3);
            scene.opens(6);
            fs::remove_file(pin(WALK)).unwrap();
            scene.attach();
            assert!(pin(program).exists() && pin(WALK).exists());
            assert_eq!(scene.open(), [3, 3]);
            drop((before, without));
            none_open();
            opens_and_closes(scene);
        });
    }
}

/// Removes the programs that count, and waits until neither counts any more.
fn stop_counting(scene: &Scene) {
    for program in PROGRAMS {
        fs::remove_file(pin(program)).unwrap();
    }
    wait::until("neither program counts", BOUND, || {
        let before = scene.counted();
        let _connection = (scene.connect(1), scene.accept(1));
        scene.counted() == before
    });
}

#[test]
fn the_next_recount_finds_connections_that_ended_unseen() {
    ends_at_zero(2, |scene| {
        let mut pairs = scene.pairs(8);
        stop_counting(scene);
        let counted = scene.counted();
        assert!(counted >= 8, "{counted}");
        drop(pairs.drain(2..));
        assert_eq!(scene.counted(), counted);
        scene.attach();
        wait::until("the recount finds them", BOUND, || scene.open().iter().sum::<u64>() == 2);
        assert_eq!(scene.counted(), 2);
        drop(pairs);
        none_open();
        opens_and_closes(scene);
    });
}

/// Clients keep their ends: the kernel still has the connections, in FIN_WAIT2.
#[test]
fn the_next_recount_finds_connections_that_workers_closed_unseen() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(8);
        stop_counting(scene);
        let clients: Vec<_> = pairs.into_iter().map(|pair| pair.client).collect();
        assert!(scene.counted() >= 8);
        scene.attach();
        wait::until("the recount finds them", BOUND, || scene.open().iter().sum::<u64>() == 0);
        // Their ends, which the programs see again, are not counted a second time.
        drop(clients);
        none_open();
        let more = scene.pairs(2);
        assert_eq!(scene.counted(), 2);
        drop(more);
    });
}

#[test]
fn without_both_programs_open_connections_are_unknown() {
    ends_at_zero(2, |scene| {
        for program in PROGRAMS {
            fs::remove_file(pin(program)).unwrap();
        }
        assert!(scene.open().is_empty());
    });
}
