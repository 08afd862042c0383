//! What the agent tells Prometheus: about the groups of the host as `metrics` does, and about itself.

use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use reuseport::Host;
use tokio::sync::oneshot;

use crate::backend::Which;
use crate::config::Config;
use crate::metrics::{Address, Exporter, Listener, PREFIX, serve};
use crate::silence::{Silence, Silenced};

/// What the agent counts. Clones count together.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    /// The groups that are steered now.
    pub(super) groups: Gauge,
    pub(super) updates: Counter,
    pub(super) failures: Counter,
    pub(super) reloads: Counter,
    pub(super) refused_reloads: Counter,
    /// Seconds from an event of a new socket to its slot.
    pub(super) delay: Histogram,
}

impl Counts {
    pub(super) fn new() -> Self {
        // From a millisecond to four seconds.
        let delay = Histogram::new(exponential_buckets(0.001, 2.0, 13));
        Self {
            groups: Gauge::default(),
            updates: Counter::default(),
            failures: Counter::default(),
            reloads: Counter::default(),
            refused_reloads: Counter::default(),
            delay,
        }
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        let agent = registry.sub_registry_with_prefix("agent");
        agent.register("groups", "Groups that the agent follows and steers", self.groups.clone());
        agent.register("updates", "Updates of groups by the agent", self.updates.clone());
        agent.register(
            "update_failures",
            "Updates of groups by the agent that failed",
            self.failures.clone(),
        );
        agent.register("reloads", "Times that the agent read its file again", self.reloads.clone());
        agent.register(
            "reload_failures",
            "Times that the agent's file was wrong when it was read again",
            self.refused_reloads.clone(),
        );
        agent.register_with_unit(
            "enrolment_delay",
            "Time from the event of a new socket to its slot",
            Unit::Seconds,
            self.delay.clone(),
        );
        registry
    }
}

/// A server of metrics, in a thread of its own. Dropping it ends it.
pub(super) struct Served {
    address: Address,
    silence: Vec<Silenced>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves as the file says. `present`: what was served until now, which goes on if the file says the same, or if the
    /// new one cannot begin. Returns what to say.
    ///
    /// # Errors
    ///
    /// If the address cannot be had, or the file silences findings in a network namespace that is not there.
    pub(super) fn change(
        present: &mut Option<Self>,
        host: &Host,
        config: &Config,
        counts: &Counts,
    ) -> Result<Option<String>> {
        let Some(address) = &config.metrics else {
            let ended = present.take().map(|_| "metrics are served no more\n".to_owned());
            return Ok(ended);
        };
        let is_same =
            |served: &Self| served.address == *address && served.silence == config.silence;
        if present.as_ref().is_some_and(is_same) {
            return Ok(None);
        }
        Silence::of(config.silence.clone())?;
        // It may have to give way before the new one can begin.
        let before = present.take_if(|served| collide(&served.address, address));
        let before = before.map(|served| (served.address.clone(), served.silence.clone()));
        match Self::start(host, address, &config.silence, counts) {
            Ok((served, url)) => {
                *present = Some(served);
                Ok(Some(format!("serving metrics at {url}\n")))
            }
            Err(error) => {
                if let Some((address, silence)) = before {
                    *present = Self::start(host, &address, &silence, counts).ok().map(|(s, _)| s);
                }
                Err(error)
            }
        }
    }

    /// Returns also where it is, as a client writes it.
    fn start(
        host: &Host,
        address: &Address,
        silence: &[Silenced],
        counts: &Counts,
    ) -> Result<(Self, String)> {
        let listener = Listener::bind(address)?;
        let url = listener.url();
        let which = || Ok(Which { targets: Vec::new(), netns: None });
        let exporter = Exporter::new(host.clone(), which, counts.registry());
        let exporter = exporter.without(Silence::of(silence.to_vec())?);
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let stop = || Ok(async move { drop(stopped.await) });
            if let Err(error) = serve(listener, exporter, stop) {
                tracing::warn!("metrics are served no more: {error:#}");
            }
        };
        let thread = thread::Builder::new().name("metrics".to_owned()).spawn(run);
        let thread = Some(thread.context("cannot start a thread that serves metrics")?);
        let (address, silence) = (address.clone(), silence.to_vec());
        Ok((Self { address, silence, stop: Some(stop), thread }, url))
    }
}

/// Whether two servers cannot have both.
fn collide(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) => one.port() == other.port(),
        _ => one == other,
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has said what failed.
            let _ = thread.join();
        }
    }
}
