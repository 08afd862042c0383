//! What counting open connections costs those that are none of ours: programs for the whole host
//! run whenever a TCP connection changes its state, also for servers that nobody attached to.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use reuseport::group::GroupKey;
use reuseport::{Attach, Balancer, Host};
use sk_reuseport::net::{Bind, loopback};

use super::tcp::{COUNTING, Listeners, stop_counting};

/// A server that nobody attaches to, and others whose groups are steered.
pub(super) struct Beside {
    server: Listeners,
    host: Host,
    groups: Vec<(GroupKey, Vec<TcpListener>)>,
}

impl Beside {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { server: Listeners::new()?, host: Host::open()?, groups: Vec::new() })
    }

    /// Attaches to more groups, of two listeners each, until there are so many.
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

    /// What a connection to the server costs in nanoseconds, counted or not.
    pub(super) fn measure(&self, counted: bool) -> Result<f64> {
        let counts = || COUNTING.iter().all(|pin| Path::new(pin).exists());
        match (counted, counts()) {
            (false, true) => stop_counting()?,
            (true, false) => {
                let (key, _) = self.groups.first().context("nobody has attached")?;
                Balancer::attach(&self.host, key, &Attach::default())?;
            }
            _ => (),
        }
        if counts() != counted {
            bail!("open connections are counted or not, but not as they should be");
        }
        self.server.laps()
    }

    pub(super) fn detach(self) -> Result<()> {
        for (key, _) in &self.groups {
            reuseport::detach(&self.host, key)?;
        }
        Ok(())
    }
}
