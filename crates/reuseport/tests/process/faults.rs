//! Each system call of each operation fails in turn. Afterwards the group is as before, nothing is
//! left over, and the same operation succeeds.
//!
//! The system calls are those of `sk_reuseport`: bpf(2), mmap and socket options.

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::rc::Rc;

use crate::common::previous::{downgrade, is_downgraded};
use crate::common::theirs::Theirs;
use crate::common::world::{
    BY_OPEN, World, deal, has_layer, key_of, listeners, more, nothing_pinned, object, one_line,
    with, with_object,
};
use reuseport::group::GroupKey;
use reuseport::id::Weight;
use reuseport::status::{GroupStatus, Steering};
use reuseport::{Attach, Balancer, ErrorKind, Host, Policy, Result, Stop};
use rustix::io::Errno;
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::programs::SkReuseport;

use crate::in_own_process;

mod takeover;

/// A group to operate on, and another one that must not change.
struct Scene {
    host: Host,
    key: GroupKey,
    members: RefCell<Vec<TcpListener>>,
    other_key: GroupKey,
    other_members: Vec<TcpListener>,
    /// Another owner's program, which an operation replaces.
    theirs: RefCell<Option<Theirs>>,
}

impl Scene {
    fn new(members: usize) -> Self {
        let host = Host::open().unwrap();
        let members = listeners(members);
        let other_members = listeners(2);
        let other_key = key_of(&host, &other_members[0]);
        Balancer::attach(&host, &other_key, &with(Policy::RoundRobin)).unwrap();
        let key = key_of(&host, &members[0]);
        let theirs = RefCell::default();
        Self { host, key, members: RefCell::new(members), other_key, other_members, theirs }
    }

    /// Attaches another owner's program, with all members in its array.
    fn give_to_them(&self) {
        self.theirs.borrow_mut().get_or_insert_with(Theirs::load).steer(&self.members.borrow());
    }

    fn attach(&self, attach: &Attach) -> Result<()> {
        Balancer::attach(&self.host, &self.key, attach).map(|_| ())
    }

    fn detach(&self) -> Result<()> {
        reuseport::detach(&self.host, &self.key).map(|_| ())
    }

    fn status(&self) -> GroupStatus {
        self.host.status(&self.key).unwrap()
    }

    fn worlds(&self) -> Vec<World> {
        let members = self.members.borrow();
        World::of(&self.host, &[(&self.key, &members), (&self.other_key, &self.other_members)])
    }

    /// Whether the host layer has registered exactly the members that are marked.
    fn tidy(&self) -> bool {
        let worlds = self.worlds();
        worlds.iter().map(World::marked).sum::<usize>() == worlds[0].host_members()
    }

    /// Asserts that every connection is accepted, and that the shares in the other group are
    /// unchanged.
    fn serves(&self) {
        let dealt = deal(&self.members.borrow(), 12);
        assert_eq!(dealt.iter().sum::<usize>(), 12);
        if let Some(theirs) = &*self.theirs.borrow()
            && self.status().group.program.and_then(|program| program.id) == Some(theirs.id())
        {
            assert_eq!(dealt[0], 12, "their program selects index 0");
            let missing = theirs.cookies().iter().take(dealt.len()).filter(|c| **c == 0).count();
            assert_eq!(missing, 0, "members are back in their array");
        }
        assert_eq!(deal(&self.other_members, 12), [6, 6]);
    }
}

/// How many descriptors this process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Which system calls fail.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The nth, counted from 0.
    One(usize, Errno),
    /// The nth and all later ones, so that nothing can be undone.
    From(usize, Errno),
}

/// Runs `operation` with a fault. Returns its result and the first system call that failed.
fn faulty<T>(fault: Fault, operation: impl FnOnce() -> T) -> (T, Option<Call>) {
    let (count, failed) = (Cell::new(0), Rc::new(Cell::new(None)));
    let report = Rc::clone(&failed);
    let hook = move |call| {
        let n = count.replace(count.get() + 1);
        let errno = match fault {
            Fault::One(at, errno) if n == at => errno,
            Fault::From(at, errno) if n >= at => errno,
            _ => return Verdict::Allow,
        };
        if failed.get().is_none() {
            failed.set(Some(call));
        }
        Verdict::Fail(errno.raw_os_error())
    };
    let result = intercept(hook, operation);
    (result, report.get())
}

