//! Valid objects, cut off and changed at random.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sk_reuseport::KernelBtf;

use super::*;
use crate::fixtures::*;

/// The number of changed objects. The environment variable `PROPTEST_CASES` can raise it.
const CASES: u32 = 3000;

#[test]
fn slow_objects_cut_off_at_every_byte() {
    unharmed(|| {
        for object in [SELECT, LEGACY, PINNED, CLANG_19, AYA_LEGACY, AYA_BTF] {
            for length in 0..object.len() {
                // The last bytes may not matter.
                if load(&object[..length], None).is_ok() {
                    assert!(length > object.len() - 64, "{length} of {}", object.len());
                }
            }
        }
    });
}

#[derive(Debug, Clone)]
enum Change {
    /// One bit.
    Flip(Index, u8),
    /// Four bytes at a multiple of four, where lengths and offsets are.
    Word(Index, u32),
    /// A few bytes from another place in the object.
    Copy(Index, Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let interesting =
        prop::sample::select(vec![0, 1, 2, 7, 0x100, 0x7fff_ffff, 0x8000_0000, u32::MAX]);
    prop_oneof![
        4 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (any::<Index>(), interesting).prop_map(|(at, word)| Change::Word(at, word)),
        1 => (any::<Index>(), any::<Index>(), 1..32usize)
            .prop_map(|(to, from, length)| Change::Copy(to, from, length)),
    ]
}

fn apply(object: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = object.to_vec();
    for change in changes {
        match change {
            Change::Flip(at, bit) => bytes[at.index(object.len())] ^= 1 << bit,
            Change::Word(at, word) => {
                let at = at.index(object.len() / 4) * 4;
                bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
            Change::Copy(to, from, length) => {
                let length = (*length).min(object.len());
                let end = object.len() - length + 1;
                let from = from.index(end);
                bytes.copy_within(from..from + length, to.index(end));
            }
        }
    }
    bytes
}

#[test]
fn slow_objects_changed_at_random() {
    let kernel = KernelBtf::from_sys_fs().unwrap();
    unharmed(|| {
        let objects =
            [SELECT, MAPS, LEGACY, PINNED, TRACING, CLANG_19, AYA_LEGACY, AYA_BTF, REFUSED, OTHERS];
        let default = Config::default();
        let config =
            Config { cases: default.cases.max(CASES), failure_persistence: None, ..default };
        // The same changes in every run, so that failures are reproducible.
        let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(config, random);
        let changes = prop::collection::vec(change(), 1..12);
        let outcomes = RefCell::new(BTreeMap::<String, u32>::new());
        let cases = (prop::sample::select(objects.to_vec()), changes);
        let result = runner.run(&cases, |(object, changes)| {
            let result = load(&apply(object, &changes), Some(&kernel));
            let kind = result.map_or_else(|error| kind(&error), |()| "it loads".to_owned());
            *outcomes.borrow_mut().entry(kind).or_default() += 1;
            Ok(())
        });
        result.unwrap();
        let outcomes = outcomes.into_inner();
        println!("{outcomes:#?}");
        // The changes reach the parser, the maps and the verifier, and some do no harm.
        assert!(outcomes.len() > 5 && outcomes.contains_key("it loads"), "{outcomes:?}");
    });
}

/// The kind of an error.
fn kind(error: &str) -> String {
    error.split([':', '`']).next().unwrap_or_default().to_owned()
}
