//! Who deals connections to workers, and proof that it did.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use reuseport::policy::LeastLoaded;
use reuseport::{Attach, Balancer, Host, Policy};

use super::scenario::Scenario;
use super::workers::{Listeners, Listening};
use crate::hermes::Hermes;

/// A way to deal connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Contender {
    /// The kernel's own hash of addresses and ports: no program
    Hash,
    /// The kernel's own, with SO_INCOMING_CPU at each listener: the CPU that received the SYN
    IncomingCpu,
    /// Our policy of that name
    RoundRobin,
    /// Our policy of that name
    Random,
    /// Our policy of that name
    Source,
    /// Our policy of that name
    LeastLoaded,
    /// No group: one listener that all workers watch (EPOLLEXCLUSIVE)
    Shared,
    /// As published (SIGCOMM 2025): workers tell how they do, a program picks among those that do well
    Hermes,
}

impl Contender {
    pub(super) const ALL: [Self; 8] = [
        Self::Hash,
        Self::IncomingCpu,
        Self::RoundRobin,
        Self::Random,
        Self::Source,
        Self::LeastLoaded,
        Self::Shared,
        Self::Hermes,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hash => "kernel hash",
            Self::IncomingCpu => "SO_INCOMING_CPU",
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::Source => "source",
            Self::LeastLoaded => "least-loaded",
            Self::Shared => "shared socket",
            Self::Hermes => "Hermes",
        }
    }

    pub(super) fn listening(self) -> Listening {
        match self {
            Self::IncomingCpu => Listening::OwnByCpu,
            Self::Shared => Listening::Shared,
            _ => Listening::Own,
        }
    }

    /// Whether each worker has a queue of its own.
    pub(super) fn has_queues(self) -> bool {
        self.listening() != Listening::Shared
    }

    fn policy(self) -> Option<Policy> {
        match self {
            Self::RoundRobin => Some(Policy::RoundRobin),
            Self::Random => Some(Policy::Random),
            Self::Source => Some(Policy::Source),
            Self::LeastLoaded => Some(Policy::LeastLoaded(LeastLoaded::DEFAULT)),
            Self::Hash | Self::IncomingCpu | Self::Shared | Self::Hermes => None,
        }
    }

    /// Whether it can be had in this scenario: Hermes is nothing for servers as they are.
    pub(super) fn suits(self, scenario: Scenario) -> bool {
        !(self == Self::Hermes && scenario == Scenario::Nginx)
    }

    /// Attached to these listeners, before they are given to workers, if it is Hermes.
    pub(super) fn hermes(self, listeners: &Listeners) -> Result<Option<Hermes>> {
        if self != Self::Hermes {
            return Ok(None);
        }
        let hermes = Hermes::load(&listeners.sockets)?;
        hermes.attach(&listeners.sockets[0])?;
        Ok(Some(hermes))
    }

    /// Lets it deal the connections to this address.
    pub(super) fn attach(self, host: &Host, address: SocketAddr) -> Result<Attached<'_>> {
        let Some(policy) = self.policy() else { return Ok(Attached::Kernel) };
        let key = host.find(&format!("tcp:{address}").parse()?)?.key;
        let attach = Attach { program: Some(policy.into()), ..Attach::default() };
        let (balancer, attached) = Balancer::attach(host, &key, &attach)?;
        ensure!(attached.degraded.is_none(), "{policy} cannot read queues here");
        Ok(Attached::Ours { host, balancer })
    }
}

/// Who deals now.
pub(super) enum Attached<'a> {
    /// No program of anybody's.
    Kernel,
    Ours {
        host: &'a Host,
        balancer: Balancer,
    },
    /// It goes with its listeners.
    Hermes(Box<Hermes>),
}

impl Attached<'_> {
    /// Refuses a measurement in which it did not deal each of so many connections.
    pub(super) fn check(&self, connections: u64) -> Result<()> {
        let (picks, others) = match self {
            Self::Kernel => return Ok(()),
            Self::Ours { host, balancer } => {
                let status = host.status(balancer.key())?;
                let count = |reason| {
                    let counter = status.counters.iter().find(|counter| counter.reason == reason);
                    counter.map_or(0, |counter| counter.count)
                };
                (count("picks"), count("fallback_active"))
            }
            Self::Hermes(hermes) => (hermes.picks()?, hermes.fallbacks()?),
        };
        // Hermes does not tell SYNs from stray segments: resets for connections that are gone already.
        let exact = !matches!(self, Self::Hermes(_));
        ensure!(
            picks + others == connections || !exact && picks + others > connections,
            "the program picked {picks} times, and {others} times another one, \
             for {connections} connections"
        );
        Ok(())
    }

    /// The kernel's hash decides again.
    pub(super) fn detach(self) -> Result<()> {
        match self {
            Self::Kernel | Self::Hermes(_) => Ok(()),
            Self::Ours { host, balancer } => balancer.detach(host).context("cannot detach"),
        }
    }
}
