//! `attach --watch` of many groups, and before there is a server.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use sk_reuseport::net::Bind;
use sk_reuseport::programs::ProgramInfo;
use test_support::process::{close, spawn};
use test_support::wait::{BOUND, until};

use crate::common::{
    Holder, Running, error, group, has_time, isolated, json, own_netns, run, stdout,
};

fn is_steered(group: &str, members: usize) -> bool {
    let shown = run(&["show", group, "--json"]);
    let Ok(shown) = serde_json::from_slice::<serde_json::Value>(&shown.stdout) else {
        return false;
    };
    let active = |member: &&serde_json::Value| member["state"] == "active";
    shown["members"].as_array().unwrap().iter().filter(active).count() == members
}

#[test]
fn one_command_follows_many_groups_and_each_line_has_the_time_and_the_group() {
    isolated(|| {
        let (mut first, first_name) = group(2);
        let (second, second_name) = group(1);
        let arguments = ["attach", &first_name, &second_name, "--policy", "hash", "--watch"];
        let mut watch = Running::start(&arguments);
        watch.read_until("Watching");
        let address = second[0].local_addr().unwrap();
        let _new = Bind::new(address).listeners(1).unwrap();
        let line = watch.read_until("1 of them new");
        assert!(has_time(&line) && line.contains(&format!(" {second_name}: ")), "{line}");

        let address = first[0].local_addr().unwrap();
        close(std::mem::take(&mut first));
        let line = watch.read_until("all its sockets are closed");
        assert!(has_time(&line) && line.contains(&format!(" {first_name}: ")), "{line}");
        let _again = Bind::new(address).listeners(3).unwrap();
        until("the first group is steered again", BOUND, || is_steered(&first_name, 3));
        assert!(is_steered(&second_name, 2));

        // One that is detached is followed no more; the others are.
        stdout(&["detach", &first_name]);
        let _more = Bind::new(address).listeners(1).unwrap();
        watch.read_until("detached by another process");
        let output = watch.interrupt();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(is_steered(&second_name, 2), "the policy stays attached");
    });
}

#[test]
fn show_names_the_process_that_watches_until_it_ends_even_if_it_is_killed() {
    isolated(|| {
        let (_listeners, name) = group(1);
        let mut watch = Running::start(&["attach", &name, "--watch"]);
        watch.read_until("Watching");
        let pid = watch.0.id();
        let shown = json(&["show", &name, "--json"]);
        assert_eq!(shown["watcher"], serde_json::json!({"pid": pid, "comm": "reuseport"}));
        let text = stdout(&["show", &name]);
        assert!(text.contains(&format!("by pid {pid} (reuseport)")), "{text}");
        watch.0.kill().unwrap();
        watch.0.wait().unwrap();
        assert!(json(&["show", &name, "--json"])["watcher"].is_null());
        assert!(!stdout(&["show", &name]).contains("watched"));
    });
}

#[test]
fn all_means_every_group_that_matches() {
    isolated(|| {
        let (listeners, first) = group(1);
        let port = listeners[0].local_addr().unwrap().port();
        let other: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
        let _other = Bind::new(other).listeners(1).unwrap();
        let (port, netns) = (format!(":{port}"), own_netns());
        error(2, &["attach", &port, "--netns", &netns]);
        let text = stdout(&["attach", &port, "--all", "--netns", &netns]);
        let second = format!("tcp:{other}");
        assert!(text.contains(&first) && text.contains(&second), "{text}");
        assert!(is_steered(&first, 1) && is_steered(&second, 1));
        for group in [&first, &second] {
            let one_socket = format!("{group}: 1 socket: nothing to choose among");
            assert_eq!(text.matches(&one_socket).count(), 1, "{text}");
        }
        // A group that is named twice is one group.
        let text = stdout(&["attach", &port, &first, "--all", "--netns", &netns]);
        assert_eq!(text.matches("decides among").count(), 2, "{text}");
        error(1, &["attach", "tcp:127.0.0.3:9", "--all", "--netns", &netns]);
        error(2, &["attach", &first, &second, "--weight", "fd:3=2"]);
    });
}

