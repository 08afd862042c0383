//! UDP groups of one name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rustix::net::connect_unspec;
use sk_reuseport::net::Bind;

/// A UDP group on a wildcard address with `members`, and one more member for [`split_off`].
///
/// # Panics
///
/// Without descriptors. Takes a port that is free in the caller's network namespace: nothing else may bind
/// sockets there.
pub fn before_split(wildcard: IpAddr, members: usize) -> (Vec<UdpSocket>, UdpSocket) {
    // A disconnect releases a port that the kernel chose.
    let free = UdpSocket::bind((wildcard, 0)).expect("a free port");
    let at = free.local_addr().expect("a bound socket");
    drop(free);
    let bind = |count| {
        let bind = Bind::new(at).nonblocking(true);
        bind.udp_sockets(count).expect("sockets on a free port")
    };
    // The kernel looks for a group at the newest socket of the port, for IPv6 at the oldest.
    let mut sockets = bind(members + 1);
    let leaver = if wildcard.is_ipv4() { sockets.pop() } else { Some(sockets.remove(0)) };
    (sockets, leaver.expect("it was bound"))
}

/// Takes the socket out of its group, and binds another one next to it: the kernel puts the two into a new
/// group (`reuseport_add_sock`). On any kernel: connecting a socket on a wildcard address removes it from
/// its group.
///
/// # Panics
///
/// If the socket is not from [`before_split`].
pub fn split_off(leaver: UdpSocket) -> Vec<UdpSocket> {
    let at = leaver.local_addr().expect("a bound socket");
    leaver.connect(loopback(at)).expect("UDP connects to any port");
    connect_unspec(&leaver).expect("a connected socket disconnects");
    let newcomer = Bind::new(at).nonblocking(true).udp_sockets(1).expect("a group can be joined");
    [leaver].into_iter().chain(newcomer).collect()
}

/// Where sockets on this wildcard address are reached.
pub fn loopback(wildcard: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match wildcard {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, wildcard.port())
}
