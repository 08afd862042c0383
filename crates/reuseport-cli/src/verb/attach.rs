//! `reuseport attach`: let a policy, or the user's own program, decide for a group.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use reuseport::group::{AttachedProgram, Group, GroupKey, NotAsked, listed};
use reuseport::id::{Cookie, Slot, Weight};
use reuseport::netns_names;
use reuseport::status::{GroupStatus, Steering};
use reuseport::watch::{Change, Retake, Watch};
use reuseport::{
    Attach as LibraryAttach, Attached, Balancer, Error, Host, Inherited, LeftOut, ObjectSpec,
    Policy, Program, Report, State, Stop,
};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::GroupArgs;
use crate::error::{self, Failure};
use crate::netns;
use crate::output::view::Identity;
use crate::output::{self, DIM};
use crate::policy::{PolicyOptions, PolicyParser, degraded, with_hint};
use crate::select::{self, WeightOf};

/// Attach a policy, or your own eBPF program, to a group
///
/// Loads a program into the kernel, gives each socket of the group a slot, and attaches the
/// program. From then on, the program chooses the socket for each new connection (tcp) or datagram
/// (udp). The servers need no change and no restart, and open connections stay where they are.
///
/// One call covers the sockets that the group has now. Sockets that join later (a reload with more
/// workers, a restart) get nothing until `attach` runs again, which does not disturb traffic. A
/// restart that closes every socket ends the group, and the attachment with it. With --watch, the
/// command stays and handles both.
#[derive(Debug, Args)]
#[command(after_help = "\
Rights:
  Root, or CAP_BPF and CAP_PERFMON, and CAP_SYS_PTRACE for servers that run as
  another user. The program stays attached when this command ends.

Examples:
  reuseport attach tcp:127.0.0.1:8080          to the least loaded member
  reuseport attach :8080                       add sockets that joined since
  reuseport attach :8080 --policy round-robin --weight pid:1234=3 --watch
  reuseport attach :53 --netns blue --policy source
  reuseport attach udp::4433 --policy payload:1:8
  reuseport attach :8080 --object my.bpf.o --program select --map sockets
")]
pub(crate) struct Attach {
    #[command(flatten)]
    group: GroupArgs,

    /// The policy [default: the current one; at first least-loaded for tcp, hash for udp]
    #[arg(long, value_name = "POLICY", value_parser = PolicyParser)]
    #[arg(conflicts_with = "object")]
    policy: Option<Policy>,

    #[command(flatten)]
    options: PolicyOptions,

    /// Initial weight of a member, 0 to 1000; others get 1 or their slot's, or keep theirs
    ///
    /// MEMBER is cookie:N, fd:N or pid:N (the owner); in a group that is already steered, also
    /// slot:N or gen:N. Can be given several times.
    #[arg(long = "weight", value_name = "MEMBER=N")]
    weights: Vec<WeightOf>,

    /// Attach your own program from this ELF object
    ///
    /// The object, built by clang or aya-ebpf, has a program in a section `sk_reuseport` or
    /// `sk_reuseport/migrate`, and a map of type BPF_MAP_TYPE_REUSEPORT_SOCKARRAY (or SOCKMAP). The
    /// command fills the map with the group's sockets, from index 0 on.
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["load", "max_share", "cpus", "weights"])]
    object: Option<PathBuf>,

    /// The program to attach, if the object has several
    #[arg(long, value_name = "NAME", requires = "object")]
    program: Option<String>,

    /// The socket array to fill, if the object has several
    #[arg(long, value_name = "NAME", requires = "object")]
    map: Option<String>,

    /// Stay and follow the group, until ^C
    ///
    /// Adds new sockets as they come, over reloads and restarts of the server. After a restart, new
    /// sockets take the slots of the old ones, with their weights and drains. After ^C, the program
    /// stays attached.
    #[arg(long)]
    watch: bool,

    /// Attach although living members cannot be enrolled; they get nothing
    ///
    /// A member cannot be enrolled if no visible process has a descriptor of its socket (it is in an
    /// io_uring's file table, or in another pid namespace), or if it belongs to an MPTCP listener.
    /// Without this option, `attach` then changes nothing. Exit status 3 if a member gets nothing.
    #[arg(long)]
    partial: bool,

    /// Replace another tool's program
    ///
    /// If anything fails, that program stays. Sockets that are in its socket array move to ours, which
    /// takes CAP_SYS_ADMIN. Once this has succeeded, that tool alone can put its program back.
    #[arg(long)]
    force: bool,

    /// With --watch: take the group back when another program replaces ours
    ///
    /// At most once a minute, and five times. Without it, the command says so and waits until that
    /// program is gone.
    #[arg(long, requires = "watch")]
    retake: bool,

    /// Maximum number of members [default: 64, or more for four times the present ones]
    ///
    /// Fixed while the program is attached.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(Slot::LIMIT)))]
    #[arg(conflicts_with = "object")]
    slots: Option<u32>,
}