/// Attaches a program of another owner, for as long as what this returns lives.
fn attach_foreign(listener: &TcpListener) -> sk_reuseport::Ebpf {
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../reuseport/bpf/select.bpf.o");
    let mut object = sk_reuseport::Ebpf::load_file(object).unwrap();
    let program = object.program_mut("reuseport").unwrap();
    let program: &mut sk_reuseport::programs::SkReuseport = program.try_into().unwrap();
    program.load().unwrap();
    program.attach(listener).unwrap();
    object
}

#[test]
fn all_takes_groups_that_come_later_too_but_none_that_was_detached() {
    isolated(|| {
        let (listeners, first) = group(1);
        let port = listeners[0].local_addr().unwrap().port();
        let (name, netns) = (format!(":{port}"), own_netns());
        let arguments =
            ["attach", &name, "--all", "--policy", "random", "--watch", "--netns", &netns];
        let mut watch = Running::start(&arguments);
        watch.read_until("Watching");
        let address: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
        let _second = Bind::new(address).listeners(2).unwrap();
        let line = watch.read_until("random decides among");
        assert!(has_time(&line) && line.contains(&format!("tcp:{address}")), "{line}");
        until("all its members are steered", BOUND, || is_steered(&format!("tcp:{address}"), 2));

        stdout(&["detach", &first]);
        watch.read_until("detached by another process");
        // Looks that find this one find the first one, too.
        let _third = Bind::new(address).udp_sockets(2).unwrap();
        let line = watch.read_until("random decides among");
        assert!(line.contains(&format!("udp:{address}")), "{line}");
        let output = watch.interrupt();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains(&first), "{output:?}");
        assert!(json(&["show", &first, "--json"])["program"].is_null());
    });
}

#[test]
fn all_waits_before_there_is_any_group() {
    isolated(|| {
        let (listeners, name) = group(1);
        let address = listeners[0].local_addr().unwrap();
        close(listeners);
        let (port, netns) = (format!(":{}", address.port()), own_netns());
        let mut watch = Running::start(&["attach", &port, "--all", "--watch", "--netns", &netns]);
        watch.read_until(&format!("waiting for {port}"));
        let _listeners = Bind::new(address).listeners(1).unwrap();
        watch.read_until(&format!("{name}: least-loaded "));
        // What `attach` says of a group that is there, it says of one that comes later.
        let line = watch.read_until("1 socket: nothing to choose among");
        assert!(has_time(&line) && line.contains(&name), "{line}");
        assert_eq!(watch.interrupt().status.code(), Some(0));
    });
}

#[test]
fn all_says_once_which_groups_it_cannot_take_and_takes_them_when_it_can() {
    isolated(|| {
        let (listeners, first) = group(1);
        let port = listeners[0].local_addr().unwrap().port();
        let netns = own_netns();
        let _program = attach_foreign(&listeners[0]);
        let arguments = ["attach", &format!(":{port}"), "--all", "--watch", "--netns", &netns];
        let mut watch = Running::start(&arguments);
        watch.read_until("Watching");
        // Each of them comes with a look that finds the first one, too.
        for n in 2..5 {
            let address: SocketAddr = format!("127.0.0.{n}:{port}").parse().unwrap();
            let listener = Bind::new(address).listeners(1).unwrap();
            watch.read_until("decides among 1 socket");
            close(listener);
            watch.read_until("all its sockets are closed");
        }
        sk_reuseport::programs::select::detach(&listeners[0]).unwrap();
        watch.read_until(&format!("{first}: least-loaded "));
        let output = watch.interrupt();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.matches(&first).count(), 1, "{said}");
    });
}

