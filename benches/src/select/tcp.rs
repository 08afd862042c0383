//! Connections over loopback, made, accepted and closed by one thread.
//!
//! The policies are attached and detached as the command does it, for each measurement: what
//! counts open connections, host-wide, is then there and gone with them, and in the figure.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reuseport::group::GroupKey;
use reuseport::{Attach, Balancer, Decide, Host};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::sockopt;
use sk_reuseport::Ebpf;
use sk_reuseport::net::{Bind, loopback};
use sk_reuseport::programs::SkReuseport;

use super::programs::Variant;

static BARE: &[u8] = include_bytes!("../../bpf/bare.bpf.o");

/// Listeners: a usual number of workers.
pub(super) const MEMBERS: usize = 8;
/// Connections to a lap.
const LAP: usize = 64;
/// Laps to a measurement, of which the median counts, after one that nobody times.
const LAPS: usize = 5;

/// The variants that are compared. A bare select would be no fair comparison, as it counts nothing.
pub(super) fn variants() -> impl Iterator<Item = Variant> + Clone {
    Variant::ALL.into_iter().filter(|variant| *variant != Variant::Bare)
}

/// A group of listeners.
pub(super) struct Group {
    listeners: Vec<TcpListener>,
    address: SocketAddr,
    epoll: OwnedFd,
    host: Host,
    key: GroupKey,
    empty: Ebpf,
}

impl Group {
    pub(super) fn new() -> Result<Self> {
        let listeners = Bind::new(loopback(false)).nonblocking(true).listeners(MEMBERS)?;
        let address = listeners[0].local_addr()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, listener) in (0..).zip(&listeners) {
            epoll::add(&epoll, listener, epoll::EventData::new_u64(index), epoll::EventFlags::IN)?;
        }
        let host = Host::open()?;
        let key = host.find(&format!("tcp:{address}").parse()?)?.key;
        let mut empty = Ebpf::load(BARE)?;
        program(&mut empty)?.load()?;
        Ok(Self { listeners, address, epoll, host, key, empty })
    }

    /// What a connection costs under a variant, in nanoseconds.
    pub(super) fn measure(&mut self, variant: Variant) -> Result<f64> {
        match variant {
            Variant::None => self.laps(),
            Variant::Empty | Variant::Bare => {
                program(&mut self.empty)?.attach(&self.listeners[0])?;
                let cost = self.laps()?;
                SkReuseport::detach(&self.listeners[0])?;
                Ok(cost)
            }
            Variant::Policy(policy) => {
                let attach = Attach { decide: Some(Decide::Policy(policy)), ..Attach::default() };
                let (balancer, _) = Balancer::attach(&self.host, &self.key, &attach)?;
                let cost = self.laps()?;
                self.check_picks()?;
                balancer.detach(&self.host)?;
                Ok(cost)
            }
        }
    }

    fn check_picks(&self) -> Result<()> {
        let status = self.host.status(&self.key)?;
        let picks = status.counters.iter().find(|counter| counter.reason == "picks");
        let (picks, expected) = (picks.map_or(0, |picks| picks.count), (LAP * (1 + LAPS)) as u64);
        if picks != expected {
            bail!("the program picked {picks} times for {expected} connections");
        }
        Ok(())
    }

    fn laps(&self) -> Result<f64> {
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

fn program(ebpf: &mut Ebpf) -> Result<&mut SkReuseport> {
    Ok(ebpf.program_mut("empty").context("no program")?.try_into()?)
}