impl Attach {
    pub(crate) fn run(self) -> Result<()> {
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, stop.flag())
                .context("cannot install a handler for ^C")?;
        }
        let host = Host::open()?;
        let (watch, retake) = (self.watch, self.retake);
        let (group, attach) = self.look(&host, stop)?;
        let key = group.key.clone();
        let not_asked = group.not_asked();
        if watch {
            return follow(host, &key, attach, retake, &not_asked);
        }
        let (_, attached) = Balancer::attach(&host, &key, &attach)?;
        let identity = Identity::new(&key, netns_names().remove(&key.netns.inode));
        let again = output::argument(&identity, netns::own());
        output::print(&format!(
            "{}{}{DIM}Sockets that join later get nothing until this runs (--watch follows them):\n  \
             reuseport attach {again}{DIM:#}\n",
            report(&key, &attached),
            notes(&not_asked),
        ))?;
        match attached.changes.left_out.iter().filter(|out| out.is_starving()).count() {
            0 => Ok(()),
            n => Err(Failure::degraded(
                format!(
                    "{} of {key} {} from now on",
                    output::count(n, "living member"),
                    match attached.steering.policy() {
                        Some(_) => output::by_number(n, "gets nothing", "get nothing"),
                        None => output::by_number(n, "has no slot", "have no slot"),
                    }
                ),
                format!("`reuseport show {again}` lists them, with the reason"),
            )
            .into()),
        }
    }

    /// The group, and how to attach to it; some options depend on its current state.
    fn look(self, host: &Host, stop: Stop) -> Result<(Group, LibraryAttach)> {
        let Self { group, policy, options, weights, object, program, map, force, .. } = self;
        let Self { slots, partial, .. } = self;
        let found = group.target()?.find_to_attach(host)?;
        let key = found.key.clone();
        let policy = options.decide(policy, &key, || Ok(host.status(&key)?.steering))?;
        let object = object.map(|path| {
            let mut object = ObjectSpec::new(path);
            (object.program, object.map) = (program, map);
            object.into()
        });
        let program = policy.map(Program::from).or(object);
        let weights = match weights.is_empty() {
            true => Vec::new(),
            false => weigh(&weights, &host.status(&key)?)?,
        };
        let mut attach = LibraryAttach::default();
        attach.program = program;
        let attach = attach.force(force).partial(partial).slots(slots).weights(weights);
        Ok((found, attach.cpus(options.cpus).stop(stop)))
    }
}

/// Weights by cookie.
fn weigh(weights: &[WeightOf], group: &GroupStatus) -> Result<Vec<(Cookie, Weight)>> {
    let weights = select::weights(weights, group)?;
    Ok(weights
        .into_iter()
        .filter_map(|(member, weight)| Some((member.member.cookie?, weight)))
        .collect())
}

/// Attaches, stays, and reports changes, until a signal. New members depend on it: it goes on although its
/// reports cannot be written, because their reader has exited or the disk is full.
fn follow(
    host: Host,
    key: &GroupKey,
    attach: LibraryAttach,
    retake: bool,
    not_asked: &[NotAsked],
) -> Result<()> {
    let (watch, attached) = Watch::start(host, key, attach)?;
    let watch = if retake { watch.retaking() } else { watch };
    let mut unread = false;
    let mut written = |written: io::Result<()>| {
        if let Err(error) = written.as_ref()
            && !unread
        {
            unread = true;
            let text = format!("cannot write what changes, and go on without: {error}");
            // Perhaps it cannot be written either.
            let _ = io::stderr().write_all(error::warning(&text, None).as_bytes());
        }
    };
    written(output::print(&format!(
        "{}{}{DIM}Watching; ^C ends this and leaves the program attached.{DIM:#}\n",
        report(key, &attached),
        notes(not_asked),
    )));
    let mut steering = attached.steering;
    watch.run(|change| {
        if let Change::Members(attached) = &change {
            steering = attached.steering;
        }
        written(tell(key, &steering, change));
    })?;
    Ok(())
}

