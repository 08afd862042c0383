//! `policy`, `weight`, `drain`, `undrain`, and the options of `attach` that they share. The
//! counters of the kernel program prove what it did.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use crate::common::{
    Holder, Running, error, group, has_time, isolated, json, pinned_groups, run, stdout,
    stdout_undisturbed,
};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use sk_reuseport::net::Bind;
use test_support::bpffs;
use test_support::client::http_get;
use test_support::loopback;
use test_support::process::close;
use test_support::server::Nginx;
use test_support::wait::{BOUND, until};

pub(super) fn show(group: &str) -> Value {
    json(&["show", group, "--json"])
}

/// A field of every member, in the order of the slots.
pub(super) fn each(group: &str, field: &str) -> Value {
    let members = show(group)["members"].as_array().unwrap().clone();
    members.iter().map(|member| member[field].clone()).collect()
}

/// Opens connections, which wait at the listeners until they are dropped.
pub(super) fn connect(listeners: &[TcpListener], connections: usize) -> Vec<TcpStream> {
    let address = listeners[0].local_addr().unwrap();
    (0..connections).map(|_| TcpStream::connect(address).unwrap()).collect()
}

#[test]
fn policies_can_follow_one_another() {
    isolated(|| {
        let (listeners, group) = group(3);
        assert!(error(1, &["policy", &group, "hash"]).contains("no program of this tool"));
        stdout(&["attach", &group]);
        assert_eq!(show(&group)["policy"], "least-loaded", "the default");
        let policies = ["round-robin", "hash", "source", "random", "cpu", "least-loaded"];
        let mut clients = Vec::new();
        for (turn, policy) in policies.into_iter().enumerate() {
            let text = stdout(&["policy", &group, policy]);
            assert!(text.contains(&format!("{policy} ")), "{text}");
            clients.extend(connect(&listeners, 6));
            let shown = show(&group);
            assert_eq!(shown["policy"], policy);
            assert_eq!(shown["counters"]["picks"], 6 * (turn + 1), "{policy}: {shown}");
        }
        let refused = error(2, &["policy", &group, "payload:0:8"]);
        assert!(refused.contains("SYN"), "{refused}");
        assert_eq!(show(&group)["policy"], "least-loaded", "unchanged");
    });
}

#[test]
fn the_payload_of_a_datagram_selects() {
    isolated(|| {
        let members = Bind::new(loopback(false)).udp_sockets(4).unwrap();
        let address = members[0].local_addr().unwrap();
        let group = format!("udp:{address}");
        stdout(&["attach", &group]);
        assert_eq!(show(&group)["policy"], "hash", "the default");
        stdout(&["policy", &group, "payload:2:4"]);
        let shown = show(&group);
        assert_eq!(shown["policy"], "payload");
        assert_eq!(shown["policy_options"], json!({"offset": 2, "length": 4}));
        assert!(stdout(&["show", &group]).contains("payload (offset 2, length 4)"));
        for _ in 0..10 {
            let client = UdpSocket::bind(loopback(false)).unwrap();
            client.send_to(b"xxsame", address).unwrap();
            client.send_to(b"xxsam", address).unwrap();
        }
        let shown = show(&group);
        assert_eq!(shown["counters"]["payload_short"], 10, "{shown}");
        let refused = error(2, &["policy", &group, "least-loaded", "--load", "open"]);
        assert!(refused.contains("no connections"), "{refused}");
    });
}

#[test]
fn options_of_least_loaded_change_singly_and_the_name_resets_them() {
    isolated(|| {
        let (_listeners, group) = group(2);
        let options = || show(&group)["policy_options"].clone();
        let text = stdout(&["attach", &group, "--load", "queue"]);
        assert!(text.contains("least-loaded (queue; max share 2) decides"), "{text}");
        assert_eq!(options(), json!({"load": ["queue"], "max_share": 2.0}));
        stdout(&["policy", &group, "--max-share", "1.5"]);
        assert_eq!(options(), json!({"load": ["queue"], "max_share": 1.5}));
        stdout(&["attach", &group, "--load", "queue,open"]);
        assert_eq!(options(), json!({"load": ["queue", "open"], "max_share": 1.5}));
        assert!(stdout(&["show", &group]).contains("least-loaded (queue,open; max share 1.5)"));
        stdout(&["attach", &group]);
        assert_eq!(options()["max_share"], 1.5, "unchanged");
        stdout(&["policy", &group, "least-loaded"]);
        assert_eq!(options(), json!({"load": ["queue", "open"], "max_share": 2.0}));

        stdout(&["policy", &group, "hash"]);
        assert_eq!(options(), Value::Null);
        for verb in ["policy", "attach"] {
            let refused = error(2, &[verb, &group, "--load", "queue"]);
            assert!(refused.contains("least-loaded") && refused.contains("hash"), "{refused}");
            let refused = error(2, &[verb, &group, "--cpus", "0"]);
            assert!(refused.contains("policy cpu"), "{refused}");
        }
        let refused = error(2, &["attach", &group, "--policy", "random", "--max-share", "3"]);
        assert!(refused.contains("random"), "{refused}");
        assert_eq!(show(&group)["policy"], "hash");
    });
}

