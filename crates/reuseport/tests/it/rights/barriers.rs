//! What keeps a caller out that is no missing capability, or not only that: each is named.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use reuseport::borrow::borrow;
use reuseport::{ErrorKind, Host, Policy};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};
use rustix::thread::CapabilitySet;
use sk_reuseport::fault::{Verdict, intercept};
use test_support::process::spawn;
use test_support::{bpffs, program, wait};

use super::steps::Server;
use super::{BPF, PERFMON, union};
use crate::common::helper::Helper;
use crate::common::rights::{ORDINARY, user_capable_of};
use crate::common::scene::Scene;
use crate::common::world::{alone, key_at, with};
use crate::common::{local_address, tcp};

#[track_caller]
fn says(error: &reuseport::Error, words: &[&str]) {
    let said = error.report().to_string();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

/// The kernel lets no process of the same user trace one whose program that user may not read.
#[test]
fn a_process_that_is_not_dumpable_is_named_as_such() {
    alone(|| {
        let host = Host::open().unwrap();
        let socket = tcp("127.0.0.1:0");
        let key = key_at(&host, "tcp", local_address(&socket));
        let unreadable = std::env::temp_dir().join(format!("unreadable-{}", key.netns.inode));
        fs::copy(program("sleep"), &unreadable).unwrap();
        fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o711)).unwrap();
        let mut sleep = Command::new(&unreadable);
        sleep.arg0("sleep").arg("infinity").stdin(socket).uid(ORDINARY).gid(ORDINARY);
        let server = Server(spawn(&mut sleep).unwrap());
        drop(sleep);
        fs::remove_file(&unreadable).unwrap();
        let group = wait::until_some("one holder", wait::BOUND, || {
            host.refresh(&key).ok().filter(|group| group.pids() == [server.0.id()])
        });
        let refused =
            user_capable_of(CapabilitySet::empty(), || borrow(&group.members[0]).unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::Denied);
        says(&refused, &["it is not dumpable", "not permitted", "missing here: CAP_SYS_PTRACE"]);
    });
}

#[test]
fn another_user_namespace_is_named_whatever_capabilities_are_there() {
    alone(|| {
        let helper = Helper::in_user_namespace(&tcp("127.0.0.1:0"), "open");
        let said = helper.said();
        for words in ["cannot list sockets", "initial user namespace", "run it on the host"] {
            assert!(said.contains(words), "{said}");
        }
        assert!(!said.contains("missing here") && !said.contains("lockdown"), "{said}");
    });
}

/// As a seccomp filter does, or a security module.
#[test]
fn bpf_that_is_refused_as_such_is_told_from_a_missing_capability() {
    alone(|| {
        let scene = Scene::new(2);
        let refuse = |_| Verdict::Fail(Errno::PERM.raw_os_error());
        let open = || intercept(refuse, || Host::open().unwrap_err());
        says(&open(), &["refuses bpf(2) to this process", "or run it on the host"]);
        let fewer = user_capable_of(union(&[BPF]), open);
        says(&fewer, &["refuses bpf(2)", "also grant CAP_PERFMON"]);
        let attach = || scene.attach(&with(Policy::RoundRobin)).unwrap_err();
        // The listing is refused.
        says(&intercept(refuse, attach), &["refuses bpf(2)"]);
        says(&user_capable_of(union(&[BPF]), || Host::open().unwrap_err()), &[PERFMON.1]);
    });
}

#[test]
fn a_filesystem_that_is_mounted_read_only_is_named() {
    alone(|| {
        let scene = Scene::new(2);
        let before = scene.world();
        mount_remount(bpffs::PATH, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
        let error = scene.attach(&with(Policy::RoundRobin)).unwrap_err();
        says(&error, &["cannot make /sys/fs/bpf/reuseport", "read-only", "remount,rw"]);
        assert_eq!(scene.world(), before);
    });
}

#[test]
fn a_failure_in_the_middle_says_that_the_group_is_as_it_was() {
    alone(|| {
        let scene = Scene::new(2);
        scene.attach(&with(Policy::RoundRobin)).unwrap();
        let before = scene.world();
        let mut claimed = 0;
        for at in 0..400 {
            let seen = std::cell::Cell::new(0);
            let hook = move |_| match seen.replace(seen.get() + 1) {
                n if n == at => Verdict::Fail(Errno::NOSPC.raw_os_error()),
                _ => Verdict::Allow,
            };
            match intercept(hook, || scene.attach(&with(Policy::Random))) {
                Ok(()) => scene.attach(&with(Policy::RoundRobin)).unwrap(),
                Err(error) if error.report().to_string().contains("the group is as it was") => {
                    claimed += 1;
                    assert_eq!(scene.host.status(&scene.key).unwrap().steering, *before.steering());
                    says(&error, &["No space left on device"]);
                }
                Err(_) => {}
            }
            if claimed > 3 {
                return;
            }
        }
        panic!("{claimed} failures said so");
    });
}
