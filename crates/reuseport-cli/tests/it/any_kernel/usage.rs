//! Exit codes, help, completions, manual pages, pipes and colours. Needs no rights and no groups.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use test_support::process::{output, spawn};

use crate::common::{command, run};

const VERBS: [&str; 16] = [
    "ls",
    "show",
    "attach",
    "detach",
    "policy",
    "weight",
    "drain",
    "undrain",
    "run",
    "reload",
    "doctor",
    "agent",
    "metrics",
    "demo",
    "completions",
    "man",
];

/// The standard output of a call that must succeed and print nothing on standard error.
fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The standard error of a call that must exit with 2 and print nothing on standard output.
fn usage_error(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_version_is_that_of_the_package() {
    assert_eq!(stdout(&["--version"]), format!("reuseport {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_help_fits_80_columns_and_has_examples() {
    let mut helps = vec![stdout(&["--help"]), stdout(&["help"])];
    assert_eq!(helps[0], helps[1]);
    for verb in VERBS {
        let help = stdout(&[verb, "--help"]);
        assert_eq!(stdout(&["help", verb]), help);
        helps.extend([help, stdout(&[verb, "-h"])]);
    }
    for help in helps {
        assert!(help.contains("\nExamples:\n"), "{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

#[test]
fn help_lists_verbs_policies_rights_and_exit_codes() {
    let help = stdout(&["--help"]);
    for word in VERBS.iter().chain(&["CAP_BPF", "REUSEPORT_LOG", "Exit status"]) {
        assert!(help.contains(word), "{word}: {help}");
    }
    let attach = stdout(&["attach", "--help"]);
    for word in ["least-loaded", "payload:OFFSET:LENGTH", "at random", "CAP_SYS_PTRACE"] {
        assert!(attach.contains(word), "{word}: {attach}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &[] as &[&str],
        &["fly"],
        &["show"],
        &["ls", "--yaml"],
        &["attach"],
        &["attach", ":80", "--policy", "round-robbin"],
        &["attach", ":80", "--policy", "hash", "--object", "x.o"],
        &["attach", ":80", "--program", "select"],
        &["attach", ":80", "--map", "sockets"],
        &["attach", ":80", "--slots", "0"],
        &["attach", ":80", "--slots", "32769"],
        &["attach", ":80", "--object", "x.o", "--load", "queue"],
        &["attach", ":80", "--object", "x.o", "--weight", "slot:0=1"],
        &["attach", ":80", "--policy", "payload"],
        &["attach", ":80", "--policy", "payload:0:65"],
        &["attach", ":80", "--policy", "payload:65507:1"],
        &["attach", ":80", "--load", "cpu"],
        &["attach", ":80", "--max-share", "0.5"],
        &["attach", ":80", "--cpus", "3-1"],
        &["attach", ":80", "--weight", "slot:0"],
        &["policy", ":80"],
        &["policy", ":80", "payload:1"],
        &["weight", ":80"],
        &["weight", ":80", "slot:0"],
        &["weight", ":80", "slot:0=1001"],
        &["weight", ":80", "slot:0=-1"],
        &["drain", ":80"],
        &["drain", ":80", "nginx"],
        &["drain", ":80", "slot:0", "--wait=soon"],
        &["undrain", ":80", "pid:-1"],
        &["doctor", "--silence", "xyzzy"],
        &["doctor", "--silence", "drops@here"],
        &["doctor", "--silence", ""],
        &["doctor", "80"],
        &["metrics", "--listen", "localhost"],
        &["metrics", "--listen", ":0", "--output", "x.prom"],
        &["metrics", "--listen", ":0", "--format", "openmetrics"],
        &["metrics", "--list", ":80"],
        &["metrics", "80"],
        &["completions", "tcsh"],
        &["run"],
        &["run", "--listen", "8080", "--", "true"],
        &["run", "--listen", "tcp:127.0.0.1:80", "--workers", "0", "--", "true"],
        &["run", "--listen", "tcp:127.0.0.1:80", "--ready", "soon", "--", "true"],
        &["run", "--listen", "tcp:127.0.0.1:80", "--name", "a/b", "--", "true"],
        &["reload"],
        &["reload", "web", "--canary", "10%"],
        &["reload", "web", "--for", "10s"],
    ] {
        assert!(!usage_error(arguments).is_empty());
    }
    let error = usage_error(&["attach", ":80", "--policy", "round-robbin"]);
    assert!(error.contains("did you mean `round-robin`?"), "{error}");
    let error = usage_error(&["policy", ":80", "paylod:0:8"]);
    assert!(error.contains("did you mean `payload:OFFSET:LENGTH`?"), "{error}");
    let error = usage_error(&["doctor", "--silence", "drops,full-queue"]);
    assert!(error.contains("did you mean `queue-full`?"), "{error}");
    let error = usage_error(&["weight", ":80", "slot:0=1001"]);
    assert!(error.contains("from 0 to 1000"), "{error}");
}

#[test]
fn an_unknown_namespace_fails_with_one_line_and_a_hint() {
    let error = usage_error(&["ls", "--netns", "no-such-namespace"]);
    assert!(error.starts_with("reuseport: ") && error.lines().count() == 2, "{error}");
    assert!(error.contains("no-such-namespace") && error.contains("ip netns"), "{error}");
}

#[test]
fn an_invalid_log_level_is_refused() {
    let output = output(command(&["man"]).env("REUSEPORT_LOG", "reuseport=loud")).unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("REUSEPORT_LOG"), "{output:?}");
}

#[test]
fn completions_for_every_shell_have_the_verbs() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&["completions", shell]);
        for verb in VERBS {
            assert!(script.contains(verb), "{shell} has no {verb}");
        }
    }
    assert!(stdout(&["completions", "bash"]).contains("round-robin"));
}

#[test]
fn bash_accepts_its_completions() {
    let script = stdout(&["completions", "bash"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("reuseport");
    std::fs::write(&file, script).unwrap();
    assert!(output(Command::new("bash").arg("-n").arg(file)).unwrap().status.success());
}

#[test]
fn man_prints_one_page_or_writes_them_all() {
    let page = stdout(&["man"]);
    for section in ["NAME", "SYNOPSIS", "VERBS", "EXAMPLES", "ENVIRONMENT", "\"EXIT STATUS\""] {
        assert!(page.contains(&format!("\n.SH {section}\n")), "{section}: {page}");
    }
    let directory = tempfile::tempdir().unwrap();
    let into = directory.path().join("man1");
    assert_eq!(stdout(&["man", "--dir", into.to_str().unwrap()]), "");
    assert_eq!(std::fs::read_to_string(into.join("reuseport.1")).unwrap(), page);
    for verb in VERBS {
        let page = std::fs::read_to_string(into.join(format!("reuseport-{verb}.1"))).unwrap();
        assert!(page.contains("\n.SH EXAMPLES\n"), "{verb}");
    }
}

#[test]
fn a_page_that_cannot_be_written_fails() {
    let error = usage_error(&["man", "--dir", "/proc/no"]);
    assert!(error.starts_with("reuseport: cannot create the directory /proc/no: "), "{error}");
}

/// The outcome of a call whose standard output is `stdout`.
fn output_to(stdout: impl Into<Stdio>, arguments: &[&str]) -> Output {
    let mut command = command(arguments);
    let child = spawn(command.stdout(stdout).stderr(Stdio::piped())).unwrap();
    // Until it is dropped, the command holds a copy of that descriptor.
    drop(command);
    child.wait_with_output().unwrap()
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    for arguments in [&["man"] as &[&str], &["completions", "zsh"], &["--help"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = output_to(writer, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = output_to(full, &["man"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stderr.starts_with(b"reuseport: "), "{output:?}");
}

/// What a command writes to a terminal.
fn on_a_terminal(mut command: Command) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let other_end = File::options().read(true).write(true).open(name).unwrap();
    let command_line = command.env("TERM", "xterm").stdout(OwnedFd::from(other_end));
    let mut child = spawn(command_line).unwrap();
    // Until it is dropped, the command holds a copy of the terminal.
    drop(command);
    let mut text = Vec::new();
    // Reading fails with EIO when the other end of the terminal is closed.
    let _ = File::from(terminal).read_to_end(&mut text);
    assert!(child.wait().unwrap().success());
    String::from_utf8(text).unwrap()
}

#[test]
fn output_has_colour_on_a_terminal_unless_no_color_is_set() {
    assert!(!stdout(&["--help"]).contains('\x1b'));
    assert!(on_a_terminal(command(&["--help"])).contains("\x1b["));

    let mut unset = command(&["--help"]);
    unset.env("NO_COLOR", "");
    assert!(on_a_terminal(unset).contains("\x1b["));

    let mut plain = command(&["--help"]);
    plain.env("NO_COLOR", "1");
    assert!(!on_a_terminal(plain).contains('\x1b'));
}
