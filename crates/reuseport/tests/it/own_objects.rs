//! Users' objects as they are found in the wild. What docs/own-program.md says about each is true.

use std::path::Path;

use reuseport::{Attach, ErrorKind, ObjectNote, ObjectSpec};
use rustix::thread::CapabilitySet;
use sk_reuseport::maps::ReusePortSockArray;
use test_support::bpffs;

use crate::bad_input::refused;
use crate::common::rights::capable_of;
use crate::common::scene::Scene;
use crate::common::world::{alone, deal, object, with_object};

/// Asserts that an object is attached, and how many of four connections each member accepts.
#[track_caller]
fn decides(object: ObjectSpec, dealt: [usize; 2]) {
    let scene = Scene::new(2);
    scene.attach(&with_object(object)).unwrap();
    assert_eq!(deal(&scene.members, 4), dealt);
    reuseport::detach(&scene.host, &scene.key).unwrap();
}

/// Asserts that an object is refused with these words, and changes nothing.
#[track_caller]
fn is_refused(scene: &Scene, object: ObjectSpec, words: &[&str]) {
    let before = scene.world();
    let error = scene.attach(&with_object(object)).unwrap_err();
    refused(error, ErrorKind::Invalid, words);
    assert_eq!(scene.world(), before);
}

#[test]
fn any_suffix_of_the_section_is_accepted_with_a_note() {
    alone(|| {
        decides(object("own_others").program("first"), [4, 0]);
        decides(object("own_others").program("second"), [0, 4]);
    });
    let suffix = |program: &str| {
        let notes = object("own_others").program(program).map("sockets").notes().unwrap();
        notes.into_iter().find_map(|note| match note {
            ObjectNote::Suffix { section } => Some(section),
            _ => None,
        })
    };
    assert_eq!(suffix("second").unwrap(), "sk_reuseport/selector");
    assert_eq!(suffix("first").unwrap(), "sk_reuseport/other");
    assert_eq!(suffix("from_both"), None, "its section is sk_reuseport/migrate");
}

/// `own_others` has some that no kernel would load.
#[test]
fn programs_of_other_types_are_not_loaded_and_named() {
    let notes = object("own_others").program("from_both").map("sockets").notes().unwrap();
    let texts: Vec<String> = notes.iter().map(ToString::to_string).collect();
    let named = "call (syscall), classify (tc), drop (xdp), init (struct_ops/init)";
    assert!(texts.iter().any(|text| text.ends_with(named)), "{texts:?}");
    assert!(texts.iter().any(|text| text.ends_with("which stay empty: spare")), "{texts:?}");
    assert_eq!(object("first").notes().unwrap(), []);
}

#[test]
fn only_the_maps_that_the_program_uses_are_candidates() {
    alone(|| {
        decides(object("two").program("from_small"), [4, 0]);
        let scene = Scene::new(2);
        let spare = object("own_others").program("first").map("spare");
        is_refused(&scene, spare, &["`first` does not use the map `spare`", "from: sockets"]);
        let attach = Attach::from(object("own_others").program("from_both").map("sockets"));
        scene.attach(&attach).unwrap();
    });
}

#[test]
fn sockets_are_found_in_a_socket_hash_by_their_index() {
    alone(|| {
        decides(object("own_sockhash").program("from_narrow"), [0, 4]);
        decides(object("own_sockhash").program("from_wide"), [0, 4]);
    });
}

#[test]
fn a_socket_hash_is_kept_as_members_come_and_go() {
    alone(|| {
        for program in ["from_narrow", "from_wide"] {
            let mut scene = Scene::new(2);
            scene.attach(&with_object(object("own_sockhash").program(program))).unwrap();
            test_support::process::close(vec![scene.members.remove(1)]);
            scene.members.extend(crate::common::world::more(scene.key.address, 1));
            scene.attach(&Attach::default()).unwrap();
            assert_eq!(deal(&scene.members, 4), [0, 4], "{program}");
            reuseport::detach(&scene.host, &scene.key).unwrap();
        }
    });
}

