//! The same for generations: after a kill and after a failure, one generation serves alone, as before or as asked, and
//! no member on standby has got anything. The next command does what is asked.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use reuseport::group::GroupKey;
use reuseport::status::State;
use reuseport::{Attach, Balancer, Host, Policy};
use rustix::io::Errno;
use sk_reuseport::fault::{Verdict, intercept};
use test_support::server::{Forking, Transport, free_port};
use test_support::wait::{self, BOUND};

use super::{operate, start, was_killed};
use crate::common::steering::answers;
use crate::common::world::{alone, key_at, with};

/// An old server with two members, and a new one with one.
struct Scene {
    host: Host,
    key: GroupKey,
    old: Forking,
    new: Forking,
}

impl Scene {
    fn new() -> Self {
        let host = Host::open().unwrap();
        let old = Forking::start_on(Transport::Tcp, free_port(), 2);
        let key = key_at(&host, "tcp", old.addr());
        let attach = with(Policy::RoundRobin).hold_new(reuseport::HoldNew::On);
        Balancer::attach(&host, &key, &attach).unwrap();
        let new = Forking::start_on(Transport::Tcp, old.addr().port(), 1);
        Self { host, key, old, new }
    }

    fn operate(&self, operation: &str) {
        operate(&self.host, &self.key, operation).unwrap_or_else(|e| panic!("{}", e.report()));
    }

    /// Another new server in place of the one that is there, without a slot yet.
    fn renew(&mut self) {
        let port = self.old.addr().port();
        let new = Forking::start_on(Transport::Tcp, port, 1);
        std::mem::replace(&mut self.new, new).stop();
        // The slot of the one before is freed when something joins or leaves; here, both are new.
        wait::until("three members", BOUND, || {
            self.host.status(&self.key).unwrap().members.len() == 3
        });
    }

    /// Whether the new server serves; otherwise the old one does. Asserts that one of them does so alone.
    fn new_serves(&self) -> bool {
        let answered: BTreeSet<u32> = answers(self.old.addr(), 6).into_keys().collect();
        let new = answered.contains(&self.new.pid());
        let expected = if new { self.new.pid() } else { self.old.pid() };
        assert_eq!(answered, BTreeSet::from([expected]), "one generation serves alone");
        let status = self.host.status(&self.key).unwrap();
        let enrolled = status.members.iter().filter_map(|member| member.enrolment.as_ref());
        let active: BTreeSet<u32> =
            enrolled.filter(|e| e.state == State::Active).map(|e| e.generation).collect();
        assert_eq!(active.len(), 1, "{status:?}");
        new
    }

    /// The picks of members on standby.
    fn picks_on_standby(&self) -> u64 {
        let status = self.host.status(&self.key).unwrap();
        let enrolled = status.members.iter().filter_map(|member| member.enrolment.as_ref());
        enrolled.filter(|e| e.state == State::Standby).filter_map(|e| e.picks).sum()
    }
}

/// Kills `operation` at every call. It begins after `prepare`; after it, the new server serves or not.
fn kill_at_each_call(operation: &str, prepare: &str, new_serves: bool) {
    alone(|| {
        let scene = Scene::new();
        scene.operate("refresh");
        let mut kills = 0;
        for call in 0.. {
            scene.operate(prepare);
            assert_eq!(scene.new_serves(), !new_serves);
            let status = start(&scene.key, operation, Some(call)).wait().unwrap();
            let switched = scene.new_serves() == new_serves;
            // Nothing that can be killed here follows the commit.
            assert_eq!(switched, !was_killed(status), "killed at call {call}");
            // Every second time, another command comes first: it completes what was begun, or takes it back.
            if call % 2 == 0 {
                let before = scene.new_serves();
                scene.operate("refresh");
                assert_eq!(scene.new_serves(), before, "killed at call {call}");
            }
            scene.operate(operation);
            assert_eq!(scene.new_serves(), new_serves, "killed at call {call}");
            if !was_killed(status) {
                assert!(status.success(), "{operation} failed by itself");
                break;
            }
            kills += 1;
        }
        assert!(kills > 40, "only {kills} kills");
    });
}

#[test]
fn slow_a_promotion_is_killed_at_each_call() {
    kill_at_each_call("promote", "rollback", true);
}

#[test]
fn slow_a_rollback_is_killed_at_each_call() {
    kill_at_each_call("rollback", "promote", false);
}

