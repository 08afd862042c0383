//! Faults while another owner's program is replaced, and around objects of the user.

use std::net::TcpListener;

use reuseport::status::Steering;
use reuseport::{Attach, Attached, Balancer, Host, Policy, Result};
use rustix::io::Errno;
use rustix::net::{self, Shutdown};
use sk_reuseport::fault::{Call, Verdict, intercept};
use test_support::process::close;
use test_support::{InFlight, bpffs, wait};

use super::{Fault, Scene, decides, fail_each_call, fail_from_each_call_on, faulty};
use crate::common::cookie;
use crate::common::steps::{Steps, steps_of};
use crate::common::theirs::Theirs;
use crate::common::world::{
    BY_OPEN, deal, host_members, key_of, listeners, nothing_pinned, object, one_line, with,
    with_object,
};
use crate::in_own_process;

/// The sockets are in the array of the program that is replaced.
fn force_fails_at_each_call(attach: &Attach) {
    let scene = Scene::new(3);
    // Directories that stay.
    scene.attach(&with(Policy::RoundRobin)).unwrap();
    scene.detach().unwrap();
    scene.give_to_them();
    let force = |scene: &Scene| scene.attach(&attach.clone().force(true));
    let undo = |scene: &Scene| {
        scene.detach().unwrap();
        scene.give_to_them();
    };
    let done = |scene: &Scene| {
        let status = scene.status();
        status.steering.is_ours() && status.unsteered() == 0
    };
    fail_each_call(&scene, force, undo, done);
    fail_from_each_call_on(&scene, force, undo, done);
}

#[test]
fn slow_replacing_another_owners_program_fails_at_each_call() {
    in_own_process(|| force_fails_at_each_call(&with(Policy::RoundRobin)));
}

#[test]
fn slow_replacing_another_owners_program_by_an_object_fails_at_each_call() {
    in_own_process(|| force_fails_at_each_call(&with_object(object("first"))));
}

/// Interrupts a takeover when the sockets have left their array, at this call or a later one. Returns which.
fn interrupt_with_their_array_empty(scene: &Scene, from: usize) -> usize {
    let force = with(Policy::RoundRobin).force(true);
    for index in from.. {
        scene.give_to_them();
        let (result, failed) = faulty(Fault::From(index, Errno::NOMEM), || scene.attach(&force));
        assert!(result.is_err(), "never, up to {failed:?}");
        let emptied = scene.theirs.borrow().as_ref().unwrap().cookies() == [0; 4];
        if emptied && scene.status().steering == Steering::KernelHash {
            return index;
        }
        scene.attach(&force).unwrap();
        scene.detach().unwrap();
    }
    unreachable!()
}

#[test]
fn slow_going_on_with_a_takeover_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        let mut at = 0;
        for attach in [with(Policy::RoundRobin), Attach::default()] {
            let attach = attach.force(true);
            let mut failures = 0;
            for index in (0..).step_by(3) {
                at = interrupt_with_their_array_empty(&scene, at);
                let fault = Fault::One(index, Errno::NOMEM);
                let (result, failed) = faulty(fault, || scene.attach(&attach));
                scene.serves();
                if let Err(error) = result {
                    one_line(&error);
                    let steering = scene.status().steering;
                    assert_eq!(steering, Steering::KernelHash, "{failed:?}: {error}");
                    failures += 1;
                    scene.attach(&attach).unwrap();
                }
                assert!(decides(&scene, Policy::RoundRobin), "{failed:?}");
                assert_eq!(deal(&scene.members.borrow(), 12), [6, 6], "{failed:?}");
                assert!(scene.tidy(), "{failed:?}");
                scene.detach().unwrap();
                if failed.is_none() {
                    break;
                }
            }
            assert!(failures > 5, "only {failures} failures");
        }
    });
}