#[test]
fn a_socket_hash_names_the_capability_that_it_takes() {
    alone(|| {
        let scene = Scene::new(2);
        let tracing = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let attach = with_object(object("own_sockhash").program("from_wide"));
        let error = capable_of(tracing, || scene.attach(&attach)).unwrap_err();
        refused(error, ErrorKind::Denied, &["`wide`", "missing here: CAP_NET_ADMIN"]);
    });
}

#[test]
fn what_cannot_be_loaded_is_named_with_what_to_do() {
    let cases: [(&str, &[&str]); 9] = [
        (
            "reads_configuration",
            &[
                "reads `LINUX_KERNEL_VERSION` of the kernel's configuration",
                "--set LINUX_KERNEL_VERSION=",
            ],
        ),
        ("reads_weak_configuration", &["`CONFIG_NO_SUCH_THING`", "`const volatile`"]),
        (
            "calls_kernel",
            &["calls a function of the kernel (`__ksym`): `bpf_rcu_read_lock`", "use a helper"],
        ),
        ("reads_kernel", &["reads a variable of the kernel (`__ksym`): `no_such_variable`"]),
        ("calls_elsewhere", &["does not define: `defined_elsewhere`", "bpftool gen object"]),
        ("calls_programs", &["`programs` (BPF_MAP_TYPE_PROG_ARRAY)", "`static __noinline`"]),
        ("from_inside", &["inside the map of maps `outer`", "`.values = { [0] = &sockets }`"]),
        ("from_long_keys", &["keys of its map `by_address` have 16 bytes", "`__u32`"]),
        ("selects_nothing", &["never calls bpf_sk_select_reuseport", "sockets, spare"]),
    ];
    alone(|| {
        let scene = Scene::new(2);
        for (program, words) in cases {
            let words = [&["cannot use", "own_refused.bpf.o"], words].concat();
            is_refused(&scene, object("own_refused").program(program), &words);
        }
        // The same object, by another program.
        scene.attach(&with_object(object("own_refused").program("fine"))).unwrap();
        assert_eq!(deal(&scene.members, 4), [0, 4]);
    });
}

#[test]
fn a_socket_array_inside_a_map_of_maps_is_filled() {
    alone(|| decides(object("own_values"), [4, 0]));
}

#[test]
fn initial_values_that_cannot_be_put_into_their_maps_are_named() {
    alone(|| {
        let scene = Scene::new(2);
        let words = ["`programs` that are programs", "`static __noinline`"];
        is_refused(&scene, object("own_programs_as_values"), &words);
        let words = ["of its map of maps `outer` are static maps", "without `static`"];
        is_refused(&scene, object("own_static_values"), &words);
    });
}

#[test]
fn a_map_that_is_pinned_with_other_parameters_is_refused_and_both_are_named() {
    alone(|| {
        let scene = Scene::new(2);
        let pin = Path::new(bpffs::PATH).join("shared_sockets");
        let pinned = ReusePortSockArray::create("shared_sockets", 4).unwrap();
        pinned.map_data().pin(&pin).unwrap();
        let words =
            ["`shared_sockets`", "pinned as /sys/fs/bpf/shared_sockets", "4 elements, not 16"];
        is_refused(&scene, object("shared"), &words);
        std::fs::remove_file(&pin).unwrap();
        scene.attach(&with_object(object("shared"))).unwrap();
    });
}

#[test]
fn maps_without_types_work() {
    alone(|| {
        let scene = Scene::new(2);
        scene.attach(&with_object(object("own_without_types").set(("size", 0), 2))).unwrap();
        assert_eq!(deal(&scene.members, 20).iter().sum::<usize>(), 20);
    });
}

/// As if it were compiled without `-g`.
#[test]
fn an_object_without_types_says_how_to_compile_it() {
    alone(|| {
        let scene = Scene::new(2);
        let mut bytes = std::fs::read(object("first").path).unwrap();
        let at = bytes.windows(5).position(|name| name == b".BTF\0").unwrap();
        bytes[at + 3] = b'_';
        let file = Path::new("/sys/kernel").join("own_without_btf.o");
        rustix::mount::mount(
            "none",
            "/sys/kernel",
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .unwrap();
        std::fs::write(&file, bytes).unwrap();
        let words = ["does not describe the types of its maps (BTF)", "compile it with -g"];
        is_refused(&scene, ObjectSpec::new(file), &words);
    });
}
