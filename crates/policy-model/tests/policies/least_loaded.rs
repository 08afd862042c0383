//! least-loaded among event-loop workers: bursts, workers that hang, counts that are wrong.

use policy_model::{Config, Policy, Reason, Table};

use crate::server::{MS, Server, Time, US, deviation};

const CONFIG: fn() -> Config = || Config::tcp(Policy::LeastLoaded);

/// Clients that connect at once, one every 20 µs, to workers that wake one after the other.
fn burst(config: Config, members: usize, clients: u32, apart: Time) -> Vec<u32> {
    let mut server = Server::new(config, &vec![0; members]);
    (0..members).for_each(|slot| server.hang(slot, apart * slot as Time));
    for _ in 0..clients {
        server.pass(20 * US);
        server.connect();
    }
    server.dealt()
}

#[test]
fn a_burst_is_even_whichever_worker_wakes_first() {
    for clients in [100, 400] {
        for apart in [0, 100 * US, 500 * US, MS, 2 * MS] {
            let dealt = burst(CONFIG(), 4, clients, apart);
            assert!(deviation(&dealt) <= 0.5, "{apart} ns apart: {dealt:?}");
        }
    }
    for members in [8, 16] {
        let dealt = burst(CONFIG(), members, 400, 500 * US);
        assert!(deviation(&dealt) <= 0.5, "{dealt:?}");
    }
}

/// The price of not sending connections to workers that hang: they look alike at first.
#[test]
fn a_worker_that_is_late_by_a_time_slice_misses_little_of_a_burst() {
    let dealt = burst(CONFIG(), 4, 400, 3 * MS);
    assert!(dealt.iter().all(|dealt| (85..=115).contains(dealt)), "{dealt:?}");
}

#[test]
fn a_burst_is_even_by_open_connections_alone() {
    let open = Config { load_queue: false, ..CONFIG() };
    for apart in [0, MS] {
        let dealt = burst(open, 4, 100, apart);
        assert!(deviation(&dealt) <= 0.5, "{dealt:?}");
    }
}

/// Connections that last come and go, and one of eight workers, each with 200, closes its own and hangs.
fn drop_and_hang(seed: u64, per_second: f64, round_trip: Time) -> u32 {
    let mut server = Server::new(CONFIG(), &[200; 8]);
    server.round_trip = round_trip;
    server.seed(seed);
    let steady = |server: &mut Server, pause| {
        server.pass(pause);
        server.connect();
        server.close_any();
    };
    for _ in 0..2000 {
        let pause = server.pause(2000.0);
        steady(&mut server, pause);
    }
    server.forget();
    server.close(0, server.workers[0].open);
    server.hang(0, 400 * MS);
    loop {
        let pause = server.pause(per_second);
        if server.now + pause >= server.workers[0].wakes {
            return server.workers[0].dealt;
        }
        steady(&mut server, pause);
    }
}

/// How many connections reach one of eight workers in the 400 ms that it hangs.
fn reach_while_it_hangs(seed: u64, round_trip: Time) -> u32 {
    let mut server = Server::new(CONFIG(), &[0; 8]);
    server.round_trip = round_trip;
    server.seed(seed);
    let steady = |server: &mut Server| {
        let pause = server.pause(1600.0);
        server.pass(pause);
        server.connect();
        server.close_any();
    };
    (0..4000).for_each(|_| steady(&mut server));
    server.hang(0, 400 * MS);
    server.forget();
    while server.now < server.workers[0].wakes {
        steady(&mut server);
    }
    server.dealt()[0]
}

#[test]
fn a_worker_that_hangs_gets_a_few_however_far_its_clients_are() {
    for round_trip in [0, 20 * MS, 100 * MS] {
        let reached: Vec<u32> =
            (1..=20).map(|seed| reach_while_it_hangs(seed, round_trip)).collect();
        // A fair share is 80.
        assert!(reached.iter().all(|reached| *reached <= 4), "{round_trip}: {reached:?}");
        let reached: Vec<u32> =
            (1..=20).map(|seed| drop_and_hang(seed, 400.0, round_trip)).collect();
        // A fair share is 20. A connection from afar waits only once its handshake is complete.
        let most = if round_trip < 100 * MS { 2 } else { 4 };
        assert!(reached.iter().all(|reached| *reached <= most), "{round_trip}: {reached:?}");
    }
}

/// Clients of which some are far, all connections last, and one of eight workers takes 20 ms for each. Returns
/// what each worker gets in four seconds, and how many wait at the slow one at most.
fn deal_among_slow(seed: u64, round_trip: Time, near_ones: bool) -> (Vec<u32>, u32) {
    const PER_SECOND: f64 = 1600.0;

    let mut server = Server::new(CONFIG(), &[0; 8]);
    server.seed(seed);
    server.workers.iter_mut().for_each(|worker| worker.busy = MS);
    server.workers[0].busy = 20 * MS;
    let mut most = 0;
    let mut run = |server: &mut Server, time: Time| {
        let end = server.now + time;
        while server.now < end {
            server.idle(PER_SECOND);
            let far = !near_ones || server.tosses();
            server.connect_from(if far { round_trip } else { 0 });
            server.close_any();
            most = most.max(server.workers[0].waiting);
        }
    };
    run(&mut server, 2_000 * MS);
    server.forget();
    run(&mut server, 4_000 * MS);
    (server.dealt(), most)
}

