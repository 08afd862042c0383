//! Faults while another owner's program is replaced, and around objects of the user.

use reuseport::status::Steering;
use reuseport::{Attach, ObjectSpec, Policy};
use rustix::io::Errno;
use test_support::bpffs;

use super::{Fault, Scene, alone_in_turn, decides, fail_each_call, fail_from_each_call_on, faulty};
use crate::common::theirs::Theirs;
use crate::common::world::{deal, object, one_line, with, with_object};

/// The sockets are in the array of the program that is replaced.
fn force_fails_at_each_call(attach: &Attach) {
    let scene = Scene::new(3);
    // Directories that stay.
    scene.attach(&with(Policy::RoundRobin)).unwrap();
    scene.detach().unwrap();
    scene.give_to_them();
    let force = |scene: &Scene| scene.attach(&Attach { force: true, ..attach.clone() });
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
    alone_in_turn(|| force_fails_at_each_call(&with(Policy::RoundRobin)));
}

#[test]
fn slow_replacing_another_owners_program_by_an_object_fails_at_each_call() {
    alone_in_turn(|| force_fails_at_each_call(&with_object(object("first"))));
}

/// Interrupts a takeover when the sockets have left their array, at this call or a later one. Returns which.
fn interrupt_with_their_array_empty(scene: &Scene, from: usize) -> usize {
    let force = Attach { force: true, ..with(Policy::RoundRobin) };
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
    alone_in_turn(|| {
        let scene = Scene::new(2);
        let mut at = 0;
        for attach in [with(Policy::RoundRobin), Attach::default()] {
            let attach = Attach { force: true, ..attach };
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

#[test]
fn slow_taking_a_group_back_fails_at_each_call() {
    alone_in_turn(|| {
        let scene = Scene::new(2);
        let give = |scene: &Scene| {
            let mut theirs = scene.theirs.borrow_mut();
            let theirs = theirs.get_or_insert_with(Theirs::load);
            theirs.program.attach(&scene.members.borrow()[0]).unwrap();
        };
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        // Our array keeps the sockets.
        let back = |scene: &Scene| scene.attach(&Attach { force: true, ..Attach::default() });
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
    alone_in_turn(|| {
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
    alone_in_turn(|| {
        let scene = Scene::new(2);
        let good = ObjectSpec { program: Some("good".to_owned()), ..object("pinned") };
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
