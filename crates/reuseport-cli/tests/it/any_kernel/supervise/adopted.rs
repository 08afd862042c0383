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
fn workers_that_said_that_they_are_ready_are_so_to_the_next_supervisor() {
    // One says so while no supervisor is there to hear it.
    for (how, first) in
        [("notify", &["ready"][..]), ("notify", &["wait", "late"]), ("both", &["wait", "late"])]
    {
        isolated(|| {
            let scene = Scene::new();
            let (options, server) = (["--ready", how], scene.server("one", first));
            let mut supervisor = scene.start(&options, &server);
            match first {
                ["ready"] => supervisor.until_ready(1),
                _ => until("it is started", BOUND, || !scene.pids(1).is_empty()),
            }
            supervisor.kill();
            scene.touch("go");
            until("it accepts", BOUND, || scene.ask().is_some());
            let mut next = scene.start(&options, &server);
            next.until("goes on with 1 worker");
            next.until_ready(1);
            next.stop();
        });
    }
}

#[test]
fn a_state_that_is_not_understood_is_named_with_what_to_do() {
    isolated(|| {
        let scene = Scene::new();
        std::fs::create_dir_all(scene.run_directory()).unwrap();
        let state = r#"{"version":9,"listen":[],"serving":1,"generations":[],"workers":[]}"#;
        for (text, why) in [("{", "EOF"), (state, "another version of this command wrote it")] {
            std::fs::write(scene.run_directory().join("web.json"), text).unwrap();
            let said = scene.call(
                &scene.arguments(&[], &[]).iter().map(String::as_str).collect::<Vec<_>>(),
                &scene.server("one", &[]),
            );
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(said.contains(why) && said.contains("remove the file"), "{said}");
        }
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
