//! Connections that were accepted, and every way in which they end.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use rustix::net::{bind, connect, connect_unspec, listen, sockopt};
use test_support::wait::{self, BOUND};

use super::{Pair, ends_at_zero, none_open, reset, stream_socket};

const PAIRS: usize = 5;

/// Runs a case for both ends of connections, once as client and server and once the other way round.
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
fn one_closes_and_then_the_other() {
    from_either_side(|first, mut second| {
        drop(first);
        assert_eq!(second.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn one_resets() {
    from_either_side(|first, mut second| {
        reset(first);
        wait::until("it has arrived", BOUND, || second.read(&mut [0]).is_err());
    });
}

/// To close what has not been read resets.
#[test]
fn one_closes_with_something_unread() {
    from_either_side(|first, mut second| {
        second.write_all(b"for nobody").unwrap();
        drop(first);
    });
}

#[test]
fn half_of_it_is_closed_and_then_the_other_half() {
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
fn both_close_both_halves_at_once() {
    from_either_side(|first, second| {
        first.shutdown(Shutdown::Both).unwrap();
        second.shutdown(Shutdown::Both).unwrap();
    });
}

#[test]
fn half_closed_is_open() {
    ends_at_zero(2, |scene| {
        let mut pairs = scene.pairs(4);
        for Pair { client, server } in &mut pairs {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        }
        assert_eq!(scene.open(), [2, 2]);
    });
}

/// What is reset is open no more, though the server still has its descriptor.
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

/// The server's end is in TIME_WAIT. Then the same client comes from the same port.
#[test]
fn what_is_in_time_wait_is_not_open_and_may_come_again() {
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

/// connect(2) to no address takes a connection apart and leaves the socket for other uses.
#[test]
fn an_accepted_socket_that_disconnects_begins_anew() {
    ends_at_zero(1, |scene| {
        let Pair { client, server } = scene.pairs(1).remove(0);
        connect_unspec(&server).unwrap();
        none_open();
        drop(client);

        // It connects by itself. At the other end it is a client like any other.
        connect(&server, &scene.at).unwrap();
        let accepted = scene.accept(1);
        scene.opens(1);
        connect_unspec(&server).unwrap();
        drop(accepted);
        none_open();

        // It listens: what it accepts has nothing to do with the member that once accepted it.
        listen(&server, 8).unwrap();
        let listener = TcpListener::from(rustix::io::dup(&server).unwrap());
        let at = SocketAddr::new(scene.at.ip(), listener.local_addr().unwrap().port());
        let strangers = (TcpStream::connect(at).unwrap(), listener.accept().unwrap());
        none_open();
        drop(strangers);
    });
}
