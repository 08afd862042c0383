//! Thousands of tables swapped in under load: a member that is not in the table gets nothing, and
//! the program never reads a table that is partly written.

use std::panic;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use reuseport::{Host, Policy};
use test_support::wait::{self, BOUND};
use test_support::{SetOnDrop, bpffs, netns};

use crate::common::steered::Steered;
use crate::common::traffic::{Connections, Datagrams, Members};

/// In all groups together.
const MANY_TABLES: usize = 10_000;
const TABLES: usize = 2_000;

/// At least these in each group, also in one that starts late.
const FEWEST: u64 = 2;

/// Each swap waits for an RCU grace period. Swaps of several groups share one: hence many groups,
/// each with its own bpffs and so its own lock.
const UDP_GROUPS: usize = 14;
const TCP_GROUPS: usize = 6;

/// The first member is in no table: an entry that is not yet written reads as slot 0.
const MEMBERS: usize = 5;

/// How many arrivals must prove that a table is in force before the next swap.
const ARRIVALS: u64 = 4;

/// How many are sent before the arrivals are checked.
const BURST: usize = 8;

/// The tables of a group, numbered from 1.
#[derive(Default)]
struct Tables {
    /// The latest table whose swap has begun, and the latest whose swap has returned.
    begun: AtomicU64,
    returned: AtomicU64,
    /// The latest table that enough arrivals have proven.
    proven: AtomicU64,
    over: AtomicBool,
    /// How many were sent; set when all have arrived at the end.
    sent: OnceLock<u64>,
}

/// The weight of a member in a table, 0 if it is not in it. Of four members, two are in each table,
/// and the other two in the next. Tables differ in length.
fn weight(table: u64, member: usize) -> u16 {
    match member {
        0 => 0,
        _ if (table + member as u64 / 3).is_multiple_of(2) => 0,
        _ => 1 + ((table * 7 + member as u64) % 13) as u16,
    }
}

/// A table for the policy hash has 128 KiB and takes 100 ms in an unoptimised build, so only one
/// group has that policy.
fn policy(group: usize) -> Policy {
    match group {
        0 => Policy::Hash,
        _ if group.is_multiple_of(2) => Policy::Random,
        _ => Policy::RoundRobin,
    }
}

impl Tables {
    /// Swaps tables in until the number that all groups share is used up; returns how many.
    fn swap_all(&self, steered: &Steered<'_>, left: &AtomicUsize) -> u64 {
        for table in 1.. {
            let none_left = left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err();
            if none_left && table > FEWEST {
                return table - 1;
            }
            let weights: [u16; MEMBERS] = std::array::from_fn(|member| weight(table, member));
            self.begun.store(table, SeqCst);
            steered.set_weights(&weights);
            self.returned.store(table, SeqCst);
            wait::soon("the table decides", || self.proven.load(SeqCst) == table);
        }
        unreachable!("the loop returns")
    }
}

/// The traffic of a group.
struct Flood<'a, M> {
    tables: &'a Tables,
    members: M,
    sent: u64,
    arrived: u64,
    /// A table, and how many arrivals only that table can explain.
    proofs: (u64, u64),
}

impl<'a, M: Members> Flood<'a, M> {
    fn new(tables: &'a Tables, members: M) -> Self {
        Self { tables, members, sent: 0, arrived: 0, proofs: (0, 0) }
    }

    /// Sends and receives more, as soon as there is a table; false at the end.
    fn go_on(&mut self) -> bool {
        let returned = self.tables.returned.load(SeqCst);
        let over = self.tables.over.load(SeqCst);
        if returned > 0 && !over {
            (0..BURST).for_each(|_| self.members.send(returned));
            self.sent += BURST as u64;
        }
        self.look();
        if over && self.arrived == self.sent {
            self.tables.sent.get_or_init(|| self.sent);
            return false;
        }
        true
    }

