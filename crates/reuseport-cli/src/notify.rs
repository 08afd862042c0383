//! What a service tells systemd: sd_notify(3). Nothing, where it does not run under it.

use std::time::Duration;

use sd_notify::NotifyState;

/// It follows what is there.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It reads its file again; [`ready`] ends that.
pub(crate) fn reloading() {
    let now = NotifyState::monotonic_usec_now().ok();
    let states: Vec<_> = [NotifyState::Reloading].into_iter().chain(now).collect();
    send(&states);
}

pub(crate) fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// It is alive.
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often to say that it is alive; `None` if that is not asked for.
pub(crate) fn interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot tell systemd: {error}");
    }
}
