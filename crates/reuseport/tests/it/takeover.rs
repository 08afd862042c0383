//! Another owner's program in the group: replaced by force, displacing ours, taken back by a watcher.

use std::cell::Cell;
use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::thread;

use reuseport::id::{Slot, Weight};
use reuseport::status::Steering;
use reuseport::watch::{Change, Retake, Watch};
use reuseport::{Attach, Balancer, Error, ErrorKind, Host, Policy, Stop};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::thread::CapabilitySet;
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::maps::ReusePortSockArray;
use sk_reuseport::programs::SkReuseport;
use test_support::{bpffs, wait};

use crate::common::rights::capable_of;
use crate::common::scene::Scene;
use crate::common::steering::steered;
use crate::common::theirs::Theirs;
use crate::common::world::{
    ROOT, alone, deal, nothing_pinned, object, one_line, with, with_object,
};

impl Scene {
    fn attached(&self) -> Option<u32> {
        self.host.status(&self.key).unwrap().group.program?.id
    }
}

fn force(attach: Attach) -> Attach {
    attach.force(true)
}

#[test]
fn force_moves_the_sockets_out_of_the_array_of_the_program_that_it_replaces() {
    alone(|| {
        for attach in [with(Policy::RoundRobin), with_object(object("first"))] {
            let scene = Scene::new(2);
            // Its owner keeps the array open.
            let mut theirs = Theirs::load();
            theirs.steer(&scene.members);
            assert_eq!(deal(&scene.members, 10), [10, 0]);
            assert_eq!(scene.attach(&attach).unwrap_err().kind(), ErrorKind::Foreign);
            let (_, attached) =
                Balancer::attach(&scene.host, &scene.key, &force(attach.clone())).unwrap();
            assert_eq!(attached.replaced.unwrap().id, Some(theirs.id()));
            assert_eq!(attached.changes.enrolled.len(), 2);
            assert_eq!(theirs.cookies(), [0; 4]);
            assert!(scene.host.status(&scene.key).unwrap().steering.is_ours());
            let policy = attach.program.as_ref().unwrap().selection().is_some();
            let wanted = if policy { [5, 5] } else { [10, 0] };
            assert_eq!(deal(&scene.members, 10), wanted);
            reuseport::detach(&scene.host, &scene.key).unwrap();
            assert!(nothing_pinned());
        }
    });
}

/// Asserts that taking over by force fails, and that their program goes on as if nothing had happened.
#[track_caller]
fn keeps_their_program(scene: &Scene, theirs: &Theirs, attach: Attach) -> Error {
    let before = scene.world();
    let error = scene.attach(&force(attach)).unwrap_err();
    one_line(&error);
    assert_eq!(scene.world(), before);
    assert_eq!(scene.attached(), Some(theirs.id()));
    assert!(nothing_pinned());
    assert_eq!(deal(&scene.members, 10)[0], 10, "by their program");
    error
}

#[test]
fn force_that_fails_leaves_the_other_program_in_force() {
    alone(|| {
        for attach in [with(Policy::RoundRobin), with_object(object("first"))] {
            let scene = Scene::new(3);
            scene.attach(&with(Policy::RoundRobin)).unwrap();
            reuseport::detach(&scene.host, &scene.key).unwrap();
            let mut theirs = Theirs::load();
            theirs.steer(&scene.members[..2]);
            // The third socket is in an array of a third party.
            let mut other = ReusePortSockArray::create("other", 4).unwrap();
            other.set(0, &scene.members[2], 0).unwrap();
            let cookies = theirs.cookies();
            let error = keeps_their_program(&scene, &theirs, attach);
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            assert_eq!(theirs.cookies(), cookies);
            assert_eq!(other.get(&0).unwrap().map(|cookie| cookie != 0), Some(true));
        }
    });
}

/// Stops a listener right before the group's program is detached.
fn stops_before_the_detachment(listener: &TcpListener) -> impl FnMut(Call) + use<> {
    let mut listener = Some(listener.try_clone().unwrap());
    move |call| {
        if call == Call::DetachReuseportBpf
            && let Some(listener) = listener.take()
        {
            shutdown(&listener, Shutdown::Both).unwrap();
        }
    }
}

