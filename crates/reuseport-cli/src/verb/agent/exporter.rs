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
    /// new one cannot begin.
    ///
    /// # Errors
    ///
    /// If the address cannot be had.
    pub(super) fn change(
        present: &mut Option<Self>,
        host: &Host,
        config: &Config,
        counts: &Counts,
    ) -> Result<Option<String>> {
        let Some(address) = &config.metrics else {
            *present = None;
            return Ok(None);
        };
        let is_there = |served: &Self| served.address == *address;
        if present.as_ref().is_some_and(|s| is_there(s) && s.silence == config.silence) {
            return Ok(None);
        }
        if present.as_ref().is_some_and(is_there) {
            // Its address is needed.
            *present = None;
        }
        let listener = Listener::bind(address)?;
        let url = listener.url();
        let which = || Ok(Which { targets: Vec::new(), netns: None });
        let silence = Silence::of(config.silence.clone())?;
        let exporter = Exporter::new(host.clone(), which, counts.registry()).without(silence);
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let stop = || Ok(async move { drop(stopped.await) });
            if let Err(error) = serve(listener, exporter, stop) {
                tracing::warn!("metrics are served no more: {error:#}");
            }
        };
        let thread = thread::Builder::new().name("metrics".to_owned()).spawn(run);
        let thread = Some(thread.context("cannot start a thread that serves metrics")?);
        let (address, silence) = (address.clone(), config.silence.clone());
        *present = Some(Self { address, silence, stop: Some(stop), thread });
        Ok(Some(format!("serving metrics at {url}\n")))
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
