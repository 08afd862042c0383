//! `reuseport attach`: let a policy, or the user's own program, decide for groups.

mod how;
mod watch;

use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use reuseport::group::{Group, GroupKey, Reach};
use reuseport::id::Slot;
use reuseport::setting::Setting;
use reuseport::{Attached, Balancer, Host, ObjectSpec, Policy, Stop};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::GroupsArgs;
use crate::backend::Of;
use crate::error::{Failure, Failures};
use crate::netns;
use crate::output::view::Identity;
use crate::output::{self, DIM};
use crate::policy::{PolicyOptions, PolicyParser};
use crate::select::WeightOf;
use crate::tell::words::{advice, known, notes, report};
use how::How;

/// Attach a policy, or your own eBPF program, to groups
///
/// Loads a program into the kernel, gives each socket of the group a slot, and attaches the
/// program. From then on, the program chooses the socket for each new connection (tcp) or datagram
/// (udp). The servers need no change and no restart, and open connections stay where they are.
///
/// One call covers the sockets that the group has now. While one of these is open, sockets that join
/// later (a reload with more workers, a restart) get nothing until `attach` runs again, which does not
/// disturb traffic. Once all of these have closed, the kernel's hash decides among the later ones. A
/// restart that closes every socket ends the group, and the attachment with it. With --watch, the
/// command stays and handles all of this.
#[derive(Debug, Args)]
#[command(after_help = "\
Rights:
  Root, or CAP_BPF and CAP_PERFMON, and CAP_SYS_PTRACE for servers that run as
  another user. The program stays attached when this command ends.

Examples:
  reuseport attach tcp:127.0.0.1:8080          to the least loaded member
  reuseport attach :8080                       add sockets that joined since
  reuseport attach :8080 --policy round-robin --weight pid:1234=3 --watch
  reuseport attach tcp::80 tcp::443 udp::443 --watch
  reuseport attach :8080 --hold-new --watch    new servers wait for `promote`
  reuseport attach :8080 --hold-new=accepting --watch    ... until they accept connections
  reuseport attach :443 --all --watch          every group on this port, now or later
  reuseport attach :53,netns=blue --policy source
  reuseport attach :8080 --object my.bpf.o --program select --map sockets
  reuseport attach :8080 --object my.bpf.o --set workers=members --watch
")]
pub(crate) struct Attach {
    #[command(flatten)]
    groups: GroupsArgs,

    /// The policy [default: the current one; at first least-loaded for tcp, hash for udp]
    #[arg(long, value_name = "POLICY", value_parser = PolicyParser)]
    #[arg(conflicts_with = "object")]
    policy: Option<Policy>,

    #[command(flatten)]
    options: PolicyOptions,

    /// Initial weight of a member, 0 to 1000; others get 1 or their slot's, or keep theirs
    ///
    /// MEMBER is cookie:N, fd:N or pid:N (the owner); in a group that is already steered, also
    /// slot:N or gen:N. Can be given several times, for one group.
    #[arg(long = "weight", value_name = "MEMBER=N", conflicts_with = "all")]
    weights: Vec<WeightOf>,

    /// Attach your own program from this ELF object
    ///
    /// The object, built by clang or aya-ebpf, has a program in a section `sk_reuseport` or
    /// `sk_reuseport/migrate`, and a map of type BPF_MAP_TYPE_REUSEPORT_SOCKARRAY (or SOCKMAP, or
    /// SOCKHASH). The command fills the map with the group's sockets, from index 0 on. Of the object,
    /// only this program and the maps that it uses are loaded.
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["load", "max_share", "cpus", "weights"])]
    object: Option<PathBuf>,

    /// The program to attach, if the object has several
    #[arg(long, value_name = "NAME", requires = "object")]
    program: Option<String>,

    /// The socket array to fill, if the program uses several
    #[arg(long, value_name = "NAME", requires = "object")]
    map: Option<String>,

    /// Set a variable of your program, or an element of an array
    ///
    /// NAME is a global variable or constant, or NAME[INDEX] an element of one, or of a map of type
    /// BPF_MAP_TYPE_ARRAY. VALUE is a number (also 0x... and negative), true, false, an IP address,
    /// text:..., hex:..., or one of two words that follow the group as members come and go: `members`,
    /// their number, and `indices`, one more than the highest index in use. Can be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE", requires = "object", value_parser = setting)]
    settings: Vec<Setting>,

    /// Stay and follow the groups, until ^C
    ///
    /// Adds new sockets as they come, over reloads and restarts of the server. After a restart, new
    /// sockets take the slots of the old ones, with their weights and drains. A group that is not there
    /// yet is waited for. After ^C, the programs stay attached. One command can follow many groups; with
    /// --all, also those that come later.
    #[arg(long)]
    watch: bool,

    /// Keep new servers on standby until `promote`, or until they accept
    ///
    /// Sockets of a server that is started next to the present one, a newer generation, get nothing until
    /// `reuseport promote`. What a server opens itself, as a reload or a worker that is started again, is of its
    /// generation and serves at once. If no other server is left, the newest one serves by itself.
    ///
    /// With `accepting`, each socket that comes gets nothing until a thread first waits for connections on it
    /// (accept, poll, select, epoll_wait, a read, io_uring): the server has started, and has loaded its
    /// application. Then it joins; nothing drains. --watch sees it within some milliseconds, later `attach` calls
    /// look once, and `promote` lets all of them serve at once.
    ///
    /// The setting is the group's, and stays until --hold-new=off, which leaves those that wait for `promote` as
    /// they are.
    #[arg(long, value_name = "on|off|accepting", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "on", conflicts_with = "object")]
    hold_new: Option<HoldNew>,

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