/// Fails each system call of `operation` in turn. `undo` reverts the operation after it succeeds.
///
/// The operation may succeed despite a failure, if the call was optional or has an alternative, but
/// then it must have done everything.
fn fail_each_call(
    scene: &Scene,
    operation: impl Fn(&Scene) -> Result<()>,
    undo: impl Fn(&Scene),
    done: impl Fn(&Scene) -> bool,
) {
    let mut failures = 0;
    // From here on, descriptors that are opened once and kept exist.
    operation(scene).unwrap();
    assert!(done(scene));
    undo(scene);
    let mut before = scene.worlds();
    for index in 0.. {
        let open = descriptors();
        let errno = [Errno::NOMEM, Errno::PERM, Errno::BUSY][index % 3];
        let fault = Fault::One(index, errno);
        let (result, failed) = faulty(fault, || operation(scene));
        assert_eq!(descriptors(), open, "descriptors leak when {fault:?} is {failed:?}");
        match result {
            Ok(()) => {
                assert!(done(scene), "{fault:?}: {failed:?} is survived, but the work is not done");
                assert!(scene.tidy(), "{fault:?}: {failed:?}: {:?}", scene.worlds());
                undo(scene);
                before = scene.worlds();
            }
            Err(error) => {
                one_line(&error);
                let after = scene.worlds();
                assert_eq!(after, before, "{fault:?}, a {failed:?}, with {error}");
                scene.serves();
                failures += 1;
            }
        }
        if failed.is_none() {
            break;
        }
    }
    assert!(failures > 20, "only {failures} failures");
}

/// Fails all system calls of `operation` from the nth on, as if the process had died there, and
/// expects the next attempt to succeed. Tries every third n, to save time.
fn fail_from_each_call_on(
    scene: &Scene,
    operation: impl Fn(&Scene) -> Result<()>,
    undo: impl Fn(&Scene),
    done: impl Fn(&Scene) -> bool,
) {
    for index in (0..).step_by(3) {
        let open = descriptors();
        let (fault, before) = (Fault::From(index, Errno::NOMEM), scene.worlds());
        let (result, failed) = faulty(fault, || operation(scene));
        assert_eq!(descriptors(), open, "descriptors leak when {fault:?} is {failed:?}");
        if let Err(error) = result {
            if claims_unchanged(&error) {
                assert_eq!(scene.worlds(), before, "{fault:?}, a {failed:?}, with {error}");
            }
            scene.serves();
            operation(scene)
                .unwrap_or_else(|error| panic!("after {fault:?}, a {failed:?}: {error}"));
        }
        assert!(done(scene), "after {fault:?}, a {failed:?}");
        scene.serves();
        undo(scene);
        if failed.is_none() {
            break;
        }
    }
}

fn claims_unchanged(error: &reuseport::Error) -> bool {
    error.report().to_string().contains("the group is as it was")
}

fn decides(scene: &Scene, wanted: Policy) -> bool {
    let status = scene.status();
    status.steering.policy() == Some(wanted) && status.unsteered() == 0
}

#[test]
fn slow_attaching_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(3);
        let attach = |scene: &Scene| scene.attach(&with(Policy::RoundRobin));
        let undo = |scene: &Scene| scene.detach().unwrap();
        let done = |scene: &Scene| {
            deal(&scene.members.borrow(), 12) == [4, 4, 4] && decides(scene, Policy::RoundRobin)
        };
        fail_each_call(&scene, attach, undo, done);
        fail_from_each_call_on(&scene, attach, undo, done);
    });
}

