//! What happens to the workers: traffic, how one of them misbehaves, and what `least-loaded` should
//! reach then. A scenario is a row of [`ALL`].

use std::time::Duration;

use super::contender::{Contender, ROUND_ROBIN};
use super::schedule::{Bursts, Service, Traffic};
use super::worker::Temper;
use crate::report::number;

/// A situation that servers get into.
#[derive(Debug)]
pub(super) struct Scenario {
    /// In tables and figures.
    pub(super) title: &'static str,
    what: &'static str,
    /// A real nginx instead of workers of this bench.
    pub(super) nginx: bool,
    /// The first worker's; the others are steady.
    pub(super) temper: Temper,
    rate: Rate,
    service: Service,
    /// How many addresses clients have.
    sources: u16,
    pub(super) lasting: bool,
    /// In addition, connections come in bursts.
    pub(super) bursts: bool,
    /// How many times as long as usual its rounds are. Nearer to capacity it takes longer until queues
    /// are as long as they get.
    pub(super) stretch: u32,
    pub(super) aims: &'static [Aim],
}

#[derive(Debug, Clone, Copy)]
enum Rate {
    /// A part of the workers' capacity.
    Capacity(f64),
    PerSecond(f64),
}

/// What `least-loaded` should reach at most, in addition to what holds in every scenario.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aim {
    /// p99, in times of another contender's.
    P99To(Contender, f64),
    /// The misbehaving worker's share of connections, in times of a fair one.
    FirstShare(f64),
    /// Deviation of open connections, in times of another contender's.
    DeviationTo(Contender, f64),
    /// What one worker gets of a burst at most, in times of a fair share.
    BurstShare(f64),
    /// Connections that reach the misbehaving worker. Nothing else is compared then.
    Reached(f64),
}

/// What a request takes in addition: a worker accepts, reads, wakes up, answers and closes. About what
/// was measured; how well it is met is in the column `busy`.
const HANDLING: Duration = Duration::from_micros(90);
/// Connections that last, by worker.
const LASTING: u32 = 200;
/// Connections of a burst, by worker.
const BURST: u32 = 10;
/// There is a burst in each such time.
const BURST_EVERY: Duration = Duration::from_millis(100);
/// nginx really computes, so it has no more workers than processors can run.
const NGINX_WORKERS: u8 = 4;

const USUAL: Scenario = Scenario {
    title: "uniform",
    what: "requests of 1 ms",
    nginx: false,
    temper: Temper::Steady,
    rate: Rate::Capacity(0.5),
    service: Service::of_ms(1, 1, 0.0),
    sources: 500,
    lasting: false,
    bursts: false,
    stretch: 1,
    aims: &[],
};
const BLOCKING_25: Scenario = Scenario {
    title: "blocking, 25 %",
    what: "0.2 % of requests block for 100 ms, others for 1 ms,",
    rate: Rate::Capacity(0.25),
    service: Service::of_ms(1, 100, 0.002),
    aims: &[Aim::P99To(Contender::Hash, 1.0 / 15.0), Aim::P99To(Contender::Shared, 1.0)],
    ..USUAL
};
const KEEP_ALIVE: Scenario = Scenario {
    title: "keep-alive",
    what: "connections that last 4 s, bursts of 5 requests of 1 ms,",
    rate: Rate::Capacity(0.25),
    lasting: true,
    aims: &[Aim::DeviationTo(Contender::Hash, 0.1)],
    ..USUAL
};

