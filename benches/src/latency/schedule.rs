//! The request schedule: times, sources and connections, drawn from a seed, the same for all contenders
//! of a round.

use std::time::Duration;

/// How long a connection that lasts does so, on average (exponentially distributed), in seconds.
const LIFE: f64 = 4.0;
/// How many requests come at once on a connection that lasts.
const BURST: u32 = 5;

/// Requests of clients that do not wait for answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traffic {
    /// Requests per second, on average, with those that open and end connections that last.
    pub(super) rate: f64,
    pub(super) service: Service,
    /// How many addresses they come from.
    pub(super) sources: u16,
    /// How many connections that last are open, on average; 0: a connection for each request.
    pub(super) lasting: u32,
    pub(super) bursts: Option<Bursts>,
}

/// Connections that come at once, with a request each, in addition to the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bursts {
    /// There is one in each such time, at any moment of it.
    pub(super) every: Duration,
    pub(super) connections: u32,
}

/// How long requests block their worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Service {
    usual: Duration,
    slow: Duration,
    /// Which part of them is slow, from 0 to 1.
    slow_share: f64,
}

impl Service {
    pub(super) const fn of_ms(usual: u64, slow: u64, slow_share: f64) -> Self {
        let (usual, slow) = (Duration::from_millis(usual), Duration::from_millis(slow));
        Self { usual, slow, slow_share }
    }

    pub(super) fn mean(self) -> Duration {
        self.usual.mul_f64(1.0 - self.slow_share) + self.slow.mul_f64(self.slow_share)
    }
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// Since the start.
    pub(super) at: Duration,
    /// The number of the connection, which is opened if it is not there.
    pub(super) connection: u32,
    /// The number of the address that it comes from.
    pub(super) source: u16,
    /// How long it blocks its worker, from when the worker has it in hand.
    pub(super) block: Duration,
    /// Whether the connection ends after the answer.
    pub(super) last: bool,
    /// The number of the burst that it is part of.
    pub(super) burst: Option<usize>,
}

/// Requests, in the order of their times.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) arrivals: Vec<Arrival>,
    pub(super) connections: u32,
    pub(super) length: Duration,
    /// From when on there are as many lasting connections as there should be.
    pub(super) settled: Duration,
}

impl Schedule {
    pub(super) fn draw(traffic: &Traffic, length: Duration, seed: u64) -> Self {
        let schedule = Self { arrivals: Vec::new(), connections: 0, length, settled: length / 4 };
        let random = fastrand::Rng::with_seed(seed);
        let mut drawing = Drawing { traffic, random, schedule };
        match traffic.lasting {
            0 => drawing.short(),
            connections => drawing.lasting(connections),
        }
        if let Some(bursts) = traffic.bursts {
            drawing.bursts(bursts);
        }
        let mut schedule = drawing.schedule;
        schedule.arrivals.sort_by_key(|arrival| arrival.at); // stable: a burst stays in order
        schedule
    }
}

struct Drawing<'a> {
    traffic: &'a Traffic,
    random: fastrand::Rng,
    schedule: Schedule,
}

