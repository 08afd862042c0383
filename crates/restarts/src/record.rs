//! What is kept of a run: the counts, and how long answers took.

use serde::{Deserialize, Serialize};

use crate::account::Reached;
use crate::tally::{Counts, How};

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When it was due, in seconds from the beginning of the load.
    pub at: f32,
    /// How long it took from then on, in seconds.
    pub took: f32,
}

/// A request that was lost before a server had accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// When the client saw it, in seconds from the beginning of the load.
    pub at: f32,
    /// What the client saw.
    pub how: How,
    /// How far the connection had come.
    pub reached: Reached,
    /// Seconds from its beginning.
    pub after: f32,
}

/// Everything that clients tell at the end.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The counts.
    pub counts: Counts,
    /// The first of those lost before a server had accepted them.
    pub losses: Vec<Loss>,
    /// Of requests over new connections, which are sent at times drawn before.
    pub samples: Vec<Sample>,
    /// How late the generator sent the latest of them, in seconds.
    pub late: f32,
    /// How many it sent more than 10 ms late.
    pub sent_late: u64,
    /// About how many it did not send, because it was later still.
    pub left_out: u64,
}

/// How long answers took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// In milliseconds.
    pub p50: f64,
    /// In milliseconds.
    pub p99: f64,
    /// In milliseconds.
    pub slowest: f64,
}

impl Times {
    /// Of answers that were due within one of these spans.
    pub fn of(samples: &[Sample], spans: &[(f32, f32)]) -> Self {
        let is_in =
            |sample: &&Sample| spans.iter().any(|(from, to)| (*from..*to).contains(&sample.at));
        let mut took: Vec<f32> = samples.iter().filter(is_in).map(|sample| sample.took).collect();
        took.sort_by(f32::total_cmp);
        let Some(last) = took.len().checked_sub(1) else { return Self::default() };
        let ms = |seconds: f32| (f64::from(seconds) * 1e5).round() / 1e2;
        let quantile = |part: f64| ms(took[(last as f64 * part).ceil() as usize]);
        Self { p50: quantile(0.5), p99: quantile(0.99), slowest: ms(took[last]) }
    }
}

#[test]
fn times_are_those_of_the_spans() {
    let samples: Vec<Sample> =
        (0..1000_u16).map(|n| Sample { at: n.into(), took: f32::from(n) / 1000.0 }).collect();
    let times = Times::of(&samples, &[(0.0, 50.0), (100.0, 151.0)]);
    assert_eq!(times, Times { p50: 100.0, p99: 149.0, slowest: 150.0 });
    assert_eq!(Times::of(&samples, &[]), Times::default());
}