/// Takes a group over by `take_over`. Their array has a listener that stops meanwhile, if `take_over` stops it,
/// and one that no process holds, which stays there.
fn partial_takeover<T>(
    host: &Host,
    take_over: impl FnOnce(&TcpListener, &mut dyn FnMut() -> Result<Attached>) -> T,
) -> T {
    let mut members = listeners(4);
    let key = key_of(host, &members[0]);
    let mut theirs = Theirs::load();
    theirs.steer(&members);
    let last = members.pop().unwrap();
    let known = cookie(&last);
    let hidden = InFlight::send(last);
    wait::until("it is hidden", wait::BOUND, || {
        host.refresh(&key).unwrap().member(known).unwrap().holders.is_empty()
    });
    let stops = members.remove(0);
    let force = with(Policy::RoundRobin).force(true).partial(true);
    let mut starving = Vec::new();
    let told = take_over(&stops, &mut || {
        let (_, attached) = Balancer::attach(host, &key, &force)?;
        let left_out = attached.changes.left_out.iter().filter(|left| left.is_starving());
        starving = left_out.map(|left| left.cookie).collect();
        Ok(attached)
    });
    assert_eq!(starving, [Some(known)]);
    // ENOTCONN: it has stopped.
    let _ = net::shutdown(&stops, Shutdown::Both);
    // If it stopped after it was enrolled, the others share what is due to it.
    assert_eq!(deal(&members, 12).iter().sum::<usize>(), 12);
    let status = host.status(&key).unwrap();
    assert_eq!((status.steering.policy(), status.unsteered()), (Some(Policy::RoundRobin), 1));
    assert_eq!(theirs.cookies(), [0, 0, 0, known.get()]);
    // The next command frees its slot.
    Balancer::attach(host, &key, &with(BY_OPEN).partial(true)).unwrap();
    assert_eq!(host_members(), members.len());
    Balancer::attach(host, &key, &with(Policy::RoundRobin).partial(true)).unwrap();
    assert_eq!(deal(&members, 12), [6, 6]);
    reuseport::detach(host, &key).unwrap();
    assert!(nothing_pinned());
    close((stops, hidden));
    told
}

#[test]
fn slow_a_listener_stops_at_any_step_of_a_partial_takeover() {
    in_own_process(|| {
        let host = Host::open().unwrap();
        let steps = partial_takeover(&host, |_, take_over| {
            let (steps, result) = steps_of(take_over);
            result.unwrap();
            steps
        });
        let detached = steps.iter().position(|step| step.with == Call::DetachReuseportBpf);
        // Before that, it is as if it had stopped when the group was listed.
        for stop in detached.unwrap() - 2..steps.len() {
            partial_takeover(&host, |listener, take_over| {
                let (listener, mut steps) = (listener.try_clone().unwrap(), Steps::default());
                let hook = move |call| {
                    if steps.begins_with(call) && steps.begun == stop + 1 {
                        net::shutdown(&listener, Shutdown::Both).unwrap();
                    }
                    Verdict::Allow
                };
                intercept(hook, take_over)
                    .unwrap_or_else(|e| panic!("at {:?}: {}", stop, e.report()));
            });
        }
    });
}

#[test]
fn slow_taking_a_group_back_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        let give = |scene: &Scene| {
            let mut theirs = scene.theirs.borrow_mut();
            let theirs = theirs.get_or_insert_with(Theirs::load);
            theirs.program.attach(&scene.members.borrow()[0]).unwrap();
        };
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        // Our array keeps the sockets.
        let back = |scene: &Scene| scene.attach(&Attach::default().force(true));
        let done = |scene: &Scene| decides(scene, Policy::RoundRobin);
        let mut failures = 0;
        for index in 0.. {
            give(&scene);
            let (result, failed) = faulty(Fault::One(index, Errno::NOMEM), || back(&scene));
            if let Err(error) = result {
                one_line(&error);
                let status = scene.status();
                assert_eq!(status.steering, Steering::Foreign, "{failed:?}: {error}");
                failures += 1;
                back(&scene).unwrap();
            }
            assert!(done(&scene), "{failed:?}");
            assert_eq!(deal(&scene.members.borrow(), 12), [6, 6], "{failed:?}");
            if failed.is_none() {
                break;
            }
        }
        assert!(failures > 5, "only {failures} failures");
    });
}

#[test]
fn slow_replacing_an_object_by_a_policy_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with_object(object("first"))).unwrap();
        let change = |scene: &Scene| scene.attach(&with(Policy::RoundRobin));
        let undo = |scene: &Scene| scene.attach(&with_object(object("first"))).unwrap();
        let done = |scene: &Scene| decides(scene, Policy::RoundRobin);
        fail_each_call(&scene, change, undo, done);
        fail_from_each_call_on(&scene, change, undo, done);
    });
}

#[test]
fn slow_an_object_with_pins_of_its_own_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        let good = object("pinned").program("good");
        let attach = |scene: &Scene| scene.attach(&with_object(good.clone()));
        let by_name = || {
            let names = std::fs::read_dir(bpffs::PATH).unwrap().flatten();
            names.filter(|e| e.file_name().to_string_lossy().starts_with("pinned_")).count()
        };
        let mut failures = 0;
        for index in 0.. {
            let (result, failed) = faulty(Fault::One(index, Errno::NOMEM), || attach(&scene));
            match result {
                Ok(()) => {
                    assert_eq!(by_name(), 2);
                    scene.detach().unwrap();
                    for name in ["pinned_sockets", "pinned_count"] {
                        std::fs::remove_file(format!("{}/{name}", bpffs::PATH)).unwrap();
                    }
                }
                Err(error) => {
                    assert_eq!(by_name(), 0, "{failed:?}: {error}");
                    failures += 1;
                }
            }
            if failed.is_none() {
                break;
            }
        }
        assert!(failures > 20, "only {failures} failures");
    });
}