#[test]
fn a_slow_worker_gets_what_it_can_take_and_good_ones_the_rest_however_far_clients_are() {
    for (round_trip, near_ones) in
        [(0, false), (20 * MS, false), (20 * MS, true), (100 * MS, false), (100 * MS, true)]
    {
        for seed in 1..=3 {
            let (dealt, most) = deal_among_slow(seed, round_trip, near_ones);
            let whose =
                format!("{round_trip} ns, near ones too: {near_ones}: {dealt:?}, {most} wait");
            // 50 in a second. A fair share is 200: as many are on their way before the first one waits.
            assert!((150..=210).contains(&dealt[0]), "{whose}");
            assert!(u64::from(most) <= 3 + 200 * round_trip / (1_000 * MS) * 3 / 2, "{whose}");
            let mean = dealt[1..].iter().sum::<u32>() / 7;
            let even = mean * 9 / 10..=mean * 11 / 10;
            assert!(dealt[1..].iter().all(|dealt| even.contains(dealt)), "{whose}");
        }
    }
}

/// One of two workers hangs; the other takes this long for each connection, and all clients are far. Returns how
/// many connections reach the one that hangs in five seconds.
fn reach_one_of_two(seed: u64, per_second: f64, busy: Time, round_trip: Time) -> u32 {
    let mut server = Server::new(CONFIG(), &[0; 2]);
    server.seed(seed);
    server.round_trip = round_trip;
    server.workers.iter_mut().for_each(|worker| worker.busy = busy);
    let run = |server: &mut Server, time: Time| {
        let end = server.now + time;
        while server.now < end {
            server.idle(per_second);
            server.connect();
            server.close_any();
        }
    };
    run(&mut server, 3_000 * MS);
    server.hang(0, 1_000_000 * MS);
    server.forget();
    run(&mut server, 5_000 * MS);
    server.dealt()[0]
}

/// What has just begun to wait, after a long handshake, must not look as if it had waited since the one before:
/// the worker that hangs has the shorter queue.
#[test]
fn handshakes_under_way_do_not_make_the_only_good_worker_look_stalled() {
    for (per_second, busy) in [(100.0, MS), (100.0, 4 * MS), (400.0, MS)] {
        for round_trip in [0, 20 * MS, 100 * MS, 300 * MS] {
            let reach = |seed| reach_one_of_two(seed, per_second, busy, round_trip);
            let reached: Vec<u32> = (1..=5).map(reach).collect();
            // Of 500 or 2000 each.
            let few = reached.iter().sum::<u32>() <= 30;
            assert!(few, "{per_second}/s, {busy} ns busy, {round_trip} ns far: {reached:?}");
        }
    }
}

#[test]
fn a_worker_that_dropped_its_connections_and_hangs_gets_one() {
    for per_second in [100.0, 400.0, 1600.0, 4000.0, 20_000.0] {
        let reached: Vec<u32> = (1..=20).map(|seed| drop_and_hang(seed, per_second, 0)).collect();
        assert!(reached.iter().all(|reached| *reached <= 1), "{per_second}: {reached:?}");
    }
}

/// Deals this number of connections, one each millisecond, of which each closes another one. Returns what the
/// members got.
fn deal_lasting(server: &mut Server, connections: u32) -> Vec<u32> {
    server.forget();
    for _ in 0..connections {
        server.pass(MS);
        server.connect();
        server.pass(0);
        server.close_any();
    }
    server.dealt()
}

#[test]
fn an_idle_member_is_not_starved_by_a_count_that_is_too_high() {
    for config in [CONFIG(), Config { load_queue: false, ..CONFIG() }] {
        let mut server = Server::new(config, &[10; 4]);
        server.model.count(2, 1_000_000, 0);
        let dealt = deal_lasting(&mut server, 8192);
        // One in two windows, or in 64 if its queue is not known, of 32 picks each.
        let least = if config.load_queue { 100 } else { 3 };
        assert!(dealt[2] >= least && dealt[2] < 300, "{dealt:?}");
        let others = [dealt[0], dealt[1], dealt[3]];
        assert!(deviation(&others) < 100.0, "{dealt:?}");
    }
}

#[test]
fn a_count_that_is_too_low_attracts_twice_the_share_and_only_until_it_is_made_up() {
    let mut server = Server::new(CONFIG(), &[100; 4]);
    server.model.count(1, 0, 100);
    server.workers[1].open = 0;
    let mut first = deal_lasting(&mut server, 64);
    assert!((24..=32).contains(&first[1]), "{first:?}");
    deal_lasting(&mut server, 2048);
    first = deal_lasting(&mut server, 2048);
    assert!((462..=562).contains(&first[1]), "{first:?}");
}

