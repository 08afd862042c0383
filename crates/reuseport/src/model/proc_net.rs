//! The lines of `/proc/net/udp` and `/proc/net/udp6`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_ESTABLISHED` in include/net/tcp_states.h: a UDP socket that is connected.
const CONNECTED: &str = "01";

/// The local addresses of connected sockets.
pub(crate) fn connected(table: &str) -> impl Iterator<Item = SocketAddr> {
    table.lines().filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, local, _, CONNECTED, ..] => address(local),
        _ => None,
    })
}

/// `0100007F:1F90`: words of 32 bits as this machine reads them, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let bytes: [u8; 16] =
                [word(0)?, word(1)?, word(2)?, word(3)?].concat().try_into().ok()?;
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connected_sockets_are_told_from_others() {
        let word = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let (home, any) = (word([127, 0, 0, 1]), "0".repeat(24));
        let table = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n\
             1: {home}:1F90 {home}:8000 01 00000000:00000000 00:00000000 00000000 0\n\
             2: {home}:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000 0\n\
             3: {any}{}:0035 {any}{}:8000 01 00000000:00000000 00:00000000 00000000 0\n\
             4: nothing\n5: 12:xy 0:0 01\n",
            word([0, 0, 0, 1]),
            word([0, 0, 0, 1]),
        );
        let expected: [SocketAddr; 2] =
            ["127.0.0.1:8080".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(connected(&table).collect::<Vec<_>>(), expected);
    }
}