#[test]
fn members_get_the_given_cpus() {
    isolated(|| {
        let (_listeners, group) = group(2);
        stdout(&["attach", &group]);
        assert_eq!(each(&group, "cpu"), json!([null, null]));
        stdout(&["policy", &group, "cpu", "--cpus", "0"]);
        assert_eq!(each(&group, "cpu"), json!([0, 0]));
        assert!(stdout(&["show", &group]).contains("  CPU  "));
        // The list of this host's other CPUs.
        let shown = show(&group);
        let without = shown["cpus_without_member"].as_array().unwrap();
        assert!(without.iter().all(|cpu| *cpu != json!(0)), "{shown}");
        let note = stdout(&["policy", &group, "cpu", "--cpus", "0"]);
        assert_eq!(note.contains("no member has CPU"), !without.is_empty(), "{note}");
        let refused = error(2, &["policy", &group, "--cpus", "60000"]);
        assert!(refused.contains("60000"), "{refused}");
        assert_eq!(each(&group, "cpu"), json!([0, 0]));
        stdout(&["policy", &group, "hash"]);
        assert_eq!(each(&group, "cpu"), json!([null, null]));
    });
}

#[test]
fn weights_are_shares_of_new_connections() {
    isolated(|| {
        let (listeners, group) = group(3);
        assert!(error(1, &["weight", &group, "slot:0=3"]).contains("no program of this tool"));
        stdout(&["attach", &group, "--policy", "round-robin"]);
        let text = stdout(&["weight", &group, "slot:0=3", "slot:2=6"]);
        assert!(text.contains("weight 3, was 1: 30.0% of new picks"), "{text}");
        let clients = connect(&listeners, 100);
        assert_eq!(each(&group, "picks"), json!([30, 10, 60]));
        assert_eq!(each(&group, "weight"), json!([3, 1, 6]));
        assert_eq!(each(&group, "share"), json!([0.3, 0.1, 0.6]));
        assert_eq!(each(&group, "weight_share"), json!([0.3, 0.1, 0.6]));
        assert!(stdout(&["show", &group]).contains("60.0% of 60.0%"));
        drop(clients);

        // All members of this process, and all members of one generation.
        stdout_undisturbed(&["weight", &group, &format!("pid:{}=5", std::process::id())]);
        assert_eq!(each(&group, "weight"), json!([5, 5, 5]));
        stdout(&["weight", &group, "gen:1=7", "slot:1=7"]);
        assert_eq!(each(&group, "weight"), json!([7, 7, 7]));

        let refused = error(2, &["weight", &group, "slot:0=1", "gen:1=2"]);
        assert!(refused.contains("slot:0") && refused.contains("two weights"), "{refused}");
        let no = error(1, &["weight", &group, "slot:0=1", "slot:9=2"]);
        assert!(no.contains("slot:9") && no.contains("there are slot:0"), "{no}");
        assert_eq!(each(&group, "weight"), json!([7, 7, 7]), "all or none");
    });
}

#[test]
fn members_are_selected_by_their_holders() {
    isolated(|| {
        let (listeners, group) = group(3);
        let holders: Vec<Holder> = listeners.into_iter().map(Holder::of).collect();
        stdout(&["attach", &group]);
        // No process watches them with epoll, but each has only one holder.
        for (slot, holder) in holders.iter().enumerate() {
            stdout(&["weight", &group, &format!("{}={}", holder.pid(), slot + 1)]);
        }
        let weights = show(&group)["members"].as_array().unwrap().clone();
        for member in weights {
            let pid = member["holders"][0]["pid"].as_u64().unwrap();
            let holder = holders.iter().position(|holder| u64::from(holder.0.id()) == pid);
            assert_eq!(member["weight"], holder.unwrap() + 1);
        }
        let unclear = error(2, &["weight", &group, "fd:0=2"]);
        assert!(unclear.contains("slot:0 (pid ") && unclear.contains("slot:2"), "{unclear}");
        let no = error(1, &["drain", &group, "pid:1"]);
        assert!(no.contains("pid:1") && no.contains("there are slot:0"), "{no}");
        let no = error(1, &["drain", &group, "fd:77"]);
        assert!(no.contains("fd:77"), "{no}");
    });
}

