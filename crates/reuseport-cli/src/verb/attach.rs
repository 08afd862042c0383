//! `reuseport attach`: let a policy, or the user's own program, decide for a group.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use reuseport::group::GroupKey;
use reuseport::id::{Cookie, Slot, Weight};
use reuseport::observe::netns_names;
use reuseport::status::GroupStatus;
use reuseport::watch::{Change, Watch};
use reuseport::{
    Attach as LibraryAttach, Attached, Balancer, Host, LeftOut, ObjectSpec, Policy, Program, Stop,
};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::GroupArgs;
use crate::error;
use crate::netns;
use crate::output::view::Identity;
use crate::output::{self, DIM, NOTE};
use crate::policy::{PolicyOptions, PolicyParser, degraded};
use crate::select::{self, WeightOf};

/// Let a policy, or your own eBPF program, decide for a group
///
/// Loads a program into the kernel, gives each socket of the group a slot, and attaches the program:
/// from then on it chooses which socket gets each new connection (tcp) or datagram (udp). The
/// servers need not be changed, restarted or even told, and connections that are open stay where
/// they are.
///
/// Done once, it takes in the sockets that the group has now. Sockets that join later (a reload
/// with more workers, a restart) get nothing until `attach` is run again, which does not disturb
/// traffic; a restart that closes every socket ends the group, and the attachment with it. With
/// --watch the command stays and does both as soon as it is needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Rights:
  Root, or CAP_BPF and CAP_PERFMON, and CAP_SYS_PTRACE for servers that run as
  another user. The program stays when this command ends.

Examples:
  reuseport attach tcp:127.0.0.1:8080          to the shortest queue
  reuseport attach :8080                       take in who came since
  reuseport attach :8080 --policy round-robin --weight pid:1234=3 --watch
  reuseport attach :53 --netns blue --policy source
  reuseport attach udp::4433 --policy payload:1:8
  reuseport attach :8080 --object my.bpf.o --program select --map sockets
")]
pub(crate) struct Attach {
    #[command(flatten)]
    group: GroupArgs,

    /// How members are picked [default: as before; at first least-loaded for tcp, hash for udp]
    #[arg(long, value_name = "POLICY", value_parser = PolicyParser)]
    #[arg(conflicts_with = "object")]
    policy: Option<Policy>,

    #[command(flatten)]
    options: PolicyOptions,

    /// Give a member this weight from the start, 0 to 1000; others have 1, or keep theirs
    ///
    /// MEMBER is cookie:N, fd:N or pid:N (the owner); in a group that is steered already also
    /// slot:N or gen:N. Can be given several times.
    #[arg(long = "weight", value_name = "MEMBER=N")]
    weights: Vec<WeightOf>,

    /// Attach a program of your own from this ELF object
    ///
    /// The object is what clang or aya-ebpf makes: with a program in a section `sk_reuseport` or
    /// `sk_reuseport/migrate`, and a map of type BPF_MAP_TYPE_REUSEPORT_SOCKARRAY (or SOCKMAP),
    /// which is filled with the group's sockets from index 0 on.
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["load", "max_share", "cpus", "weights"])]
    object: Option<PathBuf>,

    /// Which program of the object, where it has several
    #[arg(long, value_name = "NAME", requires = "object")]
    program: Option<String>,

    /// Which socket array of the object, where it has several
    #[arg(long, value_name = "NAME", requires = "object")]
    map: Option<String>,

    /// Stay, and take in sockets as they come, until ^C
    ///
    /// Follows reloads and restarts of the server. After ^C what is attached stays attached.
    #[arg(long)]
    watch: bool,

    /// Replace a program that somebody else attached; it cannot be put back
    #[arg(long)]
    force: bool,

    /// How many members there is room for [default: 64, or more for four times the present ones]
    ///
    /// Fixed for as long as the program is attached.
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
                .context("cannot watch for ^C, so that the group would be left as it was")?;
        }
        let host = Host::open()?;
        let watch = self.watch;
        let (key, attach) = self.look(&host, stop)?;
        if watch {
            return follow(host, &key, attach);
        }
        let (_, attached) = Balancer::attach(&host, &key, &attach)?;
        let identity = Identity::new(&key, netns_names().remove(&key.netns.inode));
        let again = output::argument(&identity, netns::own());
        output::print(&format!(
            "{}{DIM}Sockets that join later get nothing until `reuseport attach {again}` runs \
             again;\nwith --watch it stays and follows them.{DIM:#}\n",
            report(&key, &attached),
        ))?;
        Ok(())
    }

    /// Which group, and how to attach to it: some options depend on what is there.
    fn look(self, host: &Host, stop: Stop) -> Result<(GroupKey, LibraryAttach)> {
        let Self { group, policy, options, weights, object, program, map, force, slots, .. } = self;
        let key = group.target()?.find(host)?.key;
        let policy = options.decide(policy, &key, || Ok(host.status(&key)?.steering))?;
        let object = object.map(|path| ObjectSpec { path, program, map }.into());
        let program = policy.map(Program::from).or(object);
        let weights = match weights.is_empty() {
            true => Vec::new(),
            false => weigh(&weights, &host.status(&key)?)?,
        };
        Ok((key, LibraryAttach { program, force, slots, weights, cpus: options.cpus, stop }))
    }
}

/// The weights by cookie.
fn weigh(weights: &[WeightOf], group: &GroupStatus) -> Result<Vec<(Cookie, Weight)>> {
    let weights = select::weights(weights, group)?;
    Ok(weights.into_iter().map(|(member, weight)| (member.member.cookie, weight)).collect())
}

/// Attaches, stays, and tells what changes, until a signal or until nobody reads it.
fn follow(host: Host, key: &GroupKey, attach: LibraryAttach) -> Result<()> {
    let stop = attach.stop.clone();
    let (watch, attached) = Watch::start(host, key, attach)?;
    output::print(&format!(
        "{}{DIM}Watching; ^C ends this and leaves the program attached.{DIM:#}\n",
        report(key, &attached),
    ))?;
    let mut unread = None;
    watch.run(|change| {
        if let Err(error) = tell(key, change) {
            unread = Some(error);
            stop.set();
        }
    })?;
    unread.map_or(Ok(()), |error| Err(error.into()))
}

fn tell(key: &GroupKey, change: Change) -> io::Result<()> {
    match change {
        Change::Members(attached) => output::print(&report(key, &attached)),
        Change::Gone => output::print(&format!("{key}: all its sockets are closed; waiting\n")),
        Change::Detached => output::print(&format!("{key}: somebody detached it; done\n")),
        // It may well be mended by the next change: no reason to end.
        Change::Failed(error) => io::stderr().write_all(error::message(&error.into()).as_bytes()),
    }
}

/// What was done, a line or more.
fn report(key: &GroupKey, attached: &Attached) -> String {
    let Attached { steering, changes, replaced, degraded: without } = attached;
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
        let which = match program.id {
            Some(id) => format!("{}#{id}", output::safe(&program.name)),
            None => "a classic BPF program".to_owned(),
        };
        let _ = writeln!(out, "{NOTE}replaced {which}, which somebody else attached{NOTE:#}");
    }
    if let Some(why) = without {
        let _ = writeln!(out, "{NOTE}{}{NOTE:#}", output::safe(&degraded(policy, why)));
    }
    for LeftOut { cookie, why } in &changes.left_out {
        let _ = writeln!(
            out,
            "{NOTE}left out: the socket with cookie {cookie}: {}{NOTE:#}",
            output::safe(&why.report().to_string())
        );
    }
    out
}