#[test]
fn a_group_that_cannot_be_attached_to_is_named_and_the_others_are_followed() {
    isolated(|| {
        let (foreign, foreign_name) = group(1);
        let (listeners, name) = group(1);
        let _program = attach_foreign(&foreign[0]);
        for _ in 0..2 {
            let mut watch = Running::start(&["attach", &foreign_name, &name, "--watch"]);
            watch.read_until("Watching");
            let address = listeners[0].local_addr().unwrap();
            let new = Bind::new(address).listeners(1).unwrap();
            watch.read_until("1 of them new");
            let output = watch.interrupt();
            assert_eq!(output.status.code(), Some(2), "{output:?}");
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(&foreign_name) && said.contains("--force"), "{said}");
            assert!(has_time(&said), "it is said at once: {said}");
            close(new);
        }
        assert_eq!(json(&["show", &foreign_name, "--json"])["program"]["kind"], "foreign");
        let output = run(&["attach", &foreign_name, &name]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(&name), "{output:?}");
        // A failure is more than nothing to do, in whatever order.
        stdout(&["detach", &name]);
        let output = run(&["detach", &foreign_name, &name]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&foreign_name) && said.contains(&name), "{said}");
    });
}

#[test]
fn watch_waits_for_a_server_that_is_not_there_yet() {
    isolated(|| {
        let (listeners, name) = group(1);
        let address = listeners[0].local_addr().unwrap();
        close(listeners);
        let netns = own_netns();
        error(1, &["attach", &name, "--netns", &netns]);
        let arguments = ["attach", &name, "--policy", "random", "--watch", "--netns", &netns];
        let watch = Running::start(&arguments).interrupted_after(&format!("waiting for {name}"));
        assert_eq!(watch.status.code(), Some(0), "{watch:?}");

        let mut watch = Running::start(&arguments);
        let line = watch.read_until(&format!("waiting for {name}"));
        assert!(has_time(&line), "{line}");
        let _listeners = Bind::new(address).listeners(2).unwrap();
        let line = watch.read_until("random decides among");
        assert!(has_time(&line) && line.contains(&name), "{line}");
        until("both are steered", BOUND, || is_steered(&name, 2));
        let output = watch.interrupt();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(json(&["show", &name, "--json"])["policy"], "random");
    });
}

/// The programs for cgroups of a process.
fn cgroup_programs(pid: u32) -> Vec<u32> {
    // BPF_PROG_TYPE_CGROUP_SOCK
    const TYPE: &str = "9";
    let value = |text: &str, field| {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.map(|value| value.trim().to_owned())
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let texts = descriptors.filter_map(|fd| std::fs::read_to_string(fd.ok()?.path()).ok());
    let programs = texts.filter(|text| value(text, "prog_type:").as_deref() == Some(TYPE));
    programs.filter_map(|text| value(&text, "prog_id:")?.parse().ok()).collect()
}

#[test]
fn the_programs_that_tell_of_udp_sockets_go_with_the_watcher_even_if_it_is_killed() {
    isolated(|| {
        let sockets = Bind::new("127.0.0.1:0".parse().unwrap()).udp_sockets(2).unwrap();
        let name = format!("udp:{}", sockets[0].local_addr().unwrap());
        let mut watch = Running::start(&["attach", &name, "--watch"]);
        watch.read_until("Watching");
        let programs = cgroup_programs(watch.0.id());
        assert_eq!(programs.len(), 2);
        let is_loaded = |id: &u32| ProgramInfo::from_id(*id).is_ok();
        assert!(programs.iter().all(is_loaded));
        watch.0.kill().unwrap();
        watch.0.wait().unwrap();
        until("they are gone", BOUND, || !programs.iter().any(is_loaded));
    });
}

/// Another user's process may have any name; also one that looks like a line of the watcher.
#[test]
fn a_process_that_is_there_instead_sends_no_escape_sequences() {
    isolated(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("tcp:{}", listener.local_addr().unwrap());
        let mut sh = Command::new("sh");
        sh.args(["-c", r"printf 'a\033[2J\nb' > /proc/$$/comm; echo ready; kill -STOP $$"]);
        let spawned = spawn(sh.stdin(OwnedFd::from(listener)).stdout(Stdio::piped()));
        // It has the listener, too.
        drop(sh);
        let mut process = Holder(spawned.unwrap());
        let mut ready = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let mut watch = Running::start(&["attach", &name, "--watch", "--netns", &own_netns()]);
        let line = watch.read_until("waiting for");
        watch.interrupt();
        assert_eq!(ready, "ready\n");
        assert!(line.contains("now a\u{fffd}[2J\u{fffd}b "), "{line}");
    });
}
