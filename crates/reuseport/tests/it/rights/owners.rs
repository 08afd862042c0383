//! State of another user: root shows, detaches and rebuilds it, and uses nothing that the other may open.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use reuseport::group::{GroupKey, Protocol};
use reuseport::id::{Slot, State, Weight};
use reuseport::status::{GroupStatus, Steering, Uncounted};
use reuseport::{Attach, Balancer, ErrorKind, Host, MemberChange, Policy};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::maps::MapData;
use sk_reuseport::programs::{ProgramInfo, SkReuseport};
use test_support::process::close;

use crate::common::rights::{ORDINARY, user_capable_of};
use crate::common::world::{
    BY_OPEN, ROOT, alone, counter, deal, fails_to_attach, key_of, listeners, nothing_pinned,
    object, one_line, program_in, theirs, with, with_object,
};

/// docs/rights.md, "Without root": the capabilities of the command for the user `ops`.
const OPS: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::PERFMON).union(CapabilitySet::SYS_PTRACE);

fn as_ops<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    user_capable_of(OPS, body)
}

/// Gives the directory to the user `ops`, as docs/rights.md says.
fn directory_of_ops() {
    fs::create_dir(ROOT).unwrap();
    fs::set_permissions(ROOT, fs::Permissions::from_mode(0o750)).unwrap();
    chown(ROOT, Some(ORDINARY), Some(ORDINARY)).unwrap();
}

/// A group of root's that `ops` steers.
struct Scene {
    host: Host,
    key: GroupKey,
    members: Vec<TcpListener>,
}

impl Scene {
    fn new(request: &Attach) -> Self {
        let members = listeners(3);
        let host = Host::open().unwrap();
        let key = key_of(&host, &members[0]);
        as_ops(|| Balancer::attach(&Host::open().unwrap(), &key, request).unwrap());
        Self { host, key, members }
    }

    fn status(&self) -> GroupStatus {
        self.host.status(&self.key).unwrap()
    }

    /// `ops` gives the second member the double weight, and drains the third one.
    fn weigh_and_drain(&self) {
        let change = |slot, weight, state| {
            MemberChange::new(Slot::new(slot)).weight(Weight::new(weight).unwrap()).state(state)
        };
        as_ops(|| {
            let changes = [change(1, 2, State::Active), change(2, 1, State::Draining)];
            let balancer = Balancer::open(&self.host, &self.key).unwrap();
            balancer.change_members(&changes).unwrap();
        });
    }

    fn maps(&self) -> BTreeSet<u32> {
        let id = self.status().group.program.unwrap().id.unwrap();
        ProgramInfo::from_id(id).unwrap().map_ids().unwrap().unwrap().into_iter().collect()
    }
}

fn group_directory() -> PathBuf {
    let groups = fs::read_dir(Path::new(ROOT).join("groups")).unwrap();
    groups.map(|entry| entry.unwrap().path()).next().unwrap()
}

fn owner(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().uid()
}

#[test]
fn root_shows_and_detaches_what_another_user_attached() {
    alone(|| {
        directory_of_ops();
        let scene = Scene::new(&with(Policy::RoundRobin));
        assert_eq!(owner(group_directory()), ORDINARY);
        let status = scene.status();
        assert_eq!(status.steering, Steering::Ours(Policy::RoundRobin.into()));
        assert_eq!((status.unsteered(), status.uncounted), (0, None));
        assert_eq!(deal(&scene.members, 9), [3, 3, 3]);
        assert_eq!(counter(&scene.status(), "picks"), 9);

        reuseport::detach(&scene.host, &scene.key).unwrap();
        assert_eq!(scene.status().steering, Steering::KernelHash);
        assert!(nothing_pinned());
        // The directory is still theirs.
        assert_eq!(owner(ROOT), ORDINARY);
        as_ops(|| Balancer::attach(&scene.host, &scene.key, &Attach::default()).unwrap());
        as_ops(|| reuseport::detach(&scene.host, &scene.key).unwrap());
        assert!(nothing_pinned());
    });
}

