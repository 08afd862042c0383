//! Records that a program queues for user space.

use std::time::Duration;

use sk_reuseport::maps::{MapData, RingBuf};
use test_support::netns;

use crate::fixtures::*;
use crate::maps::{Operation, order, working};

fn records(ebpf: &sk_reuseport::Ebpf) -> RingBuf<&MapData> {
    ebpf.map("records").unwrap().try_into().unwrap()
}

/// The record that `record_small` writes.
fn small(argument: u64) -> Vec<u8> {
    [argument.to_ne_bytes(), (!argument).to_ne_bytes()].concat()
}

/// The record that `record_large` writes.
fn large(argument: u32) -> Vec<u8> {
    let rest = (0..992u32).map(|i| argument.wrapping_add(i) as u8);
    u64::from(argument).to_ne_bytes().into_iter().chain(rest).collect()
}

#[test]
fn records_come_in_order_and_discarded_ones_not_at_all() {
    netns::isolated(|| {
        let (group, ebpf) = working();
        let mut records = records(&ebpf);
        assert!(records.next().is_none());
        order(&group, Operation::RecordDiscarded, 0);
        order(&group, Operation::RecordSmall, 1);
        order(&group, Operation::RecordDiscarded, 0);
        order(&group, Operation::RecordDiscarded, 0);
        order(&group, Operation::RecordLarge, 2);
        order(&group, Operation::RecordSmall, 3);
        order(&group, Operation::RecordDiscarded, 0);
        assert_eq!(*records.next().unwrap(), *small(1));
        assert_eq!(*records.next().unwrap(), *large(2));
        assert_eq!(*records.next().unwrap(), *small(3));
        assert!(records.next().is_none());
        assert!(records.next().is_none());
    });
}

#[test]
fn records_that_cross_the_end_are_in_one_piece() {
    netns::isolated(|| {
        let (group, ebpf) = working();
        let mut records = records(&ebpf);
        // Four records of 1008 bytes fill the 4096. Those of 24 bytes shift the next ones.
        for round in 0..40u32 {
            order(&group, Operation::RecordLarge, 3 * round);
            order(&group, Operation::RecordSmall, 3 * round + 1);
            order(&group, Operation::RecordLarge, 3 * round + 2);
            assert_eq!(*records.next().unwrap(), *large(3 * round));
            assert_eq!(*records.next().unwrap(), *small(u64::from(3 * round + 1)));
            assert_eq!(*records.next().unwrap(), *large(3 * round + 2));
            assert!(records.next().is_none());
        }
        assert_eq!(counted(&ebpf, Counter::Missed), 0);
    });
}

#[test]
fn a_full_queue_drops_records_until_one_is_consumed() {
    netns::isolated(|| {
        let (group, ebpf) = working();
        let mut records = records(&ebpf);
        for argument in 0..6 {
            order(&group, Operation::RecordLarge, argument);
        }
        // Four records of 1008 bytes fit into 4096 bytes; the kernel keeps a byte free.
        assert_eq!(counted(&ebpf, Counter::Missed), 2);
        let held = records.next().unwrap();
        order(&group, Operation::RecordLarge, 6);
        assert_eq!(counted(&ebpf, Counter::Missed), 3, "a record takes space until it is dropped");
        assert_eq!(*held, *large(0));
        drop(held);
        order(&group, Operation::RecordLarge, 7);
        assert_eq!(counted(&ebpf, Counter::Missed), 3);
        for argument in [1, 2, 3, 7] {
            assert_eq!(*records.next().unwrap(), *large(argument));
        }
        assert!(records.next().is_none());
    });
}

#[test]
fn its_descriptor_is_readable_when_there_is_a_record() {
    netns::isolated(|| {
        let (group, ebpf) = working();
        let mut records = records(&ebpf);
        assert_eq!(ready(&[&records], Duration::ZERO), None);
        std::thread::scope(|scope| {
            // A thread waits in poll(2) while the record is written.
            let waiting = scope.spawn(|| ready(&[&records], test_support::wait::BOUND));
            order(&group, Operation::RecordSmall, 1);
            assert_eq!(waiting.join().unwrap(), Some(0));
        });
        assert_eq!(ready(&[&records], Duration::ZERO), Some(0));
        drop(records.next().unwrap());
        assert_eq!(ready(&[&records], Duration::ZERO), None);
    });
}

#[test]
fn a_later_reader_continues_where_the_last_one_stopped() {
    netns::isolated(|| {
        let (group, mut ebpf) = working();
        order(&group, Operation::RecordSmall, 1);
        order(&group, Operation::RecordSmall, 2);
        assert_eq!(*records(&ebpf).next().unwrap(), *small(1));
        let mut owned: RingBuf<MapData> = ebpf.take_map("records").unwrap().try_into().unwrap();
        assert_eq!(*owned.next().unwrap(), *small(2));
        assert!(owned.next().is_none());
        assert_eq!(owned.map_data().max_entries(), 4096);
    });
}

#[test]
fn sizes_are_rounded_up_to_what_the_kernel_takes() {
    let page = rustix::param::page_size() as u32;
    // A size of a mebibyte times a page overflowed once.
    for (wanted, given) in [(1, page), (page + 1, 2 * page), (1 << 20, 1 << 20)] {
        let ebpf =
            sk_reuseport::EbpfLoader::new().map_max_entries("records", wanted).load(MAPS).unwrap();
        assert_eq!(records(&ebpf).map_data().max_entries(), given);
    }
    for refused in [0, u32::MAX] {
        let result = sk_reuseport::EbpfLoader::new().map_max_entries("records", refused).load(MAPS);
        assert!(report(&result.unwrap_err()).contains("records"));
    }
}