#[test]
fn slow_enrolling_new_members_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let newcomer = |scene: &Scene| {
            let mut members = scene.members.borrow_mut();
            members.truncate(2);
            scene.host.refresh(&scene.key).unwrap();
            members.extend(more(scene.key.address, 1));
        };
        let undo = |scene: &Scene| {
            scene.members.borrow_mut().truncate(2);
            scene.attach(&Attach::default()).unwrap();
            newcomer(scene);
        };
        newcomer(&scene);
        let attach = |scene: &Scene| scene.attach(&Attach::default());
        let done = |scene: &Scene| {
            deal(&scene.members.borrow(), 12) == [4, 4, 4] && decides(scene, Policy::RoundRobin)
        };
        fail_each_call(&scene, attach, undo, done);
        fail_from_each_call_on(&scene, attach, undo, done);
    });
}

#[test]
fn slow_a_change_of_policy_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(3);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let change = |scene: &Scene| scene.attach(&with(Policy::Random));
        let undo = |scene: &Scene| {
            scene.attach(&with(Policy::RoundRobin)).unwrap();
            assert_eq!(deal(&scene.members.borrow(), 12), [4, 4, 4]);
        };
        let done = |scene: &Scene| decides(scene, Policy::Random);
        fail_each_call(&scene, change, undo, done);
        fail_from_each_call_on(&scene, change, undo, done);
    });
}

/// The group joins the host layer, which is made for it.
#[test]
fn slow_starting_to_count_open_connections_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let start = |scene: &Scene| scene.attach(&with(BY_OPEN));
        let stop = |scene: &Scene| scene.attach(&with(Policy::RoundRobin)).unwrap();
        let done = |scene: &Scene| decides(scene, BY_OPEN) && scene.worlds()[0].marked() == 2;
        fail_each_call(&scene, start, stop, done);
        fail_from_each_call_on(&scene, start, stop, done);
        assert!(!has_layer());
    });
}

/// The group leaves the host layer, which is removed.
#[test]
fn slow_stopping_to_count_open_connections_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with(BY_OPEN)).unwrap();
        let stop = |scene: &Scene| scene.attach(&with(Policy::RoundRobin));
        let start = |scene: &Scene| scene.attach(&with(BY_OPEN)).unwrap();
        let done = |scene: &Scene| decides(scene, Policy::RoundRobin);
        fail_each_call(&scene, stop, start, done);
        fail_from_each_call_on(&scene, stop, start, done);
        stop(&scene).unwrap();
        assert!(!has_layer());
    });
}

#[test]
fn slow_replacing_a_policy_that_counts_by_an_object_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with(BY_OPEN)).unwrap();
        let change = |scene: &Scene| scene.attach(&with_object(object("first")));
        let undo = |scene: &Scene| scene.attach(&with(BY_OPEN)).unwrap();
        let done = |scene: &Scene| {
            scene.status().steering == Steering::Ours(reuseport::Program::Object(()))
        };
        fail_each_call(&scene, change, undo, done);
    });
}

#[test]
fn slow_enrolling_and_changing_the_policy_at_once_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let newcomer = |scene: &Scene| {
            scene.members.borrow_mut().extend(more(scene.key.address, 1));
        };
        newcomer(&scene);
        let change = |scene: &Scene| scene.attach(&with(Policy::Hash));
        let undo = |scene: &Scene| {
            scene.members.borrow_mut().truncate(2);
            scene.attach(&with(Policy::RoundRobin)).unwrap();
            newcomer(scene);
        };
        let done = |scene: &Scene| decides(scene, Policy::Hash);
        fail_each_call(&scene, change, undo, done);
    });
}

#[test]
fn slow_setting_weights_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let slot = scene.status().members[0].enrolment.as_ref().unwrap().slot;
        let balancer = Balancer::open(&scene.host, &scene.key).unwrap();
        let set = |weight: u16| balancer.set_weights(&[(slot, Weight::new(weight).unwrap())]);
        let undo = |_: &Scene| set(1).unwrap();
        let done = |scene: &Scene| deal(&scene.members.borrow(), 12) == [9, 3];
        let weigh = |_: &Scene| set(3);
        fail_each_call(&scene, weigh, undo, done);
        fail_from_each_call_on(&scene, weigh, undo, done);
    });
}

