//! The request schedule: times, sources and connections, drawn from a seed, the same for all contenders
//! of a round.

use std::time::Duration;

use super::wire::Request;

/// Requests of clients that do not wait for answers.
#[derive(Debug, Clone, Copy)]
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
#[derive(Debug, Clone, Copy)]
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
#[derive(Debug, Clone, Copy)]
pub(super) struct Lasting {
    /// How many are open, on average.
    pub(super) connections: u32,
    /// How long one lasts, on average (exponentially distributed).
    pub(super) life: Duration,
    /// Requests at once.
    pub(super) burst: u32,
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
    pub(super) request: Request,
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
        let mut at = self.gap(self.traffic.rate);
        while at < self.length {
            let (source, connection) = self.connection();
            self.push(at, connection, source, true);
            at += self.gap(self.traffic.rate);
        }
    }

    /// The connections of the start are opened within the first quarter; what is left of a life that
    /// is exponentially distributed is so, too. Then as many come as go.
    fn lasting(&mut self, lasting: Lasting) {
        let first = self.length / 4;
        let coming = f64::from(lasting.connections) / lasting.life.as_secs_f64();
        // Each connection has an opening and an ending request; bursts make up the rest of the rate.
        let in_bursts = (self.traffic.rate - 2.0 * coming).max(f64::MIN_POSITIVE);
        let bursts = in_bursts / f64::from(lasting.connections * lasting.burst);
        for _ in 0..lasting.connections {
            let at = first.mul_f64(self.random.f64());
            self.life(at, lasting, bursts);
        }
        let mut at = first + self.gap(coming);
        while at < self.length {
            self.life(at, lasting, bursts);
            at += self.gap(coming);
        }
    }

    /// One connection's requests: one that opens it, bursts at the moments of a Poisson process, this
    /// many a second, and one that ends it.
    fn life(&mut self, start: Duration, lasting: Lasting, bursts: f64) {
        let (source, connection) = self.connection();
        let end = start + self.gap(1.0 / lasting.life.as_secs_f64());
        self.push(start, connection, source, false);
        let mut at = start + self.gap(bursts);
        while at < end.min(self.length) {
            for _ in 0..lasting.burst {
                self.push(at, connection, source, false);
            }
            at += self.gap(bursts);
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

    /// Between two of this many a second, on average.
    fn gap(&mut self, rate: f64) -> Duration {
        // 1 - [0, 1) is never 0.
        Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LENGTH: Duration = Duration::from_secs(20);
    const SHORT: Traffic = Traffic {
        rate: 5_000.0,
        service: Service { usual: MS, slow: Duration::from_millis(100), slow_share: 0.01 },
        sources: 16,
        lasting: None,
    };

    #[test]
    fn short_requests_come_as_often_as_they_should() {
        let schedule = Schedule::draw(&SHORT, LENGTH, 1);
        let arrivals = &schedule.arrivals;
        let count = arrivals.len() as f64;
        assert!((count - 1e5).abs() < 5.0 * 1e5_f64.sqrt(), "{count}");
        assert_eq!(schedule.connections as usize, arrivals.len());
        assert!(arrivals.iter().all(|a| a.request.last && a.source < 16 && a.at < LENGTH));
        // Of exponentially distributed gaps a part of 1/e is longer than the mean.
        let gaps = arrivals.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64());
        let long = gaps.filter(|gap| *gap > 1.0 / 5_000.0).count() as f64;
        assert!((long / count - 0.368).abs() < 0.01, "{long}");
        let slow = arrivals.iter().filter(|a| a.request.block > MS).count() as f64;
        assert!((slow / count - 0.01).abs() < 0.002, "{slow}");
    }

    #[test]
    fn lasting_connections_are_as_many_as_they_should_be_and_end_once() {
        let lasting = Lasting { connections: 200, life: Duration::from_secs(2), burst: 5 };
        let schedule = Schedule::draw(&Traffic { lasting: Some(lasting), ..SHORT }, LENGTH, 1);
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
}
