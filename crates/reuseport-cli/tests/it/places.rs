//! Where state is pinned: on the host's bpffs, from whichever mount namespace; never on one that ends.
//!
//! These tests use the host's bpffs, without REUSEPORT_BPFFS, and leave it as it was.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use test_support::process::output;
use test_support::{bpffs, netns, program};

use crate::common::{error, group, isolated, json, pinned_groups, stdout};

/// Runs the command as `script` says, which starts it as `"$@"`, in a new mount namespace.
fn elsewhere(script: &str, arguments: &[&str]) -> Output {
    let mut unshare = Command::new(program("unshare"));
    unshare.args(["-m", "sh", "-c", script, "sh"]).arg(cargo_bin!("reuseport")).args(arguments);
    output(unshare.env_remove("REUSEPORT_BPFFS").env_remove("REUSEPORT_LOG")).unwrap()
}

fn here(arguments: &[&str]) -> Output {
    let mut command = Command::new(cargo_bin!("reuseport"));
    output(command.args(arguments).env_remove("REUSEPORT_BPFFS")).unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// In the host's pid namespace, and with its bpffs in view. Not so in a container.
fn on_host() -> bool {
    let pids = fs::metadata("/proc/self/ns/pid").unwrap().ino() == 0xefff_fffc;
    let device = fs::metadata(bpffs::PATH).unwrap().dev();
    let device = format!(" {}:{} / {} ", device >> 8 & 0xfff, device & 0xff, bpffs::PATH);
    let on = pids && fs::read_to_string("/proc/1/mountinfo").unwrap().contains(&device);
    if !on {
        println!("skipped: this is a container");
    }
    on
}

/// The state of this test's group on the host's bpffs, removed at the end.
struct OnHost {
    port: String,
    had_root: bool,
}

const ROOT: &str = "/sys/fs/bpf/reuseport";

impl OnHost {
    fn new(group: &str) -> Self {
        let port = group.rsplit(':').next().unwrap().to_owned();
        Self { port, had_root: Path::new(ROOT).exists() }
    }

    fn pinned(&self) -> bool {
        let names = fs::read_dir(Path::new(ROOT).join("groups")).into_iter().flatten().flatten();
        let ours = format!("-{}-net", self.port);
        names.map(|name| name.file_name()).any(|name| name.to_string_lossy().contains(&ours))
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        if !self.had_root {
            // Fails if another test still uses it.
            let _ = fs::remove_dir(Path::new(ROOT).join("groups"));
            let _ = fs::remove_dir(ROOT);
        }
    }
}

/// What `ip netns exec` does: a new sysfs, which hides /sys/fs/bpf. And a bpffs of the namespace.
const HIDES_BPFFS: [&str; 2] = [
    "mount --make-rprivate / && mount -t sysfs sys /sys && exec \"$@\"",
    "mount --make-rprivate / && mount -t bpf bpf /sys/fs/bpf && exec \"$@\"",
];

#[test]
fn another_mount_namespace_uses_the_bpffs_of_the_host() {
    netns::isolated(|| {
        if !on_host() {
            return;
        }
        let (_listeners, group) = group(2);
        let host = OnHost::new(&group);
        let attached = elsewhere("exec \"$@\"", &["attach", &group, "--policy", "round-robin"]);
        assert_eq!(attached.status.code(), Some(0), "{}", text(&attached));
        assert!(host.pinned(), "the host's bpffs has it");
        let shown = here(&["show", &group, "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!(shown["policy"], "round-robin", "{shown}");
        assert_eq!(here(&["detach", &group]).status.code(), Some(0));
        assert!(!host.pinned());
    });
}

/// Where the caller may look into process 1's mount namespace, state goes there; elsewhere `attach`
/// refuses. No bpffs that ends with the namespace is used or mounted.
#[test]
fn a_bpffs_that_ends_with_its_mount_namespace_is_never_used() {
    netns::isolated(|| {
        if !on_host() {
            return;
        }
        let reachable = Path::new("/proc/1/root/sys/fs/bpf").exists();
        println!("process 1's mount namespace is within reach: {reachable}");
        for script in HIDES_BPFFS {
            let (_listeners, group) = group(2);
            let host = OnHost::new(&group);
            let attached = elsewhere(script, &["attach", &group, "--policy", "round-robin"]);
            let said = text(&attached);
            let program = |output: Output| {
                let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
                shown["program"].clone()
            };
            let seen_here = program(here(&["show", &group, "--json"]));
            let seen_there = program(elsewhere(script, &["show", &group, "--json"]));
            assert_eq!(seen_here, seen_there);
            if reachable {
                assert_eq!(attached.status.code(), Some(0), "{said}");
                assert!(host.pinned());
                assert_eq!(seen_here["policy"], "round-robin");
                assert_eq!(elsewhere(script, &["detach", &group]).status.code(), Some(0));
            } else {
                assert_eq!(attached.status.code(), Some(2), "{said}");
                assert!(said.contains("/proc/1/root/sys/fs/bpf cannot be reached"), "{said}");
                assert!(said.contains("\nhint: ") && said.contains("REUSEPORT_BPFFS"), "{said}");
                assert!(seen_here.is_null(), "{seen_here}");
            }
            assert!(!host.pinned());
        }
    });
}

/// Listens with two sockets, and runs its arguments, in which `@` is the port.
const SERVER: &str = "
import socket, subprocess, sys
def listen(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('127.0.0.1', port))
    s.listen()
    return s
first = listen(0)
port = first.getsockname()[1]
second = listen(port)
sys.exit(subprocess.call([a.replace('@', str(port)) for a in sys.argv[1:]]))
";

#[test]
fn a_pid_namespace_of_its_own_takes_a_named_bpffs_and_the_demo_takes_none() {
    isolated(|| {
        let pids = |environment: &str, arguments: &[&str]| {
            let script = format!(
                "exec env {environment} unshare -p -f --mount-proc python3 -c \"{SERVER}\" \"$@\""
            );
            elsewhere(&script, arguments)
        };
        let refused = pids("A=", &["attach", ":@"]);
        let said = text(&refused);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(
            said.contains("another pid namespace") && said.contains("REUSEPORT_BPFFS"),
            "{said}"
        );
        assert!(text(&pids("A=", &["ls"])).contains("policies, slots and picks are not shown"));

        let named = format!("REUSEPORT_BPFFS={}", bpffs::PATH);
        let attached = pids(&named, &["attach", ":@"]);
        assert_eq!(attached.status.code(), Some(0), "{}", text(&attached));
        assert!(text(&attached).contains("decides among 2 sockets"), "{}", text(&attached));
        assert_eq!(pinned_groups(), 1);

        let demo = pids("A=", &["demo", "--seconds", "1"]);
        let said = text(&demo);
        assert_eq!(demo.status.code(), Some(0), "{said}");
        assert!(said.contains("least-loaded") && said.contains("Nothing is left behind"), "{said}");
        assert_eq!(pinned_groups(), 1, "the demo's state was its own");
    });
}

#[test]
fn the_directory_that_is_named_holds_the_state() {
    isolated(|| {
        let (_listeners, group) = group(2);
        let directory = Path::new(bpffs::PATH).join("mine");
        fs::create_dir(&directory).unwrap();
        let run = |directory: &Path, arguments: &[&str]| {
            let mut command = Command::new(cargo_bin!("reuseport"));
            output(command.args(arguments).env("REUSEPORT_BPFFS", directory)).unwrap()
        };
        let attached = run(&directory, &["attach", &group]);
        assert_eq!(attached.status.code(), Some(0), "{}", text(&attached));
        assert_eq!(fs::read_dir(directory.join("reuseport/groups")).unwrap().count(), 1);
        assert_eq!(pinned_groups(), 0);
        assert_eq!(run(&directory, &["detach", &group]).status.code(), Some(0));

        // So do the maps that an object pins by name.
        let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../reuseport/tests/bpf/shared.bpf.o");
        let attached = run(&directory, &["attach", &group, "--object", object]);
        assert_eq!(attached.status.code(), Some(0), "{}", text(&attached));
        assert!(directory.join("shared_sockets").exists());
        assert!(!Path::new(bpffs::PATH).join("shared_sockets").exists());

        for (wrong, why) in
            [("/proc", "not on a BPF filesystem"), ("/nonexistent", "no such directory")]
        {
            let refused = run(Path::new(wrong), &["attach", &group]);
            let said = text(&refused);
            assert_eq!(refused.status.code(), Some(2), "{said}");
            assert!(said.contains(why), "{said}");
            assert!(said.contains("\nhint: "), "{said}");
        }
    });
}

/// What an earlier version did in `ip netns exec`: it mounted a bpffs that ended with the command.
#[test]
fn a_program_whose_state_was_lost_is_named_and_detached() {
    isolated(|| {
        let (_listeners, group) = group(2);
        let script = format!(
            "mount --make-rprivate / && mount -t bpf bpf {0} && REUSEPORT_BPFFS={0} exec \"$@\"",
            bpffs::PATH,
        );
        let attached = elsewhere(&script, &["attach", &group, "--policy", "round-robin"]);
        assert_eq!(attached.status.code(), Some(0), "{}", text(&attached));
        assert_eq!(pinned_groups(), 0);

        let program = &json(&["show", &group, "--json"])["program"];
        assert_eq!(
            (&program["kind"], &program["policy"]),
            (&"elsewhere".into(), &"round-robin".into())
        );
        let shown = stdout(&["show", &group]);
        assert!(shown.contains("reuseport round-robin, state elsewhere"), "{shown}");
        assert!(stdout(&["ls"]).contains("elsewhere: round-robin"));
        let refused = error(2, &["attach", &group]);
        assert!(refused.contains("round-robin") && refused.contains("hint: `detach`"), "{refused}");
        assert!(stdout(&["detach", &group]).contains("the kernel's hash decides again"));
        assert!(stdout(&["attach", &group]).contains("least-loaded"));
    });
}
