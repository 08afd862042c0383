//! The request schedule: times, sources and connections, drawn from a seed, the same for all contenders
//! of a round.

use std::time::Duration;

use super::wire::Request;

/// Requests of clients that do not wait for answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Traffic {
    /// Requests per second, on average, with those that open and end connections that last.
    pub(super) rate: f64,
    pub(super) service: Service,
    /// How many addresses they come from.
    pub(super) sources: u16,
    /// `None`: a connection for each request.
    pub(super) lasting: Option<Lasting>,
}

/// How long requests block their worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Service {
    pub(super) usual: Duration,
    pub(super) slow: Duration,
    /// Which part of them is slow, from 0 to 1.
    pub(super) slow_share: f64,
}

impl Service {
    pub(super) const fn always(usual: Duration) -> Self {
        Self { usual, slow: usual, slow_share: 0.0 }
    }

    pub(super) fn mean(self) -> Duration {
        self.usual.mul_f64(1.0 - self.slow_share) + self.slow.mul_f64(self.slow_share)
    }
}

/// Connections that last, with bursts of requests on them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lasting {
    /// How many are open, on average.
    pub(super) connections: u32,
    /// How long one lasts, on average (exponentially distributed).
    pub(super) life: Duration,
    /// Requests at once.
    pub(super) burst: u32,
}

impl Lasting {
    /// How many come, and go, in a second.
    fn coming(self) -> f64 {
        f64::from(self.connections) / self.life.as_secs_f64()
    }

    /// Bursts of each connection in a second that make up the rate.
    fn bursts(self, rate: f64) -> f64 {
        let in_bursts = (rate - 2.0 * self.coming()).max(f64::MIN_POSITIVE);
        in_bursts / f64::from(self.connections * self.burst)
    }
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Arrival {
    /// Since the start.
    pub(super) at: Duration,
    /// The number of the connection, which is opened if it is not there.
    pub(super) connection: u32,
    /// The number of the address that it comes from.
    pub(super) source: u16,
    pub(super) request: Request,
}

/// Requests, in the order of their times.
#[derive(Debug, PartialEq)]
pub(super) struct Schedule {
    pub(super) arrivals: Vec<Arrival>,
    pub(super) connections: u32,
    pub(super) length: Duration,
    /// From when on there are as many lasting connections as there should be.
    pub(super) settled: Duration,
}

impl Schedule {
    pub(super) fn draw(traffic: &Traffic, length: Duration, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let mut drawing = Drawing { traffic, length, random, arrivals: Vec::new(), connections: 0 };
        match traffic.lasting {
            None => drawing.short(),
            Some(lasting) => drawing.lasting(lasting),
        }
        let Drawing { mut arrivals, connections, .. } = drawing;
        arrivals.sort_by_key(|arrival| arrival.at); // stable: a burst stays in order
        Self { arrivals, connections, length, settled: length / 4 }
    }
}

struct Drawing<'a> {
    traffic: &'a Traffic,
    length: Duration,
    random: fastrand::Rng,
    arrivals: Vec<Arrival>,
    connections: u32,
}

