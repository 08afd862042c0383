//! Connections over loopback, made, accepted and closed by one thread.
//!
//! Each policy comes twice: its program alone, and attached and detached as the command does it, for
//! each measurement. The host-wide layer that counts open connections comes and goes with the latter:
//! it is the difference between the two.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use reuseport::group::GroupKey;
use reuseport::{Attach, Balancer, Host, Policy};
use rustix::net::sockopt;
use sk_reuseport::net::{Bind, loopback};

use super::lap::{Watched, median_lap};
use super::programs::{Programs, Protocol, Variant, built_in};

/// Listeners of a group: a usual number of workers.
pub(super) const MEMBERS: usize = 8;
/// Connections to a lap.
const LAP: usize = 64;
/// Laps to a measurement.
const LAPS: usize = 5;
/// Connections to a measurement, with the lap that warms up.
const CONNECTIONS: usize = LAP * (1 + LAPS);
/// Pins of the tracing programs that count open connections. They run as long as they are pinned.
const COUNTING: [&str; 2] =
    ["/sys/fs/bpf/reuseport/host/count_open", "/sys/fs/bpf/reuseport/host/count_nested"];

/// How a group is steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A program, or none, and nothing else: open connections are not counted.
    Alone(Variant),
    /// No program, right after one was attached and detached: what attaching leaves behind.
    Detached,
    /// As the command attaches, without the programs that count: sockets are only marked.
    Marked(Policy),
    /// As the command attaches: open connections are counted.
    Whole(Policy),
}

impl Way {
    /// The ways that are compared, first the one without a program. Without a bare select, which
    /// counts nothing and so is no fair comparison.
    pub(super) fn all() -> Vec<Self> {
        let variants = Variant::ALL.into_iter().filter(|variant| *variant != Variant::Bare);
        let policies = Policy::ALL.iter().copied().map(Self::Whole);
        let parts = [Self::Detached, Self::Marked(Policy::RoundRobin)];
        variants.map(Self::Alone).chain(parts).chain(policies).collect()
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Alone(Variant::Policy(policy)) => format!("{policy}, the program alone"),
            Self::Alone(variant) => variant.name().to_owned(),
            Self::Detached => "no program, just detached".to_owned(),
            Self::Marked(policy) => format!("{policy}, attached, marked only"),
            Self::Whole(policy) => format!("{policy}, attached by the command"),
        }
    }

    pub(super) fn has_aim(self) -> bool {
        matches!(self, Self::Alone(Variant::Policy(_)) | Self::Whole(_))
    }
}

/// Two groups of listeners, because a socket can be in one socket array only.
pub(super) struct Groups {
    /// Programs are attached to it.
    alone: Listeners,
    programs: Programs,
    /// It is steered as the command does it.
    whole: Listeners,
    host: Host,
    key: GroupKey,
}

impl Groups {
    pub(super) fn new() -> Result<Self> {
        let (alone, whole) = (Listeners::new()?, Listeners::new()?);
        let programs = Programs::load(&alone.listeners, alone.address, Protocol::Tcp, &built_in())?;
        let host = Host::open()?;
        let key = host.find(&format!("tcp:{}", whole.address).parse()?)?.key;
        Ok(Self { alone, programs, whole, host, key })
    }

    /// Nanoseconds per connection.
    pub(super) fn measure(&mut self, way: Way) -> Result<f64> {
        match way {
            Way::Alone(variant) => {
                let index = Variant::ALL.iter().position(|one| *one == variant);
                self.programs
                    .attach(index.context("no such variant")?, &self.alone.listeners[0])?;
                self.programs.arrive(CONNECTIONS);
                self.alone.measure()
            }
            Way::Detached => {
                self.attach(Policy::RoundRobin)?.detach(&self.host)?;
                self.whole.measure()
            }
            Way::Marked(policy) => {
                let balancer = self.attach(policy)?;
                stop_counting()?;
                self.measure_whole(balancer)
            }
            Way::Whole(policy) => {
                let balancer = self.attach(policy)?;
                self.measure_whole(balancer)
            }
        }
    }

