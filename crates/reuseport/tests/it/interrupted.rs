//! Processes that are killed during an operation. The next operation succeeds and removes what they
//! left, and no connection is lost in between.
//!
//! A victim is a copy of this test binary that runs the ignored test [`victim`].

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::previous::downgrade;
use crate::common::steps::{Step, Steps, steps_of};
use crate::common::theirs::Theirs;
use crate::common::world::{
    BY_OPEN, alone, deal, has_layer, key_of, listeners, more, nothing_pinned, object, with,
    with_object,
};
use reuseport::group::GroupKey;
use reuseport::id::Percent;
use reuseport::{Attach, Balancer, ErrorKind, Host, Policy, Promoted, Result};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::programs::ProgramInfo;
use test_support::process::{close, rerun, spawn};
use test_support::{bpffs, wait};

mod generations;

const GROUP: &str = "REUSEPORT_TEST_GROUP";
const OPERATION: &str = "REUSEPORT_TEST_OPERATION";
const CALL: &str = "REUSEPORT_TEST_CALL";
const BEGUN: &str = "victim: begun";

/// The operation of a victim.
fn operate(host: &Host, key: &GroupKey, operation: &str) -> Result<()> {
    let attach = |attach: &Attach| Balancer::attach(host, key, attach).map(|_| ());
    match operation {
        "attach" => attach(&with(Policy::RoundRobin)),
        "change" => attach(&with(Policy::Random)),
        "count" => attach(&with(BY_OPEN)),
        "refresh" => attach(&Attach::default()),
        "force" => attach(&with(Policy::RoundRobin).force(true)),
        "promote" => switched(Balancer::open(host, key)?.promote()),
        "try" => switched(Balancer::open(host, key)?.try_out(Percent::new(50).unwrap())),
        "rollback" => switched(Balancer::open(host, key)?.rollback()),
        "object" => attach(&with_object(object("first"))),
        "detach" => match reuseport::detach(host, key) {
            Err(error) if error.kind() == ErrorKind::NotAttached => Ok(()),
            result => result.map(|_| ()),
        },
        "everything" => loop {
            for operation in
                ["attach", "change", "count", "refresh", "object", "count", "attach", "detach"]
            {
                operate(host, key, operation)?;
            }
        },
        other => panic!("no operation {other:?}"),
    }
}

/// It is no failure if that generation serves already.
fn switched(result: Result<Promoted>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NoGeneration => Ok(()),
        result => result.map(|_| ()),
    }
}

#[test]
#[ignore = "runs in the processes that other tests kill"]
fn victim() {
    let Ok(group) = std::env::var(GROUP) else { return };
    let operation = std::env::var(OPERATION).unwrap();
    let call: Option<usize> = std::env::var(CALL).ok().map(|call| call.parse().unwrap());
    let host = Host::open().unwrap();
    let key = host.find(&group.parse().unwrap()).unwrap().key;
    println!("{BEGUN}");
    let count = Cell::new(0);
    let hook = move |_| {
        if Some(count.replace(count.get() + 1)) == call {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
        Verdict::Allow
    };
    intercept(hook, || operate(&host, &key, &operation)).unwrap();
}

/// Starts a victim. With a `call`, it kills itself before that call.
fn start(key: &GroupKey, operation: &str, call: Option<usize>) -> Child {
    let mut command = rerun(module_path!(), "victim");
    command
        .arg("--nocapture")
        .env(GROUP, key.to_string())
        .env(OPERATION, operation)
        .stdout(Stdio::piped());
    if let Some(call) = call {
        command.env(CALL, call.to_string());
    }
    spawn(&mut command).unwrap()
}

fn was_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;

    status.signal() == Some(Signal::KILL.as_raw())
}

/// Asserts that the state can be read and every connection is accepted.
fn is_served(host: &Host, key: &GroupKey, members: &[TcpListener]) {
    host.statuses().unwrap();
    host.status(key).unwrap();
    assert_eq!(deal(members, 6).iter().sum::<usize>(), 6);
}

fn is_steered(host: &Host, key: &GroupKey, members: &[TcpListener]) {
    let status = host.status(key).unwrap();
    assert_eq!(status.steering.policy(), Some(Policy::RoundRobin));
    assert_eq!(status.unsteered(), 0);
    assert!(!has_layer());
    let each = 2;
    assert_eq!(deal(members, each * members.len()), vec![each; members.len()]);
}