#[test]
fn root_builds_anew_and_shares_no_map_with_the_other_user() {
    alone(|| {
        directory_of_ops();
        let scene = Scene::new(&with(BY_OPEN));
        scene.weigh_and_drain();
        let before = scene.maps();
        Balancer::attach(&scene.host, &scene.key, &Attach::default()).unwrap();
        let shared: Vec<_> = before.intersection(&scene.maps()).copied().collect();
        assert_eq!(shared, [], "the members of the host-wide layer included");
        for path in [group_directory(), Path::new(ROOT).join("host")] {
            assert_eq!(owner(&path), 0, "{}", path.display());
            for pin in fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()) {
                assert_eq!(owner(&pin), 0, "{}", pin.display());
            }
        }
        // The policy, the weights and the drain are the same, and every member has a slot.
        let status = scene.status();
        assert_eq!(status.steering, Steering::Ours(BY_OPEN.into()));
        assert_eq!((status.unsteered(), status.uncounted), (0, None));
        assert_eq!(deal(&scene.members, 9), [3, 6, 0]);
        assert_eq!(counter(&scene.status(), "picks"), 9);

        // What root attached belongs to root.
        let error = as_ops(|| reuseport::detach(&scene.host, &scene.key).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Denied, "{}", one_line(&error));
        // Root's own state is adopted.
        let now = scene.maps();
        Balancer::attach(&scene.host, &scene.key, &Attach::default()).unwrap();
        assert_eq!(scene.maps(), now);
        reuseport::detach(&scene.host, &scene.key).unwrap();
        assert!(nothing_pinned());
    });
}

/// The new program knows the drain when it begins to decide.
#[test]
fn what_drains_gets_nothing_while_root_builds_anew() {
    alone(|| {
        directory_of_ops();
        let scene = Scene::new(&with(Policy::RoundRobin));
        scene.weigh_and_drain();
        let members: Vec<_> = scene.members.iter().map(|one| one.try_clone().unwrap()).collect();
        let mut attached = false;
        let after_attaching = move |call| {
            if std::mem::take(&mut attached) {
                assert_eq!(deal(&members, 9), [3, 6, 0], "before {call:?}");
            }
            attached = call == Call::AttachReuseportEbpf;
            Verdict::Allow
        };
        let attach = || Balancer::attach(&scene.host, &scene.key, &Attach::default());
        intercept(after_attaching, attach).unwrap();
        assert_eq!(owner(group_directory()), 0);
        assert_eq!(deal(&scene.members, 9), [3, 6, 0]);
    });
}

/// `ops` may put another program in the place of the pinned one at any moment.
#[test]
fn slow_root_puts_no_program_back_that_was_not_attached() {
    alone(|| {
        directory_of_ops();
        let spare = Path::new(ROOT).join("spare");
        let mut late = theirs("first");
        let exchanged_at = |opening: usize, late: &mut SkReuseport| {
            let scene = Scene::new(&with(Policy::RoundRobin));
            let _ = fs::remove_file(&spare);
            late.pin(&spare).unwrap();
            let (from, to) = (spare.clone(), program_in(&group_directory()).join("select"));
            let (mut fails, mut openings) = (fails_to_attach(scene.members.len(), Errno::PERM), 0);
            let exchanges = move |call| {
                if call == Call::BpfObjGet {
                    if openings == opening {
                        fs::rename(&from, &to).unwrap();
                    }
                    openings += 1;
                }
                fails(call)
            };
            let attach = || Balancer::attach(&scene.host, &scene.key, &with(Policy::RoundRobin));
            intercept(exchanges, attach).unwrap_err();
            let decides = scene.status().group.program.unwrap().id;
            assert_ne!(decides, Some(late.info().unwrap().id()), "opening {opening}");
            let exchanged = !spare.exists();
            close(scene.members);
            exchanged
        };
        let openings = (0..).take_while(|opening| exchanged_at(*opening, &mut late)).count();
        assert!(openings > 10, "{openings}");
    });
}