/// A conversion may be complete although what comes after it fails: nothing but the layout is another one then.
#[test]
fn slow_taking_over_the_state_of_an_earlier_version_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(3);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        downgrade(&scene.key);
        let attach = |scene: &Scene| scene.attach(&Attach::default());
        let undo = |scene: &Scene| downgrade(&scene.key);
        let done = |scene: &Scene| {
            deal(&scene.members.borrow(), 12) == [4, 4, 4] && decides(scene, Policy::RoundRobin)
        };
        let mut failures = 0;
        for index in (0..).step_by(2) {
            let fault = Fault::One(index, Errno::NOMEM);
            let (result, failed) = faulty(fault, || attach(&scene));
            assert!(done(&scene) && scene.tidy(), "{fault:?}, a {failed:?}");
            failures += usize::from(result.is_err());
            attach(&scene).unwrap();
            assert!(!is_downgraded(&scene.key) && done(&scene) && scene.tidy(), "{failed:?}");
            undo(&scene);
            if failed.is_none() {
                break;
            }
        }
        assert!(failures > 20, "only {failures} failures");
        fail_from_each_call_on(&scene, attach, undo, done);
    });
}

#[test]
fn slow_detaching_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let undo = |scene: &Scene| {
            scene.attach(&with(Policy::RoundRobin)).unwrap();
            assert_eq!(deal(&scene.members.borrow(), 12), [6, 6]);
        };
        let done = |scene: &Scene| scene.status().steering == Steering::KernelHash;
        let detach = |scene: &Scene| match scene.detach() {
            // The previous attempt may have detached.
            Err(error) if error.kind() == ErrorKind::NotAttached => Ok(()),
            result => result,
        };
        fail_each_call(&scene, detach, undo, done);
        fail_from_each_call_on(&scene, detach, undo, done);
    });
}

#[test]
fn slow_replacing_a_policy_by_an_object_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let change = |scene: &Scene| scene.attach(&with_object(object("first")));
        let undo = |scene: &Scene| scene.attach(&with(Policy::RoundRobin)).unwrap();
        let done = |scene: &Scene| {
            scene.status().steering == Steering::Ours(reuseport::Program::Object(()))
        };
        fail_each_call(&scene, change, undo, done);
        fail_from_each_call_on(&scene, change, undo, done);
    });
}

#[test]
fn slow_resuming_fails_at_each_call() {
    in_own_process(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let take_off = |scene: &Scene| SkReuseport::detach(&scene.members.borrow()[0]).unwrap();
        take_off(&scene);
        let resume = |scene: &Scene| scene.attach(&Attach::default());
        let done = |scene: &Scene| {
            deal(&scene.members.borrow(), 12) == [6, 6] && decides(scene, Policy::RoundRobin)
        };
        fail_each_call(&scene, resume, take_off, done);
    });
}

#[test]
fn slow_stopping_at_any_call_changes_nothing_or_everything() {
    in_own_process(|| {
        let scene = Scene::new(3);
        let mut interrupted = 0;
        for index in 0.. {
            let (before, open) = (scene.worlds(), descriptors());
            let stop = Stop::default();
            let attach = with(Policy::RoundRobin).stop(stop.clone());
            let count = Rc::new(Cell::new(0));
            let counted = Rc::clone(&count);
            let hook = move |_| {
                if counted.replace(counted.get() + 1) == index {
                    stop.set();
                }
                Verdict::Allow
            };
            let result = intercept(hook, || scene.attach(&attach));
            assert_eq!(descriptors(), open);
            match result {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
                    one_line(&error);
                    assert_eq!(scene.worlds(), before, "stopped at call {index}");
                    interrupted += 1;
                }
                Ok(()) => {
                    assert_eq!(deal(&scene.members.borrow(), 12), [4, 4, 4]);
                    scene.detach().unwrap();
                }
            }
            if count.get() <= index {
                break;
            }
        }
        assert!(interrupted > 20, "{interrupted}");
        reuseport::detach(&scene.host, &scene.other_key).unwrap();
        assert!(nothing_pinned());
    });
}
