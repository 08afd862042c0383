//! `reuseport promote`: the newest version of a server takes over.

mod ready;

use std::cmp::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use reuseport::group::GroupKey;
use reuseport::id::Percent;
use reuseport::status::{GroupStatus, State, Trial};
use reuseport::{HoldNew, Promoted};

use crate::args::{self, GroupsArgs};
use crate::backend::{Generation, Members};
use crate::drained::{Leaving, Waiting};
use crate::error::{Failure, Failures};
use crate::output::{self, count};
use ready::Readiness;

/// Let the newest generation serve, and the older ones drain
///
/// Members that entered together are a generation: one version of the server. `show` has their numbers
/// (GEN). With `attach --hold-new`, newer ones are on standby, and get nothing until this.
///
/// It is one step for the traffic: before it the old generation gets each new connection or datagram,
/// after it the new one. Older members are retired: they drain as after `drain`, and finish what they
/// have. Open connections stay where they are. `rollback` takes it back as long as the old server runs.
/// Members that were drained by hand stay so.
///
/// In a group with `attach --hold-new=accepting`, servers join and replace none: all members on standby serve
/// from then on, also those that do not accept yet, and nothing drains. After --canary, the one that was tried
/// replaces the others there, too.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  1   nothing to do: no such group, none of our programs is attached, or no
      member is newer than those that serve. A server that keeps its sockets
      (nginx reload, HAProxy -W, Envoy hot restart) has no new generation
  2   another tool's program is attached, or any other failure
  3   with --when-ready: not ready in time; with --when-ready or --for: a newer
      generation came meanwhile, which was neither checked nor tried: traffic
      is as it was; with --wait: not drained in time
  Of several groups, the most serious decides: 2, then 3, then 1.

Examples:
  reuseport attach :8080 --hold-new --watch      new servers wait from now on
  reuseport promote :8080
  reuseport promote :8080 --wait 30s && kill -TERM \"$OLD\"
  reuseport promote :8080 --when-ready './check $REUSEPORT_PIDS'
  reuseport promote :8080 --canary 10% --for 5m   a tenth first, then all
")]
pub(crate) struct Promote {
    #[command(flatten)]
    groups: GroupsArgs,

    /// Return when the older ones are drained, or after TIME (30, 30s, 5m) with exit status 3
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = args::time)]
    wait: Option<Option<Duration>>,

    /// Run this command until it exits with 0, and promote then
    ///
    /// By `sh -c`, again 200 ms after each failure. REUSEPORT_GROUPS has the groups, and REUSEPORT_PIDS the
    /// processes that hold members of the newest generation: ask those, because whatever connects to the
    /// port reaches the old ones.
    #[arg(long, value_name = "CMD")]
    when_ready: Option<String>,

    /// Give the newest generation only this part of all picks, 1% to 99%
    ///
    /// Its members together, by their weights; the older ones go on with the rest. It is state: it outlives
    /// this command, `show` tells it, another `--canary` changes it, and `promote` or `rollback` ends it.
    /// least-loaded deals by load per weight: there it is the part of equally fast members.
    #[arg(long, value_name = "N%", value_parser = args::percent)]
    canary: Option<Percent>,

    /// With --canary: promote after this time
    ///
    /// If the command is interrupted before, or a newer generation comes, the trial goes on.
    #[arg(long = "for", value_name = "TIME", value_parser = args::time, requires = "canary")]
    trial_time: Option<Duration>,

    /// How long to try that
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = args::time)]
    #[arg(requires = "when_ready")]
    ready_timeout: Duration,
}

impl Promote {
    pub(crate) fn run(self) -> Result<()> {
        if self.canary.is_some() && self.trial_time.is_none() && self.wait.is_some() {
            return Err(Failure::new(
                "--wait waits for a promotion, which --canary makes only with --for",
                "add `--for TIME`, or leave out --wait",
            )
            .into());
        }
        let groups = Members::open(&self.groups.targets()?)?;
        let mut failures = Failures::default();
        let mut turns: Vec<Turn<'_>> = groups.iter().map(|members| (members, None)).collect();
        if let Some(command) = &self.when_ready {
            let newer: Vec<&GroupStatus> =
                groups.iter().map(|members| &members.status).filter(|s| has_newer(s)).collect();
            // Without any, each refusal says so.
            if !newer.is_empty() {
                Readiness::new(command, &newer).wait(self.ready_timeout)?;
            }
            turns.iter_mut().for_each(|(members, only)| *only = ready::newest(&members.status));
        }
        if let Some(share) = self.canary {
            // From here on, ^C ends the command and not the trial.
            let trial = self.trial_time.map(|time| Waiting::begin(Some(time))).transpose()?;
            let to_trial = turns
                .into_iter()
                .map(|(members, only)| (members, Generation::OnTrial(only, share)));
            let tried = switch(to_trial, &mut failures);
            let Some(trial) = trial else { return failures.worst() };
            turns = tried.into_iter().map(|(members, tried)| (members, tried.trial)).collect();
            if !try_until(&trial, &mut turns, share, &mut failures) {
                return failures.worst();
            }
        }
        let to_serve = turns.into_iter().map(|(members, only)| (members, Generation::Newest(only)));
        switch_and_wait(to_serve, self.wait, failures)
    }
}

/// A group, and the generation of it that was checked or tried.
type Turn<'a> = (&'a Members, Option<u32>);

