//! What happens to the workers, scenario by scenario: traffic, and how one of them misbehaves.

use std::time::Duration;

use super::nginx;
use super::schedule::{Lasting, Service, Traffic};
use super::temper::Temper;

/// A situation that servers get into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Scenario {
    /// Requests of 1 ms at half of the workers' capacity: a server that has no trouble
    Uniform,
    /// 0.2 % of requests block their worker for 100 ms, the others for 1 ms; 25 % of capacity
    Blocking25,
    /// The same at 70 % of capacity
    Blocking70,
    /// The same at 90 % of capacity. Rounds are twice as long
    Blocking90,
    /// Requests of 10 ms and, 5 % of them, 200 ms; 85 % of capacity. Rounds are twice as long
    Bimodal,
    /// One worker hangs for 400 ms once a second; requests of 1 ms, 40 % of capacity
    Hang,
    /// One worker accepts and closes at once; requests of 1 ms, 40 % of capacity
    FailFast,
    /// As keep-alive, and one worker drops its connections and hangs for 400 ms once a second
    DropHang,
    /// 200 connections per worker that last 4 s, bursts of 5 requests of 1 ms on them, 25 % of capacity
    KeepAlive,
    /// Requests of 1 ms from one address alone, 25 % of capacity
    OneSource,
    /// A real nginx with 4 workers; 0.2 % of requests are for a slow index. Then wrk. Rounds are twice
    /// as long
    Nginx,
}

/// From so many addresses clients come if nothing else is said.
const SOURCES: u16 = 500;

const MS: Duration = Duration::from_millis(1);
const SHORT: Service = Service::always(MS);
const BLOCKING: Service =
    Service { usual: MS, slow: Duration::from_millis(100), slow_share: 0.002 };
const BIMODAL: Service = Service {
    usual: Duration::from_millis(10),
    slow: Duration::from_millis(200),
    slow_share: 0.05,
};
/// What a request takes beside: a worker accepts, reads, wakes up, answers and closes. About what was
/// measured; how well it is met is in the column `busy`.
const HANDLING: Duration = Duration::from_micros(90);
/// Connections that last, by worker.
const LASTING: u32 = 200;

/// What a measurement is made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) traffic: Traffic,
    /// The first worker's; the others are steady.
    pub(super) temper: Temper,
    /// How many times as long as others its rounds are.
    pub(super) stretch: u32,
}