/// Kills an operation at every `step`th of its system calls. It begins in the state that `prepare`
/// makes.
fn kill_at_calls(
    operation: &str,
    step: usize,
    prepare: impl Fn(&Host, &GroupKey, &mut Vec<TcpListener>),
) {
    let host = Host::open().unwrap();
    let mut members = listeners(2);
    let key = key_of(&host, &members[0]);
    let mut kills = 0;
    for call in (0..).step_by(step) {
        prepare(&host, &key, &mut members);
        let status = start(&key, operation, Some(call)).wait().unwrap();
        is_served(&host, &key, &members);
        // Every second time, a plain attach, which keeps the policy, comes first.
        let plain = (call / step).is_multiple_of(2);
        if plain {
            Balancer::attach(&host, &key, &Attach::default()).unwrap();
            is_served(&host, &key, &members);
        }
        Balancer::attach(&host, &key, &with(Policy::RoundRobin))
            .unwrap_or_else(|error| panic!("killed at call {call} of {operation}: {error}"));
        is_steered(&host, &key, &members);
        reuseport::detach(&host, &key).unwrap();
        assert!(nothing_pinned(), "killed at call {call} of {operation}");
        if !was_killed(status) {
            assert!(status.success(), "{operation} failed by itself");
            break;
        }
        kills += 1;
    }
    assert!(kills * step > 40, "only {kills} kills");
}

fn round_robin(host: &Host, key: &GroupKey, _: &mut Vec<TcpListener>) {
    Balancer::attach(host, key, &with(Policy::RoundRobin)).unwrap();
}

#[test]
fn slow_attaching_is_killed_at_each_call() {
    alone(|| kill_at_calls("attach", 1, |_, _, _| {}));
}

#[test]
fn slow_a_change_of_policy_is_killed() {
    alone(|| kill_at_calls("change", 2, round_robin));
}

#[test]
fn slow_starting_to_count_open_connections_is_killed() {
    alone(|| kill_at_calls("count", 2, round_robin));
}

#[test]
fn slow_stopping_to_count_open_connections_is_killed() {
    alone(|| {
        kill_at_calls("attach", 2, |host, key, _| {
            Balancer::attach(host, key, &with(BY_OPEN)).unwrap();
        });
    });
}

#[test]
fn slow_enrolling_new_members_is_killed() {
    alone(|| {
        kill_at_calls("refresh", 3, |host, key, members| {
            close(members.split_off(1));
            round_robin(host, key, members);
            members.extend(more(key.address, 1));
        });
    });
}

#[test]
fn slow_taking_over_the_state_of_an_earlier_version_is_killed() {
    alone(|| {
        kill_at_calls("refresh", 3, |host, key, members| {
            round_robin(host, key, members);
            downgrade(key);
        });
    });
}

#[test]
fn slow_replacing_a_policy_by_an_object_is_killed() {
    alone(|| kill_at_calls("object", 3, round_robin));
}

/// Nothing but the attachment, and perhaps our pin, keeps the other program and its array.
#[test]
fn slow_replacing_another_owners_program_is_killed() {
    alone(|| {
        const STEP: usize = 3;

        let host = Host::open().unwrap();
        let members = listeners(2);
        let key = key_of(&host, &members[0]);
        let force = with(Policy::RoundRobin).force(true);
        let mut kills = 0;
        for call in (0..).step_by(STEP) {
            Theirs::load().steer(&members);
            let status = start(&key, "force", Some(call)).wait().unwrap();
            is_served(&host, &key, &members);
            // Every second time, a plain attach comes first: it is refused while their program decides.
            if (call / STEP).is_multiple_of(2) {
                match Balancer::attach(&host, &key, &Attach::default()) {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Foreign, "{error}"),
                    Ok(_) => assert!(host.status(&key).unwrap().steering.is_ours()),
                }
                is_served(&host, &key, &members);
            }
            Balancer::attach(&host, &key, &force)
                .unwrap_or_else(|error| panic!("killed at call {call}: {}", error.report()));
            is_steered(&host, &key, &members);
            reuseport::detach(&host, &key).unwrap();
            assert!(nothing_pinned(), "killed at call {call}");
            if !was_killed(status) {
                assert!(status.success(), "it failed by itself");
                break;
            }
            kills += 1;
        }
        assert!(kills * STEP > 40, "only {kills} kills");
    });
}