/// The counting programs are gone: what they last wrote stays.
#[test]
fn a_frozen_count_neither_attracts_nor_repels_for_long() {
    for config in [CONFIG(), Config { load_queue: false, ..CONFIG() }] {
        let mut server = Server::new(config, &[0, 50, 50, 1000]);
        server.counts = false;
        let first = deal_lasting(&mut server, 512);
        assert!(first[0] <= 256, "at most twice its share: {first:?}");
        // Picks without effect are noticed; those of the last one are rare where its queue is not known.
        deal_lasting(&mut server, if config.load_queue { 2048 } else { 700_000 });
        let later = deal_lasting(&mut server, 1024);
        assert!(later.iter().all(|dealt| (230..=282).contains(dealt)), "{first:?} {later:?}");
    }
}

#[test]
fn counting_that_resumes_is_trusted_again() {
    let mut server = Server::new(CONFIG(), &[50; 4]);
    server.counts = false;
    deal_lasting(&mut server, 1000);
    server.counts = true;
    deal_lasting(&mut server, 64);
    for (slot, worker) in server.workers.clone().iter().enumerate() {
        let counted = server.counted[slot];
        server.model.count(slot as u16, 0, counted - worker.open.min(counted));
        server.counted[slot] = worker.open.min(counted);
    }
    server.close(1, server.workers[1].open.min(server.counted[1]));
    let dealt = deal_lasting(&mut server, 32);
    assert!(dealt[1] >= 14, "it has the fewest: {dealt:?}");
}

#[test]
fn a_member_that_is_not_counted_gets_about_its_share() {
    let mut server = Server::new(CONFIG(), &[50; 4]);
    server.uncounted = Some(3);
    server.model.count(3, 0, 50);
    deal_lasting(&mut server, 256);
    let dealt = deal_lasting(&mut server, 4096);
    // Half of it, or more.
    assert!((448..=1536).contains(&dealt[3]), "{dealt:?}");
}

#[test]
fn without_counts_and_queues_members_take_turns() {
    let mut server = Server::new(CONFIG(), &[0; 4]);
    (0..4).for_each(|slot| server.model.set_known(slot, false));
    server.counts = false;
    let dealt = deal_lasting(&mut server, 4000);
    assert!(deviation(&dealt) <= 10.0, "{dealt:?}");
}

#[test]
fn queues_alone_do_not_ask_for_counts() {
    let mut server = Server::new(Config { load_open: false, ..CONFIG() }, &[0, 10, 100, 1000]);
    server.counts = false;
    let dealt = deal_lasting(&mut server, 400);
    assert_eq!(dealt, [100; 4]);
    assert_eq!(server.model.counter(Reason::Pick), 400);
}

#[test]
fn if_all_hang_what_waits_is_dealt_by_weight() {
    for pause in [100 * US, MS, 3 * MS, 20 * MS, 100 * MS] {
        let mut server = Server::new(CONFIG(), &[0; 2]);
        server.weigh(&[3, 1]);
        (0..2).for_each(|slot| server.hang(slot, 1_000_000 * MS));
        for _ in 0..400 {
            server.pass(pause);
            server.connect();
        }
        let dealt = server.dealt();
        assert!((290..=310).contains(&dealt[0]), "{pause} ns apart: {dealt:?}");
    }
}

/// One of four workers with 100 connections each is restarted. It is there again a millisecond later, and its
/// clients connect again, one each `apart`: what it has then.
fn restart(limit: u16, apart: Time) -> u32 {
    let mut server = Server::new(CONFIG(), &[100; 4]);
    let mut table = Table::equal(4);
    table.candidates.iter_mut().for_each(|candidate| candidate.limit = limit);
    server.model.set_table(&table);
    deal_lasting(&mut server, 400);
    server.forget();
    let lost = server.workers[0].open;
    server.close(0, lost);
    server.hang(0, MS);
    for _ in 0..lost {
        server.pass(apart);
        server.connect();
    }
    server.dealt()[0]
}

/// It has none, but so has one that dropped its connections and hangs: until it takes something, it is given as
/// much as others. From then on it is given all, within its limit.
#[test]
fn a_worker_that_was_restarted_gets_its_clients_again_when_it_takes_them() {
    let twice_the_share = 16;
    for (limit, apart, expected) in [
        (twice_the_share, 2 * US, 20..=30),
        (twice_the_share, 200 * US, 45..=65),
        (twice_the_share, MS, 45..=65),
        (16 * twice_the_share, 200 * US, 85..=110),
    ] {
        let dealt = restart(limit, apart);
        assert!(expected.contains(&dealt), "{limit}, {apart} ns apart: {dealt}");
    }
}
