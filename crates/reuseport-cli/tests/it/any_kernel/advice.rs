//! Policies that do not suit a server: `attach` and `policy` say so, and do what was asked.

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use sk_reuseport::net::Bind;
use test_support::process::spawn;

use crate::common::{group, isolated, run, stdout};

#[test]
fn quic_is_not_dealt_by_the_datagram_without_a_word() {
    isolated(|| {
        let _sockets = Bind::new("127.0.0.1:443".parse().unwrap()).udp_sockets(2).unwrap();
        let group = "udp:127.0.0.1:443";
        let quic = |arguments: &[&str]| {
            stdout(arguments).contains("if this is QUIC, its connections break")
        };
        assert!(!quic(&["attach", group]), "hash");
        let doctor = || {
            let output = run(&["doctor", group]);
            String::from_utf8(output.stdout).unwrap().contains("unsuited-policy")
        };
        assert!(!doctor());
        assert!(quic(&["policy", group, "round-robin"]));
        assert!(doctor());
        assert!(quic(&["attach", group]), "it keeps round-robin");
        assert!(!quic(&["policy", group, "payload:1:8"]));
        assert!(quic(&["attach", group, "--policy", "least-loaded"]));
        let text = stdout(&["policy", group, "cpu"]);
        assert!(
            text.contains("come to another CPU") && !text.contains("connections break"),
            "{text}"
        );
    });
}

#[test]
fn cancel_requests_of_pgbouncer_need_policy_source() {
    isolated(|| {
        let (listeners, group) = group(2);
        let cancel =
            |arguments: &[&str]| stdout(arguments).contains("policy `source` sees to that");
        assert!(!cancel(&["attach", &group]), "another server");
        let socket: OwnedFd = listeners[0].try_clone().unwrap().into();
        let mut sh = Command::new("sh");
        sh.args(["-c", "printf pgbouncer > /proc/$$/comm; echo ready; kill -STOP $$"]);
        let mut process = spawn(sh.stdin(socket).stdout(Stdio::piped())).unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        assert!(cancel(&["attach", &group]));
        assert!(cancel(&["attach", &group, "--policy", "round-robin"]), "a named one, too");
        assert!(cancel(&["policy", &group, "random"]));
        assert!(!cancel(&["attach", &group, "--policy", "source"]));
        assert!(!cancel(&["attach", &group]), "it keeps source");
        process.kill().unwrap();
        process.wait().unwrap();
    });
}
