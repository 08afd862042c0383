//! Pinned state of another version, damaged state, and a lock that is held.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use reuseport::group::{GroupKey, Protocol};
use reuseport::status::Steering;
use reuseport::{Attach, ErrorKind, Policy, Stop};
use rustix::fs::{FlockOperation, flock};
use sk_reuseport::maps::{Array, Map, MapData};
use test_support::process::close;
use test_support::wait;

use super::{Scene, directory_of, refused};
use crate::common::world::{BY_OPEN, ROOT, alone, deal, theirs, with};

/// Overwrites the header of a group, and returns the old one.
fn change_header(key: &GroupKey, change: impl FnOnce(&mut [u8; 256])) -> [u8; 256] {
    let map = MapData::from_pin(directory_of(key).join("header")).unwrap();
    let mut map: Array<_, [u8; 256]> = Map::from_map_data(map).unwrap().try_into().unwrap();
    let old = map.get(&0, 0).unwrap();
    let mut new = old;
    change(&mut new);
    map.set(0, new, 0).unwrap();
    old
}

/// Asserts that operations on a group with unreadable state fail and name its directory, and that
/// neither they nor operations on another group change that state.
#[track_caller]
fn is_left_alone(scene: &Scene, words: &[&str]) {
    let other = Scene::steered(2);
    let directory = directory_of(&scene.key);
    let words: Vec<&str> = words.iter().copied().chain([directory.to_str().unwrap()]).collect();
    let header = || std::fs::read_dir(&directory).unwrap().count();
    let pinned = header();
    for operation in [Scene::detach, |scene: &Scene| scene.attach(&Attach::default())] {
        scene.refuses(ErrorKind::Schema, &words, operation);
    }
    let force = with(Policy::Random).force(true);
    scene.refuses(ErrorKind::Schema, &words, |scene| scene.attach(&force));
    // Other groups are listed and can be changed.
    let statuses = scene.host.statuses().unwrap();
    let steering =
        |key: &GroupKey| statuses.iter().find(|status| status.group.key == *key).unwrap().steering;
    assert_eq!(steering(&scene.key), Steering::Foreign);
    assert!(steering(&other.key).selection().is_some());
    other.attach(&with(Policy::Random)).unwrap();
    other.detach().unwrap();
    assert_eq!(header(), pinned);
}

#[test]
fn state_of_another_version() {
    alone(|| {
        let scene = Scene::steered(2);
        scene.attach(&with(BY_OPEN)).unwrap();
        let old = change_header(&scene.key, |header| header[8] = 3);
        is_left_alone(&scene, &["schema 3", "this version knows schemas 1 and 2"]);
        change_header(&scene.key, |header| *header = old);
        change_header(&scene.key, |header| header[0] = b'R');
        is_left_alone(&scene, &["was not written by this program"]);
        change_header(&scene.key, |header| *header = old);
        // Its members are still counted.
        let open = |scene: &Scene| -> Vec<Option<u64>> {
            let status = scene.host.status(&scene.key).unwrap();
            status.members.iter().map(|m| m.enrolment.as_ref().unwrap().open).collect()
        };
        let clients: Vec<_> =
            (0..4).map(|_| std::net::TcpStream::connect(scene.key.address).unwrap()).collect();
        assert_eq!(open(&scene), [Some(2), Some(2)]);
        drop(clients);
    });
}

/// As that of a version that did not have the map.
#[test]
fn state_that_lacks_an_optional_map() {
    for optional in ["paces", "progress"] {
        alone(|| {
            let scene = Scene::steered(2);
            let pin = directory_of(&scene.key).join(optional);
            std::fs::remove_file(&pin).unwrap();
            assert_eq!(scene.host.status(&scene.key).unwrap().unsteered(), 0);
            scene.attach(&Attach::default()).unwrap();
            assert_eq!(deal(&scene.members, 10), [5, 5]);
            assert!(!pin.exists(), "the program does not use the new one yet");
            scene.attach(&with(Policy::default_for(Protocol::Tcp))).unwrap();
            assert!(pin.exists());
            // One by one: what waits for long on a slow machine would count as waiting at a worker that hangs.
            let first: usize = (0..10).map(|_| deal(&scene.members, 1)[0]).sum();
            assert_eq!(first, 5);
            scene.detach().unwrap();
        });
    }
}

#[test]
fn state_with_a_header_of_another_length_or_without_one() {
    alone(|| {
        let scene = Scene::steered(2);
        let header = directory_of(&scene.key).join("header");
        std::fs::remove_file(&header).unwrap();
        is_left_alone(&scene, &["cannot open the state", "No such file"]);
        let longer: Array<_, [u8; 512]> = Array::create(1, 0).unwrap();
        longer.map_data().pin(&header).unwrap();
        is_left_alone(&scene, &["its header has another length"]);
        std::fs::remove_file(&header).unwrap();
        let mut program = theirs("leave_it");
        program.pin(&header).unwrap();
        is_left_alone(&scene, &["cannot open the state"]);
    });
}

/// The next operation removes the damaged state of a dead group, but keeps that of another version.
#[test]
fn the_state_of_a_dead_group_is_removed_unless_another_version_wrote_it() {
    alone(|| {
        let broken = Scene::steered(1);
        let newer = Scene::steered(1);
        let kept = directory_of(&newer.key);
        std::fs::remove_file(directory_of(&broken.key).join("picks")).unwrap();
        change_header(&newer.key, |header| header[8] = 3);
        close((broken, newer));
        let scene = Scene::steered(1);
        let groups: Vec<_> =
            std::fs::read_dir(Path::new(ROOT).join("groups")).unwrap().flatten().collect();
        assert_eq!(groups.len(), 2, "{groups:?}");
        assert!(kept.join("header").exists());
        drop(scene);
    });
}

#[test]
fn waiting_for_a_lock_can_be_interrupted() {
    alone(|| {
        let scene = Scene::new(1);
        std::fs::create_dir(ROOT).unwrap();
        let theirs = File::open(ROOT).unwrap();
        flock(&theirs, FlockOperation::LockExclusive).unwrap();
        let stop = Stop::default();
        let attach = Attach::default().stop(stop.clone());
        std::thread::scope(|scope| {
            let attaching = scope.spawn(|| scene.attach(&attach));
            let begin = Instant::now();
            wait::until("some time to pass", wait::BOUND, || {
                begin.elapsed() > Duration::from_millis(50)
            });
            assert!(!attaching.is_finished());
            stop.set();
            let error = attaching.join().unwrap().unwrap_err();
            refused(
                error,
                ErrorKind::Interrupted,
                &["cannot lock", ROOT, "the group is as it was"],
            );
        });
        drop(theirs);
        scene.attach(&Attach::default()).unwrap();
    });
}