#[test]
fn the_state_of_another_user_comes_back_if_root_cannot_attach() {
    alone(|| {
        directory_of_ops();
        let scene = Scene::new(&with(Policy::RoundRobin));
        scene.weigh_and_drain();
        // As after an interruption: the state is there, and the program is not attached.
        SkReuseport::detach(&scene.members[0]).unwrap();
        let attach = || Balancer::attach(&scene.host, &scene.key, &with(Policy::RoundRobin));
        let error = intercept(fails_to_attach(3, Errno::PERM), attach).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{}", one_line(&error));
        assert_eq!(owner(group_directory()), ORDINARY);
        as_ops(|| Balancer::attach(&scene.host, &scene.key, &Attach::default()).unwrap());
        assert_eq!(deal(&scene.members, 9), [3, 6, 0]);
    });
}

/// Their groups are counted as before.
#[test]
fn an_attach_of_root_that_fails_leaves_the_layer_of_the_other_user() {
    alone(|| {
        directory_of_ops();
        let of_ops = Scene::new(&with(BY_OPEN));
        let of_root = listeners(2);
        let key_of_root = key_of(&of_ops.host, &of_root[0]);
        let layer = Path::new(ROOT).join("host");
        let pinned = |name| MapData::from_pin(layer.join(name)).unwrap().info().unwrap().id();
        let before = pinned("members");
        let no_slots = with(BY_OPEN).slots(0);
        let refused_late = |key: &GroupKey, members| {
            let attach = || Balancer::attach(&of_ops.host, key, &with(BY_OPEN));
            intercept(fails_to_attach(members, Errno::PERM), attach).map(|_| ())
        };
        for (key, members) in [(&key_of_root, 2), (&of_ops.key, 3)] {
            let refused = Balancer::attach(&of_ops.host, key, &no_slots).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{}", one_line(&refused));
            let refused = refused_late(key, members).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Denied, "{}", one_line(&refused));
            assert_eq!((owner(&layer), pinned("members")), (ORDINARY, before));
            assert_eq!(of_ops.status().uncounted, None);
            assert!(!Path::new(ROOT).join("host_next").exists());
        }
        assert_eq!(of_ops.status().steering, Steering::Ours(BY_OPEN.into()));
        assert_eq!(deal(&of_ops.members, 9), [3, 3, 3]);
        Balancer::attach(&of_ops.host, &key_of_root, &with(BY_OPEN)).unwrap();
        assert_eq!(owner(&layer), 0);
        assert_eq!(of_ops.status().uncounted, Some(Uncounted::LayerReplaced));
    });
}

#[test]
fn root_fills_no_map_of_another_user() {
    alone(|| {
        directory_of_ops();
        let scene = Scene::new(&with(Policy::RoundRobin));
        let balancer = Balancer::open(&scene.host, &scene.key).unwrap();
        let weight = (Slot::new(0), Weight::new(5).unwrap());
        let policy = balancer.set_policy(Policy::Random).map(|_| ());
        for result in [balancer.set_weights(&[weight]), policy] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            let said = one_line(&error);
            assert!(said.contains(&format!("belong to uid {ORDINARY}")), "{said}");
            assert!(said.contains("`attach` as root"), "{said}");
        }
        assert_eq!(deal(&scene.members, 9), [3, 3, 3], "as before");
    });
}

#[test]
fn after_a_restart_root_does_not_resume_the_program_of_another_user() {
    alone(|| {
        directory_of_ops();
        let scene = Scene::new(&with(Policy::RoundRobin));
        let before = scene.maps();
        // As after an interruption: the state is there, and the program is not attached.
        SkReuseport::detach(&scene.members[0]).unwrap();
        Balancer::attach(&scene.host, &scene.key, &with(Policy::RoundRobin)).unwrap();
        assert!(before.is_disjoint(&scene.maps()));
        assert_eq!(owner(group_directory()), 0);
        assert_eq!(deal(&scene.members, 9), [3, 3, 3]);
    });
}