#[test]
fn slow_the_enrolment_of_members_that_wait_is_killed() {
    const STEP: usize = 4;

    alone(|| {
        let mut scene = Scene::new();
        let mut kills = 0;
        for call in (0..).step_by(STEP) {
            let status = start(&scene.key, "refresh", Some(call)).wait().unwrap();
            assert!(!scene.new_serves(), "killed at call {call}");
            scene.operate("refresh");
            assert!(!scene.new_serves(), "killed at call {call}");
            assert_eq!(scene.picks_on_standby(), 0, "killed at call {call}");
            assert_eq!(scene.host.status(&scene.key).unwrap().unsteered(), 0);
            if !was_killed(status) {
                assert!(status.success(), "it failed by itself");
                break;
            }
            kills += 1;
            scene.renew();
        }
        assert!(kills * STEP > 40, "only {kills} kills");
        scene.operate("promote");
        assert!(scene.new_serves());
    });
}

/// A trial is there as a whole or not at all.
#[test]
fn slow_a_trial_is_killed() {
    const STEP: usize = 5;

    alone(|| {
        let scene = Scene::new();
        scene.operate("refresh");
        let mut kills = 0;
        for call in (0..).step_by(STEP) {
            let status = start(&scene.key, "try", Some(call)).wait().unwrap();
            let tried = || scene.host.status(&scene.key).unwrap().trial.is_some();
            let was_tried = tried();
            let answered: BTreeSet<u32> = answers(scene.old.addr(), 8).into_keys().collect();
            assert_eq!(answered.contains(&scene.new.pid()), was_tried, "killed at call {call}");
            assert!(answered.contains(&scene.old.pid()));
            scene.operate("refresh");
            assert_eq!(tried(), was_tried, "killed at call {call}");
            scene.operate("try");
            assert!(tried());
            scene.operate("rollback");
            assert!(!tried() && !scene.new_serves());
            if !was_killed(status) {
                assert!(status.success() && was_tried);
                break;
            }
            kills += 1;
        }
        assert!(kills * STEP > 40, "only {kills} kills");
    });
}

/// A trial that is to end goes on, or is over as a whole.
#[test]
fn slow_the_end_of_a_trial_is_killed() {
    const STEP: usize = 5;

    alone(|| {
        let scene = Scene::new();
        scene.operate("refresh");
        let is_tried = || scene.host.status(&scene.key).unwrap().trial.is_some();
        for (operation, new_serves) in [("promote", true), ("rollback", false)] {
            let mut kills = 0;
            for call in (0..).step_by(STEP) {
                scene.operate("rollback");
                scene.operate("try");
                let status = start(&scene.key, operation, Some(call)).wait().unwrap();
                let goes_on = is_tried();
                assert_eq!(goes_on, was_killed(status), "{operation} killed at call {call}");
                match goes_on {
                    true => assert_eq!(answers(scene.old.addr(), 8).len(), 2),
                    false => assert_eq!(scene.new_serves(), new_serves),
                }
                if call % 2 == 0 {
                    scene.operate("refresh");
                    assert_eq!(is_tried(), goes_on, "{operation} killed at call {call}");
                }
                scene.operate(operation);
                assert!(!is_tried());
                assert_eq!(scene.new_serves(), new_serves, "{operation} killed at call {call}");
                if !was_killed(status) {
                    assert!(status.success(), "{operation} failed by itself");
                    break;
                }
                kills += 1;
            }
            assert!(kills * STEP > 40, "only {kills} kills");
        }
    });
}

/// Each call of a promotion fails in turn, and in another round all calls after it, too.
#[test]
fn slow_a_promotion_fails_at_each_call() {
    alone(|| {
        let scene = Scene::new();
        scene.operate("refresh");
        for for_good in [false, true] {
            let mut failures = 0;
            for nth in 0.. {
                let (mut count, failed) = (0, Rc::new(Cell::new(false)));
                let report = Rc::clone(&failed);
                let hook = move |_| {
                    let fails = count == nth || for_good && count > nth;
                    count += 1;
                    report.set(report.get() || fails);
                    if fails { Verdict::Fail(Errno::NOMEM.raw_os_error()) } else { Verdict::Allow }
                };
                let result = intercept(hook, || operate(&scene.host, &scene.key, "promote"));
                match &result {
                    Ok(()) => assert!(scene.new_serves(), "call {nth} failed: not done"),
                    Err(error) => {
                        failures += 1;
                        let unchanged =
                            error.report().to_string().contains("the group is as it was");
                        let new_serves = scene.new_serves();
                        assert!(!(unchanged && new_serves), "call {nth}: {}", error.report());
                        // With a single failure, what was begun is taken back at once.
                        assert!(for_good || !new_serves, "call {nth}: {}", error.report());
                    }
                }
                scene.operate("promote");
                assert!(scene.new_serves());
                Balancer::attach(&scene.host, &scene.key, &Attach::default()).unwrap();
                scene.operate("rollback");
                assert!(!scene.new_serves());
                if !failed.get() {
                    break;
                }
            }
            assert!(failures > 10, "only {failures} failures");
        }
    });
}