fn tell(key: &GroupKey, steering: &Steering, change: Change) -> io::Result<()> {
    match change {
        Change::Members(attached) => output::print(&report(key, &attached)),
        Change::Replaced { by, retake } => output::print(&replaced(key, &by, retake)),
        Change::Unsteerable(why) => output::print(&unsteerable(key, steering, &why)),
        Change::Gone => output::print(&format!("{key}: all its sockets are closed; waiting\n")),
        Change::Split(group) => output::print(&split(&group)),
        Change::Detached => output::print(&format!("{key}: detached by another process; done\n")),
        // The next change may fix it: keep watching.
        Change::Failed(error) => io::stderr().write_all(error::message(&error.into()).as_bytes()),
        _ => Ok(()),
    }
}

/// Says that other groups have the name.
fn split(group: &Group) -> String {
    let what = output::split(&group.key.to_string(), group.reach).unwrap_or_default();
    note(&format!("{what}; this one is followed"))
}

/// What the program will not decide on.
fn notes(not_asked: &[NotAsked]) -> String {
    output::not_asked(not_asked).iter().map(|text| note(text)).collect()
}

fn note(text: &str) -> String {
    output::note(text, output::width())
}

/// Says that the program has no member any more, and why none can take a slot.
fn unsteerable(key: &GroupKey, steering: &Steering, why: &Error) -> String {
    let then = match steering.policy() {
        Some(_) => ", and the kernel's hash decides",
        None => "",
    };
    let report = why.report();
    format!(
        "{key}: no member is left that the program can select{then}\n{}",
        note(&with_hint(&report.causes(), report.hint().as_deref())),
    )
}

/// Says what replaced our program, when, and what the watcher does about it.
fn replaced(key: &GroupKey, by: &AttachedProgram, retake: Retake) -> String {
    let then = match retake {
        Retake::Off => "waiting until it is gone (--retake takes the group back)".to_owned(),
        Retake::Now => "taking the group back".to_owned(),
        Retake::After(left) => format!("taking the group back in {} s", left.as_secs().max(1)),
        Retake::GivenUp => "taken back five times already; waiting until it is gone".to_owned(),
    };
    let by = output::program_name(by);
    format!(
        "{key}: {by}, attached by another process, replaced our program at {}; {then}\n",
        clock()
    )
}

/// The time of day.
fn clock() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{:02}:{:02}:{:02} UTC", now / 3600 % 24, now / 60 % 60, now % 60)
}

/// Reports the result, in one or more lines.
fn report(key: &GroupKey, attached: &Attached) -> String {
    let Attached { steering, changes, replaced, degraded: lost, .. } = attached;
    let policy = steering.policy();
    let decides = policy.map_or_else(|| "your program".to_owned(), |p| format!("{p:#}"));
    let sockets = output::count(changes.kept + changes.enrolled.len(), "socket");
    let mut out = format!("{key}: {decides} decides among {sockets}");
    if changes.kept > 0 && !changes.enrolled.is_empty() {
        let _ = write!(out, ", {} of them new", changes.enrolled.len());
    }
    if !changes.released.is_empty() {
        let _ = write!(out, "; {} gone", changes.released.len());
    }
    out.push('\n');
    if let Some(program) = replaced {
        let which = output::program_name(program);
        out.push_str(&note(&format!("replaced {which}, attached by another process")));
    }
    out.push_str(&degraded(policy, lost));
    for Inherited { cookie, slot, weight, state, .. } in &changes.inherited {
        let drains = if *state == State::Draining { ", draining" } else { "" };
        out.push_str(&note(&format!(
            "slot {slot}: weight {weight}{drains}, as before; now the socket with cookie {cookie}"
        )));
    }
    out.push_str(&left_out(&changes.left_out));
    out
}

/// The members that were left out, by reason.
fn left_out(left_out: &[LeftOut]) -> String {
    let mut reasons: Vec<(String, Option<String>, Vec<String>)> = Vec::new();
    for LeftOut { name, why, .. } in left_out {
        // Its own text names the member.
        let cause =
            why.source().map_or_else(|| why.to_string(), |cause| Report::new(cause).causes());
        let hint = why.report().hint();
        match reasons.iter_mut().find(|known| (&known.0, &known.1) == (&cause, &hint)) {
            Some((_, _, names)) => names.push(name.clone()),
            None => reasons.push((cause, hint, vec![name.clone()])),
        }
    }
    let text = |(cause, hint, names): (String, Option<String>, Vec<String>)| {
        let names = listed(names, 4);
        note(&with_hint(&format!("left out: {names}: {cause}"), hint.as_deref()))
    };
    reasons.into_iter().map(text).collect()
}