impl Scenario {
    pub(super) const ALL: [Self; 11] = [
        Self::Uniform,
        Self::Blocking25,
        Self::Blocking70,
        Self::Blocking90,
        Self::Bimodal,
        Self::Hang,
        Self::FailFast,
        Self::DropHang,
        Self::KeepAlive,
        Self::OneSource,
        Self::Nginx,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Blocking25 => "blocking, 25 %",
            Self::Blocking70 => "blocking, 70 %",
            Self::Blocking90 => "blocking, 90 %",
            Self::Bimodal => "bimodal",
            Self::Hang => "hang",
            Self::FailFast => "fail-fast",
            Self::DropHang => "drop-hang",
            Self::KeepAlive => "keep-alive",
            Self::OneSource => "one-source",
            Self::Nginx => "nginx",
        }
    }

    /// For a file's name.
    pub(super) fn file_name(self) -> String {
        self.name().replace(", ", "-").replace(" %", "")
    }

    /// How many workers there are if so many are asked for.
    pub(super) fn workers(self, asked: u8) -> u8 {
        if self == Self::Nginx { nginx::WORKERS } else { asked }
    }

    /// For so many workers.
    pub(super) fn load(self, workers: u8) -> Load {
        let (service, part, temper) = match self {
            Self::Uniform => (SHORT, 0.5, Temper::Steady),
            Self::Blocking25 => (BLOCKING, 0.25, Temper::Steady),
            Self::Blocking70 => (BLOCKING, 0.7, Temper::Steady),
            Self::Blocking90 => (BLOCKING, 0.9, Temper::Steady),
            Self::Bimodal => (BIMODAL, 0.85, Temper::Steady),
            Self::Hang => (SHORT, 0.4, Temper::Hangs),
            Self::FailFast => (SHORT, 0.4, Temper::FailsFast),
            Self::DropHang => (SHORT, 0.25, Temper::DropsAndHangs),
            Self::KeepAlive => (SHORT, 0.25, Temper::Steady),
            Self::OneSource => (SHORT, 0.25, Temper::Steady),
            Self::Nginx => {
                return Load { traffic: nginx::TRAFFIC, temper: Temper::Steady, stretch: 2 };
            }
        };
        let lasting = matches!(self, Self::DropHang | Self::KeepAlive).then(|| Lasting {
            connections: LASTING * u32::from(workers),
            life: Duration::from_secs(4),
            burst: 5,
        });
        let rate = part * f64::from(workers) / (service.mean() + HANDLING).as_secs_f64();
        let sources = if self == Self::OneSource { 1 } else { SOURCES };
        let traffic = Traffic { rate, service, sources, lasting };
        // Nearer to capacity it takes longer until queues are as long as they get.
        let stretch = if matches!(self, Self::Blocking90 | Self::Bimodal) { 2 } else { 1 };
        Load { traffic, temper, stretch }
    }

    /// What the tables' titles say of it.
    pub(super) fn describe(self, workers: u8) -> String {
        let what = match self {
            Self::Uniform => "requests of 1 ms at 50 % of capacity",
            Self::Blocking25 => {
                "0.2 % of requests block for 100 ms, others for 1 ms, at 25 % of capacity"
            }
            Self::Blocking70 => {
                "0.2 % of requests block for 100 ms, others for 1 ms, at 70 % of capacity"
            }
            Self::Blocking90 => {
                "0.2 % of requests block for 100 ms, others for 1 ms, at 90 % of capacity"
            }
            Self::Bimodal => "requests of 10 ms and 5 % of 200 ms, at 85 % of capacity",
            Self::Hang => {
                "one worker hangs for 400 ms once a second; requests of 1 ms at 40 % of capacity"
            }
            Self::FailFast => {
                "one worker accepts and closes at once; requests of 1 ms at 40 % of capacity"
            }
            Self::DropHang => {
                "one worker drops its connections and hangs for 400 ms, once a second; connections \
                 that last 4 s, bursts of 5 requests of 1 ms, at 25 % of capacity"
            }
            Self::KeepAlive => {
                "connections that last 4 s, bursts of 5 requests of 1 ms, at 25 % of capacity"
            }
            Self::OneSource => "requests of 1 ms from one address, at 25 % of capacity",
            Self::Nginx => {
                "a real one; 0.2 % of requests are for the index of a directory with 20,000 files, \
                 which blocks its worker for some 100 ms, others are answered at once"
            }
        };
        let rate = crate::report::number(self.load(workers).traffic.rate);
        let workers = self.workers(workers);
        format!("{}: {what} ({rate} a second, {workers} workers)", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_parts_of_capacity() {
        let rate = |scenario: Scenario| scenario.load(8).traffic.rate;
        assert!((rate(Scenario::Uniform) - 0.5 * 8.0 / 1.09e-3).abs() < 0.1);
        // 0.998 * 1 ms + 0.002 * 100 ms + 0.09 ms
        assert!((rate(Scenario::Blocking25) - 0.25 * 8.0 / 1.288e-3).abs() < 0.1);
        assert!((rate(Scenario::Bimodal) - 0.85 * 8.0 / 19.59e-3).abs() < 0.1);
    }

    #[test]
    fn names_are_different_and_good_for_files() {
        let names: std::collections::BTreeSet<String> =
            Scenario::ALL.iter().map(|scenario| scenario.file_name()).collect();
        assert_eq!(names.len(), Scenario::ALL.len());
        assert!(names.contains("blocking-25"), "{names:?}");
        assert!(names.iter().all(|n| n.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')));
    }
}
