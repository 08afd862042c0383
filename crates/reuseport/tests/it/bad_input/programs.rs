//! Foreign programs, and objects of the user.

use std::net::TcpListener;

use reuseport::status::Steering;
use reuseport::{Attach, Balancer, ErrorKind, ObjectSpec, Policy};

use super::Scene;
use crate::common::world::{
    alone, deal, more, nothing_pinned, object, one_line, python_with, theirs, with, with_object,
};

#[test]
fn a_foreign_program_that_replaced_the_policy() {
    alone(|| {
        let scene = Scene::steered(2);
        let theirs = theirs("leave_it");
        theirs.attach(&scene.members[0]).unwrap();
        let id = theirs.info().unwrap().id();
        let words = ["will not attach to", "program leave_it", &format!("id {id}"), "--force"];
        scene.refuses(ErrorKind::Foreign, &["will not change", "leave_it"], |scene| {
            scene.set_weight(0, 1)
        });
        for attach in [with(Policy::Random), Attach::default()] {
            scene.refuses(ErrorKind::Foreign, &words, |scene| scene.attach(&attach));
        }
        // What was left of our program.
        scene.detach().unwrap();
        assert!(nothing_pinned());
        scene.refuses(ErrorKind::Foreign, &words, |scene| scene.attach(&Attach::default()));
        scene.refuses(ErrorKind::Foreign, &["will not detach from", "leave_it"], |scene| {
            scene.detach()
        });
        let force = with(Policy::RoundRobin).force(true);
        let (_, attached) = Balancer::attach(&scene.host, &scene.key, &force).unwrap();
        assert_eq!(attached.replaced.unwrap().id, Some(id));
        assert_eq!(deal(&scene.members, 12), [6, 6]);
    });
}

/// Attaches a classic program that selects the first member.
fn attach_classic(socket: &TcpListener) {
    // struct sock_fprog with one instruction, `ret 0`; SO_ATTACH_REUSEPORT_CBPF is 51.
    let script = "import socket, struct, ctypes\n\
                  code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))\n\
                  program = struct.pack('HP', 1, ctypes.addressof(code))\n\
                  socket.socket(fileno=0).setsockopt(socket.SOL_SOCKET, 51, program)";
    python_with(socket, script);
}

#[test]
fn a_foreign_classic_program() {
    alone(|| {
        let scene = Scene::new(2);
        attach_classic(&scene.members[0]);
        // The one that was created first, which need not have the lower cookie.
        let first = deal(&scene.members, 10);
        assert!(first == [10, 0] || first == [0, 10], "{first:?}");
        let words = ["will not attach to", "a classic BPF program", "--force"];
        scene.refuses(ErrorKind::Foreign, &words, |scene| scene.attach(&with(Policy::RoundRobin)));
        let words = ["will not detach from", "a classic BPF program"];
        scene.refuses(ErrorKind::Foreign, &words, |scene| scene.detach());
        assert_eq!(deal(&scene.members, 10), first);
        let force = with(Policy::RoundRobin).force(true);
        scene.attach(&force).unwrap();
        assert_eq!(deal(&scene.members, 10), [5, 5]);
    });
}

#[test]
fn objects_that_cannot_be_used() {
    let path = |path: &str| ObjectSpec::new(path);
    let named = |mut object: ObjectSpec, program: Option<&str>, map: Option<&str>| {
        (object.program, object.map) = (program.map(str::to_owned), map.map(str::to_owned));
        object
    };
    let here = |name: &str| path(&format!("{}/{name}", env!("CARGO_MANIFEST_DIR")));
    let two = || object("two");
    let cases: [(ObjectSpec, &[&str]); 11] = [
        (path("/nonexistent.o"), &["cannot use /nonexistent.o", "No such file"]),
        (path("/dev/null"), &["cannot use /dev/null"]),
        (path("/etc"), &["cannot use /etc"]),
        (here("Cargo.toml"), &["cannot use", "Cargo.toml", "ELF"]),
        (here("bpf/host.bpf.o"), &["no program that selects sockets", "SEC(\"sk_reuseport\")"]),
        (object("leave_it"), &["no map for sockets"]),
        (two(), &["3 programs that select", "--program", "counting, from_narrow, from_small"]),
        (
            object("own_others").program("from_both"),
            &["selects from 2 maps for sockets", "--map: sockets, spare"],
        ),
        (named(two(), Some("nix"), None), &["no program `nix`", "from_small"]),
        (
            named(two(), Some("from_small"), Some("nix")),
            &["no map `nix`", "narrow, no_sockets, small"],
        ),
        (named(two(), Some("from_small"), Some("no_sockets")), &["`no_sockets` must be a socket"]),
    ];
    alone(|| {
        for scene in [Scene::new(2), Scene::steered(2)] {
            for (object, words) in &cases {
                scene.refuses(ErrorKind::Invalid, words, |scene| {
                    scene.attach(&with_object(object.clone()))
                });
            }
        }
    });
}

#[test]
fn an_object_that_the_verifier_refuses() {
    alone(|| {
        for scene in [Scene::new(2), Scene::steered(2)] {
            let before = scene.world();
            let error = scene.attach(&with_object(object("refused"))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            let text = one_line(&error);
            assert!(text.contains("the verifier refused the program: "), "{text}");
            assert!(text.contains("offset is outside of the packet"), "{text}");
            assert!(text.len() < 300, "{} characters: {text}", text.len());
            assert_eq!(scene.world(), before);
            assert_eq!(deal(&scene.members, 12).iter().sum::<usize>(), 12);
        }
    });
}

#[test]
fn an_object_whose_map_is_too_small() {
    alone(|| {
        let small = object("two").program("from_small").map("small");
        for scene in [Scene::new(3), Scene::steered(3)] {
            let words = ["members: 3, slots: 2", "more elements"];
            scene.refuses(ErrorKind::Full, &words, |scene| {
                scene.attach(&with_object(small.clone()))
            });
        }
    });
}

#[test]
fn an_object_replaces_a_policy_and_a_policy_an_object() {
    alone(|| {
        let mut scene = Scene::steered(2);
        scene.attach(&with_object(object("first"))).unwrap();
        assert_eq!(scene.steering(), Steering::Ours(reuseport::Program::Object(())));
        assert_eq!(deal(&scene.members, 10), [10, 0]);
        // Its array has 4-byte values, so user space cannot read cookies from it.
        let narrow = object("two").program("from_narrow").map("narrow");
        scene.attach(&with_object(narrow)).unwrap();
        assert_eq!(deal(&scene.members, 10), [0, 10]);
        scene.members.extend(more(scene.key.address, 1));
        scene.attach(&Attach::default()).unwrap();
        assert_eq!(scene.host.status(&scene.key).unwrap().unsteered(), 0);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(&scene.members, 12), [4, 4, 4]);
        scene.detach().unwrap();
        assert!(nothing_pinned());
    });
}
