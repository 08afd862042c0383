//! A group that a policy steers, with access to the pinned maps of its program.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reuseport::group::GroupKey;
use reuseport::id::{Slot, Weight};
use reuseport::status::GroupStatus;
use reuseport::{Balancer, Host, MemberChange, Policy};
use sk_reuseport::maps::{Array, Map, MapData, PerCpuArray};
use sk_reuseport::programs::{SkReuseport, SkReuseportAttachType};

use super::world::{ROOT, key_at, program_in, with};

pub(crate) struct Steered<'a> {
    host: &'a Host,
    balancer: Balancer,
    directory: PathBuf,
    cursor: Array<MapData, u64>,
    picks: PerCpuArray<MapData, u64>,
}

impl<'a> Steered<'a> {
    /// Attaches to the group of this protocol (`tcp` or `udp`) at an address. It must be the only
    /// group in this bpffs.
    pub(crate) fn new(host: &'a Host, protocol: &str, at: SocketAddr, policy: Policy) -> Self {
        let (balancer, attached) =
            Balancer::attach(host, &key_at(host, protocol, at), &with(policy)).unwrap();
        assert!(attached.changes.left_out.is_empty(), "{attached:?}");
        let [directory] = <[_; 1]>::try_from(directories()).unwrap();
        let cursor = open(&directory, "cursor").try_into().unwrap();
        let picks = open(&directory, "picks").try_into().unwrap();
        Self { host, balancer, directory, cursor, picks }
    }

    /// The directory of its pins.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of the only other group in this bpffs.
    pub(crate) fn only_directory_beside(&self) -> PathBuf {
        let mut others = directories();
        others.retain(|directory| *directory != self.directory);
        let [other] = <[_; 1]>::try_from(others).unwrap();
        other
    }

    /// The map that is pinned under a name.
    pub(crate) fn map(&self, name: &str) -> Map {
        open(&self.directory, name)
    }

    /// The program.
    pub(crate) fn program(&self) -> SkReuseport {
        let attach_type = SkReuseportAttachType::SelectOrMigrate;
        SkReuseport::from_pin(program_in(&self.directory).join("select"), attach_type).unwrap()
    }

    pub(crate) fn detach(self) {
        self.balancer.detach().unwrap();
    }

    pub(crate) fn key(&self) -> &GroupKey {
        self.balancer.key()
    }

    /// Attaches again: members that came since get a slot.
    pub(crate) fn attach_again(&self) {
        Balancer::attach(self.host, self.key(), &Default::default()).unwrap();
    }

    pub(crate) fn status(&self) -> GroupStatus {
        self.host.status(self.key()).unwrap()
    }

    /// Weights by slot, in one step.
    pub(crate) fn set_weights(&self, weights: &[u16]) {
        let weights: Vec<_> = (0..)
            .zip(weights)
            .map(|(slot, weight)| (Slot::new(slot), Weight::new(*weight).unwrap()))
            .collect();
        self.balancer.set_weights(&weights).unwrap();
    }

    pub(crate) fn set_policy(&self, policy: Policy) {
        let set = self.balancer.set_policy(policy).unwrap();
        assert!(set.degraded.is_empty(), "{set:?}");
    }

    pub(crate) fn change(&self, changes: &[MemberChange]) {
        self.balancer.change_members(changes).unwrap();
    }

    /// Asserts that these counters have these values and all others are 0.
    #[track_caller]
    pub(crate) fn assert_counters(&self, expected: &[(&str, u64)]) {
        let counted = self.status().counters;
        let counted: Vec<_> =
            counted.iter().filter(|c| c.count > 0).map(|c| (c.reason, c.count)).collect();
        assert_eq!(counted, expected);
    }

    /// How often the member in a slot was picked.
    pub(crate) fn picks_of(&self, slot: usize) -> u64 {
        self.picks.get(&u32::try_from(slot).unwrap(), 0).unwrap().iter().sum()
    }

    /// The cursor of round-robin.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor.get(&0, 0).unwrap()
    }
}

/// The directories of the groups in this bpffs.
fn directories() -> Vec<PathBuf> {
    let groups = fs::read_dir(format!("{ROOT}/groups")).unwrap();
    groups.map(|group| group.unwrap().path()).collect()
}

fn open(directory: &Path, name: &str) -> Map {
    Map::from_map_data(MapData::from_pin(directory.join(name)).unwrap()).unwrap()
}