impl Drawing<'_> {
    fn short(&mut self) {
        for at in self.moments(Duration::ZERO, self.schedule.length, self.traffic.rate) {
            let (source, connection) = self.connection();
            self.push(at, connection, source, true);
        }
    }

    /// The connections of the start are opened within the first quarter; what is left of a life that
    /// is exponentially distributed is so, too. Then as many come as go.
    fn lasting(&mut self, connections: u32) {
        let Schedule { settled, length, .. } = self.schedule;
        let coming = f64::from(connections) / LIFE;
        // Each has a request that opens it and one that ends it; the others come in bursts.
        let in_bursts = (self.traffic.rate - 2.0 * coming).max(f64::MIN_POSITIVE);
        let bursts = in_bursts / f64::from(connections * BURST);
        for _ in 0..connections {
            let start = settled.mul_f64(self.random.f64());
            self.life(start, bursts);
        }
        for start in self.moments(settled, length, coming) {
            self.life(start, bursts);
        }
    }

    /// One connection's requests, with this many bursts a second.
    fn life(&mut self, start: Duration, bursts: f64) {
        let (source, connection) = self.connection();
        let end = start + self.gap(1.0 / LIFE);
        self.push(start, connection, source, false);
        for at in self.moments(start, end.min(self.schedule.length), bursts) {
            for _ in 0..BURST {
                self.push(at, connection, source, false);
            }
        }
        if end < self.schedule.length {
            self.push(end, connection, source, true);
        }
    }

    fn bursts(&mut self, Bursts { every, connections }: Bursts) {
        let number = self.schedule.length.as_micros() / every.as_micros();
        for burst in 0..number as usize {
            let at = every.mul_f64(burst as f64 + self.random.f64());
            for _ in 0..connections {
                let (source, connection) = self.connection();
                self.push(at, connection, source, true).burst = Some(burst);
            }
        }
    }

    fn push(&mut self, at: Duration, connection: u32, source: u16, last: bool) -> &mut Arrival {
        let Service { usual, slow, slow_share } = self.traffic.service;
        let block = if self.random.f64() < slow_share { slow } else { usual };
        let arrival = Arrival { at, connection, source, block, last, burst: None };
        self.schedule.arrivals.push(arrival);
        self.schedule.arrivals.last_mut().expect("it is not empty")
    }

    /// The source and the number of a new connection.
    fn connection(&mut self) -> (u16, u32) {
        self.schedule.connections += 1;
        (self.random.u16(0..self.traffic.sources), self.schedule.connections - 1)
    }

    /// A Poisson process: gaps are exponentially distributed.
    fn moments(&mut self, from: Duration, to: Duration, rate: f64) -> Vec<Duration> {
        let next = |at: &Duration| Some(*at + self.gap(rate));
        std::iter::successors(Some(from), next).skip(1).take_while(|at| *at < to).collect()
    }

    /// Between two of this many a second.
    fn gap(&mut self, rate: f64) -> Duration {
        // 1 - [0, 1) is never 0.
        Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(20);
    const SHORT: Traffic = Traffic {
        rate: 5_000.0,
        service: Service::of_ms(1, 100, 0.01),
        sources: 16,
        lasting: 0,
        bursts: None,
    };

    #[test]
    fn short_requests_come_as_often_as_they_should() {
        let schedule = Schedule::draw(&SHORT, LENGTH, 1);
        let arrivals = &schedule.arrivals;
        let count = arrivals.len() as f64;
        assert!((count - 1e5).abs() < 5.0 * 1e5_f64.sqrt(), "{count}");
        assert_eq!(schedule.connections as usize, arrivals.len());
        assert!(arrivals.iter().all(|a| a.last && a.source < 16 && a.at < LENGTH));
        // Of exponentially distributed gaps a part of 1/e is longer than the mean.
        let gaps = arrivals.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64());
        let long = gaps.filter(|gap| *gap > 1.0 / 5_000.0).count() as f64;
        assert!((long / count - 0.368).abs() < 0.01, "{long}");
        let slow = arrivals.iter().filter(|a| a.block.as_millis() > 1).count() as f64;
        assert!((slow / count - 0.01).abs() < 0.002, "{slow}");
    }

    #[test]
    fn bursts_come_at_once_in_addition_to_the_others() {
        let bursts = Bursts { every: Duration::from_millis(100), connections: 80 };
        let traffic = Traffic { bursts: Some(bursts), ..SHORT };
        let schedule = Schedule::draw(&traffic, LENGTH, 1);
        let (others, mut sizes) = (schedule.arrivals.len() - 200 * 80, vec![Vec::new(); 200]);
        assert!((others as f64 - 1e5).abs() < 5.0 * 1e5_f64.sqrt(), "{others}");
        let of_bursts = schedule.arrivals.iter().filter_map(|a| Some((a.burst?, a.at)));
        of_bursts.for_each(|(burst, at)| sizes[burst].push(at));
        for (times, period) in sizes.iter().zip(0..) {
            assert!(times.len() == 80 && times.iter().all(|at| *at == times[0]), "{times:?}");
            assert!((period * 100..period * 100 + 100).contains(&times[0].as_millis()));
        }
    }

    #[test]
    fn lasting_connections_are_as_many_as_they_should_be_and_end_once() {
        let traffic = Traffic { lasting: 1_600, ..SHORT };
        let schedule = Schedule::draw(&traffic, Duration::from_secs(2), 1);
        // 1,600 at first, and 400 come in a second from 0.5 s on.
        let connections = f64::from(schedule.connections);
        assert!((connections - 2_200.0).abs() < 5.0 * 600_f64.sqrt(), "{connections}");
        let mut ended = vec![false; schedule.connections as usize];
        for arrival in &schedule.arrivals {
            let ended = &mut ended[arrival.connection as usize];
            assert!(!*ended, "a request after the last one");
            *ended = arrival.last;
        }
        let settled = schedule.arrivals.iter().filter(|arrival| arrival.at >= schedule.settled);
        let rate = settled.count() as f64 / 1.5;
        assert!((rate - 5_000.0).abs() < 500.0, "{rate}");
    }
}
