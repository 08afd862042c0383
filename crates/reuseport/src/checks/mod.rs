//! What the host allows: features of the kernel, found by trying; the state directory; settings; the caller's rights.
//!
//! All of it is read, or loaded and let go of: nothing is changed.

mod features;
mod settings;
mod state;

use crate::error::Error;
use crate::host::Host;
use crate::kernel::{barrier, caps};
pub use crate::model::check::{Check, Outcome};
use crate::model::rights::{NO_BPFFS, OPEN_OTHERS, OWN_IN_OTHERS, VERBS, Verb};

/// Something that verbs do, and whether the caller may.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Right {
    /// What is done, by which verbs.
    pub what: &'static str,
    /// The capabilities that it takes.
    pub needs: Vec<&'static str>,
    /// Those that the caller lacks.
    pub missing: Vec<&'static str>,
}

/// Checks the host. `host`: the caller's, if it may list sockets.
pub fn checks(host: Result<&Host, &Error>) -> Vec<Check> {
    let why = |error: &Error| {
        let report = error.report();
        report.hint().unwrap_or_else(|| report.causes())
    };
    let groups = match host.map(Host::groups) {
        Ok(groups) => groups.map_err(|error| why(&error)),
        Err(error) => Err(why(error)),
    };
    let mut all = features::checks(host);
    all.extend(state::checks(groups.as_deref()));
    all.extend(settings::checks());
    all
}

/// The settings that do not depend on a network namespace, as they are: name and value.
pub fn settings() -> Vec<(&'static str, Option<String>)> {
    settings::named()
}

/// What the caller may do.
pub fn rights() -> Vec<Right> {
    let applies = |step: &'static str| match step {
        OWN_IN_OTHERS | OPEN_OTHERS => state::is_of_another_user(),
        NO_BPFFS => state::is_unmounted(),
        _ => true,
    };
    let right = |verb: &Verb| {
        let needs = verb.needs_where(applies);
        // Those of another user namespace do not count.
        let missing = match barrier::in_initial_user_namespace() {
            true => caps::lacking(&needs),
            false => needs.clone(),
        };
        Right { what: verb.what, needs, missing }
    };
    VERBS.iter().map(right).collect()
}
