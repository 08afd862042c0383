//! `reuseport promote`: the newest version of a server takes over.

mod ready;

use std::cmp::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use reuseport::Promoted;
use reuseport::group::GroupKey;
use reuseport::id::{Cookie, Percent};
use reuseport::status::{Enrolment, GroupStatus, State, Trial};

use crate::args::{self, GroupsArgs};
use crate::backend::{Generation, Members};
use crate::drained::{Leaving, Waiting};
use crate::error::Failures;
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
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  1   nothing to do: no such group, none of our programs is attached, or no
      member is newer than those that serve. A server that keeps its sockets
      (nginx reload, HAProxy -W, Envoy hot restart) has no new generation
  2   another tool's program is attached, or any other failure
  3   with --when-ready: not ready in time, and nothing has changed;
      with --wait: not drained in time
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
    #[arg(long, value_name = "N%", value_parser = percent)]
    canary: Option<Percent>,

    /// With --canary: promote after this time
    ///
    /// If the command is interrupted before, the trial goes on.
    #[arg(long = "for", value_name = "TIME", value_parser = args::time, requires = "canary")]
    trial_time: Option<Duration>,

    /// How long to try that
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = args::time)]
    #[arg(requires = "when_ready")]
    ready_timeout: Duration,
}

impl Promote {
    pub(crate) fn run(self) -> Result<()> {
        let groups = Members::open(&self.groups.targets()?)?;
        if let Some(command) = &self.when_ready {
            let newer: Vec<&GroupStatus> =
                groups.iter().map(|members| &members.status).filter(|s| has_newer(s)).collect();
            // Without any, each refusal says so.
            if !newer.is_empty() {
                Readiness::new(command, &newer).wait(self.ready_timeout)?;
            }
        }
        if let Some(share) = self.canary {
            // From here on, ^C ends the command and not the trial.
            let trial = self.trial_time.map(|time| Waiting::begin(Some(time))).transpose()?;
            if trial.is_none() && self.wait.is_some() {
                bail!("--wait waits for a promotion, which --canary makes only with --for");
            }
            switch(&groups, Generation::OnTrial(share), None)?;
            match trial {
                Some(trial) => try_until(&trial, &groups, share)?,
                None => return Ok(()),
            }
        }
        switch(&groups, Generation::Newest, self.wait)
    }
}

/// "10%" or "10".
fn percent(text: &str) -> Result<Percent, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .and_then(Percent::new)
        .ok_or_else(|| format!("`{text}` is no part of all: give 1% to 99%"))
}

/// Returns when the time is over, if the trial is still the same.
fn try_until(waiting: &Waiting, groups: &[Members], share: Percent) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);

    while !waiting.is_over() {
        if waiting.is_interrupted() {
            bail!("interrupted: the trial goes on, until `reuseport promote` or `rollback`");
        }
        thread::sleep(PAUSE);
        for members in groups {
            let key = &members.status.group.key;
            match members.now()?.trial {
                Some(trial) if trial.share != share => {
                    bail!("{key}: another command changed the trial")
                }
                Some(Trial { generation: Some(_), .. }) => {}
                Some(_) => {
                    bail!("{key}: no member that was on trial is left; nothing was promoted")
                }
                None => bail!("{key}: another command ended the trial"),
            }
        }
    }
    Ok(())
}

/// Whether members are newer than those that serve, or older ones serve, too.
fn has_newer(status: &GroupStatus) -> bool {
    let Some(serving) = status.serving_generation else { return false };
    let enrolled = status.members.iter().filter_map(|member| member.enrolment.as_ref());
    let changes = |enrolment: &Enrolment| match enrolment.generation.cmp(&serving) {
        Ordering::Less => enrolment.state == State::Active,
        Ordering::Equal => false,
        Ordering::Greater => true,
    };
    enrolled.into_iter().any(changes)
}

/// Lets another generation serve in each group, and perhaps waits for those that no longer do.
pub(super) fn switch(
    groups: &[Members],
    to: Generation,
    wait: Option<Option<Duration>>,
) -> Result<()> {
    let waiting = wait.map(Waiting::begin).transpose()?;
    let mut failures = Failures::default();
    // All of them change before the first is waited for.
    let mut leaving: Vec<(&Members, Vec<Cookie>)> = Vec::new();
    for members in groups {
        let switched = members.switch(to).map_err(Into::into).and_then(|promoted| {
            output::print(&said(&members.status.group.key, &promoted))?;
            leaving.push((members, left(&promoted, to)));
            Ok(())
        });
        failures.note(switched);
    }
    if let Some(waiting) = waiting {
        for (members, cookies) in leaving {
            failures.note(waiting.until_drained(members, &cookies, Leaving::Retired));
        }
    }
    failures.worst()
}

/// The members that got something until now.
fn left(promoted: &Promoted, to: Generation) -> Vec<Cookie> {
    match to {
        Generation::Newest => promoted.retired.clone(),
        Generation::OnTrial(_) => Vec::new(),
        Generation::Before => promoted.on_standby.clone(),
    }
}

/// "generation 2 serves: 2 members; 4 older ones drain".
fn said(key: &GroupKey, promoted: &Promoted) -> String {
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
