//! Stray segments: the kernel runs the program for every segment that belongs to no connection
//! (`__inet_lookup_listener`), but only one that can begin a connection is a pick.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use reuseport::{Host, Policy};
use test_support::wait::{self, BOUND};

use crate::common::segment::{ACK, FIN, HEADER_WORDS, PSH, RST, SYN, Segment, Sender, URG};
use crate::common::steered::Steered;
use crate::common::traffic::by_slot;
use crate::common::world::{alone, counter, deal, more};

const MEMBERS: usize = 3;

/// How many of each kind. Not a multiple of [`MEMBERS`], after which the cursor would be back.
const TIMES: u64 = 7;

const KINDS: [(&str, u8, &[u8]); 13] = [
    ("ACK", ACK, b""),
    ("RST", RST, b""),
    ("FIN", FIN, b""),
    ("SYN-ACK", SYN | ACK, b""),
    ("RST-ACK", RST | ACK, b""),
    ("FIN-ACK", FIN | ACK, b""),
    ("PSH-ACK with data", PSH | ACK, b"GET / HTTP/1.1\r\n\r\n"),
    ("ACK with data of an odd length", ACK, b"abc"),
    ("FIN-PSH-URG", FIN | PSH | URG, b""),
    ("no flags", 0, b""),
    // A listener ignores these SYNs (tcp_rcv_state_process, state TCP_LISTEN).
    ("SYN-FIN", SYN | FIN, b""),
    ("SYN-RST", SYN | RST, b""),
    ("all flags", SYN | FIN | RST | PSH | ACK | URG, b""),
];

struct Group<'a> {
    listeners: Vec<TcpListener>,
    steered: Steered<'a>,
    stranger: Sender,
    /// The counts that the program must have.
    picks: u64,
    strays: u64,
}

impl<'a> Group<'a> {
    fn new(host: &'a Host, at: &str) -> Self {
        let listeners = by_slot(more(at.parse().unwrap(), MEMBERS));
        let at: SocketAddr = listeners[0].local_addr().unwrap();
        let steered = Steered::new(host, "tcp", at, Policy::RoundRobin);
        Self { listeners, steered, stranger: Sender::new(at), picks: 0, strays: 0 }
    }

    /// Asserts that the next connection goes to the next member in turn.
    #[track_caller]
    fn connect_to_the_next(&mut self) {
        let mut dealt = vec![0; MEMBERS];
        dealt[self.picks as usize % MEMBERS] = 1;
        assert_eq!(deal(&self.listeners, 1), dealt);
        self.picks += 1;
        self.assert_counted();
    }

    /// Sends strays of one kind, and asserts that each is counted as one.
    #[track_caller]
    fn stray(&mut self, what: &str, segment: &Segment) {
        (0..TIMES).for_each(|_| self.stranger.send(segment));
        self.strays += TIMES;
        wait::until(&format!("each {what} is a stray"), BOUND, || {
            counter(&self.steered.status(), "stray") >= self.strays
        });
        self.assert_counted();
    }

    #[track_caller]
    fn assert_counted(&self) {
        let counted = [("picks", self.picks), ("stray", self.strays)];
        let counted: Vec<_> = counted.into_iter().filter(|(_, count)| *count > 0).collect();
        self.steered.assert_counters(&counted);
        assert_eq!(self.steered.cursor(), self.picks, "the cursor of round-robin");
        for slot in 0..MEMBERS {
            let turns = (self.picks as usize + MEMBERS - 1 - slot) / MEMBERS;
            assert_eq!(self.steered.picks_of(slot), turns as u64, "slot {slot}");
        }
    }
}

fn stray_segments_are_not_picks(at: &str) {
    alone(|| {
        let host = Host::open().unwrap();
        let mut group = Group::new(&host, at);
        group.connect_to_the_next();
        for (what, flags, payload) in KINDS {
            group.stray(what, &Segment { payload, ..Segment::new(flags) });
            group.connect_to_the_next();
        }
        println!("{} kinds of stray segments to {at}", KINDS.len());
    });
}

#[test]
fn stray_segments_are_not_picks_v4() {
    stray_segments_are_not_picks("127.0.0.1:0");
}

#[test]
fn stray_segments_are_not_picks_v6() {
    stray_segments_are_not_picks("[::1]:0");
}

/// A SYN of the same sender is a pick. The SYN-ACK is answered with RST, which belongs to the
/// half-open connection and is not a stray.
#[test]
fn a_syn_is_a_pick() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        alone(|| {
            let host = Host::open().unwrap();
            let mut group = Group::new(&host, at);
            group.stranger.send(&Segment::new(SYN));
            wait::until("the SYN is a pick", BOUND, || group.steered.cursor() > 0);
            wait::until("no connection is half-open", BOUND, || {
                group.steered.status().group.members.iter().all(|m| m.queue.half_open == 0)
            });
            group.picks += 1;
            group.assert_counted();
            // A SYN that requests ECN is a SYN too (RFC 3168).
            const ECE: u8 = 1 << 6;
            const CWR: u8 = 1 << 7;
            group.stranger.send(&Segment::new(SYN | ECE | CWR | PSH));
            wait::until("that SYN is a pick", BOUND, || group.steered.cursor() > 1);
            group.picks += 1;
            group.assert_counted();
            group.connect_to_the_next();
        });
    }
}

/// The kernel drops damaged segments before it looks for a listener.
#[test]
fn damaged_segments_do_not_reach_the_program() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        alone(|| {
            let host = Host::open().unwrap();
            let mut group = Group::new(&host, at);
            let before = damaged();
            for flags in [SYN, ACK] {
                group.stranger.send(&Segment { checksum_error: 1, ..Segment::new(flags) });
                let header_words = HEADER_WORDS - 1;
                group.stranger.send(&Segment { header_words, ..Segment::new(flags) });
            }
            wait::until("the kernel has seen them", BOUND, || damaged() == before + 4);
            group.assert_counted();
            group.connect_to_the_next();
        });
    }
}

/// How many damaged segments the kernel has received in this namespace (`InErrs`).
fn damaged() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "InErrs").unwrap().1.parse().unwrap()
}

/// With SYN cookies the kernel keeps no state of a SYN, so the last ACK of the handshake is a
/// stray. It counts as one and takes no turn.
#[test]
fn the_ack_of_a_syn_cookie_is_not_a_second_pick() {
    const CONNECTIONS: u64 = 10;

    for at in ["127.0.0.1:0", "[::1]:0"] {
        alone(|| {
            let always = "2";
            fs::write("/proc/sys/net/ipv4/tcp_syncookies", always).unwrap();
            let host = Host::open().unwrap();
            let group = Group::new(&host, at);
            let dealt = deal(&group.listeners, CONNECTIONS as usize);
            assert_eq!(dealt.iter().sum::<usize>(), CONNECTIONS as usize);
            group.steered.assert_counters(&[("picks", CONNECTIONS), ("stray", CONNECTIONS)]);
            assert_eq!(group.steered.cursor(), CONNECTIONS);
        });
    }
}
