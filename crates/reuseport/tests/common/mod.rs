//! Fixtures that both test binaries of this crate share: sockets, groups, a process that holds a
//! socket ([`helper`]), state of an earlier version ([`previous`]), threads with fewer rights ([`rights`]), a group to operate on ([`scene`]), traffic
//! ([`traffic`], [`segment`]), followed groups ([`steering`]), the steps of an operation ([`steps`]), another owner's program ([`theirs`]), threads that wait ([`waiting`]), and the
//! state that a failed operation must leave as it was ([`world`]).

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod helper;
pub(crate) mod previous;
pub(crate) mod rights;
pub(crate) mod scene;
pub(crate) mod segment;
pub(crate) mod steered;
pub(crate) mod steering;
pub(crate) mod steps;
pub(crate) mod theirs;
pub(crate) mod traffic;
pub(crate) mod waiting;
pub(crate) mod world;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use reuseport::Host;
use reuseport::group::{Group, GroupKey};
use reuseport::id::Cookie;
use rustix::net::sockopt;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

pub(crate) const BACKLOG: i32 = 64;

/// A listening member at `address`; port 0 for a new group.
pub(crate) fn tcp(address: &str) -> OwnedFd {
    tcp_with(address, |_| {})
}

/// Like [`tcp`]; `prepare` sets options before the socket is bound.
pub(crate) fn tcp_with(address: &str, prepare: impl FnOnce(&OwnedFd)) -> OwnedFd {
    let socket = bound(address, SocketType::STREAM, prepare);
    net::listen(&socket, BACKLOG).unwrap();
    socket
}

/// A bound UDP member at `address`; port 0 for a new group.
pub(crate) fn udp(address: &str) -> OwnedFd {
    bound(address, SocketType::DGRAM, |_| {})
}

fn bound(address: &str, kind: SocketType, prepare: impl FnOnce(&OwnedFd)) -> OwnedFd {
    let address: SocketAddr = address.parse().unwrap();
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    prepare(&socket);
    net::bind(&socket, &address).unwrap();
    socket
}

/// The local address of a socket.
pub(crate) fn local_address(socket: impl AsFd) -> SocketAddr {
    net::getsockname(socket).unwrap().try_into().unwrap()
}

/// The cookie of a socket.
pub(crate) fn cookie(socket: impl AsFd) -> Cookie {
    Cookie::new(sockopt::socket_cookie(socket).unwrap()).unwrap()
}

/// The processes that watch a group's members, by member.
pub(crate) fn owners(host: &Host, key: &GroupKey) -> HashMap<Cookie, u32> {
    let members = host.status(key).unwrap().members;
    members.iter().filter_map(|status| Some((status.member.cookie?, status.owner?))).collect()
}

/// The groups in the calling thread's network namespace.
pub(crate) fn groups_here(host: &Host) -> Vec<Group> {
    let here = host.own_netns().unwrap();
    let mut groups = host.groups().unwrap();
    groups.retain(|g| g.key.netns == here);
    groups
}

/// The only group in the calling thread's network namespace.
pub(crate) fn only_group(host: &Host) -> Group {
    let mut groups = groups_here(host);
    assert_eq!(groups.len(), 1, "{groups:#?}");
    groups.remove(0)
}
