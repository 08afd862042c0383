//! Packets: wherever their transport headers are, and however often they are looked up, the program decides as
//! on any other.

use policy_model::{Arrival, Config, Model, Packet, Policy, Reason, Table};

const MEMBERS: u16 = 8;

/// Those that do not read what only datagrams have.
fn tcp_policies() -> impl Iterator<Item = Policy> {
    Policy::ALL.into_iter().filter(|policy| *policy != Policy::Payload)
}

fn group(config: Config) -> Model {
    let mut model = Model::new(config, MEMBERS);
    model.set_table(&Table::equal(MEMBERS));
    (0..MEMBERS).for_each(|slot| model.fill(slot));
    model.set_clock(1 << 40);
    model
}

/// The headers of a packet.
struct Headers {
    v6: bool,
    first_extension: u8,
    extensions: Vec<u8>,
    source: [u8; 16],
    ports: (u16, u16),
}

impl Headers {
    fn packet(&self) -> Packet<'_> {
        Packet {
            v6: self.v6,
            first_extension: self.first_extension,
            extensions: &self.extensions,
            source: self.source,
            ports: self.ports,
            hash: self.source[1].into(),
            ..Packet::default()
        }
    }
}

/// What may stand between the IP header and the transport header: whether it is IPv6, the number of the first
/// extension header, and the bytes.
fn between(protocol: u8) -> Vec<(bool, u8, Vec<u8>)> {
    let padded = |next, length: u8, size: usize| {
        let mut header = vec![next, length];
        header.resize(size, 0);
        header
    };
    // Routing, fragment, authentication (its length is in other units), destination.
    let chain = [padded(44, 0, 8), padded(51, 0, 8), padded(60, 4, 24), padded(protocol, 1, 16)];
    // As many as there may be.
    let eight = [vec![padded(60, 0, 8); 7].concat(), padded(protocol, 0, 8)];
    vec![
        (false, 0, vec![]),
        (false, 0, vec![1; 4]),
        (false, 0, vec![1; 40]),
        (true, protocol, vec![]),
        // Hop by hop.
        (true, 0, padded(protocol, 0, 8)),
        // Destination options, of 24 bytes.
        (true, 60, padded(protocol, 2, 24)),
        (true, 43, chain.concat()),
        (true, 0, eight.concat()),
    ]
}

/// Addresses and ports with which an IP header looks like a transport header, or the other way round.
fn packets(protocol: u8) -> Vec<Headers> {
    let mut packets = Vec::new();
    for (v6, first_extension, extensions) in between(protocol) {
        // The second byte stands where the flags are: none, SYN, ACK, all.
        for second in [0, 2, 16, 255] {
            let source = [10, second, 0, 1, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 1];
            // Lengths of packets, with and without the header.
            for port in [20, 28, 40, 48, 60, 80, 8080] {
                let (extensions, ports) = (extensions.clone(), (0x4500, port));
                packets.push(Headers { v6, first_extension, extensions, source, ports });
            }
        }
    }
    packets
}

#[test]
fn a_syn_is_new_and_what_else_is_not_wherever_its_header_is() {
    for policy in tcp_policies() {
        for headers in packets(6) {
            for early in [false, true] {
                let mut model = group(Config::tcp(policy));
                // IPv6: the first half of the number is where the payload length is in an IP header.
                for sequence in [1, 20 << 16, 28 << 16, 0xffff_ffff_u32] {
                    let packet = Packet { sequence, early, ..headers.packet() };
                    model.run(&packet).unwrap();
                    model.run(&Packet { arrival: Arrival::Stray, ..packet }).unwrap();
                }
                let reasons = [Reason::Pick, Reason::Stray, Reason::Repeated];
                let counted = reasons.map(|reason| model.counter(reason));
                let packet = headers.packet();
                assert_eq!(counted, [4, 4, 0], "{policy:?}, early: {early}, {packet:?}");
            }
        }
    }
}

/// The same member as without TPROXY: the source's, or the flow's.
#[test]
fn hashes_do_not_depend_on_where_the_header_is() {
    for policy in [Policy::Hash, Policy::Source, Policy::Cpu] {
        for headers in packets(6) {
            let member =
                |early| group(Config::tcp(policy)).run(&Packet { early, ..headers.packet() });
            assert_eq!(member(false), member(true), "{policy:?}");
        }
    }
}

#[test]
fn bytes_of_a_datagram_are_found_wherever_its_header_is() {
    let config = Config { payload: (3, 4), ..Config::udp(Policy::Payload) };
    for headers in packets(17) {
        let mut model = group(config);
        for (hash, payload) in (0..).zip([b"xyzkey-1", b"abckey-2", b"---key-3"]) {
            let packet = Packet { payload, hash, ..headers.packet() };
            let late = model.run(&packet);
            assert_eq!(model.run(&Packet { early: true, ..packet }), late, "{packet:?}");
        }
        assert_eq!((model.counter(Reason::Pick), model.counter(Reason::PayloadShort)), (6, 0));
    }
}

