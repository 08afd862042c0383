//! Connections that are never accepted: unfinished handshakes, full queues, SYN cookies, TCP Fast
//! Open.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use reuseport::net::Bind;
use rustix::net::{SendFlags, listen, sendto};
use test_support::process::{close, spawn};
use test_support::program;
use test_support::wait::{self, BOUND};

use super::{Scene, ends_at_zero, none_open, reset, stream_socket, sysctl};
use crate::common::segment::{SYN, Segment, Sender};
use crate::common::traffic::by_slot;

/// Clients that drop every packet and so answer no SYN-ACK. Dropping this ends them.
struct Deaf(Child);

impl Deaf {
    /// Starts `count` clients, and returns when their SYNs are sent, with `data` in them, if any
    /// (Fast Open).
    fn connect(count: usize, to: SocketAddr, data: &str) -> Self {
        // Python does it, because rustix has no safe function for SO_ATTACH_FILTER.
        const SCRIPT: &str = r#"
import ctypes, socket, struct, sys
count, family, address, port, data = sys.argv[1:]
nothing = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0)) # return 0 bytes
program = struct.pack("HL", 1, ctypes.addressof(nothing))
clients = []
for _ in range(int(count)):
    client = socket.socket(getattr(socket, family), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    client.setsockopt(socket.SOL_SOCKET, 26, program) # SO_ATTACH_FILTER
    try:
        if data: client.sendto(data.encode(), 0x20000000, (address, int(port))) # MSG_FASTOPEN
        else: client.connect((address, int(port)))
    except BlockingIOError: pass
    clients.append(client)
print("sent", flush=True)
sys.stdin.read()
"#;
        let family = if to.is_ipv4() { "AF_INET" } else { "AF_INET6" };
        let mut python = Command::new(program("python3"));
        python.args(["-c", SCRIPT, &count.to_string(), family]);
        python.args([&to.ip().to_string(), &to.port().to_string(), data]);
        let mut child = spawn(python.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "sent\n");
        Self(child)
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scene {
    fn half_open(&self) -> u32 {
        let group = self.host.group_of(&self.members[0]).unwrap();
        group.members.iter().map(|member| member.queue.half_open).sum()
    }

    #[track_caller]
    fn waits_for_half_open(&self, count: u32) {
        wait::until(&format!("{count} are half-open"), BOUND, || self.half_open() == count);
    }
}

/// How many SYNs with data the kernel has accepted in this namespace.
fn fast_opened() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "TCPFastOpenPassive").unwrap().1.parse().unwrap()
}

/// Replaces the members by ones that accept data in SYNs, and lets clients send it without cookies.
fn allow_fast_open(scene: &mut Scene) {
    // TFO_CLIENT_ENABLE, TFO_SERVER_ENABLE, TFO_CLIENT_NO_COOKIE, TFO_SERVER_COOKIE_NOT_REQD,
    // TFO_SERVER_WO_SOCKOPT1 (include/net/tcp.h). The first listen(2)
    // reads the last one (__inet_listen_sk).
    sysctl("tcp_fastopen", 1 | 2 | 4 | 0x200 | 0x400);
    let members = by_slot(Bind::new(scene.at).nonblocking(true).listeners(2).unwrap());
    close(std::mem::replace(&mut scene.members, members));
    scene.attach();
}

fn fast_open(scene: &Scene) -> TcpStream {
    const MSG_FASTOPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);

    let client = stream_socket(scene.at);
    assert_eq!(sendto(&client, b"early", MSG_FASTOPEN, &scene.at).unwrap(), 5);
    client.into()
}

/// The client sends a SYN and then a RST.
#[test]
fn handshakes_that_are_reset() {
    ends_at_zero(2, |scene| {
        let stranger = Sender::new(scene.at);
        for _ in 0..7 {
            stranger.send(&Segment::new(SYN));
            scene.waits_for_half_open(0);
        }
        let stats = scene.balancer().stats().unwrap();
        assert_eq!(stats.picks(), 7);
        none_open();
    });
}

#[test]
fn unfinished_handshakes() {
    ends_at_zero(2, |scene| {
        let deaf = Deaf::connect(6, scene.at, "");
        scene.waits_for_half_open(6);
        none_open();
        drop(deaf);
        // The next SYN-ACK is answered with RST, because the client has closed.
        scene.waits_for_half_open(0);
    });
}

#[test]
fn unfinished_handshakes_when_their_listener_closes() {
    ends_at_zero(2, |scene| {
        let deaf = Deaf::connect(6, scene.at, "");
        scene.waits_for_half_open(6);
        close(scene.members.remove(0));
        scene.waits_for_half_open(3);
        scene.attach();
        assert_eq!(scene.open(), [0]);
        drop(deaf);
    });
}

#[test]
fn a_queue_that_overflows() {
    ends_at_zero(1, |scene| {
        listen(&scene.members[0], 2).unwrap();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let client = stream_socket(scene.at);
                rustix::io::ioctl_fionbio(&client, true).unwrap();
                let _ = rustix::net::connect(&client, &scene.at);
                client
            })
            .collect();
        // A queue holds one more than its backlog.
        scene.opens(3);
        drop(clients);
        let accepted = scene.accept(3);
        drop(accepted);
    });
}

#[test]
fn reset_before_they_are_accepted() {
    ends_at_zero(2, |scene| {
        let clients = scene.connect(6);
        scene.opens(6);
        clients.into_iter().for_each(reset);
        none_open();
        assert_eq!(scene.accept(6).len(), 6);
    });
}

#[test]
fn connections_from_syn_cookies() {
    ends_at_zero(2, |scene| {
        sysctl("tcp_syncookies", 2); // always
        let pairs = scene.pairs(8);
        drop(pairs);
    });
}

#[test]
fn fast_open_and_closes_of_every_kind() {
    ends_at_zero(2, |scene| {
        allow_fast_open(scene);
        let before = fast_opened();
        for count in 1..=6 {
            let client = fast_open(scene);
            let mut server = scene.accept(1).remove(0);
            let mut early = [0; 5];
            server.read_exact(&mut early).unwrap();
            scene.opens(1);
            match count % 3 {
                0 => drop((client, server)),
                1 => reset(client),
                _ => reset(server),
            }
            none_open();
        }
        assert_eq!(fast_opened() - before, 6);
    });
}

#[test]
fn fast_open_that_is_reset_before_it_is_accepted() {
    ends_at_zero(2, |scene| {
        allow_fast_open(scene);
        let before = fast_opened();
        let clients: Vec<TcpStream> = (0..6).map(|_| fast_open(scene)).collect();
        scene.opens(6);
        clients.into_iter().for_each(reset);
        none_open();
        assert_eq!(fast_opened() - before, 6);
    });
}

/// A SYN with data makes a connection at once, even if the client sends nothing more.
#[test]
fn fast_open_with_an_unfinished_handshake() {
    ends_at_zero(2, |scene| {
        allow_fast_open(scene);
        let deaf = Deaf::connect(4, scene.at, "early");
        scene.opens(4);
        assert_eq!(scene.open(), [2, 2]);
        drop(deaf);
        none_open();

        // The same, and the listener closes.
        let deaf = Deaf::connect(4, scene.at, "early");
        scene.opens(4);
        close(scene.members.remove(0));
        scene.attach();
        drop(deaf);
    });
}
