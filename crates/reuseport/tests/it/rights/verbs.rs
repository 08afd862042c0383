//! Operations on a group without one of the rights that they may need. What fails names the right, or who has it,
//! and never calls the program that decides another owner's: a takeover would replace it.

use reuseport::id::{Slot, State, Weight};
use reuseport::{Balancer, ErrorKind, MemberChange, Policy, Result};
use rustix::mount::{MountFlags, mount};
use rustix::thread::CapabilitySet;

use super::{BPF, Capability, DAC_OVERRIDE, NET_ADMIN, PERFMON, SYS_PTRACE, union};
use crate::common::rights::{capable_of, user_capable_of};
use crate::common::scene::Scene;
use crate::common::world::{alone, with};

type Verb = (&'static str, fn(&Scene) -> Result<()>);

const VERBS: [Verb; 6] = [
    ("attach", |scene| scene.attach(&with(Policy::RoundRobin))),
    ("attach, another policy", |scene| scene.attach(&with(Policy::Random))),
    ("policy", |scene| open(scene)?.set_policy(Policy::Hash).map(drop)),
    ("weight", |scene| open(scene)?.set_weights(&[(Slot::new(0), Weight::MAX)])),
    ("drain", |scene| {
        let drain = MemberChange::new(Slot::new(0)).state(State::Draining);
        open(scene)?.change_members(&[drain]).map(drop)
    }),
    ("detach", |scene| reuseport::detach(&scene.host, &scene.key).map(drop)),
];

fn open(scene: &Scene) -> Result<Balancer> {
    Balancer::open(&scene.host, &scene.key)
}

/// All but CAP_SYS_ADMIN, which stands in for most of them.
const RIGHTS: [Capability; 5] = [BPF, PERFMON, NET_ADMIN, SYS_PTRACE, DAC_OVERRIDE];

/// A group for which a program of this tool decides. `elsewhere`: with its state on a filesystem that is out of sight.
fn steered(elsewhere: bool) -> Scene {
    let scene = Scene::new(2);
    scene.attach(&with(Policy::RoundRobin)).unwrap();
    if elsewhere {
        mount("bpf", "/sys/fs/bpf", "bpf", MountFlags::empty(), None).unwrap();
    }
    scene
}

fn never_ends_in_a_takeover(elsewhere: bool) {
    let every = union(&RIGHTS);
    let without_one = RIGHTS.iter().map(|(one, name)| (*name, every - *one));
    let none = ("all", CapabilitySet::empty());
    let mut refusals = 0;
    for (lacks, rights) in without_one.chain([none, ("CAP_SYS_ADMIN", every)]) {
        for (verb, run) in VERBS {
            for as_root in [true, false] {
                let result = alone(|| {
                    let scene = steered(elsewhere);
                    match as_root {
                        true => capable_of(rights, || run(&scene)),
                        false => user_capable_of(rights, || run(&scene)),
                    }
                });
                let Err(error) = result else { continue };
                let said = error.report().to_string();
                let what = format!("{verb} without {lacks}, as root: {as_root}: {said}");
                assert!(!said.contains("--force"), "{what}");
                assert_eq!(error.kind(), ErrorKind::Denied, "{what}");
                assert!(said.contains("missing here: CAP_") || said.contains("uid 0"), "{what}");
                refusals += 1;
            }
        }
    }
    assert!(refusals > 20, "only {refusals} refusals");
}

#[test]
fn slow_a_missing_right_never_ends_in_the_advice_to_take_over() {
    never_ends_in_a_takeover(false);
}

#[test]
fn slow_nor_does_it_where_the_state_is_out_of_sight() {
    never_ends_in_a_takeover(true);
}
