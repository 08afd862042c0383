//! Values that the user sets in their own program: once, and with each change of the members.

use std::net::IpAddr;

use reuseport::setting::{Setting, Value};
use reuseport::status::Steering;
use reuseport::watch::Watch;
use reuseport::{Attach, ErrorKind, Host, ObjectSpec, Program, Stop};
use test_support::process::close;
use test_support::wait;

use crate::bad_input::refused;
use crate::common::scene::Scene;
use crate::common::steering::watching;
use crate::common::world::{alone, deal, more, nothing_pinned, object, with_object};

fn settings(program: &str, settings: &[&str]) -> ObjectSpec {
    let mut object = object("own_settings").program(program);
    object.settings = settings.iter().map(|text| text.parse::<Setting>().unwrap()).collect();
    object
}

#[test]
fn variables_of_all_types_are_set_before_the_program_is_loaded() {
    const ALL: [&str; 10] = [
        "byte=0xff",
        "negative=-2",
        "large=0xfedcba9876543210",
        "on=true",
        "mode=2",
        "port=443",
        "address=192.0.2.1",
        "address6=2001:db8::9",
        "name=text:ab",
        "limits[1]=20",
    ];
    alone(|| {
        let scene = Scene::new(2);
        scene.attach(&with_object(settings("by_constants", &ALL))).unwrap();
        assert_eq!(deal(&scene.members, 4), [0, 4]);
        // With one of them as it was compiled, the program sees that.
        for one in ALL {
            let rest: Vec<&str> = ALL.into_iter().filter(|setting| *setting != one).collect();
            scene.attach(&with_object(settings("by_constants", &rest))).unwrap();
            assert_eq!(deal(&scene.members, 4), [4, 0], "without {one}");
        }
    });
}

#[test]
fn the_library_takes_values_of_rust() {
    alone(|| {
        let scene = Scene::new(2);
        let address: IpAddr = "2001:db8::9".parse().unwrap();
        let object = object("own_settings")
            .program("by_constants")
            .set("byte", 255u8)
            .set("negative", -2)
            .set("large", 0xfedc_ba98_7654_3210u64)
            .set("on", true)
            .set("mode", 2)
            .set("port", 443)
            .set("address", Value::Bytes(vec![192, 0, 2, 1]))
            .set("address6", address)
            .set("name", Value::Text("ab".to_owned()))
            .set(("limits", 1), 20);
        scene.attach(&with_object(object)).unwrap();
        assert_eq!(deal(&scene.members, 4), [0, 4]);
    });
}

#[test]
fn elements_of_arrays_are_set() {
    alone(|| {
        let scene = Scene::new(2);
        scene.attach(&with_object(settings("by_elements", &["sizes[3]=1"]))).unwrap();
        assert_eq!(deal(&scene.members, 4), [0, 4]);
    });
}

const FOLLOWING: [(&str, &str); 4] = [
    ("among_workers", "workers=members"),
    ("among_workers_too", "workers_too=members"),
    ("among_workers_in_a_byte", "workers_in_a_byte=members"),
    ("among_size", "sizes[2]=members"),
];

#[test]
fn the_number_of_members_follows_them() {
    for (program, setting) in FOLLOWING {
        alone(|| {
            let mut scene = Scene::new(2);
            scene.attach(&with_object(settings(program, &[setting]))).unwrap();
            assert_eq!(deal(&scene.members, 6), [3, 3], "{setting}");
            scene.members.extend(more(scene.key.address, 1));
            scene.attach(&Attach::default()).unwrap();
            assert_eq!(deal(&scene.members, 6), [2, 2, 2], "{setting}");
            close(vec![scene.members.remove(2)]);
            scene.attach(&Attach::default()).unwrap();
            assert_eq!(deal(&scene.members, 6), [3, 3], "{setting}");
            reuseport::detach(&scene.host, &scene.key).unwrap();
            assert!(nothing_pinned());
        });
    }
}