/// Their program does not migrate, so a listener that stops leaves the group for good, and detaching through it
/// finds no program.
#[test]
fn the_other_program_is_detached_although_the_first_member_has_stopped() {
    alone(|| {
        let mut scene = Scene::new(3);
        let mut theirs = Theirs::of("two", "from_small", "small");
        theirs.steer(&scene.members[..2]);
        let (key, decides) = (scene.key.clone(), Rc::new(Cell::new(None)));
        let seen = Rc::clone(&decides);
        let mut stop = stops_before_the_detachment(&scene.members[0]);
        let mut detaching = false;
        let hook = move |call| {
            stop(call);
            detaching |= call == Call::DetachReuseportBpf;
            // It takes the sockets out of their array. Calls of another thread are not intercepted.
            if detaching && call == Call::BpfMapDeleteElem && seen.get().is_none() {
                let look = || Host::open().unwrap().refresh(&key).unwrap().program.is_some();
                seen.set(Some(thread::scope(|scope| scope.spawn(look).join().unwrap())));
            }
            Verdict::Allow
        };
        let (_, attached) = intercept(hook, || {
            Balancer::attach(&scene.host, &scene.key, &force(with(Policy::RoundRobin)))
        })
        .unwrap();
        assert_eq!(decides.get(), Some(false), "it decides while its array is emptied");
        assert_eq!(attached.changes.enrolled.len(), 2);
        drop(scene.members.remove(0));
        assert_eq!(deal(&scene.members, 10), [5, 5]);
        assert_eq!(theirs.cookies_at(0..2), [0; 2]);
        reuseport::detach(&scene.host, &scene.key).unwrap();
        assert!(nothing_pinned());
    });
}

#[test]
fn a_program_is_detached_although_the_first_member_has_stopped() {
    alone(|| {
        let scene = Scene::new(2);
        let small = object("two").program("from_small").map("small");
        scene.attach(&with_object(small)).unwrap();
        let mut stop = stops_before_the_detachment(&scene.members[0]);
        let hook = move |call| {
            stop(call);
            Verdict::Allow
        };
        let detached = intercept(hook, || reuseport::detach(&scene.host, &scene.key)).unwrap();
        assert!(detached.left_attached.is_none());
        assert!(scene.attached().is_none(), "{:?}", scene.attached());
        assert!(nothing_pinned());
        assert_eq!(deal(&scene.members[1..], 10), [10]);
    });
}

#[test]
fn force_refuses_to_empty_an_array_that_does_not_show_its_sockets() {
    alone(|| {
        let scene = Scene::new(2);
        let mut theirs = Theirs::of("two", "from_narrow", "narrow");
        theirs.steer(&scene.members);
        let before = scene.world();
        let error = scene.attach(&force(with(Policy::RoundRobin))).unwrap_err();
        assert!(one_line(&error).contains("values have 4 bytes"), "{}", error.report());
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(scene.world(), before);
        assert_eq!(deal(&scene.members, 10), [0, 10], "index 1, by their program");
    });
}

#[test]
fn force_takes_cap_sys_admin_to_move_sockets() {
    alone(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        reuseport::detach(&scene.host, &scene.key).unwrap();
        let mut theirs = Theirs::load();
        theirs.steer(&scene.members);
        let rights = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let before = scene.world();
        let attach = force(with(Policy::RoundRobin));
        let error = capable_of(rights, || scene.attach(&attach)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(one_line(&error).contains("CAP_SYS_ADMIN"), "{}", error.report());
        assert_eq!(scene.world(), before);
        assert_eq!(deal(&scene.members, 10), [10, 0], "by their program");
    });
}

#[test]
fn force_takes_over_from_a_program_of_ours_whose_pins_were_removed() {
    alone(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::Hash)).unwrap();
        for group in std::fs::read_dir(format!("{ROOT}/groups")).unwrap().flatten() {
            std::fs::remove_dir_all(group.path()).unwrap();
        }
        assert_eq!(scene.attach(&Attach::default()).unwrap_err().kind(), ErrorKind::Foreign);
        scene.attach(&force(with(Policy::RoundRobin))).unwrap();
        assert_eq!(deal(&scene.members, 10), [5, 5]);
    });
}

fn pinned_by_name() -> Vec<String> {
    let names = std::fs::read_dir(bpffs::PATH).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("pinned_")).collect()
}