    fn attach(&self, policy: Policy) -> Result<Balancer> {
        let attach = Attach { program: Some(policy.into()), ..Attach::default() };
        Ok(Balancer::attach(&self.host, &self.key, &attach)?.0)
    }

    fn measure_whole(&self, balancer: Balancer) -> Result<f64> {
        let cost = self.whole.measure()?;
        let status = self.host.status(&self.key)?;
        let picks = status.counters.iter().find(|counter| counter.reason == "picks");
        let picks = picks.map_or(0, |picks| picks.count);
        ensure!(picks == CONNECTIONS as u64, "{picks} picks for {CONNECTIONS} connections");
        balancer.detach(&self.host)?;
        Ok(cost)
    }

    /// Refuses the measurements if a program did not pick whenever it should have.
    pub(super) fn check(&self) -> Result<()> {
        self.programs.check()
    }
}

/// A server that is not steered, and steered groups on the same host: the programs that count open
/// connections run for both.
pub(super) struct Bystander {
    server: Listeners,
    host: Host,
    groups: Vec<(GroupKey, Vec<TcpListener>)>,
}

impl Bystander {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { server: Listeners::new()?, host: Host::open()?, groups: Vec::new() })
    }

    /// Attaches to more groups, of two listeners each, until there are `groups`.
    pub(super) fn grow(&mut self, groups: usize) -> Result<()> {
        while self.groups.len() < groups {
            let listeners = Bind::new(loopback(false)).listeners(2)?;
            let name = format!("tcp:{}", listeners[0].local_addr()?);
            let key = self.host.find(&name.parse()?)?.key;
            Balancer::attach(&self.host, &key, &Attach::default())?;
            self.groups.push((key, listeners));
        }
        Ok(())
    }

    /// Nanoseconds per connection to the server, while connections are counted or not.
    pub(super) fn measure(&self, counted: bool) -> Result<f64> {
        let counts = || COUNTING.iter().all(|pin| Path::new(pin).exists());
        match (counted, counts()) {
            (false, true) => stop_counting()?,
            (true, false) => {
                let (key, _) = self.groups.first().context("no group is attached")?;
                Balancer::attach(&self.host, key, &Attach::default())?;
            }
            _ => (),
        }
        ensure!(counts() == counted, "cannot start or stop counting open connections");
        self.server.measure()
    }

    pub(super) fn detach(self) -> Result<()> {
        for (key, _) in &self.groups {
            reuseport::detach(&self.host, key)?;
        }
        Ok(())
    }
}

fn stop_counting() -> Result<()> {
    let stop = |pin| std::fs::remove_file(pin).with_context(|| format!("cannot remove {pin}"));
    COUNTING.into_iter().try_for_each(stop)
}

/// A group of listeners.
struct Listeners {
    listeners: Vec<TcpListener>,
    address: SocketAddr,
    watched: Watched,
}

impl Listeners {
    fn new() -> Result<Self> {
        let listeners = Bind::new(loopback(false)).nonblocking(true).listeners(MEMBERS)?;
        let address = listeners[0].local_addr()?;
        Ok(Self { address, watched: Watched::new(&listeners)?, listeners })
    }

    fn measure(&self) -> Result<f64> {
        median_lap(LAPS, |cost| *cost, || self.lap())
    }

    fn lap(&self) -> Result<f64> {
        let start = Instant::now();
        let mut streams = Vec::with_capacity(2 * LAP);
        for _ in 0..LAP {
            let client = TcpStream::connect(self.address)?;
            // Closing resets the connection, which leaves none in TIME_WAIT.
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            streams.push(client);
        }
        self.watched.receive(LAP, |member| {
            streams.push(self.listeners[member].accept()?.0);
            Ok(())
        })?;
        drop(streams);
        Ok(start.elapsed().as_nanos() as f64 / LAP as f64)
    }
}
