//! What a supervisor says about its workers and generations.

use std::time::Duration;

use super::machine::{Busy, GIVE_UP, Outcome, Tale, Why, WorkerId};
use crate::args::show_time;
use crate::tell::Priority;

/// What is said, and how much it matters. `ended`: how a worker ended.
pub(super) fn tale(tale: &Tale, ended: impl Fn(WorkerId) -> String) -> (Priority, String) {
    match tale {
        Tale::Ready(id) => (Priority::Info, format!("worker {id} is ready")),
        Tale::Again(id, pause) => (
            Priority::Warning,
            format!("worker {id} {}; it is started again in {}", ended(*id), show_time(*pause)),
        ),
        Tale::GivenUp(id) => (
            Priority::Error,
            format!(
                "worker {id} {}, {GIVE_UP} times in a row: it is given up, and the others go on \
                 without it until the next reload",
                ended(*id)
            ),
        ),
        Tale::Late(id) => (
            Priority::Warning,
            format!("worker {id} is not ready yet: it gets nothing while another one is"),
        ),
        Tale::AllGivenUp => (Priority::Error, "all workers are given up".to_owned()),
        Tale::OnTrial(generation) => {
            (Priority::Info, format!("generation {generation} is on trial"))
        }
        Tale::Promoted { generation, old } => (
            Priority::Info,
            format!(
                "generation {generation} serves, on probation; generation {old} gets nothing new"
            ),
        ),
        Tale::Killed(id) => {
            (Priority::Warning, format!("worker {id} has not ended after SIGTERM: killed"))
        }
    }
}

/// The exit code of a reload, what is said, and a hint.
pub(super) fn outcome(
    outcome: &Outcome,
    failed: Option<&str>,
    ended: impl Fn(WorkerId) -> String,
) -> (u8, String, String) {
    match outcome {
        Outcome::Done { generation, killed: false } => {
            (0, format!("generation {generation} serves alone"), String::new())
        }
        Outcome::Done { generation, killed: true } => (
            3,
            format!("generation {generation} serves alone; the old one had to be killed"),
            "--stop-timeout of `run` gives it more time".to_owned(),
        ),
        Outcome::RolledBack { generation, why } => {
            let why = match why {
                Why::Died(id) => format!("worker {id} {}", ended(*id)),
                Why::NotReady(ids) => {
                    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                    format!("not ready in time: worker {}", ids.join(", "))
                }
                Why::Steering => failed.unwrap_or("the groups cannot be changed").to_owned(),
                Why::GivenUp => "all of its workers were given up".to_owned(),
                Why::Interrupted => "the supervisor was killed before it was promoted".to_owned(),
            };
            (
                3,
                format!("generation {generation} is rolled back: {why}; the one before serves"),
                "what it printed says more; the next `reuseport reload` tries again".to_owned(),
            )
        }
        Outcome::Stopped => (2, "it stops: the reload was not finished".to_owned(), String::new()),
    }
}

pub(super) fn busy(busy: Busy) -> &'static str {
    match busy.stops {
        true => "it stops: nothing is reloaded any more",
        false => "a reload is under way: one at a time",
    }
}

/// What a supervisor without our program cannot do.
pub(super) fn without_program(alive: Duration) -> String {
    format!(
        "--no-program: the kernel's hash decides, so a worker that starts again, hangs or is not ready gets its share all \
         the same, which waits; a reload passes the same sockets on, both generations accept for a while, and a rollback \
         does not take back what the new one has accepted; a worker counts as ready {} after its start, unless it says so \
         (--ready notify)",
        show_time(alive)
    )
}