#[test]
fn an_object_that_is_not_attached_leaves_no_pins() {
    alone(|| {
        let program = |name: &str| object("pinned").program(name);
        let scene = Scene::new(2);
        // The verifier refuses it; the name is wrong; a socket is in another array.
        scene.attach(&with_object(program("refused"))).unwrap_err();
        assert_eq!(pinned_by_name(), [""; 0]);
        scene.attach(&with_object(program("nix"))).unwrap_err();
        assert_eq!(pinned_by_name(), [""; 0]);
        let mut other = ReusePortSockArray::create("other", 4).unwrap();
        other.set(0, &scene.members[1], 0).unwrap();
        scene.attach(&with_object(program("good"))).unwrap_err();
        assert_eq!(pinned_by_name(), [""; 0]);
        other.clear_index(&0).unwrap();
        // One that is attached keeps them, and a later failure does not remove them.
        scene.attach(&with_object(program("good"))).unwrap();
        assert_eq!(deal(&scene.members, 10), [0, 10]);
        assert_eq!(pinned_by_name().len(), 2);
        scene.attach(&with_object(program("refused"))).unwrap_err();
        assert_eq!(pinned_by_name().len(), 2);
        assert_eq!(deal(&scene.members, 10), [0, 10]);
    });
}

#[test]
fn state_that_another_program_displaced_can_be_removed_and_that_program_stays() {
    alone(|| {
        for program in [with(Policy::RoundRobin), with_object(object("first"))] {
            let scene = Scene::new(2);
            scene.attach(&program).unwrap();
            // The server attaches its own program. Our array keeps it from filling its own.
            let mut theirs = Theirs::load();
            theirs.program.attach(&scene.members[0]).unwrap();
            assert!(theirs.array.set(0, &scene.members[0], 0).is_err());
            let stays = reuseport::detach(&scene.host, &scene.key).unwrap();
            assert_eq!(stays.displaced_by.unwrap().id, Some(theirs.id()));
            assert!(nothing_pinned());
            theirs.array.set(0, &scene.members[0], 0).unwrap();
            assert_eq!(deal(&scene.members, 10), [10, 0]);
            let error = reuseport::detach(&scene.host, &scene.key).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Foreign);
        }
    });
}

#[test]
fn what_is_refused_because_of_another_program_keeps_displaced_state() {
    alone(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let steered = Balancer::open(&scene.host, &scene.key).unwrap();
        let slots = [Slot::new(0), Slot::new(1)];
        steered.set_weights(&[(slots[0], Weight::MAX)]).unwrap();
        let mut theirs = Theirs::load();
        theirs.program.attach(&scene.members[0]).unwrap();
        let before = scene.world();
        let error = scene.attach(&Attach::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign);
        let text = one_line(&error);
        assert!(text.contains("--force") && text.contains("`detach` removes the state"), "{text}");
        let error = steered.set_weights(&[(slots[1], Weight::MAX)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign);
        assert_eq!(scene.world(), before);
        assert!(!nothing_pinned());
        assert_eq!(scene.attached(), Some(theirs.id()));
        // Taking over goes on from it.
        scene.attach(&force(Attach::default())).unwrap();
        let weights: Vec<_> = scene.host.status(&scene.key).unwrap().members.into_iter().collect();
        let weights = weights.iter().map(|m| m.enrolment.as_ref().unwrap().weight);
        assert_eq!(weights.collect::<Vec<_>>(), [Weight::MAX, Weight::DEFAULT]);
        // `detach` lets its owner use the sockets.
        theirs.program.attach(&scene.members[0]).unwrap();
        reuseport::detach(&scene.host, &scene.key).unwrap();
        theirs.array.set(0, &scene.members[0], 0).unwrap();
    });
}

/// Runs `body` while a watcher follows the group, with the changes that it has reported.
fn watched(scene: &Scene, retake: bool, body: impl FnOnce(&Mutex<Vec<Change>>)) {
    let stop = Stop::default();
    let attach = with(Policy::RoundRobin).stop(stop.clone());
    let (watch, _) = Watch::start(Host::open().unwrap(), &scene.key, attach).unwrap();
    let watch = if retake { watch.retaking() } else { watch };
    let changes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let watcher = scope.spawn(|| watch.run(|change| changes.lock().unwrap().push(change)));
        body(&changes);
        stop.set();
        watcher.join().unwrap().unwrap();
    });
}

