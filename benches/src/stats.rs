//! What to make of many measurements on a machine that is never quite idle: order statistics,
//! which do not care how far out the outliers are.

use serde::Serialize;

/// How measurements are spread.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) p10: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Self {
        let sorted = sorted(values);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        Self { p10: at(0.1), p50: at(0.5), p90: at(0.9) }
    }
}

/// A median, and between which bounds the true one lies with 95 % confidence.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Median {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Median {
    /// Of at least one value. How many of n values lie below the true median is binomial, whatever
    /// their distribution: so the bounds are two of the values.
    pub(crate) fn of(values: &[f64]) -> Self {
        let sorted = sorted(values);
        let n = sorted.len();
        let half_width = 1.96 * (n as f64).sqrt() / 2.0;
        let low = (n as f64 / 2.0 - half_width).floor().max(0.0) as usize;
        let high = ((n as f64 / 2.0 + half_width).ceil() as usize).min(n - 1);
        Self { value: median(&sorted), low: sorted[low], high: sorted[high] }
    }

    /// Of the quotients of two measurements of each round: what disturbs a round disturbs both.
    pub(crate) fn of_ratios(values: &[f64], to: &[f64]) -> Self {
        let ratios: Vec<f64> = values.iter().zip(to).map(|(value, to)| value / to).collect();
        Self::of(&ratios)
    }
}

/// The middle one of at least one value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { sorted[middle - 1].midpoint(sorted[middle]) }
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
    fn order_statistics_of_a_hundred() {
        let values: Vec<f64> = (1..=101).rev().map(f64::from).collect();
        let spread = Spread::of(&values);
        assert_eq!((spread.p10, spread.p50, spread.p90), (11.0, 51.0, 91.0));
        let median = Median::of(&values);
        // 50.5 +- 1.96 * sqrt(101) / 2
        assert_eq!((median.low, median.value, median.high), (41.0, 51.0, 62.0));
    }

    #[test]
    fn a_single_value_is_its_own_bounds() {
        let median = Median::of(&[7.0]);
        assert_eq!((median.low, median.value, median.high), (7.0, 7.0, 7.0));
        assert_eq!(super::median(&[1.0, 2.0]), 1.5);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        assert_eq!(Median::of_ratios(&[2.0, 30.0, 4.0], &[1.0, 10.0, 2.0]).value, 2.0);
    }
}
