//! Two programs count, because the kernel skips one that is running on the same CPU already.

use std::fs;
use std::path::PathBuf;

use test_support::wait::{self, BOUND};

use super::{Scene, ends_at_zero, none_open};

const PROGRAMS: [&str; 2] = ["count_open", "count_nested"];

/// The walk that finds what both missed.
const WALK: &str = "recount";

fn pin(program: &str) -> PathBuf {
    ["/sys/fs/bpf/reuseport/host", program].iter().collect()
}

fn opens_and_closes(scene: &Scene) {
    drop(scene.pairs(3));
    none_open();
}

/// What one misses, the other counts.
#[test]
fn each_program_counts_alone() {
    for program in PROGRAMS {
        ends_at_zero(2, |scene| {
            fs::remove_file(pin(program)).unwrap();
            opens_and_closes(scene);
        });
    }
}

/// A connection that is open when one of the two comes or goes is counted once all the same.
#[test]
fn a_program_that_is_missing_is_attached_by_the_next_change() {
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

/// Neither program sees them end: the next look does.
#[test]
fn what_ends_unseen_is_found_by_the_next_look() {
    ends_at_zero(2, |scene| {
        let mut pairs = scene.pairs(8);
        for program in PROGRAMS {
            fs::remove_file(pin(program)).unwrap();
        }
        wait::until("nobody counts any more", BOUND, || {
            let before = scene.counted();
            let _connection = (scene.connect(1), scene.accept(1));
            scene.counted() == before
        });
        let counted = scene.counted();
        assert!(counted >= 8, "{counted}");
        drop(pairs.drain(2..));
        assert_eq!(scene.counted(), counted);
        scene.attach();
        wait::until("they are found", BOUND, || scene.open().iter().sum::<u64>() == 2);
        assert_eq!(scene.counted(), 2);
        drop(pairs);
        none_open();
        opens_and_closes(scene);
    });
}

#[test]
fn without_either_nothing_is_counted_and_nobody_claims_otherwise() {
    ends_at_zero(2, |scene| {
        for program in PROGRAMS {
            fs::remove_file(pin(program)).unwrap();
        }
        assert!(scene.open().is_empty());
    });
}
