//! The sockets of the workers, which the supervisor makes and keeps: a worker that dies closes none.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use reuseport::group::Protocol;
use reuseport::id::Cookie;
use reuseport::net::Bind;
use reuseport::{Host, Report};
use rustix::net::sockopt::{set_socket_reuseaddr, socket_cookie};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};

use super::machine::WorkerId;
use super::spec::Listen;
use crate::error::Failure;

/// A socket that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) fd: OwnedFd,
    pub(super) cookie: Cookie,
}

impl Kept {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let cookie = Cookie::new(socket_cookie(&fd)?)
            .ok_or_else(|| io::Error::other("the kernel gave a socket no cookie"))?;
        Ok(Self { fd, cookie })
    }
}

/// The sockets of all workers: of each one in the order of the addresses.
#[derive(Debug, Default)]
pub(super) struct Sockets(BTreeMap<WorkerId, Vec<Kept>>);

impl Sockets {
    /// Makes those of a worker.
    pub(super) fn open(&mut self, id: WorkerId, listen: &[Listen], backlog: i32) -> Result<()> {
        let open =
            |listen: &Listen| make(listen, backlog).map_err(|error| refused(listen, error, None));
        let kept = listen.iter().map(open).collect::<Result<Vec<_>>>()?;
        self.0.insert(id, kept);
        Ok(())
    }

    /// Lets another worker have those of this one, too.
    pub(super) fn share(&mut self, from: WorkerId, with: WorkerId) -> Result<()> {
        let fds = duplicate(self.of(from))?;
        let kept = fds.into_iter().map(Kept::new).collect::<io::Result<_>>();
        self.0.insert(with, kept.context("cannot share a socket")?);
        Ok(())
    }

    pub(super) fn insert(&mut self, id: WorkerId, kept: Vec<Kept>) {
        self.0.insert(id, kept);
    }

    pub(super) fn of(&self, id: WorkerId) -> &[Kept] {
        self.0.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(super) fn cookies_of(&self, id: WorkerId) -> Vec<Cookie> {
        self.of(id).iter().map(|kept| kept.cookie).collect()
    }

    /// Returns whether there were any.
    pub(super) fn close(&mut self, id: WorkerId) -> bool {
        self.0.remove(&id).is_some()
    }

    pub(super) fn close_generation(&mut self, generation: u32) {
        self.0.retain(|id, _| id.generation != generation);
    }

    /// The cookies at the address with this number, with their generations.
    pub(super) fn generations(&self, at: usize) -> Vec<(Cookie, u32)> {
        let of = |(id, kept): (&WorkerId, &Vec<Kept>)| Some((kept.get(at)?.cookie, id.generation));
        self.0.iter().filter_map(of).collect()
    }

    /// A socket at that address.
    pub(super) fn any(&self, at: usize) -> Option<&Kept> {
        self.0.values().find_map(|kept| kept.get(at))
    }
}

fn make(listen: &Listen, backlog: i32) -> io::Result<Kept> {
    let bind = Bind::new(listen.address).backlog(backlog);
    let fd: Option<OwnedFd> = match listen.protocol {
        Protocol::Tcp => bind.listeners(1)?.pop().map(Into::into),
        Protocol::Udp => bind.udp_sockets(1)?.pop().map(Into::into),
    };
    Kept::new(fd.ok_or_else(|| io::Error::other("no socket was made"))?)
}

/// Fails if another process has the address, whether with SO_REUSEPORT or without: a socket that is bound without it
/// meets both. Traffic sees nothing of it, because it does not listen.
pub(super) fn check_free(listen: &Listen, host: Option<&Host>) -> Result<()> {
    let family = match listen.address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, protocol) = match listen.protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let try_it = || -> io::Result<()> {
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
        if listen.protocol == Protocol::Tcp {
            // Connections that have ended are no reason.
            set_socket_reuseaddr(socket.as_fd(), true)?;
        }
        Ok(bind(&socket, &listen.address)?)
    };
    try_it().map_err(|error| refused(listen, error, host))
}

fn refused(listen: &Listen, error: io::Error, host: Option<&Host>) -> anyhow::Error {
    if error.kind() != io::ErrorKind::AddrInUse {
        return anyhow::Error::new(error).context(format!("cannot listen at {listen}"));
    }
    let who = host.and_then(|host| holder(listen, host));
    let who = who.unwrap_or_else(|| "another process has that address".to_owned());
    Failure::new(
        format!("cannot listen at {listen}: {who}"),
        "stop it first, or listen elsewhere; nothing was changed",
    )
    .into()
}

/// Who has the address.
fn holder(listen: &Listen, host: &Host) -> Option<String> {
    let spec = listen.to_string().parse().ok()?;
    match host.find(&spec) {
        Ok(group) => {
            let holder = group.members.iter().flat_map(|member| &member.holders).next()?;
            Some(format!("{} (pid {}) has that address", holder.comm, holder.pid))
        }
        Err(error) => {
            let explained = host.explain(error, &spec);
            Some(Report::new(&explained).causes())
        }
    }
}

/// The addresses as text, for errors and for the state file.
pub(super) fn written(listen: &[Listen]) -> Vec<String> {
    listen.iter().map(ToString::to_string).collect()
}

/// Duplicates the sockets of a worker, to pass them on.
pub(super) fn duplicate(kept: &[Kept]) -> Result<Vec<OwnedFd>> {
    let duplicate = |kept: &Kept| kept.fd.try_clone();
    kept.iter().map(duplicate).collect::<io::Result<_>>().context("cannot duplicate a socket")
}
