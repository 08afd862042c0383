//! Programs are attached and detached many times under traffic: no connection is lost, and nothing
//! is left over in the process or in the kernel.

use std::alloc::System;
use std::fs;
use std::net::TcpListener;
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use reuseport::group::GroupKey;
use reuseport::{Balancer, Host, Policy};
use sk_reuseport::maps::{ArrayOfMaps, Map, MapData};
use sk_reuseport::programs::{ProgramInfo, SkReuseport};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use test_support::wait::{self, BOUND};
use test_support::{SetOnDrop, bpffs};

use crate::common::steered::Steered;
use crate::common::traffic::{Connections, Members};
use crate::common::world::{BY_OPEN, host_members, key_at, nothing_pinned, pins, program_in, with};
use crate::in_own_process;

/// How often the library attaches and detaches in a soak, in all groups together. Each time it loads a
/// program, makes a dozen maps and walks all descriptors of the host four times.
const SESSIONS: usize = 600;

/// How often a program that stays loaded is attached in a soak.
const ATTACHMENTS: usize = 10_000;

/// One cycle in this many is checked in detail.
const SAMPLE: usize = 10;

const GROUPS: usize = 8;
const MEMBERS: usize = 3;

/// Counts allocated bytes. Resident memory is no measure, because the allocator keeps freed memory
/// in an arena for each thread.
#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What threads of the test runner and of the standard library may keep allocated.
const HEAP_SLACK: usize = 16 << 10;

/// The resources of the process.
struct Process {
    descriptors: usize,
    heap_bytes: usize,
    /// Mappings of files and of BPF maps.
    mappings: usize,
}

impl Process {
    fn now() -> Self {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
        let heap = HEAP.stats();
        let heap_bytes = heap.bytes_allocated - heap.bytes_deallocated;
        let mappings = fs::read_to_string("/proc/self/maps").unwrap();
        let inode =
            |mapping: &str| mapping.split_ascii_whitespace().nth(4).map(|inode| inode != "0");
        let mappings = mappings.lines().filter_map(inode).filter(|inode| *inode).count();
        Self { descriptors, heap_bytes, mappings }
    }

    #[track_caller]
    fn assert_no_larger_than(&self, before: &Self) {
        let heap = self.heap_bytes.saturating_sub(before.heap_bytes);
        println!("{heap} bytes more allocated, {} mappings", self.mappings);
        assert_eq!(self.descriptors, before.descriptors);
        assert_eq!(self.mappings, before.mappings);
        assert!(heap <= HEAP_SLACK, "{heap} bytes were not freed");
    }
}

/// Runs `phase` for some turns, so that lasting allocations are made, then for all turns, and
/// asserts that the process has not grown.
fn without_growing(turns: usize, phase: impl Fn(&Host, usize)) {
    let host = Host::open().unwrap();
    phase(&host, turns.div_ceil(SAMPLE));
    let before = Process::now();
    phase(&host, turns);
    Process::now().assert_no_larger_than(&before);
}

/// A group under continuous traffic.
struct Group<'a> {
    key: GroupKey,
    /// A member.
    member: TcpListener,
    /// How many connections have been accepted and answered.
    answered: &'a AtomicU64,
    /// How many turns are left, for all groups together.
    left: &'a AtomicUsize,
}

impl Group<'_> {
    /// The number of the next turn, if one is left.
    fn turn(&self) -> Option<usize> {
        self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).ok()
    }

    fn wait_for_a_connection(&self) {
        let before = self.answered.load(SeqCst);
        wait::soon("a connection is answered", || self.answered.load(SeqCst) > before);
    }
}

