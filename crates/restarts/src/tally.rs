//! What became of connections and requests.

use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Lost requests, by what the client saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// ECONNREFUSED.
    pub refused: u64,
    /// ECONNRESET.
    pub reset: u64,
    /// The end, before the answer was whole.
    pub closed: u64,
    /// No answer.
    pub timed_out: u64,
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// ECONNREFUSED.
    Refused,
    /// ECONNRESET.
    Reset,
    /// The end, before the answer was whole.
    Closed,
    /// No answer.
    TimedOut,
}

impl Lost {
    /// Counts one.
    pub fn add(&mut self, how: How) {
        let count = match how {
            How::Refused => &mut self.refused,
            How::Reset => &mut self.reset,
            How::Closed => &mut self.closed,
            How::TimedOut => &mut self.timed_out,
        };
        *count += 1;
    }

    /// All of them.
    pub fn sum(&self) -> u64 {
        self.refused + self.reset + self.closed + self.timed_out
    }
}

impl AddAssign for Lost {
    fn add_assign(&mut self, other: Self) {
        self.refused += other.refused;
        self.reset += other.reset;
        self.closed += other.closed;
        self.timed_out += other.timed_out;
    }
}

/// `3 (1 refused, 2 reset)`
impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refused, reset, closed, timed_out } = *self;
        write!(f, "{}", self.sum())?;
        let parts =
            [(refused, "refused"), (reset, "reset"), (closed, "closed"), (timed_out, "timed out")];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, how)| format!("{count} {how}")).collect();
        if parts.is_empty() { Ok(()) } else { write!(f, " ({})", parts.join(", ")) }
    }
}

/// The counts of one run, or the sum of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// TCP connections that clients began.
    pub connections: u64,
    /// UDP queries.
    pub queries: u64,
    /// Requests and queries that were answered as they should be.
    pub answered: u64,
    /// Answers that say that something is wrong.
    pub wrong: u64,
    /// Refused, reset or timed out before the server had accepted it; queries without an answer.
    pub ours: Lost,
    /// Accepted, and closed unread or half answered.
    pub servers: Lost,
    /// Kept connections that the server closed between two requests, which is no loss.
    pub ended: u64,
    /// Requests over connections of before a promotion, which the old processes answered after it.
    pub kept: u64,
    /// New connections that old processes answered although they began after a promotion.
    pub misplaced: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.queries += other.queries;
        self.answered += other.answered;
        self.wrong += other.wrong;
        self.ours += other.ours;
        self.servers += other.servers;
        self.ended += other.ended;
        self.kept += other.kept;
        self.misplaced += other.misplaced;
    }
}

/// The exact 95 % upper bound of a Poisson rate: of `lost` in `of`, per one.
///
/// For none it is the rule of three, -ln(0.05) / `of`.
pub fn upper_bound(lost: u64, of: u64) -> f64 {
    // The mean at which `lost` or fewer have a probability of 5 %.
    let probability = |mean: f64| -> f64 {
        let mut term = (-mean).exp();
        let mut sum = term;
        for k in 1..=lost {
            term *= mean / k as f64;
            sum += term;
        }
        sum
    };
    // Beyond this, exp(-mean) is 0; the normal approximation is exact to 1 % there.
    if lost > 400 {
        let lost = lost as f64;
        return (lost + 1.645 * lost.sqrt() + 1.0) / of.max(1) as f64;
    }
    let (mut low, mut high) = (0.0, 3.0 * lost as f64 + 10.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if probability(middle) > 0.05 { low = middle } else { high = middle }
    }
    high / of.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_the_tables() {
        // Garwood's exact limits, one-sided 95 %.
        for (lost, bound) in [(0, 2.9957), (1, 4.7439), (2, 6.2958), (10, 16.9622), (50, 63.287)] {
            let found = upper_bound(lost, 1);
            assert!((found - bound).abs() < 1e-3, "{lost}: {found}");
        }
        assert!((upper_bound(0, 1_000_000) - 3e-6).abs() < 1e-8);
        // The two ways meet.
        assert!((upper_bound(401, 1) / upper_bound(400, 1) - 1.0).abs() < 0.01);
    }

    #[test]
    fn losses_are_shown_by_what_clients_saw() {
        let mut lost = Lost::default();
        assert_eq!(lost.to_string(), "0");
        [How::Reset, How::Reset, How::TimedOut].into_iter().for_each(|how| lost.add(how));
        assert_eq!(lost.to_string(), "3 (2 reset, 1 timed out)");
    }
}