/// Runs an operation whose `nth` step fails, and if `for_good` each call after it.
fn fails_at<T>(nth: usize, for_good: bool, operation: impl FnOnce() -> T) -> T {
    let mut steps = Steps::default();
    let hook = move |call| {
        let begins = steps.begins_with(call);
        let fails = begins && steps.begun == nth + 1 || for_good && steps.begun > nth;
        if fails { Verdict::Fail(Errno::NOMEM.raw_os_error()) } else { Verdict::Allow }
    };
    intercept(hook, operation)
}

/// A takeover is killed at each step from the pin of the other program on, going on with it fails at a step, and
/// the third attempt succeeds. A kill meets some of the failures, and all kills together meet each of them.
#[test]
fn slow_replacing_another_owners_program_is_killed_and_going_on_with_it_fails() {
    alone(|| {
        const FAILURES: usize = 4;

        let host = Host::open().unwrap();
        let members = listeners(2);
        let key = key_of(&host, &members[0]);
        let forced = |attach: Attach| attach.force(true);
        let (force, plain) = (forced(with(Policy::RoundRobin)), forced(Attach::default()));
        Theirs::load().steer(&members);
        let (steps, result) = steps_of(|| operate(&host, &key, "force"));
        result.unwrap();
        reuseport::detach(&host, &key).unwrap();
        let detached = steps.iter().position(|step| step.with == Call::DetachReuseportBpf);
        let late = &steps[detached.unwrap() - 1..];
        let mut failures = 0;
        for (kill, Step { call, .. }) in late.iter().enumerate() {
            for turn in 0..FAILURES {
                let mut theirs = Theirs::load();
                let id = theirs.id();
                theirs.steer(&members);
                drop(theirs);
                assert!(was_killed(start(&key, "force", Some(*call)).wait().unwrap()));
                is_served(&host, &key, &members);

                let nth = (kill + turn * steps.len() / FAILURES) % steps.len();
                let attach = if kill % 2 == 0 { &force } else { &plain };
                let result = fails_at(nth, turn % 2 == 1, || Balancer::attach(&host, &key, attach));
                failures += usize::from(result.is_err());
                is_served(&host, &key, &members);

                Balancer::attach(&host, &key, &force).unwrap_or_else(|error| {
                    panic!("killed at {call}, failed at {nth}: {}", error.report())
                });
                is_steered(&host, &key, &members);
                reuseport::detach(&host, &key).unwrap();
                assert!(nothing_pinned(), "killed at {call}, failed at {nth}");
                wait::until("their program is gone", wait::BOUND, || {
                    ProgramInfo::from_id(id).is_err()
                });
            }
        }
        println!("{} kills, {failures} failures", late.len());
        assert!(late.len() > 8 && failures > late.len(), "only {failures} failures");
    });
}

#[test]
fn slow_detaching_is_killed() {
    alone(|| kill_at_calls("detach", 2, round_robin));
}

/// A simple source of pseudo-random numbers (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn slow_all_operations_are_killed_at_random_moments() {
    const KILLS: usize = 100;

    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(3);
        let key = key_of(&host, &members[0]);
        let mut numbers = Numbers(u64::from(std::process::id()) | 1 << 40);
        for kill in 0..KILLS {
            let mut victim = start(&key, "everything", None);
            let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().contains(BEGUN)), "the victim ended early");
            // The kill comes at a random moment, so there is no condition to wait for.
            sleep(Duration::from_micros(numbers.below(120_000)));
            victim.kill().unwrap();
            assert!(was_killed(victim.wait().unwrap()), "the victim failed by itself");
            is_served(&host, &key, &members);
            let attach = if kill % 2 == 0 { Attach::default() } else { with(Policy::RoundRobin) };
            Balancer::attach(&host, &key, &attach).unwrap();
            Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
            is_steered(&host, &key, &members);
            // Some victims begin with a steered group, others with one that is not.
            if kill % 3 == 0 {
                reuseport::detach(&host, &key).unwrap();
                assert!(nothing_pinned());
            }
        }
    });
}

#[test]
fn an_operation_on_another_group_removes_the_leftovers_of_a_dead_group() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(2);
        let key = key_of(&host, &members[0]);
        // Somewhere between its first pin and its last step.
        assert!(was_killed(start(&key, "attach", Some(60)).wait().unwrap()));
        assert!(!nothing_pinned());
        close(members);
        let other = listeners(2);
        let other_key = key_of(&host, &other[0]);
        let error = reuseport::detach(&host, &other_key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAttached);
        assert!(nothing_pinned());
        assert!(std::path::Path::new(bpffs::PATH).exists());
    });
}
