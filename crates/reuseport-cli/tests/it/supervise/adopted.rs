//! A supervisor that is killed: its workers go on, and the next one of the name goes on with them.

use rustix::process::Signal;
use test_support::load::http_during;
use test_support::wait::{BOUND, until};

use super::scene::{Scene, lives};
use crate::common::isolated;

#[test]
fn workers_outlive_a_supervisor_that_is_killed_and_the_next_one_goes_on_with_them() {
    isolated(|| {
        let scene = Scene::new();
        let options = ["--workers", "2", "--probation", "100ms"];
        let mut supervisor = scene.start(&options, &scene.server("one", &[]));
        supervisor.until_ready(2);
        let pids = scene.pids(1);
        let mut last = None;
        let outcome = http_during(scene.address, 3, || {
            supervisor.kill();
            assert!(pids.iter().all(|pid| lives(*pid)));
            let mut next = scene.start(&options, &scene.server("one", &[]));
            next.until("goes on with 2 workers");
            next.until_ready(2);
            assert_eq!(scene.pids(1), pids);
            // It has their sockets, too.
            scene.touch("die-1");
            next.until("ended: status unknown; it is started again");
            next.until("is ready");
            scene.says(
                0,
                "generation 2 serves alone",
                &["reload", "web"],
                &scene.server("two", &[]),
            );
            assert!(pids.iter().all(|pid| !lives(*pid)));
            last = Some(next);
        });
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        assert_eq!(scene.ask().unwrap().0, "two");
        last.unwrap().stop();
    });
}

#[test]
fn another_command_is_named_and_comes_with_a_reload() {
    isolated(|| {
        let scene = Scene::new();
        let mut supervisor = scene.start(&["--probation", "0"], &scene.server("one", &[]));
        supervisor.until_ready(1);
        supervisor.kill();
        // At another address they are not followed.
        let other = ["run", "--name", "web", "--listen", "tcp:127.0.0.1:1"];
        scene.says(2, "workers of an earlier supervisor live", &other, &scene.server("two", &[]));
        let mut next = scene.start(&["--probation", "0"], &scene.server("two", &[]));
        next.until("they run another command");
        next.until_ready(1);
        assert_eq!(scene.ask().unwrap().0, "one");
        scene.says(0, "generation 2 serves alone", &["reload", "web"], &scene.server("two", &[]));
        assert_eq!(scene.ask().unwrap().0, "two");
        next.stop();
    });
}

#[test]
fn a_reload_whose_supervisor_is_killed_is_taken_back_or_finished() {
    isolated(|| {
        let scene = Scene::new();
        let options = ["--workers", "2", "--probation", "1h"];
        let mut supervisor = scene.start(&options, &scene.server("one", &[]));
        supervisor.until_ready(2);
        let old = scene.pids(1);
        // Not ready yet.
        let mut reload = scene.command(&["reload", "web"].map(str::to_owned));
        reload.args(scene.server("two", &["wait"]));
        let mut reload = test_support::process::spawn(&mut reload).unwrap();
        until("it is started", BOUND, || scene.pids(2).len() == 2);
        let new = scene.pids(2);
        supervisor.kill();
        assert_eq!(reload.wait().unwrap().code(), Some(2));
        let mut next = scene.start(&options, &scene.server("one", &[]));
        next.until("generation 2 is rolled back");
        assert!(new.iter().all(|pid| !lives(*pid)) && old.iter().all(|pid| lives(*pid)));
        assert_eq!(scene.ask().unwrap().0, "one");

        // On probation: it serves already.
        let mut reload = scene.command(&["reload", "web"].map(str::to_owned));
        reload.args(scene.server("three", &[]));
        let mut reload = test_support::process::spawn(&mut reload).unwrap();
        next.until("serves, on probation");
        next.kill();
        reload.wait().unwrap();
        let mut last = scene.start(&options, &scene.server("three", &[]));
        last.until("serves alone");
        assert!(old.iter().all(|pid| !lives(*pid)));
        assert_eq!(scene.ask().unwrap().0, "three");
        last.signal(Signal::INT);
        assert_eq!(last.output().status.code(), Some(0));
    });
}
