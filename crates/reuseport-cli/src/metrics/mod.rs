//! Metrics of groups, members and network namespaces, in the text formats of Prometheus: one scrape, or a server.
//!
//! Looks and counts; changes nothing. What there is to tell stands in [`catalog`].

mod catalog;
mod encode;
mod file;
mod list;
mod listen;
mod namespaces;
mod sample;
mod server;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use reuseport::Host;

use crate::backend::Which;
use crate::silence::Silence;

pub(crate) use file::replace;
pub(crate) use list::list;
pub(crate) use listen::{Address, Listener};
pub(crate) use sample::Scrape;
pub(crate) use server::serve;

/// What metrics begin with.
pub(crate) const PREFIX: &str = "reuseport";

/// The help of a counter.
const ERRORS: &str = "How often this process looked at the host and failed";

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// The text format of Prometheus, 0.0.4
    Prometheus,
    /// OpenMetrics 1.0
    #[value(name = "openmetrics")]
    OpenMetrics,
}

impl Format {
    pub(crate) const ALL: [Self; 2] = [Self::Prometheus, Self::OpenMetrics];

    /// The value of the header `Content-Type`.
    fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Collects what is to be told about the groups of a host, and writes it.
pub(crate) struct Exporter {
    host: Host,
    /// Which groups, asked before each look: network namespaces come and go.
    which: Box<dyn Fn() -> Result<Which> + Send + Sync>,
    /// Findings that are not told.
    silence: Silence,
    /// Metrics of the process that serves.
    own: Registry,
    errors: Counter,
}

impl Exporter {
    pub(crate) fn new(
        host: Host,
        which: impl Fn() -> Result<Which> + Send + Sync + 'static,
        mut own: Registry,
    ) -> Self {
        let errors = Counter::default();
        own.register("scrape_errors", ERRORS, errors.clone());
        Self { host, which: Box::new(which), silence: Silence::default(), own, errors }
    }

    /// Without these findings.
    pub(crate) fn without(self, silence: Silence) -> Self {
        Self { silence, ..self }
    }

    /// Looks at the host.
    ///
    /// # Errors
    ///
    /// If the caller lacks the rights, or no network namespace has a given name.
    pub(crate) fn collect(&self) -> Result<Scrape> {
        self.look().inspect_err(|_| _ = self.errors.inc())
    }

    fn look(&self) -> Result<Scrape> {
        let start = Instant::now();
        let which = (self.which)()?;
        let mut statuses = self.host.statuses_in_full()?;
        statuses.retain(|status| which.has(&status.group));
        for status in &mut statuses {
            status.findings.retain(|of| !self.silence.covers(of.name(), &status.group));
        }
        let own_netns = self.host.own_netns()?;
        Ok(Scrape::new(statuses, own_netns, start))
    }

    /// A scrape in a text format, with the metrics of this process.
    ///
    /// # Errors
    ///
    /// If a metric of this process cannot be written.
    pub(crate) fn text(&self, scrape: &Arc<Scrape>, format: Format) -> Result<String> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(Arc::clone(scrape)));
        let mut out = String::new();
        let written = match format {
            Format::Prometheus => prometheus_text::encode(&mut out, &registry)
                .and_then(|()| prometheus_text::encode(&mut out, &self.own)),
            Format::OpenMetrics => text::encode_registry(&mut out, &registry)
                .and_then(|()| text::encode(&mut out, &self.own)),
        };
        written.context("cannot write metrics as text")?;
        Ok(out)
    }
}
