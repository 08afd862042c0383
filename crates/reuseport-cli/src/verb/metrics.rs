//! `reuseport metrics`: what `ls` and `show` count, for Prometheus.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use prometheus_client::registry::Registry;
use reuseport::{GroupSpec, Host};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{self, NetnsArgs};
use crate::backend::Which;
use crate::error::Failure;
use crate::metrics::{Address, Exporter, Format, Listener, PREFIX, list, replace, serve};
use crate::output;

/// Print what groups and members count, for Prometheus
///
/// One scrape of every group, or of those that match a GROUP: picks, queues and their limits, drops,
/// open connections, fallbacks, findings. Counters are labelled by group and slot, so that they go on
/// when a worker is replaced; reuseport_member_info has the cookie, pid and name of what is in a slot.
/// Groups for which the kernel or another program decides are told, too; their members are labelled by
/// cookie.
///
/// Collectors of text files take --output; Prometheus itself asks what --listen serves.
#[derive(Debug, Args)]
#[command(after_help = "\
docs/metrics.md lists the metrics; dist/ has alert rules and a dashboard.

Examples:
  reuseport metrics
  reuseport metrics :8080 --output /var/lib/node_exporter/reuseport.prom
  reuseport metrics --listen :9719
  reuseport metrics --listen unix:/run/reuseport/metrics.sock
")]
pub(crate) struct Metrics {
    /// Only groups that match one of these, as other verbs take them; default: all
    ///
    /// If none matches one of them, the scrape is written without it, and the exit status is 1. With
    /// --listen, groups may come and go.
    #[arg(value_name = "GROUP")]
    groups: Vec<GroupSpec>,

    #[command(flatten)]
    netns: NetnsArgs,

    /// The text format of what is printed or written
    #[arg(long, value_enum, default_value_t = Format::Prometheus, conflicts_with = "listen")]
    format: Format,

    /// Write to this file instead, in one step: readers find the old content or the new
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    output: Option<PathBuf>,

    /// Serve scrapes over HTTP until a signal (SIGINT, SIGTERM): at ADDRESS:PORT, or unix:PATH
    ///
    /// :PORT means 127.0.0.1:PORT. Other hosts are let in by an address that is written out, such as
    /// 0.0.0.0:9719: there is no password, and no TLS. A client chooses the format (header Accept). The
    /// host is looked at once a second at most, however many clients ask.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Address>,

    /// List the metrics with their labels and meanings, and look at nothing
    #[arg(long, exclusive = true)]
    list: bool,
}

impl Metrics {
    pub(crate) fn run(self) -> Result<()> {
        let Self { groups, netns, format, output, listen, list: listed } = self;
        if listed {
            output::print(&list(output::width().unwrap_or(80)))?;
            return Ok(());
        }
        let which = move || -> Result<Which> {
            let netns = netns.resolve()?;
            let targets = args::targets(groups.clone(), netns.as_ref())?;
            Ok(Which { targets, netns })
        };
        // Wrong names are told before anything else.
        let asked = which()?;
        let own = Registry::with_prefix(PREFIX);
        if let Some(address) = listen {
            let listener = Listener::bind(&address)?;
            let exporter = Exporter::new(Host::open()?, which, own);
            return stay(listener, exporter);
        }
        let host = Host::open()?;
        let exporter = Exporter::new(host.clone(), which, own);
        let scrape = Arc::new(exporter.collect()?);
        let missing = asked.missing(scrape.groups.iter().map(|group| &group.status.group));
        let text = exporter.text(&scrape, format)?;
        match output {
            None => output::print_bytes(text.as_bytes())?,
            Some(path) => replace(&path, &text).map_err(|error| {
                let failed = format!("cannot write {}: {error}", path.display());
                Failure::new(
                    failed,
                    "the file is as it was; its directory must exist and be writable",
                )
            })?,
        }
        missing.map_or(Ok(()), |missing| missing.find(&host, true).map(drop))
    }
}

/// Serves until a signal.
fn stay(listener: Listener, exporter: Exporter) -> Result<()> {
    let begun = format!("serving metrics at {}\n", listener.url());
    serve(listener, exporter, || {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        if let Err(error) = output::print(&begun) {
            // It serves whether or not that is read.
            tracing::debug!("cannot write to standard output: {error}");
        }
        Ok(async move {
            let (interrupt, terminate) = (pin!(interrupt.recv()), pin!(terminate.recv()));
            tokio::select! { _ = interrupt => {}, _ = terminate => {} }
        })
    })
}