#[test]
fn a_draining_nginx_worker_gets_nothing_new_until_it_is_undrained() {
    isolated(|| {
        let nginx = Nginx::start(2);
        let group = format!("tcp:{}", nginx.addr());
        stdout(&["attach", &group]);
        let worker = nginx.worker_pids()[0];
        let served = || (0..40).map(|_| http_get(nginx.addr())).collect::<BTreeSet<String>>().len();
        assert_eq!(served(), 2);

        let text = stdout(&["drain", &group, &format!("pid:{worker}"), "--wait", "30s"]);
        assert!(text.contains(&format!("(pid {worker}) is drained")), "{text}");
        assert!(text.ends_with("drained\n"), "{text}");
        let states = each(&group, "state");
        assert!(states.as_array().unwrap().contains(&json!("draining")), "{states}");
        let before = each(&group, "picks");
        assert_eq!(served(), 1);
        let after = each(&group, "picks");
        let slot = states.as_array().unwrap().iter().position(|s| s == "draining").unwrap();
        assert_eq!(before[slot], after[slot], "{before} {after}");
        assert_eq!(each(&group, "weight_share")[slot], 0.0);

        let text = stdout(&["undrain", &group, &format!("slot:{slot}"), "slot:0", "slot:1"]);
        assert!(text.contains("is active again, with weight 1"), "{text}");
        assert!(text.contains("is active as before"), "{text}");
        assert_eq!(served(), 2);

        // The master holds every listener and serves at none.
        let members = show(&group)["members"].clone();
        let pids = members[0]["holders"].as_array().unwrap().iter().map(|h| h["pid"].clone());
        let workers = nginx.worker_pids();
        let master = pids.map(|pid| pid.as_u64().unwrap() as u32).find(|p| !workers.contains(p));
        let no = error(1, &["drain", &group, &format!("pid:{}", master.unwrap())]);
        assert!(no.contains("slot:0") && no.contains("slot:1"), "{no}");
        assert_eq!(each(&group, "state"), json!(["active", "active"]));
    });
}

#[test]
fn drain_shows_what_is_left_and_waits_for_it() {
    isolated(|| {
        let (listeners, group) = group(2);
        stdout(&["attach", &group, "--policy", "round-robin"]);
        let clients = connect(&listeners, 4);
        let text = stdout(&["drain", &group, "slot:0"]);
        assert!(text.contains("drains: 2 connections wait to be accepted"), "{text}");
        let output = run(&["drain", &group, "slot:0", "--wait=0"]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let late = String::from_utf8(output.stderr).unwrap();
        assert!(late.contains("not drained in 0s: slot:0"), "{late}");
        assert_eq!(each(&group, "state"), json!(["draining", "active"]));

        let mut waiting = Running::start(&["drain", &group, "slot:0", "--wait"]);
        waiting.read_until("2 connections wait");
        let output = waiting.interrupt();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("interrupted"));

        let mut waiting = Running::start(&["drain", &group, "slot:0", "--wait=60"]);
        waiting.read_until("2 connections wait");
        let accepted: Vec<_> = listeners.iter().map(|l| (l.accept(), l.accept())).collect();
        waiting.read_until("drained");
        assert!(waiting.0.wait().unwrap().success());
        drop((clients, accepted));

        stdout(&["undrain", &group, "slot:0"]);
        let clients = connect(&listeners, 4);
        let mut waiting = Running::start(&["drain", &group, "slot:1", "--wait=60"]);
        waiting.read_until("2 connections wait");
        close(listeners);
        waiting.read_until("drained");
        drop(clients);
    });
}

