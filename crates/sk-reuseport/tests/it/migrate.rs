//! Connections whose listener is closed before they are accepted.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use sk_reuseport::Ebpf;
use sk_reuseport::net::Bind;
use test_support::loopback;
use test_support::netns;
use test_support::wait::{self, BOUND};

use crate::fixtures::*;

const CONNECTIONS: u64 = 20;

/// Two listeners with a program, and [`CONNECTIONS`] connections waiting at the first.
fn queued(program: &str) -> (Ebpf, Vec<TcpListener>, Vec<TcpStream>) {
    let listeners = Bind::new(loopback(false)).listeners(2).unwrap();
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    for (index, listener) in listeners.iter().enumerate() {
        sockets(&mut ebpf).set(index as u32, listener, 0).unwrap();
    }
    loaded(&mut ebpf, program).attach(&listeners[0]).unwrap();
    choose(&mut ebpf, 0);
    choose_for_migrating(&mut ebpf, 1);
    let address = listeners[0].local_addr().unwrap();
    let clients = (0..CONNECTIONS)
        .map(|number| {
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(BOUND)).unwrap();
            client.write_all(&[number as u8]).unwrap();
            client
        })
        .collect();
    assert_eq!(counted(&ebpf, Counter::Picked), CONNECTIONS);
    (ebpf, listeners, clients)
}

#[test]
fn a_migrating_program_hands_all_of_them_to_the_sibling() {
    netns::isolated(|| {
        let (ebpf, mut listeners, clients) = queued("select_or_move");
        drop(listeners.remove(0));
        for mut client in clients {
            let sibling = ready(&listeners, BOUND).expect("a connection was handed over");
            let (mut accepted, peer) = listeners[sibling].accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap(), "in order");
            let mut byte = [0];
            accepted.read_exact(&mut byte).unwrap();
            accepted.write_all(&byte).unwrap();
            client.read_exact(&mut byte).unwrap();
        }
        assert_eq!(counted(&ebpf, Counter::Migrated), CONNECTIONS);
        assert_eq!(counted(&ebpf, Counter::Picked), 2 * CONNECTIONS);
    });
}

#[test]
fn without_one_all_of_them_are_reset() {
    netns::isolated(|| {
        let (ebpf, mut listeners, clients) = queued("select_socket");
        drop(listeners.remove(0));
        for mut client in clients {
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert_eq!(ready(&listeners, std::time::Duration::ZERO), None);
        assert_eq!(counted(&ebpf, Counter::Migrated), 0);
    });
}

#[test]
fn a_listener_that_closes_leaves_its_index_empty() {
    netns::isolated(|| {
        let (mut ebpf, mut listeners, _clients) = queued("select_or_move");
        drop(listeners.remove(0));
        let array = sockets(&mut ebpf);
        // The kernel removes the socket from the array some time after close(2).
        wait::until("the index is empty", BOUND, || array.get(&0).unwrap().is_none());
        assert_eq!(array.indices().collect::<Result<Vec<_>, _>>().unwrap(), [1]);
    });
}