    /// Checks arrivals. If one was sent after a swap had returned and arrives before another
    /// begins, the table of the first must explain it; otherwise any table that was in force in
    /// between.
    fn look(&mut self) {
        let Self { tables, members, arrived, proofs, .. } = self;
        members.receive(|member, oldest| {
            let newest = tables.begun.load(SeqCst);
            assert!(
                (oldest..=newest).any(|table| weight(table, member) > 0),
                "member {member} is in none of the tables from {oldest} to {newest}"
            );
            *arrived += 1;
            if oldest == newest {
                let before = if proofs.0 == newest { proofs.1 } else { 0 };
                *proofs = (newest, before + 1);
                if proofs.1 == ARRIVALS {
                    tables.proven.store(newest, SeqCst);
                }
            }
        });
    }
}

/// Runs the traffic of all groups on one thread until each ends. Dropping the result closes the
/// members.
fn flood_all<M: Members>(mut floods: Vec<Flood<'_, M>>) -> Vec<Flood<'_, M>> {
    let mut going_on = true;
    while going_on {
        going_on = false;
        for flood in &mut floods {
            going_on |= flood.go_on();
        }
    }
    floods
}

/// Swaps the tables of a group, and asserts that every choice was a pick: no empty slot, no failed
/// select, no fallback.
fn swap_in_group(tables: &Tables, steered: &Steered<'_>, left: &AtomicUsize) {
    let over = SetOnDrop(&tables.over);
    let count = tables.swap_all(steered, left);
    drop(over);
    let sent = *wait::until_some("all has arrived", BOUND, || tables.sent.get());
    println!("{}: {count} tables, {sent} sent", steered.key());
    // A client that waits for long sends a segment again, which the program counts as stray.
    let counters = steered.status().counters;
    let counted: Vec<_> = counters.iter().filter(|c| c.count > 0 && c.reason != "stray").collect();
    assert!(
        matches!(counted.as_slice(), [only] if (only.reason, only.count) == ("picks", sent)),
        "{sent} sent: {counted:?}"
    );
    assert_eq!(steered.picks_of(0), 0, "slot 0 is in no table");
}

#[test]
fn slow_two_thousand_tables_under_load() {
    tables_under_load(wait::times(TABLES));
}

#[test]
#[ignore = "soak"]
fn soak_ten_thousand_tables_under_load() {
    tables_under_load(MANY_TABLES);
}

fn tables_under_load(tables: usize) {
    netns::isolated(|| {
        let host = Host::open().unwrap();
        let left = AtomicUsize::new(tables);
        let [udp, tcp] = [UDP_GROUPS, TCP_GROUPS]
            .map(|groups| std::iter::repeat_with(Tables::default).take(groups).collect::<Vec<_>>());
        let at = "127.0.0.1:0".parse().unwrap();
        let datagrams: Vec<_> =
            udp.iter().map(|tables| Flood::new(tables, Datagrams::new(at, MEMBERS))).collect();
        let connections: Vec<_> =
            tcp.iter().map(|tables| Flood::new(tables, Connections::new(at, MEMBERS))).collect();
        let at = datagrams.iter().map(|flood| ("udp", flood.tables, flood.members.address()));
        let at = at.chain(connections.iter().map(|f| ("tcp", f.tables, f.members.address())));
        let at: Vec<_> = at.collect();
        thread::scope(|scope| {
            let swap = |(index, (protocol, tables, at)): (usize, _)| {
                let (host, left) = (&host, &left);
                scope.spawn(move || {
                    bpffs::private();
                    let steered = Steered::new(host, protocol, at, policy(index));
                    swap_in_group(tables, &steered, left);
                })
            };
            let groups: Vec<_> = at.into_iter().enumerate().map(swap).collect();
            let floods =
                (scope.spawn(|| flood_all(datagrams)), scope.spawn(|| flood_all(connections)));
            for group in groups {
                group.join().unwrap_or_else(|cause| panic::resume_unwind(cause));
            }
            drop(floods);
        });
    });
}