#[test]
fn draining_all_members_shows_who_is_picked_instead() {
    isolated(|| {
        let (listeners, group) = group(2);
        stdout(&["attach", &group]);
        let text = stdout(&["drain", &group, "slot:0", "slot:1"]);
        assert!(text.starts_with("no member of") && text.contains("fallback_draining"), "{text}");
        assert!(text.contains("it still gets new ones") && !text.contains("drained"), "{text}");
        let waited = run(&["drain", &group, "slot:0", "slot:1", "--wait=60"]);
        assert_eq!(waited.status.code(), Some(3), "{waited:?}");
        assert!(!String::from_utf8(waited.stdout).unwrap().contains("drained"));
        let clients = connect(&listeners, 4);
        assert_eq!(show(&group)["counters"]["fallback_draining"], 4);
        drop(clients);
        stdout(&["undrain", &group, "gen:1"]);
        let text = stdout(&["weight", &group, "gen:1=0"]);
        assert!(text.contains("no member of"), "{text}");
        let text = stdout(&["undrain", &group, "slot:0"]);
        assert!(text.contains("active as before"), "{text}");
    });
}

#[test]
fn a_new_member_has_no_slot_to_drain() {
    isolated(|| {
        let (listeners, group) = group(2);
        stdout(&["attach", &group]);
        let _newcomer = Bind::new(listeners[0].local_addr().unwrap()).listeners(1).unwrap();
        let cookies = each(&group, "cookie");
        let newcomer = format!("cookie:{}", cookies[2]);
        for verb in ["drain", "undrain"] {
            let no = error(1, &[verb, &group, &newcomer, "slot:0"]);
            assert!(no.contains(&format!("reuseport attach {group}")), "{no}");
        }
        error(1, &["weight", &group, &format!("{newcomer}=2")]);
        // If one is refused, none is changed.
        assert_eq!(each(&group, "state"), json!(["active", "active", null]));
        // Attaching enrols it with a weight.
        stdout(&["attach", &group, "--weight", &format!("{newcomer}=4"), "--weight", "slot:0=2"]);
        assert_eq!(each(&group, "weight"), json!([2, 1, 4]));
    });
}

#[test]
fn weights_apply_from_the_first_connection() {
    isolated(|| {
        let (listeners, group) = group(2);
        let no = error(1, &["attach", &group, "--weight", "slot:0=3"]);
        assert!(no.contains("cookie:"), "slots are given by attaching: {no}");
        assert!(show(&group)["program"].is_null());
        let cookie = each(&group, "cookie")[1].to_string();
        let weight = format!("cookie:{cookie}=3");
        stdout(&["attach", &group, "--policy", "round-robin", "--weight", &weight]);
        let _clients = connect(&listeners, 40);
        assert_eq!(each(&group, "picks"), json!([10, 30]));
        let refused = error(2, &["attach", &group, "--weight", "slot:0=1", "--weight", "slot:0=2"]);
        assert!(refused.contains("two weights"), "{refused}");
    });
}

#[test]
fn commands_on_one_group_wait_for_each_other() {
    isolated(|| {
        let (_listeners, group) = group(4);
        stdout(&["attach", &group]);
        let mut all: Vec<Running> = Vec::new();
        for slot in 0..4 {
            all.push(Running::start(&["weight", &group, &format!("slot:{slot}={}", slot + 2)]));
        }
        all.push(Running::start(&["policy", &group, "random"]));
        all.push(Running::start(&["drain", &group, "slot:3"]));
        for running in all {
            let output = running.output();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        }
        assert_eq!(each(&group, "weight"), json!([2, 3, 4, 5]));
        assert_eq!(each(&group, "state"), json!(["active", "active", "active", "draining"]));
        assert_eq!(show(&group)["policy"], "random");

        // Another process reads the state for a while.
        let directory = File::open(Path::new(bpffs::PATH).join("reuseport")).unwrap();
        flock(&directory, FlockOperation::LockShared).unwrap();
        let mut waiting = Running::start(&["weight", &group, "slot:0=9"]);
        for _ in 0..3 {
            assert_eq!(each(&group, "weight")[0], 2, "reading is allowed, changing is not");
        }
        assert!(waiting.0.try_wait().unwrap().is_none(), "it waits");
        drop(directory);
        assert!(waiting.0.wait().unwrap().success());
        assert_eq!(each(&group, "weight")[0], 9);
    });
}

/// The kernel program of the library, attached as a foreign program.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../reuseport/bpf/select.bpf.o");