/// Which programs replaced ours, as the watcher reported.
fn replacements(changes: &Mutex<Vec<Change>>) -> Vec<(Option<u32>, Retake)> {
    let changes = changes.lock().unwrap();
    let replacement = |change: &Change| match change {
        Change::Replaced { by, retake } => Some((by.id, *retake)),
        _ => None,
    };
    changes.iter().filter_map(replacement).collect()
}

#[test]
fn a_watcher_reports_once_that_its_program_was_replaced_and_goes_on_when_it_can() {
    alone(|| {
        let scene = Scene::new(2);
        watched(&scene, false, |changes| {
            let mut theirs = Theirs::load();
            theirs.program.attach(&scene.members[0]).unwrap();
            wait::until("it is reported", wait::BOUND, || !replacements(changes).is_empty());
            // The server can use its sockets, and nothing is undone.
            theirs.steer(&scene.members);
            assert_eq!(deal(&scene.members, 10), [10, 0]);
            // A new member wakes the watcher.
            let third = crate::common::world::more(scene.key.address, 1);
            drop(third);
            assert_eq!(deal(&scene.members, 10), [10, 0]);
            let id = theirs.id();
            (0..2).for_each(|index| theirs.array.clear_index(&index).unwrap());
            SkReuseport::detach(&scene.members[0]).unwrap();
            wait::until("our program decides again", wait::BOUND, || {
                steered(&scene.host, &scene.key).is_some()
            });
            wait::until("all members are dealt to", wait::BOUND, || {
                deal(&scene.members, 10) == [5, 5]
            });
            assert_eq!(replacements(changes), [(Some(id), Retake::Off)], "once");
        });
    });
}

#[test]
fn a_watcher_takes_the_group_back_once_and_then_waits_a_minute() {
    alone(|| {
        let scene = Scene::new(2);
        watched(&scene, true, |changes| {
            let mut theirs = Theirs::load();
            theirs.program.attach(&scene.members[0]).unwrap();
            let is_ours = || steered(&scene.host, &scene.key).is_some();
            wait::until("it is reported", wait::BOUND, || !replacements(changes).is_empty());
            wait::until("the group is taken back", wait::BOUND, is_ours);
            assert_eq!(replacements(changes), [(Some(theirs.id()), Retake::Now)]);
            assert_eq!(deal(&scene.members, 10), [5, 5]);
            // Again, with the sockets in their array.
            theirs.program.attach(&scene.members[0]).unwrap();
            wait::until("it is reported", wait::BOUND, || replacements(changes).len() == 2);
            theirs.steer(&scene.members);
            let Some((_, Retake::After(left))) = replacements(changes).pop() else {
                panic!("{:?}", replacements(changes));
            };
            assert!(left.as_secs() <= 60, "{left:?}");
            assert_eq!(deal(&scene.members, 10), [10, 0]);
            assert_eq!(scene.host.status(&scene.key).unwrap().steering, Steering::Foreign);
        });
        assert!(!Path::new("/sys/fs/bpf/reuseport/staging").exists());
    });
}

#[test]
fn a_watcher_that_fails_to_take_the_group_back_gives_way() {
    alone(|| {
        let scene = Scene::new(2);
        let stop = Stop::default();
        let attach = with(Policy::RoundRobin).stop(stop.clone());
        let (watch, _) = Watch::start(Host::open().unwrap(), &scene.key, attach).unwrap();
        let watch = watch.retaking();
        let refuse = |call| match call {
            Call::AttachReuseportEbpf => Verdict::Fail(Errno::NOMEM.raw_os_error()),
            _ => Verdict::Allow,
        };
        let failures = Mutex::new(0);
        let count = |change| {
            if let Change::Failed(_) = change {
                *failures.lock().unwrap() += 1;
            }
        };
        thread::scope(|scope| {
            let watcher = scope.spawn(|| intercept(refuse, || watch.run(count)));
            let mut theirs = Theirs::load();
            theirs.program.attach(&scene.members[0]).unwrap();
            wait::until("it fails", wait::BOUND, || *failures.lock().unwrap() == 1);
            wait::until("the server can use its sockets", wait::BOUND, || {
                theirs.array.set(0, &scene.members[0], 0).is_ok()
            });
            theirs.array.set(1, &scene.members[1], 0).unwrap();
            assert_eq!(deal(&scene.members, 10), [10, 0], "by their program");
            stop.set();
            watcher.join().unwrap().unwrap();
        });
    });
}
