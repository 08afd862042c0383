//! New generations: they serve when they are ready, or are rolled back, and traffic notices neither.

use std::collections::BTreeSet;

use rustix::process::Signal;
use test_support::load::http_during;
use test_support::wait::{BOUND, until};

use super::scene::{Scene, lives};
use crate::common::isolated;

#[test]
fn a_reload_loses_no_connection_and_leaves_no_old_code() {
    isolated(|| {
        let scene = Scene::new();
        let mut supervisor =
            scene.start(&["--workers", "2", "--probation", "100ms"], &scene.server("one", &[]));
        supervisor.until_ready(2);
        let old = scene.pids(1);
        let outcome = http_during(scene.address, 3, || {
            let reload = scene.reload(&scene.server("two", &[]));
            assert_eq!(reload.status.code(), Some(0), "{reload:?}");
            // When it returns, no old code runs.
            assert!(old.iter().all(|pid| !lives(*pid)), "{old:?}");
            let said = String::from_utf8_lossy(&reload.stdout).into_owned();
            assert!(said.contains("web: generation 2 serves alone"), "{said}");
        });
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        assert_eq!(scene.ask().unwrap().0, "two");
        // The same command from now on.
        supervisor.signal(Signal::HUP);
        supervisor.until("generation 3 serves alone");
        assert_eq!(scene.ask().unwrap().0, "two");
        supervisor.stop();
    });
}

#[test]
fn a_new_version_that_fails_is_rolled_back_and_traffic_does_not_notice() {
    isolated(|| {
        let scene = Scene::new();
        let options = ["--workers", "2", "--ready-timeout", "5s", "--probation", "1h"];
        let mut supervisor = scene.start(&options, &scene.server("one", &[]));
        supervisor.until_ready(2);
        let old: BTreeSet<u32> = scene.pids(1).into_iter().collect();
        let outcome = http_during(scene.address, 3, || {
            // It dies before it is ready.
            let failed = scene.server("two", &["fail"]);
            scene.says(3, "ended: exit status: 7", &["reload", "web"], &failed);
            // It does not get ready.
            let hangs = scene.server("three", &["wait"]);
            scene.says(3, "not ready in time: worker 3.1, 3.2", &["reload", "web"], &hangs);
            // It is not there.
            let missing = ["--".to_owned(), "no-such-command".to_owned()];
            scene.says(2, "nothing was changed", &["reload", "web"], &missing);
        });
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        let after: BTreeSet<u32> = scene.pids(1).into_iter().collect();
        assert_eq!((after, scene.ask().unwrap().0.as_str()), (old, "one"));
        supervisor.stop();
    });
}

#[test]
fn a_new_version_that_dies_on_probation_is_rolled_back() {
    isolated(|| {
        let scene = Scene::new();
        let options = ["--workers", "2", "--probation", "1h"];
        let mut supervisor = scene.start(&options, &scene.server("one", &[]));
        supervisor.until_ready(2);
        let outcome = http_during(scene.address, 3, || {
            let two = scene.server("two", &[]);
            std::thread::scope(|scope| {
                let reload = scope
                    .spawn(|| scene.says(3, "is rolled back: worker 2.", &["reload", "web"], &two));
                supervisor.until("generation 2 serves, on probation");
                scene.until_version("two");
                scene.says(2, "a reload is under way", &["reload", "web"], &[]);
                scene.touch("die-1");
                reload.join().unwrap();
            });
        });
        // The file may be for a worker of either version.
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        assert_eq!(scene.ask().unwrap().0, "one");
        until("the new ones have ended", BOUND, || scene.pids(2).is_empty());
        supervisor.stop();
    });
}

#[test]
fn a_part_of_the_traffic_comes_first_if_it_is_wished() {
    isolated(|| {
        let scene = Scene::new();
        let options = ["--policy", "round-robin", "--probation", "0"];
        let mut supervisor = scene.start(&options, &scene.server("one", &[]));
        supervisor.until_ready(1);
        let two = scene.server("two", &[]);
        let canary = ["reload", "web", "--canary", "25%", "--for", "5s"];
        std::thread::scope(|scope| {
            let done = "generation 2 serves alone";
            let reload = scope.spawn(|| scene.says(0, done, &canary, &two));
            supervisor.until("generation 2 is on trial");
            let answers: Vec<String> = (0..40).map(|_| scene.ask().unwrap().0).collect();
            assert_eq!(answers.iter().filter(|version| *version == "two").count(), 10);
            reload.join().unwrap();
        });
        assert_eq!(scene.ask().unwrap().0, "two");
        supervisor.stop();
    });
}

#[test]
fn an_old_worker_that_does_not_end_is_killed() {
    isolated(|| {
        let scene = Scene::new();
        let options = ["--probation", "0", "--stop-timeout", "100ms"];
        let mut supervisor = scene.start(&options, &scene.server("one", &["stubborn"]));
        supervisor.until_ready(1);
        let old = scene.pids(1);
        let killed = "the old one had to be killed";
        scene.says(3, killed, &["reload", "web"], &scene.server("two", &["stubborn"]));
        assert!(!lives(old[0]));
        assert_eq!(scene.ask().unwrap().0, "two");
        // The same at the end.
        supervisor.stop();
    });
}

#[test]
fn without_a_program_the_sockets_are_passed_on() {
    isolated(|| {
        let scene = Scene::new();
        let options = ["--workers", "2", "--no-program", "--probation", "100ms"];
        let mut supervisor = scene.start(&options, &scene.server("one", &[]));
        supervisor.until("--no-program: the kernel's hash decides");
        supervisor.until_ready(2);
        let outcome = http_during(scene.address, 3, || {
            scene.says(
                0,
                "generation 2 serves alone",
                &["reload", "web"],
                &scene.server("two", &[]),
            );
        });
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        assert_eq!(scene.ask().unwrap().0, "two");
        let canary = ["reload", "web", "--canary", "25%", "--for", "5s"];
        scene.says(2, "--no-program", &canary, &[]);
        supervisor.stop();
    });
}
