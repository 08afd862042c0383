//! The ways to deal connections to workers, and proof that they did.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, Result, ensure};
use reuseport::borrow::borrow;
use reuseport::policy::LeastLoaded;
use reuseport::{Attach, Balancer, Host, Policy};
use rustix::net::sockopt::set_socket_incoming_cpu;
use sk_reuseport::net::Bind;

use crate::hermes::Hermes;
use crate::process::Reuseport;

/// A way to deal connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    /// The kernel's hash of addresses and ports: no program.
    Hash,
    /// The kernel's choice with SO_INCOMING_CPU at each listener: the CPU that received the SYN.
    IncomingCpu,
    Policy(Policy),
    /// The same, attached by the command of another build.
    Other(Policy),
    /// No group: one listener that all workers watch (EPOLLEXCLUSIVE).
    Shared,
    /// As published (SIGCOMM 2025): workers report their state, a program picks among the best.
    Hermes,
}

const LEAST_LOADED: Policy = Policy::LeastLoaded(LeastLoaded::DEFAULT);
/// The contender that has aims.
pub(super) const OURS: Contender = Contender::Policy(LEAST_LOADED);
pub(super) const ROUND_ROBIN: Contender = Contender::Policy(Policy::RoundRobin);
pub(super) const ALL: [Contender; 8] = [
    Contender::Hash,
    Contender::IncomingCpu,
    ROUND_ROBIN,
    Contender::Policy(Policy::Random),
    Contender::Policy(Policy::Source),
    OURS,
    Contender::Shared,
    Contender::Hermes,
];
/// With two builds.
pub(super) const BUILDS: [Contender; 5] =
    [Contender::Hash, Contender::Other(Policy::RoundRobin), ROUND_ROBIN, OTHER, OURS];
/// Each policy of this build with that of the other one.
pub(super) const PAIRS: [[Contender; 2]; 2] =
    [[ROUND_ROBIN, Contender::Other(Policy::RoundRobin)], [OURS, OTHER]];
const OTHER: Contender = Contender::Other(LEAST_LOADED);

/// By what contenders are attached.
pub(super) struct Means {
    pub(super) host: Host,
    /// The command of another build.
    pub(super) other: Option<Reuseport>,
}

impl Contender {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hash => "kernel hash",
            Self::IncomingCpu => "SO_INCOMING_CPU",
            Self::Policy(policy) => policy.name(),
            Self::Other(Policy::RoundRobin) => "other round-robin",
            Self::Other(_) => "other least-loaded",
            Self::Shared => "shared socket",
            Self::Hermes => "Hermes",
        }
    }

    /// Whether each worker has a queue of its own.
    pub(super) fn has_queues(self) -> bool {
        self != Self::Shared
    }

    /// Listeners for this number of workers, or the one that they share.
    pub(super) fn listen(self, workers: u8) -> Result<Vec<TcpListener>> {
        let count = if self.has_queues() { workers.into() } else { 1 };
        let bind = Bind::new((Ipv4Addr::LOCALHOST, 0).into()).nonblocking(true);
        Ok(bind.listeners(count)?)
    }

    /// Lets it deal the connections to this address. `listeners` are the workers', for Hermes.
    pub(super) fn attach<'a>(
        self,
        means: &'a Means,
        address: SocketAddr,
        listeners: &[TcpListener],
    ) -> Result<Dealer<'a>> {
        let host = &means.host;
        let group = || host.find(&format!("tcp:{address}").parse()?);
        match self {
            Self::Hash | Self::Shared => Ok(Dealer::Kernel),
            Self::IncomingCpu => {
                let cpus = std::thread::available_parallelism().map_or(1, usize::from);
                for (index, member) in group()?.members.iter().enumerate() {
                    set_socket_incoming_cpu(borrow(member)?, (index % cpus) as u32)?;
                }
                Ok(Dealer::Kernel)
            }
            Self::Policy(policy) => {
                let attach = Attach::from(policy);
                let (balancer, attached) = Balancer::attach(host, &group()?.key, &attach)?;
                ensure!(attached.degraded.is_empty(), "{policy} cannot read queues here");
                Ok(Dealer::Policy { host, balancer })
            }
            Self::Other(policy) => {
                let command = means.other.as_ref().context("there is no other build")?;
                let group = format!("tcp:{address}");
                command.time(&["attach", &group, "--policy", policy.name()])?;
                Ok(Dealer::Other { command, group })
            }
            Self::Hermes => Ok(Dealer::Hermes(Box::new(Hermes::attach(listeners)?))),
        }
    }
}

/// What deals now.
pub(super) enum Dealer<'a> {
    Kernel,
    Policy {
        host: &'a Host,
        balancer: Balancer,
    },
    Other {
        command: &'a Reuseport,
        group: String,
    },
    /// Its program goes with its listeners.
    Hermes(Box<Hermes>),
}

impl Dealer<'_> {
    /// Refuses a measurement in which it did not deal every single connection.
    pub(super) fn check(&self, connections: u64) -> Result<()> {
        const DEALT: [&str; 2] = ["picks", "fallback_active"];

        let [picks, others] = match self {
            Self::Kernel => return Ok(()),
            Self::Policy { host, balancer } => {
                let status = host.status(balancer.key())?;
                DEALT.map(|reason| {
                    let counter = status.counters.iter().find(|counter| counter.reason == reason);
                    counter.map_or(0, |counter| counter.count)
                })
            }
            Self::Other { command, group } => {
                let (_, shown) = command.time(&["show", group, "--json"])?;
                let shown: serde_json::Value = serde_json::from_str(&shown)?;
                DEALT.map(|reason| shown["counters"][reason].as_u64().unwrap_or(0))
            }
            Self::Hermes(hermes) => hermes.counts()?,
        };
        // Hermes does not tell SYNs from stray segments: resets for connections that are gone already.
        let more_is_fine = matches!(self, Self::Hermes(_));
        ensure!(
            picks + others == connections || more_is_fine && picks + others > connections,
            "the program picked {picks} times, and {others} times another one, \
             for {connections} connections"
        );
        Ok(())
    }

    /// The kernel's hash decides again.
    pub(super) fn detach(self) -> Result<()> {
        match self {
            Self::Policy { balancer, .. } => {
                balancer.detach()?;
            }
            Self::Other { command, group } => {
                command.time(&["detach", &group])?;
            }
            Self::Kernel | Self::Hermes(_) => {}
        }
        Ok(())
    }
}