#[test]
fn a_foreign_program_is_not_changed() {
    isolated(|| {
        let (listeners, group) = group(2);
        stdout(&["attach", &group]);
        let mut object = sk_reuseport::Ebpf::load_file(OBJECT).unwrap();
        let program = object.program_mut("reuseport").unwrap();
        let program: &mut sk_reuseport::programs::SkReuseport = program.try_into().unwrap();
        program.load().unwrap();
        program.attach(&listeners[0]).unwrap();
        let id = show(&group)["program"]["id"].clone();
        for verb in [
            &["policy", group.as_str(), "hash"] as &[&str],
            &["weight", &group, "slot:0=2"],
            &["drain", &group, "slot:0"],
            &["undrain", &group, "slot:0"],
        ] {
            let refused = error(2, verb);
            assert!(refused.contains("another owner"), "{refused}");
            assert!(refused.contains("--force"), "{refused}");
        }
        assert_eq!(show(&group)["program"]["id"], id);
        // What is left of our state can be removed.
        let text = stdout(&["detach", &group]);
        assert!(text.contains("stays") && text.contains(&format!("reuseport#{id}")), "{text}");
        assert_eq!(pinned_groups(), 0);
        assert_eq!(show(&group)["program"]["id"], id);
        assert!(error(2, &["detach", &group]).contains("another owner"));
    });
}

#[test]
fn watch_says_what_replaced_our_program_and_takes_the_group_back_if_asked() {
    isolated(|| {
        let (listeners, group) = group(2);
        assert_eq!(run(&["attach", &group, "--retake"]).status.code(), Some(2));
        let mut object = sk_reuseport::Ebpf::load_file(OBJECT).unwrap();
        let program = object.program_mut("reuseport").unwrap();
        let program: &mut sk_reuseport::programs::SkReuseport = program.try_into().unwrap();
        program.load().unwrap();
        let id = program.info().unwrap().id();
        for (options, then) in [
            (&["--watch"] as &[&str], "waiting"),
            (&["--watch", "--retake"], "taking the group back"),
        ] {
            let mut watch =
                Running::start(&[&["attach", &group, "--policy", "hash"], options].concat());
            watch.read_until("Watching");
            program.attach(&listeners[0]).unwrap();
            let line = watch.read_until("replaced our program");
            assert!(line.contains(&format!("reuseport#{id}")) && line.contains(then), "{line}");
            assert!(has_time(&line), "{line}");
            if options.len() == 2 {
                watch.read_until(&format!("replaced reuseport#{id}"));
                assert_eq!(show(&group)["policy"], "hash");
            }
            assert_eq!(watch.interrupt().status.code(), Some(0));
            stdout(&["detach", &group]);
            let _ = sk_reuseport::programs::SkReuseport::detach(&listeners[0]);
        }
    });
}

#[test]
fn a_program_of_the_user_has_no_weights_and_no_policy() {
    isolated(|| {
        let (_listeners, group) = group(1);
        stdout(&["attach", &group, "--object", OBJECT, "--map", "sockets"]);
        for verb in [
            &["policy", group.as_str(), "hash"] as &[&str],
            &["policy", &group, "--load", "queue"],
            &["weight", &group, "slot:0=2"],
            &["drain", &group, "slot:0"],
        ] {
            let refused = error(2, verb);
            assert!(refused.contains("own program decides"), "{refused}");
        }
    });
}

#[test]
fn watch_keeps_weights_and_states_of_those_that_stay() {
    isolated(|| {
        let (listeners, group) = group(3);
        let cookies = each(&group, "cookie");
        let first = format!("cookie:{}=2", cookies[0]);
        let watch = Running::start(&["attach", &group, "--watch", "--weight", &first]);
        let steered = |n: usize| {
            let output = run(&["show", &group, "--json"]);
            let Ok(shown) = serde_json::from_slice::<Value>(&output.stdout) else { return false };
            let members = shown["members"].as_array().unwrap();
            members.len() == n && members.iter().all(|m| m["state"].is_string())
        };
        until("three are steered", BOUND, || steered(3));
        assert_eq!(each(&group, "weight"), json!([2, 1, 1]));
        // Changes during the watch override the options of the watching command.
        stdout(&["weight", &group, "slot:0=5", "slot:1=7"]);
        stdout(&["drain", &group, "slot:2"]);
        stdout(&["policy", &group, "random"]);
        let address = listeners[0].local_addr().unwrap();
        let newcomer = Bind::new(address).listeners(1).unwrap();
        until("the newcomer is steered", BOUND, || steered(4));
        assert_eq!(each(&group, "weight"), json!([5, 7, 1, 1]));
        let states = json!(["active", "active", "draining", "active"]);
        assert_eq!(each(&group, "state"), states);
        close(newcomer);
        until("its slot is free", BOUND, || steered(3));
        assert_eq!(each(&group, "weight"), json!([5, 7, 1]));
        assert_eq!(each(&group, "state"), json!(["active", "active", "draining"]));
        assert_eq!(show(&group)["policy"], "random");
        watch.interrupt();
    });
}