/// A chain that does not end, or ends in another protocol, is no segment that begins a connection.
#[test]
fn a_header_that_is_not_found_is_a_stray() {
    let endless = [60, 0, 0, 0, 0, 0, 0, 0].repeat(8);
    // ESP, whose next header is encrypted; and a length that leads beyond the packet.
    let (encrypted, beyond) = ([6, 0, 0, 0, 0, 0, 0, 0], [6, 255, 0, 0, 0, 0, 0, 0]);
    for (first_extension, extensions) in [(60, endless.as_slice()), (50, &encrypted), (60, &beyond)]
    {
        let mut model = group(Config::tcp(Policy::RoundRobin));
        let packet =
            Packet { v6: true, early: true, first_extension, extensions, ..Packet::default() };
        assert!(model.run(&packet).is_some());
        assert_eq!((model.counter(Reason::Pick), model.counter(Reason::Stray)), (0, 1));
    }
}

fn syn(sequence: u32, early: bool) -> Packet<'static> {
    Packet { sequence, early, ports: (40_000, 80), source: [10; 16], ..Packet::default() }
}

/// A rule looks it up, perhaps two, and then it is delivered.
#[test]
fn a_packet_that_is_looked_up_again_gets_the_same_answer_and_counts_once() {
    for policy in tcp_policies() {
        for v6 in [false, true] {
            let mut model = group(Config::tcp(policy));
            for sequence in 0..32 {
                let lookups = [true, true, false].map(|early| {
                    // Another hash: TPROXY may give the address of the interface in place of the packet's.
                    let hash = sequence * 2 + u32::from(early);
                    model.run(&Packet { v6, hash, ..syn(sequence, early) }).unwrap()
                });
                assert_eq!(lookups, [lookups[0]; 3], "{policy:?}");
            }
            let counted =
                [Reason::Pick, Reason::Stray, Reason::Repeated].map(|reason| model.counter(reason));
            assert_eq!(counted, [32, 0, 64], "{policy:?}");
            let picks: u64 = (0..MEMBERS).map(|slot| model.picks(slot)).sum();
            assert_eq!(picks, 32, "{policy:?}");
        }
    }
    // No turn was lost.
    let mut model = group(Config::tcp(Policy::RoundRobin));
    let turns = [1, 1, 2, 2, 3].map(|sequence| model.run(&syn(sequence, true)).unwrap());
    assert_eq!(turns, [0, 0, 1, 1, 2]);
}

/// Nearly the same, or later, or without having been early.
#[test]
fn another_packet_is_decided_afresh() {
    let first = syn(7, true);
    let others = [
        Packet { sequence: 8, ..first },
        Packet { ports: (40_001, 80), ..first },
        Packet { ports: (40_000, 81), ..first },
        Packet { source: [11; 16], ..first },
        Packet { v6: true, ..first },
        Packet { arrival: Arrival::Stray, ..first },
        Packet { arrival: Arrival::Migration, ..first },
    ];
    for other in others {
        let mut model = group(Config::tcp(Policy::RoundRobin));
        model.run(&first);
        model.run(&other);
        assert_eq!(model.counter(Reason::Repeated), 0, "{other:?}");
    }
    let mut model = group(Config::tcp(Policy::RoundRobin));
    model.run(&first);
    model.set_clock((1 << 40) + 150_000_000);
    assert_eq!(model.run(&first), Some(1));
    let mut model = group(Config::tcp(Policy::RoundRobin));
    assert_eq!([0, 1].map(|_| model.run(&syn(7, false)).unwrap()), [0, 1]);
    // Datagrams may well be equal.
    let mut model = group(Config::udp(Policy::RoundRobin));
    assert_eq!([0, 1].map(|_| model.run(&syn(7, true)).unwrap()), [0, 1]);
}

/// Its member is gone meanwhile; or there was none, and there still is none.
#[test]
fn a_repeated_packet_whose_member_is_gone_is_decided_afresh() {
    let mut model = group(Config::tcp(Policy::RoundRobin));
    assert_eq!(model.run(&syn(7, true)), Some(0));
    model.empty(0);
    assert_eq!(model.run(&syn(7, false)), Some(1));
    assert_eq!((model.counter(Reason::Repeated), model.counter(Reason::EmptySlot)), (0, 0));

    let mut model = Model::new(Config::tcp(Policy::RoundRobin), MEMBERS);
    model.set_clock(1 << 40);
    assert_eq!([true, false].map(|early| model.run(&syn(7, early))), [None, None]);
    assert_eq!((model.counter(Reason::FallbackKernel), model.counter(Reason::Repeated)), (1, 1));
}
