//! A group of listeners to operate on.

use std::net::TcpListener;

use reuseport::group::GroupKey;
use reuseport::{Attach, Balancer, Host, Result};

use super::world::{World, key_of, listeners};

/// A group that is not steered yet.
pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) key: GroupKey,
    pub(crate) members: Vec<TcpListener>,
}

impl Scene {
    pub(crate) fn new(members: usize) -> Self {
        let host = Host::open().unwrap();
        let members = listeners(members);
        let key = key_of(&host, &members[0]);
        Self { host, key, members }
    }

    pub(crate) fn attach(&self, attach: &Attach) -> Result<()> {
        Balancer::attach(&self.host, &self.key, attach).map(|_| ())
    }

    pub(crate) fn world(&self) -> World {
        World::of(&self.host, &[(&self.key, &self.members)]).remove(0)
    }
}