pub(super) static ALL: [Scenario; 14] = [
    USUAL,
    BLOCKING_25,
    Scenario {
        title: "blocking, 70 %",
        rate: Rate::Capacity(0.7),
        aims: &[Aim::P99To(Contender::Shared, 2.0)],
        ..BLOCKING_25
    },
    Scenario {
        title: "blocking, 90 %",
        rate: Rate::Capacity(0.9),
        stretch: 2,
        aims: &[Aim::P99To(Contender::Shared, 2.0)],
        ..BLOCKING_25
    },
    Scenario {
        title: "bimodal",
        what: "requests of 10 ms and 5 % of 200 ms,",
        rate: Rate::Capacity(0.85),
        service: Service::of_ms(10, 200, 0.05),
        stretch: 2,
        ..USUAL
    },
    Scenario {
        title: "hang",
        what: "one worker hangs for 400 ms once a second; requests of 1 ms",
        temper: Temper::Hangs,
        rate: Rate::Capacity(0.4),
        ..USUAL
    },
    Scenario {
        title: "fail-fast",
        what: "one worker accepts and closes at once; requests of 1 ms",
        temper: Temper::FailsFast,
        rate: Rate::Capacity(0.4),
        aims: &[Aim::FirstShare(2.0)],
        ..USUAL
    },
    Scenario {
        title: "drop-hang",
        what: "one worker drops its connections and hangs for 400 ms, once a second; connections \
               that last 4 s, bursts of 5 requests of 1 ms,",
        temper: Temper::DropsAndHangs,
        aims: &[],
        ..KEEP_ALIVE
    },
    KEEP_ALIVE,
    Scenario {
        title: "reconnect",
        what: "one worker ends once a second and is there again 5 ms later, its clients connect again at \
               once; connections that last 4 s, bursts of 5 requests of 1 ms,",
        temper: Temper::Restarts,
        aims: &[Aim::DeviationTo(ROUND_ROBIN, 1.0)],
        ..KEEP_ALIVE
    },
    Scenario {
        title: "bursts",
        what: "ten times a second, ten connections for each worker at once, in addition to others; requests \
               of 1 ms",
        rate: Rate::Capacity(0.25),
        bursts: true,
        aims: &[Aim::BurstShare(1.2)],
        ..USUAL
    },
    Scenario {
        title: "one-source",
        what: "requests of 1 ms from one address,",
        rate: Rate::Capacity(0.25),
        sources: 1,
        ..USUAL
    },
    Scenario {
        title: "nginx",
        what: "a real nginx; 0.2 % of requests are for the index of a directory with 20,000 files, which \
               blocks its worker for some 100 ms, others are answered at once",
        nginx: true,
        rate: Rate::PerSecond(600.0),
        service: Service::of_ms(0, 100, 0.002), // a nonzero time means the slow location
        stretch: 2,
        ..USUAL
    },
    Scenario {
        title: "stops accepting",
        what: "one worker never accepts, the others are idle most of the time",
        temper: Temper::StopsAccepting,
        rate: Rate::PerSecond(4000.0),
        service: Service::of_ms(0, 0, 0.0),
        aims: &[Aim::Reached(2.0)],
        ..USUAL
    },
];

impl Scenario {
    /// Whether only the connections that reach one worker are counted.
    pub(super) fn is_reached(&self) -> bool {
        matches!(self.aims, [Aim::Reached(_)])
    }

    /// Whether a contender can be measured in it.
    pub(super) fn suits(&self, contender: Contender) -> bool {
        match contender {
            Contender::Hermes => !self.nginx, // needs workers that report
            Contender::Shared => !self.is_reached(), // no connection belongs to one worker
            _ => true,
        }
    }

    /// On the command line and in names of files: `blocking-25`.
    pub(super) fn name(&self) -> String {
        self.title.replace(" %", "").replace(", ", "-").replace(' ', "-")
    }

    /// How many workers there are if `asked` are asked for.
    pub(super) fn workers(&self, asked: u8) -> u8 {
        if self.nginx { NGINX_WORKERS } else { asked }
    }

    /// What comes to this number of workers.
    pub(super) fn traffic(&self, workers: u8) -> Traffic {
        let rate = match self.rate {
            Rate::PerSecond(rate) => rate,
            Rate::Capacity(part) => {
                part * f64::from(workers) / (self.service.mean() + HANDLING).as_secs_f64()
            }
        };
        let lasting = if self.lasting { LASTING * u32::from(workers) } else { 0 };
        let connections = BURST * u32::from(workers);
        let bursts = self.bursts.then_some(Bursts { every: BURST_EVERY, connections });
        Traffic { rate, service: self.service, sources: self.sources, lasting, bursts }
    }

    /// For tables' titles.
    pub(super) fn describe(&self, workers: u8) -> String {
        let (title, what) = (self.title, self.what);
        let part = match self.rate {
            Rate::Capacity(part) => format!(" at {:.0} % of capacity", part * 100.0),
            Rate::PerSecond(_) => String::new(),
        };
        let (rate, workers) = (number(self.traffic(workers).rate), self.workers(workers));
        format!("{title}: {what}{part} ({rate} a second, {workers} workers)")
    }
}

#[test]
fn rates_are_parts_of_capacity() {
    assert!((USUAL.traffic(8).rate - 0.5 * 8.0 / 1.09e-3).abs() < 0.1);
    // 0.998 * 1 ms + 0.002 * 100 ms + 0.09 ms
    assert!((BLOCKING_25.traffic(8).rate - 0.25 * 8.0 / 1.288e-3).abs() < 0.1);
}
