//! Arrays of maps: replacing a table is atomic.

use rustix::io::Errno;
use sk_reuseport::maps::{Array, ArrayOfMaps, MapData, MapError};
use test_support::netns;

use crate::fixtures::*;
use crate::maps::{Operation, order, working};

const TABLE: u32 = 64;

fn table(value: u32) -> Array<MapData, u32> {
    let mut table: Array<_, u32> = Array::create_named("table", TABLE, 0).unwrap();
    for index in 0..TABLE {
        table.set(index, value, 0).unwrap();
    }
    table
}

#[test]
fn a_program_sees_the_old_table_or_the_new_one_whole() {
    /// Each replacement takes a grace period.
    const REPLACED: u32 = 20;
    netns::isolated(|| {
        let (group, mut ebpf) = working();
        let tables = ebpf.take_map("tables").unwrap();
        let mut tables: ArrayOfMaps<_> = tables.try_into().unwrap();
        order(&group, Operation::ReadTable, 0);
        tables.set(0, table(0).map_data(), 0).unwrap();

        let reads = std::thread::scope(|scope| {
            let replacing = scope.spawn(|| {
                let mut spare = table(1);
                for value in 0..REPLACED {
                    let next = table(value);
                    tables.set(0, next.map_data(), 0).unwrap();
                    // No program reads the previous table any more: it can be refilled at once.
                    for index in 0..TABLE {
                        spare.set(index, u32::MAX - index, 0).unwrap();
                    }
                    spare = next;
                }
            });
            let mut reads = 0;
            while !replacing.is_finished() {
                order(&group, Operation::ReadTable, 0);
                reads += 1;
            }
            replacing.join().unwrap();
            reads
        });
        assert!(reads > u64::from(REPLACED), "hardly read under load: {reads} times");
        let findings: Array<_, u64> = ebpf.map("findings").unwrap().try_into().unwrap();
        let found: Vec<u64> = findings.iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(found, [reads, 0, 1], "whole, torn, no table");
    });
}

#[test]
fn elements_are_maps_like_the_pattern() {
    let pattern = table(0);
    let mut tables = ArrayOfMaps::create("tables", 2, pattern.map_data()).unwrap();
    assert!(matches!(tables.get(&0, 0), Err(MapError::KeyNotFound)));
    tables.set(0, pattern.map_data(), 0).unwrap();
    assert_eq!(tables.get(&0, 0).unwrap(), pattern.map_data().info().unwrap().id());
    tables.remove(0).unwrap();
    assert_eq!(errno(&tables.remove(0).unwrap_err()), Some(Errno::NOENT));
    assert!(matches!(tables.set(2, pattern.map_data(), 0), Err(MapError::OutOfBounds { .. })));

    let longer: Array<_, u32> = Array::create(2 * TABLE, 0).unwrap();
    let error = tables.set(0, longer.map_data(), 0).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::INVAL));

    // With the flag, inner maps may have any length.
    let inner = Array::<MapData, u32>::INNER_MAP;
    let short: Array<_, u32> = Array::create(1, inner).unwrap();
    let long: Array<_, u32> = Array::create(1000, inner).unwrap();
    let mut tables = ArrayOfMaps::create("tables", 1, short.map_data()).unwrap();
    tables.set(0, long.map_data(), 0).unwrap();
    tables.set(0, short.map_data(), 0).unwrap();
}