#[test]
fn a_watcher_keeps_the_number_of_members() {
    alone(|| {
        let mut scene = Scene::new(2);
        let stop = Stop::default();
        let request =
            with_object(settings("among_workers", &["workers=members"])).stop(stop.clone());
        let (watch, _) = Watch::start(Host::open().unwrap(), &scene.key, request).unwrap();
        watching(watch, &stop, |_| {
            let steered = |count: usize| {
                wait::until("the members are enrolled", wait::BOUND, || {
                    let status = scene.host.status(&scene.key).unwrap();
                    status.members.len() == count && status.unsteered() == 0
                });
            };
            steered(2);
            scene.members.extend(more(scene.key.address, 1));
            steered(3);
            wait::until("each gets its turn", wait::BOUND, || deal(&scene.members, 6) == [2, 2, 2]);
            close(vec![scene.members.remove(2)]);
            wait::until("two take turns", wait::BOUND, || deal(&scene.members, 6) == [3, 3]);
        });
    });
}

/// `members` is how many there are, `indices` how far to look for them.
#[test]
fn indices_reach_beyond_a_gap() {
    alone(|| {
        let mut scene = Scene::new(3);
        scene.attach(&with_object(settings("among_workers", &["workers=indices"]))).unwrap();
        assert_eq!(deal(&scene.members, 6), [2, 2, 2]);
        close(vec![scene.members.remove(0)]);
        scene.attach(&Attach::default()).unwrap();
        // Every third turn finds nothing, and the kernel's hash decides.
        let dealt = deal(&scene.members, 12);
        assert!(dealt.iter().all(|n| *n >= 4) && dealt.iter().sum::<usize>() == 12, "{dealt:?}");
    });
}

#[test]
fn a_restarted_group_is_told_its_members_again() {
    alone(|| {
        let mut scene = Scene::new(3);
        let address = scene.key.address;
        scene.attach(&with_object(settings("among_workers", &["workers=members"]))).unwrap();
        close(std::mem::take(&mut scene.members));
        scene.members = more(address, 2);
        scene.attach(&Attach::default()).unwrap();
        let steering = scene.host.status(&scene.key).unwrap().steering;
        assert_eq!(steering, Steering::Ours(Program::Object(())));
        assert_eq!(deal(&scene.members, 6), [3, 3]);
    });
}

#[test]
fn settings_that_cannot_be_made_are_refused_with_what_to_do() {
    let cases: [(&str, &str, &[&str]); 13] = [
        (
            "by_constants",
            "nothing=1",
            &["neither a variable nor an array", "its variables: ", "pairs, sizes"],
        ),
        ("by_constants", "byte=256", &["`byte`: it has 1 bytes: from 0 to 255"]),
        ("by_constants", "byte=-1", &["`byte`: it has 1 bytes: from 0 to 255"]),
        ("by_constants", "negative=-32769", &["from -32768 to 32767"]),
        ("by_constants", "on=2", &["`on`: it is a bool"]),
        ("by_constants", "address=::1", &["`address`: it is an array of 4 bytes"]),
        ("by_constants", "name=text:much_too_long", &["`name`: it has 8 bytes"]),
        ("by_constants", "limits=1", &["`limits`: it is an array", "limits[0]"]),
        ("by_constants", "limits[3]=1", &["`limits[3]`: it has 3 elements", "the last one is 2"]),
        ("by_constants", "byte[0]=1", &["`byte[0]`: it has no elements"]),
        ("by_constants", "large=members", &["it is a constant", "without `const`"]),
        ("by_elements", "pairs[0]=1", &["`pairs[0]`: its type is no integer"]),
        ("by_elements", "table[0]=1", &["BPF_MAP_TYPE_HASH", "elements of arrays"]),
    ];
    alone(|| {
        let scene = Scene::new(2);
        let before = scene.world();
        for (program, setting, words) in cases {
            let words = [&["cannot use", "cannot set"], words].concat();
            let error = scene.attach(&with_object(settings(program, &[setting]))).unwrap_err();
            refused(error, ErrorKind::Invalid, &words);
        }
        let unused = settings("among_workers", &["sizes[0]=1"]);
        let error = scene.attach(&with_object(unused)).unwrap_err();
        refused(error, ErrorKind::Invalid, &["`sizes[0]`", "does not use it", "`volatile`"]);
        assert_eq!(scene.world(), before);
    });
}
