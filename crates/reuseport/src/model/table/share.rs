//! The input of the fills: members' shares and turns.

use crate::model::id::{Percent, Slot, State, Weight};

/// An enrolled member's part in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Share {
    /// The slot that the member occupies.
    pub slot: Slot,
    /// Its weight; 0 is treated as draining.
    pub weight: Weight,
    /// Its state: only active members are in the table.
    pub state: State,
}

/// A slot and its number of turns relative to the others; not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) slot: Slot,
    pub(super) weight: u64,
}

/// Changes the weights so that those `on_trial` together get this part of all, and each its part of that. Nothing
/// changes if no other member is active.
pub(crate) fn split(shares: &mut [Share], trial: Percent, on_trial: impl Fn(&Share) -> bool) {
    let is_active = |share: &&Share| share.state == State::Active;
    let sum = |which: bool| -> u64 {
        let those = shares.iter().filter(is_active).filter(|share| on_trial(share) == which);
        those.map(|share| u64::from(share.weight.get())).sum()
    };
    let (tried, others) = (sum(true), sum(false));
    if tried == 0 || others == 0 {
        return;
    }
    let percent = u64::from(trial.get());
    let part = |share: &Share| match on_trial(share) {
        true => u64::from(share.weight.get()) * percent * others,
        false => u64::from(share.weight.get()) * (100 - percent) * tried,
    };
    let largest = shares.iter().filter(is_active).map(part).max().unwrap_or(1);
    let most = u64::from(Weight::MAX.get());
    for share in shares.iter_mut().filter(|share| share.weight.get() > 0) {
        // Not so small that it would get nothing.
        let weight = (part(share) * most + largest / 2).checked_div(largest).unwrap_or(1);
        let weight = u16::try_from(weight.clamp(1, most)).ok().and_then(Weight::new);
        share.weight = weight.unwrap_or(Weight::MAX);
    }
}

/// The part that can be had nearest to this one, if weights of 1 to 1000 for each member cannot express this one; `None`
/// if they can, to within half a percent or a tenth of the smaller part.
pub(crate) fn nearest(
    shares: &[Share],
    trial: Percent,
    on_trial: impl Fn(&Share) -> bool,
) -> Option<Percent> {
    let can_be_had = |trial: Percent| {
        let mut shares = shares.to_vec();
        split(&mut shares, trial, &on_trial);
        let active = shares.iter().filter(|share| share.state == State::Active);
        let (mut tried, mut all) = (0u64, 0);
        for share in active {
            let weight = u64::from(share.weight.get());
            all += weight;
            tried += if on_trial(share) { weight } else { 0 };
        }
        let percent = u64::from(trial.get());
        let tolerance = (percent.min(100 - percent) * 100).max(500);
        // Where only one of the two gets anything, weights decide nothing.
        tried == 0 || tried == all || (tried * 100_000 / all).abs_diff(percent * 1000) <= tolerance
    };
    if can_be_had(trial) {
        return None;
    }
    let others = (1..100).filter_map(Percent::new).filter(|other| can_be_had(*other));
    others.min_by_key(|other| other.get().abs_diff(trial.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_on_trial_get_their_part_of_all() {
        let share = |(slot, weight): (u16, &u16)| Share {
            slot: Slot::new(slot),
            weight: Weight::new(*weight).unwrap(),
            state: State::Active,
        };
        let cases: [(&[u16], &[u16]); 5] = [
            (&[1], &[1]),
            (&[1; 8], &[1; 8]),
            (&[1; 8], &[5]),
            (&[3, 1, 0], &[2, 7]),
            (&[1000, 1], &[1]),
        ];
        for (others, tried) in cases {
            for percent in [1, 10, 50, 99] {
                let mut shares: Vec<Share> =
                    (0..).zip(others.iter().chain(tried)).map(share).collect();
                let before = shares.clone();
                let on_trial = |share: &Share| share.slot.index() as usize >= others.len();
                split(&mut shares, Percent::new(percent).unwrap(), on_trial);
                let sum = |which: bool| -> f64 {
                    let those = shares.iter().filter(|share| on_trial(share) == which);
                    those.map(|share| f64::from(share.weight.get())).sum()
                };
                let got = 100.0 * sum(true) / (sum(true) + sum(false));
                let error = (got - f64::from(percent)).abs();
                assert!(
                    error < 0.3 + 0.1 * f64::from(percent.min(100 - percent)),
                    "{percent}: {got}"
                );
                for (before, after) in before.iter().zip(&shares) {
                    assert_eq!(before.weight.get() == 0, after.weight.get() == 0);
                }
            }
        }
        let mut alone: Vec<Share> = (0..).zip(&[3, 5]).map(share).collect();
        let before = alone.clone();
        split(&mut alone, Percent::new(10).unwrap(), |_| true);
        assert_eq!(alone, before);
    }

    #[test]
    fn a_part_that_weights_cannot_express_has_a_nearest_one() {
        let nearest = |others: u16, tried: u16, percent| {
            let share = |slot| Share {
                slot: Slot::new(slot),
                weight: Weight::DEFAULT,
                state: State::Active,
            };
            let shares: Vec<Share> = (0..others + tried).map(share).collect();
            let on_trial = |share: &Share| share.slot.index() >= others.into();
            nearest(&shares, Percent::new(percent).unwrap(), on_trial).map(Percent::get)
        };
        assert_eq!(nearest(1, 32, 1), Some(3), "32 of 1032");
        assert_eq!(nearest(32, 1, 99), Some(97));
        assert_eq!((nearest(1, 32, 3), nearest(1, 32, 4)), (None, Some(3)));
        assert_eq!(nearest(8, 8, 1), None);
        assert_eq!(nearest(0, 8, 1), None);
    }
}