#[test]
fn an_object_of_another_user_is_replaced_by_what_root_names() {
    alone(|| {
        directory_of_ops();
        let scene = Scene::new(&with_object(object("by_source")));
        let error = Balancer::attach(&scene.host, &scene.key, &Attach::default()).unwrap_err();
        assert!(one_line(&error).contains("--policy"), "{}", one_line(&error));
        Balancer::attach(&scene.host, &scene.key, &with(Policy::RoundRobin)).unwrap();
        assert_eq!(owner(group_directory()), 0);
        assert_eq!(deal(&scene.members, 9), [3, 3, 3]);
    });
}

/// Root's host-wide layer takes the place of the other user's. That user's groups go on without counts.
#[test]
fn the_other_user_goes_on_without_counts() {
    alone(|| {
        directory_of_ops();
        let (of_root, of_ops) = (listeners(2), Scene::new(&with(BY_OPEN)));
        let key = key_of(&of_ops.host, &of_root[0]);
        assert_eq!(of_ops.status().uncounted, None);
        Balancer::attach(&of_ops.host, &key, &with(BY_OPEN)).unwrap();
        assert_eq!(owner(Path::new(ROOT).join("host")), 0);
        assert_eq!(of_ops.status().uncounted, Some(Uncounted::LayerReplaced));
        assert_eq!(of_ops.host.status(&key).unwrap().uncounted, None);

        as_ops(|| {
            let status = of_ops.host.status(&of_ops.key).unwrap();
            assert_eq!(status.uncounted, Some(Uncounted::Unreadable));
            assert_eq!(status.steering, Steering::Ours(BY_OPEN.into()));
            let random = with(Policy::default_for(Protocol::Tcp));
            let (balancer, _) = Balancer::attach(&of_ops.host, &of_ops.key, &random).unwrap();
            balancer.set_policy(BY_OPEN).unwrap();
        });
        assert_eq!(deal(&of_ops.members, 9), [3, 3, 3]);
        as_ops(|| reuseport::detach(&of_ops.host, &of_ops.key).unwrap());
        assert_eq!(deal(&of_root, 8), [4, 4]);
        assert_eq!(of_ops.host.status(&key).unwrap().uncounted, None);
        reuseport::detach(&of_ops.host, &key).unwrap();
        assert!(nothing_pinned());
    });
}

/// What root makes there first does not keep the owner of the directory out.
#[test]
fn the_owner_of_the_directory_may_attach_after_root() {
    alone(|| {
        directory_of_ops();
        let of_root = listeners(2);
        let host = Host::open().unwrap();
        let key = key_of(&host, &of_root[0]);
        Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        let of_ops = Scene::new(&with(Policy::RoundRobin));
        assert_eq!(deal(&of_ops.members, 9), [3, 3, 3]);
        assert_eq!(counter(&of_ops.status(), "picks"), 9);
        as_ops(|| reuseport::detach(&host, &of_ops.key).unwrap());
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned());
    });
}

/// Pins could be replaced there between two calls.
#[test]
fn a_directory_that_all_users_may_write_is_refused_with_the_remedy() {
    alone(|| {
        directory_of_ops();
        let scene = Scene::new(&with(Policy::RoundRobin));
        fs::set_permissions(ROOT, fs::Permissions::from_mode(0o757)).unwrap();
        let error = reuseport::detach(&scene.host, &scene.key).unwrap_err();
        assert!(one_line(&error).contains("chmod o-w"), "{}", one_line(&error));
        fs::set_permissions(ROOT, fs::Permissions::from_mode(0o750)).unwrap();
        reuseport::detach(&scene.host, &scene.key).unwrap();
    });
}
