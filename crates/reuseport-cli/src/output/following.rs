//! Who follows a group, and whether newcomers wait, as it is shown.

use reuseport::HoldNew;
use reuseport::status::Watcher;
use serde::Serialize;

/// The process that follows a group. Without a pid: one of another pid namespace.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct WatcherView {
    pub(crate) pid: Option<u32>,
    pub(crate) comm: Option<String>,
}

impl WatcherView {
    pub(super) fn new(watcher: &Watcher) -> Self {
        Self { pid: watcher.pid, comm: watcher.comm.clone() }
    }
}

/// Whether newcomers wait on standby, and for what: `promote` or `accepting`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct HoldNewView {
    pub(crate) hold_new: bool,
    pub(crate) hold_new_until: Option<&'static str>,
}

impl HoldNewView {
    pub(super) fn new(hold_new: HoldNew) -> Self {
        let hold_new_until = match hold_new {
            HoldNew::On => Some("promote"),
            HoldNew::Accepting => Some("accepting"),
            _ => None,
        };
        Self { hold_new: hold_new_until.is_some(), hold_new_until }
    }

    /// In a sentence about generations.
    pub(super) fn said(self) -> &'static str {
        match self.hold_new_until {
            Some("accepting") => "; newcomers wait until they accept",
            Some(_) => "; newer ones wait for `promote`",
            None => "",
        }
    }
}