impl Drawing<'_> {
    /// A Poisson process: gaps are exponentially distributed.
    fn short(&mut self) {
        let mut at = self.gap(1.0 / self.traffic.rate);
        while at < self.length {
            let (source, connection) = self.connection();
            self.push(at, connection, source, true);
            at += self.gap(1.0 / self.traffic.rate);
        }
    }

    /// The connections of the start are opened within the first quarter; what is left of a life that
    /// is exponentially distributed is so, too. Then as many come as go.
    fn lasting(&mut self, lasting: Lasting) {
        let first = self.length / 4;
        for _ in 0..lasting.connections {
            let at = first.mul_f64(self.random.f64());
            self.life(at, lasting);
        }
        let between = 1.0 / lasting.coming();
        let mut at = first + self.gap(between);
        while at < self.length {
            self.life(at, lasting);
            at += self.gap(between);
        }
    }

    /// One connection's requests: one that opens it, bursts at the moments of a Poisson process, and
    /// one that ends it.
    fn life(&mut self, start: Duration, lasting: Lasting) {
        let (source, connection) = self.connection();
        let end = start + self.gap(lasting.life.as_secs_f64());
        self.push(start, connection, source, false);
        let between = 1.0 / lasting.bursts(self.traffic.rate);
        let mut at = start + self.gap(between);
        while at < end.min(self.length) {
            for _ in 0..lasting.burst {
                self.push(at, connection, source, false);
            }
            at += self.gap(between);
        }
        if end < self.length {
            self.push(end, connection, source, true);
        }
    }

    fn push(&mut self, at: Duration, connection: u32, source: u16, last: bool) {
        let Service { usual, slow, slow_share } = self.traffic.service;
        let block = if self.random.f64() < slow_share { slow } else { usual };
        self.arrivals.push(Arrival { at, connection, source, request: Request { block, last } });
    }

    /// The source and the number of a new connection.
    fn connection(&mut self) -> (u16, u32) {
        self.connections += 1;
        (self.random.u16(0..self.traffic.sources.max(1)), self.connections - 1)
    }

    fn gap(&mut self, mean_seconds: f64) -> Duration {
        // 1 - [0, 1) is never 0.
        Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() * mean_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SHORT: Traffic = Traffic {
        rate: 5_000.0,
        service: Service { usual: MS, slow: Duration::from_millis(100), slow_share: 0.01 },
        sources: 16,
        lasting: None,
    };
    const LASTING: Traffic = Traffic {
        lasting: Some(Lasting { connections: 200, life: Duration::from_secs(2), burst: 5 }),
        ..SHORT
    };

    #[test]
    fn the_same_seed_gives_the_same() {
        for traffic in [SHORT, LASTING] {
            let draw = |seed| Schedule::draw(&traffic, Duration::from_secs(2), seed);
            assert_eq!(draw(1), draw(1));
            assert_ne!(draw(1), draw(2));
        }
    }

    #[test]
    fn short_requests_come_as_often_as_they_should() {
        let schedule = Schedule::draw(&SHORT, Duration::from_secs(20), 1);
        let count = schedule.arrivals.len() as f64;
        assert!((count - 1e5).abs() < 5.0 * 1e5_f64.sqrt(), "{count}");
        assert_eq!(schedule.connections as usize, schedule.arrivals.len());
        assert!(
            schedule
                .arrivals
                .iter()
                .all(|a| a.request.last && a.source < 16 && a.at.as_secs() < 20)
        );
        assert!(schedule.arrivals.is_sorted_by_key(|a| a.at));
        // Of exponentially distributed gaps a part of 1/e is longer than the mean.
        let gaps = schedule.arrivals.windows(2).map(|pair| pair[1].at - pair[0].at);
        let long = gaps.filter(|gap| gap.as_secs_f64() > 1.0 / 5_000.0).count() as f64;
        assert!((long / count - 0.368).abs() < 0.01, "{long}");
        let slow = schedule.arrivals.iter().filter(|a| a.request.block > MS).count() as f64;
        assert!((slow / count - 0.01).abs() < 0.002, "{slow}");
    }

    #[test]
    fn lasting_connections_are_as_many_as_they_should_be_and_end_once() {
        let schedule = Schedule::draw(&LASTING, Duration::from_secs(20), 1);
        // 200 at first, and one comes every 10 ms from 5 s on.
        let connections = f64::from(schedule.connections);
        assert!((connections - 1_700.0).abs() < 5.0 * 1_500_f64.sqrt(), "{connections}");
        let mut ended = vec![false; schedule.connections as usize];
        for arrival in &schedule.arrivals {
            let ended = &mut ended[arrival.connection as usize];
            assert!(!*ended, "a request after the last one");
            *ended = arrival.request.last;
        }
        let settled = schedule.arrivals.iter().filter(|arrival| arrival.at >= schedule.settled);
        let rate = settled.count() as f64 / 15.0;
        assert!((rate - 5_000.0).abs() < 500.0, "{rate}");
    }

    #[test]
    fn the_mean_is_of_both_kinds() {
        assert_eq!(SHORT.service.mean(), Duration::from_micros(1_990));
        assert_eq!(Service::always(MS).mean(), MS);
    }
}
