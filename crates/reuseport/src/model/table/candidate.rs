//! The members that least-loaded compares, with what user space computes for them.

use super::share::Share;
use crate::model::id::{MaxShare, Slot, State, Weight};

/// A member that may be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its slot.
    pub(crate) slot: Slot,
    /// Its weight, above 0: loads are compared per weight.
    pub(crate) weight: Weight,
    /// The picks in one window after which other members are preferred.
    pub(crate) limit: u16,
    /// Its index in the host-wide layer, which counts open connections.
    pub(crate) host: Option<u16>,
}

impl Candidate {
    const NO_HOST: u16 = u16::MAX;

    /// The picks of a member of average weight in one window: `WINDOW` in `bpf/wire/tuning.h`.
    pub(crate) const WINDOW: u16 = 8;

    /// The active members with a weight above 0.
    pub(super) fn all(
        shares: &[Share],
        max_share: MaxShare,
        host: impl Fn(Slot) -> Option<u16>,
    ) -> Vec<Self> {
        let active = |share: &&Share| share.state == State::Active && share.weight.get() > 0;
        let weights = shares.iter().filter(active).map(|share| u128::from(share.weight.get()));
        let (sum, count) = weights.fold((0, 0), |(sum, count), weight| (sum + weight, count + 1));
        let limit = |weight: Weight| {
            let share = u128::from(weight.get()) * count * u128::from(Self::WINDOW);
            let most = share * u128::from(max_share.hundredths());
            u16::try_from(most.div_ceil(sum * 100)).unwrap_or(u16::MAX)
        };
        shares
            .iter()
            .filter(active)
            .map(|share| Self {
                slot: share.slot,
                weight: share.weight,
                limit: limit(share.weight),
                host: host(share.slot).filter(|host| *host != Self::NO_HOST),
            })
            .collect()
    }

    /// The word for the kernel program: slot, weight, limit and host, 16 bits each, from the lowest bit.
    pub(super) fn pack(&self) -> u64 {
        let host = self.host.unwrap_or(Self::NO_HOST);
        [host, self.limit, self.weight.get(), self.slot.get()]
            .into_iter()
            .fold(0, |word, part| word << 16 | u64::from(part))
    }
}