/// Whether newcomers wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HoldNew {
    /// Newer generations, until they are promoted
    On,
    /// They serve at once
    Off,
    /// Each, until a thread waits for connections on it
    Accepting,
}

impl From<HoldNew> for reuseport::HoldNew {
    fn from(hold_new: HoldNew) -> Self {
        match hold_new {
            HoldNew::On => Self::On,
            HoldNew::Off => Self::Off,
            HoldNew::Accepting => Self::Accepting,
        }
    }
}

impl Attach {
    pub(crate) fn run(self) -> Result<()> {
        if !self.weights.is_empty() && self.groups.groups.len() > 1 {
            bail!("--weight is for one group, and {} are given", self.groups.groups.len());
        }
        let stop = stop_at_signals()?;
        let host = Host::open()?;
        let targets = self.groups.targets()?;
        let (watch, retake) = (self.watch, self.retake);
        let how = self.how(stop);
        if watch {
            return watch::follow(host, targets, how, retake);
        }
        let groups = targets.find(&host, Of::Told)?;
        let mut failures = Failures::default();
        let (mut told, mut requests) = (Vec::new(), Vec::new());
        for group in &groups {
            match how.request(&host, &group.key) {
                Ok(request) => {
                    told.push(group);
                    requests.push((group.key.clone(), request));
                }
                Err(error) => failures.note(Err(error)),
            }
        }
        let (mut attached, mut keys, mut told) = (Vec::new(), Vec::new(), told.into_iter());
        Balancer::attach_each(&host, &requests, |key, result| {
            let Some(group) = told.next() else { return };
            let said = result.map_err(Into::into).and_then(|(_, done)| {
                keys.push((key.clone(), done.steering.policy()));
                tell(&host, group, &how, &done, &mut attached)
            });
            failures.note(said);
        });
        let mut rest = known(&host, &keys).concat();
        rest.extend(again(&attached));
        failures.note(output::print(&rest).map_err(Into::into));
        failures.worst()
    }

    /// How to attach, to whatever group.
    fn how(self, stop: Stop) -> How {
        let Self { policy, options, weights, object, program, map, force, slots, partial, .. } =
            self;
        let hold_new = self.hold_new.map(Into::into);
        let object = object.map(|path| {
            let mut object = ObjectSpec::new(path);
            (object.program, object.map, object.settings) = (program, map, self.settings);
            object
        });
        How { policy, options, weights, object, force, slots, partial, hold_new, stop }
    }
}

/// Parses a setting. clap prints only an error's `Display`, which has no hint.
fn setting(text: &str) -> Result<Setting, String> {
    text.parse().map_err(|error: reuseport::Error| error.report().to_string())
}

/// A stop that ^C requests.
fn stop_at_signals() -> Result<Stop> {
    let stop = Stop::default();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot install a handler for ^C")?;
    let request = stop.clone();
    // From a thread: it wakes a watcher, which a flag alone does not.
    thread::spawn(move || signals.forever().for_each(|_| request.set()));
    Ok(stop)
}

/// How to add sockets that join later to these groups, by the names that find them again.
fn again(groups: &[String]) -> Option<String> {
    match groups {
        [] => None,
        [only] => Some(format!(
            "{DIM}While these are open, later ones get nothing until this runs (or --watch):\n  \
             reuseport attach {only}{DIM:#}\n"
        )),
        _ => Some(format!(
            "{DIM}While these are open, later ones get nothing until this runs again (or \
             --watch).{DIM:#}\n"
        )),
    }
}

/// The failure of having attached to a group that another one of its name keeps the traffic from.
fn behind(host: &Host, key: &GroupKey) -> anyhow::Error {
    let groups = host.groups().unwrap_or_default();
    let is_first = |g: &&Group| g.reach == Reach::First && g.key.name_only() == key.name_only();
    let first = match groups.iter().find(is_first) {
        Some(group) => format!("attach to that one instead: {}", group.key),
        None => "`reuseport ls` shows both".to_owned(),
    };
    Failure::degraded(
        format!("{key} gets nothing new: the kernel finds another group of its name first"),
        format!("`reuseport detach {key}`, and {first}"),
    )
    .into()
}

/// Says what became of a group. Notes the name that finds it again.
fn tell(
    host: &Host,
    group: &Group,
    how: &How,
    attached: &Attached,
    attached_to: &mut Vec<String>,
) -> Result<()> {
    let key = &group.key;
    let identity = Identity::new(key, None);
    let again = output::argument(&identity, netns::own()).to_owned();
    output::print(&format!(
        "{}{}{}{}",
        report(key, attached),
        how.notes(),
        notes(&group.not_asked()),
        advice(group, attached.steering.policy()),
    ))?;
    attached_to.push(again.clone());
    if group.reach == Reach::Behind {
        return Err(behind(host, key));
    }
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
