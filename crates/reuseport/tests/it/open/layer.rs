//! Counting that stopped: noticed, and started again by the next change or by a watcher.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use reuseport::group::{GroupKey, Protocol};
use reuseport::status::{GroupStatus, Uncounted};
use reuseport::{Attach, Balancer, Host, Policy};
use sk_reuseport::maps::MapData;
use sk_reuseport::programs::ProgramInfo;
use test_support::wait::{self, BOUND};

use crate::common::rights::capable_of;
use crate::common::steering::followed_by;
use crate::common::world::{BY_OPEN, ROOT, alone, key_of, listeners, with};

struct Steered {
    host: Host,
    key: GroupKey,
    members: Vec<TcpListener>,
}

impl Steered {
    fn new(request: &Attach) -> Self {
        let members = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        Balancer::attach(&host, &key, request).unwrap();
        let steered = Self { host, key, members };
        assert_eq!(steered.status().uncounted, None);
        steered
    }

    fn status(&self) -> GroupStatus {
        self.host.status(&self.key).unwrap()
    }

    fn attach(&self) {
        Balancer::attach(&self.host, &self.key, &Attach::default()).unwrap();
    }

    fn open(&self) -> Vec<Option<u64>> {
        self.status().members.iter().map(|m| m.enrolment.as_ref().unwrap().open).collect()
    }

    /// New connections are counted, and only those: two for each member, in turn.
    fn counts(&self) {
        assert_eq!(self.status().uncounted, None);
        let before: u64 = self.open().into_iter().map(Option::unwrap).sum();
        let address = self.members[0].local_addr().unwrap();
        let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
        let all = || self.open().into_iter().map(Option::unwrap).sum::<u64>();
        wait::until("four more are counted", BOUND, || all() == before + 4);
        drop(clients);
    }

    /// Whether the program that decides reads the maps of the present host-wide layer.
    fn reads_present_layer(&self) -> bool {
        let id = self.status().group.program.unwrap().id.unwrap();
        let maps = ProgramInfo::from_id(id).unwrap().map_ids().unwrap().unwrap();
        let members = MapData::from_pin(host().join("members")).unwrap();
        maps.contains(&members.info().unwrap().id())
    }
}

fn host() -> PathBuf {
    Path::new(ROOT).join("host")
}

/// In one step, as a watcher may be looking, to where no command tidies up.
fn remove_layer() {
    let aside = Path::new(ROOT).with_file_name("removed");
    fs::rename(host(), &aside).unwrap();
    fs::remove_dir_all(aside).unwrap();
}

#[test]
fn programs_that_are_gone_are_named_and_attached_again() {
    alone(|| {
        let steered = Steered::new(&with(BY_OPEN));
        steered.counts();
        for program in ["count_open", "count_nested"] {
            fs::remove_file(host().join(program)).unwrap();
        }
        let status = steered.status();
        assert_eq!(status.uncounted, Some(Uncounted::NotAttached));
        assert_eq!(steered.open(), [None, None]);
        let listed = steered.host.statuses().unwrap();
        let listed = listed.iter().find(|status| status.group.key == steered.key).unwrap();
        assert_eq!(listed.uncounted, status.uncounted);
        steered.attach();
        steered.counts();
    });
}

/// What removing the directory by hand does: the next command makes another layer.
#[test]
fn a_layer_that_was_replaced_is_named_and_the_group_moves_to_the_new_one() {
    let change: [fn(&Steered); 2] = [Steered::attach, |steered| {
        let balancer = Balancer::open(&steered.host, &steered.key).unwrap();
        balancer.set_policy(Policy::default_for(Protocol::Tcp)).unwrap();
    }];
    for change in change {
        alone(|| {
            let steered = Steered::new(&with(BY_OPEN));
            steered.counts();
            remove_layer();
            assert_eq!(steered.status().uncounted, Some(Uncounted::NotAttached));
            let other = Steered::new(&Attach::default());
            assert_eq!(steered.status().uncounted, Some(Uncounted::LayerReplaced));
            assert_eq!(steered.open(), [None, None], "numbers of other groups' members");
            assert!(!steered.reads_present_layer());
            other.counts();

            change(&steered);
            assert!(steered.reads_present_layer());
            steered.counts();
            other.counts();
            // Indices are not shared, and end with their group.
            reuseport::detach(&steered.host, &steered.key).unwrap();
            other.counts();
        });
    }
}

/// A group that still counts in a layer that is gone leaves the present one alone.
#[test]
fn detaching_releases_nothing_in_another_layer() {
    alone(|| {
        let steered = Steered::new(&Attach::default());
        remove_layer();
        let other = Steered::new(&Attach::default());
        other.counts();
        reuseport::detach(&steered.host, &steered.key).unwrap();
        other.counts();
    });
}

#[test]
fn a_watcher_counts_again() {
    alone(|| {
        let members = listeners(2);
        let host_ = Host::open().unwrap();
        let key = key_of(&host_, &members[0]);
        followed_by(&key, BY_OPEN, |group| {
            group.settled(2);
            remove_layer();
            wait::until("the watcher notices", BOUND, || {
                host_.status(&key).unwrap().uncounted.is_none()
            });
            let steered = Steered { host: Host::open().unwrap(), key: key.clone(), members };
            assert!(steered.reads_present_layer());
            steered.counts();
        });
    });
}

#[test]
fn without_the_right_to_count_it_is_said() {
    alone(|| {
        let members = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        let attach = || Balancer::attach(&host, &key, &Attach::default()).map(|_| ()).unwrap();
        capable_of(rustix::thread::CapabilitySet::BPF, attach);
        assert_eq!(host.status(&key).unwrap().uncounted, Some(Uncounted::NotAttached));
        attach();
        assert_eq!(host.status(&key).unwrap().uncounted, None);
    });
}
