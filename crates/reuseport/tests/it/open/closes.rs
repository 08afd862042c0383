//! Every way in which an accepted connection ends.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use rustix::net::{bind, connect, connect_unspec, listen, sockopt};
use test_support::wait::{self, BOUND};

use super::{Pair, ends_at_zero, none_open, reset, stream_socket};

const PAIRS: usize = 5;

/// Runs a case with the client as the first end and the server as the second, then vice versa.
fn from_either_side(case: impl Fn(TcpStream, TcpStream) + Sync) {
    ends_at_zero(2, |scene| {
        for Pair { client, server } in scene.pairs(PAIRS) {
            case(client, server);
        }
        none_open();
        for Pair { client, server } in scene.pairs(PAIRS) {
            case(server, client);
        }
    });
}

#[test]
fn one_end_closes_and_then_the_other() {
    from_either_side(|first, mut second| {
        drop(first);
        assert_eq!(second.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn one_end_resets() {
    from_either_side(|first, mut second| {
        reset(first);
        wait::until("it has arrived", BOUND, || second.read(&mut [0]).is_err());
    });
}

/// Closing a socket with unread data sends RST.
#[test]
fn one_end_closes_with_unread_data() {
    from_either_side(|first, mut second| {
        second.write_all(b"unread").unwrap();
        drop(first);
    });
}

#[test]
fn one_direction_is_shut_down_and_then_the_other() {
    from_either_side(|mut first, mut second| {
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(second.read(&mut [0]).unwrap(), 0);
        second.write_all(b"x").unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 1);
        second.shutdown(Shutdown::Write).unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn both_ends_shut_down_both_directions() {
    from_either_side(|first, second| {
        first.shutdown(Shutdown::Both).unwrap();
        second.shutdown(Shutdown::Both).unwrap();
    });
}

#[test]
fn a_half_closed_connection_is_open() {
    ends_at_zero(2, |scene| {
        let mut pairs = scene.pairs(4);
        for Pair { client, server } in &mut pairs {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        }
        assert_eq!(scene.open(), [2, 2]);
    });
}

/// What the client does then is no work for the worker: it may keep its end open for minutes.
#[test]
fn a_connection_counts_until_the_worker_closes_its_end() {
    ends_at_zero(2, |scene| {
        // FIN_WAIT1, then FIN_WAIT2.
        let closed: Vec<TcpStream> = scene.pairs(4).into_iter().map(|pair| pair.client).collect();
        none_open();
        // The worker would still read.
        let shut_down = scene.pairs(4);
        for Pair { server, .. } in &shut_down {
            server.shutdown(Shutdown::Write).unwrap();
        }
        none_open();
        // LAST_ACK.
        let mut last = scene.pairs(4);
        for Pair { client, server } in &mut last {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        }
        assert_eq!(scene.open(), [2, 2]);
        let ends: Vec<TcpStream> = last.into_iter().map(|pair| pair.client).collect();
        none_open();
        drop((closed, shut_down, ends));
    });
}

/// The server still has the descriptor of the connection.
#[test]
fn a_connection_that_was_reset_is_not_open() {
    ends_at_zero(2, |scene| {
        let pairs = scene.pairs(4);
        assert_eq!(scene.open(), [2, 2]);
        let servers: Vec<TcpStream> = pairs
            .into_iter()
            .map(|pair| {
                reset(pair.client);
                pair.server
            })
            .collect();
        none_open();
        drop(servers);
    });
}

/// The end of the server is in TIME_WAIT when a client connects from the same port again.
#[test]
fn a_connection_in_time_wait_is_not_open_and_may_be_replaced() {
    ends_at_zero(1, |scene| {
        for _ in 0..3 {
            let Pair { client, mut server } = scene.pairs(1).remove(0);
            let from = client.local_addr().unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            drop(client);
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
            none_open();
            drop(server);

            let again = stream_socket(scene.at);
            sockopt::set_socket_reuseaddr(&again, true).unwrap();
            bind(&again, &from).unwrap();
            connect(&again, &scene.at).unwrap();
            let accepted = scene.accept(1);
            scene.opens(1);
            drop((again, accepted));
            none_open();
        }
    });
}

/// connect(2) with AF_UNSPEC dissolves a connection and leaves the socket for other uses.
#[test]
fn an_accepted_socket_that_disconnects_is_not_counted_again() {
    ends_at_zero(1, |scene| {
        let Pair { client, server } = scene.pairs(1).remove(0);
        connect_unspec(&server).unwrap();
        none_open();
        drop(client);

        // It connects as a client.
        connect(&server, &scene.at).unwrap();
        let accepted = scene.accept(1);
        scene.opens(1);
        connect_unspec(&server).unwrap();
        drop(accepted);
        none_open();

        // It listens: connections that it accepts do not count at the member that accepted it.
        listen(&server, 8).unwrap();
        let listener = TcpListener::from(rustix::io::dup(&server).unwrap());
        let at = SocketAddr::new(scene.at.ip(), listener.local_addr().unwrap().port());
        let strangers = (TcpStream::connect(at).unwrap(), listener.accept().unwrap());
        none_open();
        drop(strangers);
    });
}
