//! Order statistics of measurements on a machine that is never quite idle: outliers do not move them,
//! however far out they are.

use serde::Serialize;

/// The 10th, 50th and 90th percentile of at least one value.
pub(crate) fn spread(values: &[f64]) -> [f64; 3] {
    [0.1, 0.5, 0.9].map(|share| percentile(values, share))
}

/// The value below which this share of at least one value lies.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// A median and the bounds within which the true one lies with 95 % confidence.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Median {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Median {
    /// Of at least one value. How many of n values lie below the true median is binomial, whatever
    /// their distribution, so the bounds are two of the values.
    pub(crate) fn of(values: &[f64]) -> Self {
        let sorted = sorted(values);
        let n = sorted.len();
        let half_width = 1.96 * (n as f64).sqrt() / 2.0;
        let low = (n as f64 / 2.0 - half_width).floor().max(0.0) as usize;
        let high = ((n as f64 / 2.0 + half_width).ceil() as usize).min(n - 1);
        Self { value: median(&sorted), low: sorted[low], high: sorted[high] }
    }

    /// Of the ratios of two measurements of each round: what disturbs a round disturbs both.
    pub(crate) fn of_ratios(values: &[f64], to: &[f64]) -> Self {
        Self::of(&ratios(values, to))
    }
}

/// The ratios of two measurements of each round.
pub(crate) fn ratios(values: &[f64], to: &[f64]) -> Vec<f64> {
    values.iter().zip(to).map(|(value, to)| value / to).collect()
}

/// The middle one of at least one value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { sorted[middle - 1].midpoint(sorted[middle]) }
}

/// The turns of a round: each contender once, each round with another one first, forwards and
/// backwards.
pub(crate) fn turns(round: usize, contenders: usize) -> impl Iterator<Item = usize> {
    let backwards = round / contenders % 2 == 1;
    (0..contenders).map(move |turn| {
        let turn = (turn + round) % contenders;
        if backwards { contenders - 1 - turn } else { turn }
    })
}

fn sorted(values: &[f64]) -> Vec<f64> {
    assert!(!values.is_empty(), "nothing was measured");
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_statistics() {
        let values: Vec<f64> = (1..=101).rev().map(f64::from).collect();
        assert_eq!(spread(&values), [11.0, 51.0, 91.0]);
        let Median { value, low, high } = Median::of(&values);
        // 50.5 +- 1.96 * sqrt(101) / 2
        assert_eq!((low, value, high), (41.0, 51.0, 62.0));
        let Median { value, low, high } = Median::of(&[7.0]);
        assert_eq!((low, value, high), (7.0, 7.0, 7.0));
        assert_eq!(median(&[2.0, 1.0]), 1.5);
        assert_eq!(Median::of_ratios(&[2.0, 30.0, 4.0], &[1.0, 10.0, 2.0]).value, 2.0);
    }

    #[test]
    fn each_contender_has_one_turn_a_round_and_the_first_changes() {
        for round in 0..24 {
            let mut turns: Vec<usize> = turns(round, 6).collect();
            turns.sort_unstable();
            assert_eq!(turns, [0, 1, 2, 3, 4, 5]);
        }
        let firsts: Vec<usize> = (0..12).filter_map(|round| turns(round, 6).next()).collect();
        assert_eq!(firsts, [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]);
    }
}
