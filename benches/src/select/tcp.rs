//! Connections over loopback, made, accepted and closed by one thread.
//!
//! Each policy comes twice: its program alone, and attached and detached as the command does it, for
//! each measurement. What counts open connections, host-wide, is then there and gone with it: it is
//! the difference between the two.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use reuseport::group::GroupKey;
use reuseport::{Attach, Balancer, Decide, Host, Policy};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::sockopt;
use sk_reuseport::net::{Bind, loopback};

use super::programs::{Programs, Variant};

/// Listeners: a usual number of workers.
pub(super) const MEMBERS: usize = 8;
/// Connections to a lap.
const LAP: usize = 64;
/// Laps to a measurement, of which the median counts, after one that nobody times.
const LAPS: usize = 5;
/// Connections to a measurement.
const CONNECTIONS: u64 = (LAP * (1 + LAPS)) as u64;

/// How a group is decided for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A program, or none, and nothing else: open connections are not counted.
    Alone(Variant),
    /// No program, right after one was attached and detached: what attaching leaves behind.
    Detached,
    /// As the command attaches, but the tracing program taken away: sockets are marked only.
    Marked(Policy),
    /// As the command attaches: open connections are counted.
    Whole(Policy),
}

/// Where the tracing programs that count are pinned; without their pins they do not run.
pub(super) const COUNTING: [&str; 2] =
    ["/sys/fs/bpf/reuseport/host/count_open", "/sys/fs/bpf/reuseport/host/count_nested"];

/// Stops counting open connections.
pub(super) fn stop_counting() -> Result<()> {
    let stop = |pin| std::fs::remove_file(pin).with_context(|| format!("cannot remove {pin}"));
    COUNTING.into_iter().try_for_each(stop)
}

impl Way {
    /// Those that are compared, the one without a program first. A bare select would be no fair
    /// comparison, as it counts nothing.
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

    /// Whether there is an aim for it.
    pub(super) fn is_compared(self) -> bool {
        matches!(self, Self::Alone(Variant::Policy(_)) | Self::Whole(_))
    }
}

/// Two groups of listeners: a socket can be in one socket array only.
pub(super) struct Groups {
    /// Programs are attached to it.
    alone: Listeners,
    programs: Programs,
    /// By variant: connections that were made under it.
    dealt: Vec<u64>,
    /// It is steered as the command does it.
    whole: Listeners,
    host: Host,
    key: GroupKey,
}

impl Groups {
    pub(super) fn new() -> Result<Self> {
        let (alone, whole) = (Listeners::new()?, Listeners::new()?);
        let programs = Programs::load(&alone.listeners, alone.address, 6)?;
        let host = Host::open()?;
        let key = host.find(&format!("tcp:{}", whole.address).parse()?)?.key;
        let dealt = vec![0; Variant::ALL.len()];
        Ok(Self { alone, programs, dealt, whole, host, key })
    }

    /// What a connection costs, in nanoseconds.
    pub(super) fn measure(&mut self, way: Way) -> Result<f64> {
        match way {
            Way::Alone(variant) => {
                let index = Variant::ALL.iter().position(|one| *one == variant);
                let index = index.context("no such variant")?;
                self.programs.attach(index, &self.alone.listeners[0])?;
                self.dealt[index] += CONNECTIONS;
                self.alone.laps()
            }
            Way::Detached => {
                self.attach(Policy::RoundRobin)?.detach(&self.host)?;
                self.whole.laps()
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
        let attach = Attach { decide: Some(Decide::Policy(policy)), ..Attach::default() };
        Ok(Balancer::attach(&self.host, &self.key, &attach)?.0)
    }

    fn measure_whole(&self, balancer: Balancer) -> Result<f64> {
        let cost = self.whole.laps()?;
        self.check_picks()?;
        balancer.detach(&self.host)?;
        Ok(cost)
    }

    /// Refuses the measurements if a program did not pick whenever it should have.
    pub(super) fn check(&self) -> Result<()> {
        let mut dealt = self.dealt.iter().enumerate();
        dealt.try_for_each(|(variant, dealt)| self.programs.check_picks(variant, *dealt))
    }

    fn check_picks(&self) -> Result<()> {
        let status = self.host.status(&self.key)?;
        let picks = status.counters.iter().find(|counter| counter.reason == "picks");
        let picks = picks.map_or(0, |picks| picks.count);
        if picks != CONNECTIONS {
            bail!("the program picked {picks} times for {CONNECTIONS} connections");
        }
        Ok(())
    }
}

/// A group of listeners.
pub(super) struct Listeners {
    listeners: Vec<TcpListener>,
    address: SocketAddr,
    epoll: OwnedFd,
}

impl Listeners {
    pub(super) fn new() -> Result<Self> {
        let listeners = Bind::new(loopback(false)).nonblocking(true).listeners(MEMBERS)?;
        let address = listeners[0].local_addr()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, listener) in (0..).zip(&listeners) {
            epoll::add(&epoll, listener, epoll::EventData::new_u64(index), epoll::EventFlags::IN)?;
        }
        Ok(Self { listeners, address, epoll })
    }

    pub(super) fn laps(&self) -> Result<f64> {
        self.lap()?;
        let mut costs = (0..LAPS).map(|_| self.lap()).collect::<Result<Vec<f64>>>()?;
        costs.sort_unstable_by(f64::total_cmp);
        Ok(costs[LAPS / 2])
    }

    fn lap(&self) -> Result<f64> {
        let start = Instant::now();
        let mut streams = Vec::with_capacity(2 * LAP);
        for _ in 0..LAP {
            let client = TcpStream::connect(self.address)?;
            // Closing resets the connection then, and none is left in TIME_WAIT.
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            streams.push(client);
        }
        self.accept_lap(&mut streams)?;
        drop(streams);
        Ok(start.elapsed().as_nanos() as f64 / LAP as f64)
    }

    fn accept_lap(&self, streams: &mut Vec<TcpStream>) -> Result<()> {
        let mut events = Vec::with_capacity(MEMBERS);
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut accepted = 0;
        while accepted < LAP {
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&second))?;
            if events.is_empty() {
                bail!("{accepted} of {LAP} connections arrived");
            }
            for event in &events {
                streams.push(self.listeners[event.data.u64() as usize].accept()?.0);
            }
            accepted += events.len();
        }
        Ok(())
    }
}