/// Returns when the time is over, with the groups whose trial is still the same; `false` if it was interrupted.
fn try_until(
    waiting: &Waiting,
    turns: &mut Vec<Turn<'_>>,
    share: Percent,
    failures: &mut Failures,
) -> bool {
    const PAUSE: Duration = Duration::from_millis(100);

    while !waiting.is_over() && !turns.is_empty() {
        if waiting.is_interrupted() {
            let goes_on = "interrupted: the trial goes on, until `reuseport promote` or `rollback`";
            failures.note(Err(anyhow!(goes_on)));
            return false;
        }
        thread::sleep(PAUSE);
        turns.retain(|(members, tried)| {
            let same = is_same_trial(members, *tried, share);
            let goes_on = same.is_ok();
            failures.note(same);
            goes_on
        });
    }
    true
}

/// Fails if this generation has no longer this part of all picks.
fn is_same_trial(members: &Members, tried: Option<u32>, share: Percent) -> Result<()> {
    let key = &members.status.group.key;
    match members.now()?.trial {
        Some(Trial { generation: None, .. }) => {
            bail!("{key}: no member that was on trial is left; nothing was promoted")
        }
        Some(trial) if trial.share != share || trial.generation != tried => {
            bail!("{key}: another command changed the trial")
        }
        Some(_) => Ok(()),
        None => bail!("{key}: another command ended the trial"),
    }
}

/// Whether members are newer than those that serve, or older ones serve, too; or whether some may join.
fn has_newer(status: &GroupStatus) -> bool {
    let mut enrolled = status.members.iter().filter_map(|member| member.enrolment.as_ref());
    if status.hold_new == HoldNew::Accepting && status.trial.is_none() {
        return enrolled.any(|enrolment| enrolment.state == State::Standby);
    }
    changes(status.serving_generation, enrolled.map(|e| (e.generation, e.state)))
}

/// Whether a promotion changes something for members of these generations. If none serves, the newest will.
fn changes(serving: Option<u32>, members: impl IntoIterator<Item = (u32, State)>) -> bool {
    let changes = |(generation, state)| match serving.map(|serving| serving.cmp(&generation)) {
        Some(Ordering::Greater) => state == State::Active,
        Some(Ordering::Equal) => false,
        Some(Ordering::Less) | None => true,
    };
    members.into_iter().any(changes)
}

/// Lets another generation serve in each group. Returns those in which it does.
fn switch<'a>(
    turns: impl Iterator<Item = (&'a Members, Generation)>,
    failures: &mut Failures,
) -> Vec<(&'a Members, Promoted)> {
    let mut switched = Vec::new();
    for (members, to) in turns {
        let promoted = members.switch(to).map_err(Into::into).and_then(|promoted| {
            output::print(&said(&members.status.group.key, &promoted))?;
            switched.push((members, promoted));
            Ok(())
        });
        failures.note(promoted);
    }
    switched
}

/// The same, and perhaps waits for those that no longer serve.
pub(super) fn switch_and_wait<'a>(
    turns: impl Iterator<Item = (&'a Members, Generation)>,
    wait: Option<Option<Duration>>,
    mut failures: Failures,
) -> Result<()> {
    let waiting = wait.map(Waiting::begin).transpose()?;
    let turns: Vec<(&Members, Generation)> = turns.collect();
    let is_back = turns.iter().any(|(_, to)| *to == Generation::Before);
    // All of them change before the first is waited for.
    let switched = switch(turns.into_iter(), &mut failures);
    if let Some(waiting) = waiting {
        for (members, promoted) in switched {
            let left = if is_back { promoted.on_standby } else { promoted.retired };
            failures.note(waiting.until_drained(members, &left, Leaving::Retired));
        }
    }
    failures.worst()
}

/// "generation 2 serves: 2 members; 4 older ones drain".
fn said(key: &GroupKey, promoted: &Promoted) -> String {
    if let n @ 1.. = promoted.joined.len() {
        let serving = count(promoted.serving.len(), "member");
        let (who, serve) = (count(n, "member"), output::by_number(n, "serves", "serve"));
        return format!("{key}: {who} from standby {serve} now: {serving} in all; none drains\n");
    }
    let Promoted { generation, serving, on_trial, retired, on_standby, .. } = promoted;
    let mut text =
        format!("{key}: generation {generation} serves: {}", count(serving.len(), "member"));
    if let n @ 1.. = on_trial.len() {
        text +=
            &format!("; {n} {} on trial", output::by_number(n, "newer one is", "newer ones are"));
    }
    for (members, what) in [
        (retired, ["older one drains", "older ones drain"]),
        (on_standby, ["newer one waits", "newer ones wait"]),
    ] {
        let n = members.len();
        if n > 0 {
            text += &format!("; {n} {}", output::by_number(n, what[0], what[1]));
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_changes_something_if_there_is_a_newer_generation_or_none_serves() {
        let old = |state| (1, state);
        let new = (2, State::Standby);
        let changes = |serving, members: &[_]| changes(serving, members.iter().copied());
        assert!(changes(Some(1), &[old(State::Active), new]));
        assert!(changes(Some(2), &[old(State::Active), (2, State::Active)]));
        assert!(!changes(Some(2), &[old(State::Draining), (2, State::Active)]));
        assert!(!changes(Some(1), &[old(State::Active)]));
        assert!(changes(None, &[old(State::Draining), new]));
        assert!(!changes(None, &[]));
    }
}