/// Runs `run` on a thread for each group, with its own bpffs, while another thread makes
/// connections to all groups, each of which must be accepted and answered.
fn under_traffic(host: &Host, turns: usize, run: impl Fn(&Group<'_>) + Sync) {
    let at = "127.0.0.1:0".parse().unwrap();
    let mut members: Vec<_> = (0..GROUPS).map(|_| Connections::new(at, MEMBERS)).collect();
    let answered = [const { AtomicU64::new(0) }; GROUPS];
    let (left, over) = (AtomicUsize::new(turns), AtomicBool::new(false));
    let groups = members.iter().zip(&answered).map(|(connections, answered)| Group {
        key: key_at(host, "tcp", connections.address()),
        member: connections.members[0].try_clone().unwrap(),
        answered,
        left: &left,
    });
    let groups: Vec<_> = groups.collect();
    thread::scope(|scope| {
        let _until = SetOnDrop(&over);
        let clients = scope.spawn(|| connect_to_all(&mut members, &answered, &over));
        let run = &run;
        let groups = groups.into_iter().map(|group| {
            scope.spawn(move || {
                bpffs::private();
                run(&group);
            })
        });
        for group in groups.collect::<Vec<_>>() {
            group.join().unwrap_or_else(|cause| panic::resume_unwind(cause));
        }
        over.store(true, SeqCst);
        clients.join().unwrap_or_else(|cause| panic::resume_unwind(cause));
    });
    println!("{turns} turns, {answered:?} connections");
}

fn connect_to_all(groups: &mut [Connections], answered: &[AtomicU64], over: &AtomicBool) {
    while !over.load(SeqCst) {
        for (group, answered) in groups.iter_mut().zip(answered) {
            group.send(0);
            group.send(0);
            group.receive(|_, _| _ = answered.fetch_add(1, SeqCst));
        }
    }
}

/// The objects in the kernel of a steered group.
struct Objects {
    program: ProgramInfo,
    maps: Vec<u32>,
}

impl Objects {
    fn pinned_in(directory: &Path) -> Self {
        let program = program_in(directory);
        let maps = pins(directory).into_iter().filter(|pin| pin.is_file());
        let maps = maps.filter(|pin| !pin.ends_with("select"));
        let maps: Vec<MapData> = maps.map(|pin| MapData::from_pin(pin).unwrap()).collect();
        let ids: Vec<u32> = maps.iter().map(|map| map.info().unwrap().id()).collect();
        let tables = MapData::from_pin(program.join("tables")).unwrap();
        let tables: ArrayOfMaps<_> = Map::from_map_data(tables).unwrap().try_into().unwrap();
        assert!(ids.contains(&tables.get(&0, 0).unwrap()), "the table in force is pinned");
        let program = ProgramInfo::from_pin(program.join("select")).unwrap();
        let objects = Self { program, maps: ids };
        assert_eq!(objects.count(), 1 + objects.maps.len(), "all objects exist");
        objects
    }

    /// How many of them still exist.
    fn count(&self) -> usize {
        let maps = self.maps.iter().filter(|id| MapData::from_id(**id).is_ok()).count();
        usize::from(self.program.fd().is_ok()) + maps
    }
}

#[test]
fn slow_attaching_and_detaching_leaves_nothing_over() {
    in_own_process(|| attach_and_detach(wait::times(SESSIONS / 4)));
}

#[test]
#[ignore = "soak"]
fn soak_attaching_and_detaching_leaves_nothing_over() {
    in_own_process(|| attach_and_detach(SESSIONS));
}

fn attach_and_detach(turns: usize) {
    without_growing(turns, |host, turns| {
        under_traffic(host, turns, |group| attach_and_detach_group(host, group));
    });
}

fn attach_and_detach_group(host: &Host, group: &Group<'_>) {
    // Keeps the host layer, which would otherwise be made anew each time.
    let other = Connections::new("127.0.0.1:0".parse().unwrap(), 1);
    let other = Steered::new(host, "tcp", other.address(), BY_OPEN);
    while let Some(turn) = group.turn() {
        let policy = Policy::ALL[turn % Policy::ALL.len()];
        Balancer::attach(host, &group.key, &with(policy)).unwrap();
        let sample = turn.is_multiple_of(SAMPLE).then(|| {
            let counted = matches!(policy, Policy::LeastLoaded(_));
            assert_eq!(host_members(), if counted { MEMBERS + 1 } else { 1 });
            Objects::pinned_in(&other.only_directory_beside())
        });
        group.wait_for_a_connection();
        reuseport::detach(host, &group.key).unwrap();
        if let Some(objects) = sample {
            wait::until("nothing is left in the kernel", BOUND, || objects.count() == 0);
            assert_eq!(host_members(), 1);
        }
    }
    other.detach();
    assert!(nothing_pinned());
}

#[test]
fn slow_two_thousand_attachments_of_a_program() {
    in_own_process(|| attachments_of_a_program(wait::times(ATTACHMENTS / 5)));
}

#[test]
#[ignore = "soak"]
fn soak_ten_thousand_attachments_of_a_program() {
    in_own_process(|| attachments_of_a_program(ATTACHMENTS));
}

fn attachments_of_a_program(turns: usize) {
    without_growing(turns, |host, turns| {
        under_traffic(host, turns, |group| {
            let steered = Steered::new(host, "tcp", group.key.address, Policy::RoundRobin);
            let program = steered.program();
            let objects = Objects::pinned_in(steered.directory());
            take_turns(group, &steered, &program);
            steered.detach();
            drop(program);
            wait::until("nothing is left in the kernel", BOUND, || objects.count() == 0);
        });
    });
}

/// Each turn, the program is detached until a connection is made without it, and attached until it
/// picks.
fn take_turns(group: &Group<'_>, steered: &Steered<'_>, program: &SkReuseport) {
    let picked = || (0..MEMBERS).map(|slot| steered.picks_of(slot)).sum::<u64>();
    while group.turn().is_some() {
        SkReuseport::detach(&group.member).unwrap();
        group.wait_for_a_connection();
        let before = picked();
        program.attach(&group.member).unwrap();
        wait::soon("the program picks", || picked() > before);
    }
    // Every run of the program was a pick.
    let counted = steered.status().counters;
    assert!(counted.iter().all(|c| c.count == 0 || c.reason == "picks"), "{counted:?}");
}
