//! Members that are on standby until a thread waits for connections on them.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command};
use std::thread;

use reuseport::group::GroupKey;
use reuseport::id::Cookie;
use reuseport::status::State;
use reuseport::{Attach, Balancer, ErrorKind, HoldNew, Host, Policy};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sk_reuseport::fault::{Call, Verdict, intercept};
use test_support::feature::{self, require};
use test_support::process::spawn;
use test_support::{program, wait};

use crate::common::world::{alone, deal, key_at, listeners, more, nothing_pinned, one_line, with};
use crate::common::{cookie, local_address, tcp, udp};

use State::{Active, Standby};

/// A group with one member, which was there before and serves; newcomers are held until they accept.
struct Group {
    host: Host,
    key: GroupKey,
    first: OwnedFd,
}

impl Group {
    fn of(first: OwnedFd, protocol: &str) -> Self {
        let host = Host::open().unwrap();
        let key = key_at(&host, protocol, local_address(&first));
        let attach = with(Policy::RoundRobin).hold_new(HoldNew::Accepting);
        let (_, attached) = Balancer::attach(&host, &key, &attach).unwrap();
        assert!(attached.changes.held.is_empty());
        let group = Self { host, key, first };
        assert_eq!(group.state(cookie(&group.first)), Active);
        group
    }

    fn attach(&self) -> reuseport::Changes {
        Balancer::attach(&self.host, &self.key, &Attach::default()).unwrap().1.changes
    }

    fn state(&self, cookie: Cookie) -> State {
        let status = self.host.status(&self.key).unwrap();
        let member = status.members.iter().find(|m| m.member.cookie == Some(cookie)).unwrap();
        member.enrolment.as_ref().unwrap().state
    }

    /// A member that comes, and is held.
    fn newcomer(&self, open: fn(&str) -> OwnedFd) -> OwnedFd {
        let socket = open(&local_address(&self.first).to_string());
        let known = cookie(&socket);
        assert_eq!(self.attach().held, [known]);
        self.is_held(known);
        socket
    }

    fn is_held(&self, of: Cookie) {
        let changes = self.attach();
        assert!(changes.taken_in.is_empty(), "{changes:?}");
        assert_eq!(self.state(of), Standby);
    }

    /// It serves once a thread waits, and also when none does any more.
    fn joins(&self, of: Cookie, how: &str) {
        wait::until(&format!("a thread waits: {how}"), wait::BOUND, || {
            let changes = self.attach();
            assert!(changes.taken_in.is_empty() || changes.taken_in == [of], "{changes:?}");
            !changes.taken_in.is_empty()
        });
        assert_eq!(self.state(of), Active, "{how}");
    }
}

fn watching(socket: &OwnedFd, flags: EventFlags) -> OwnedFd {
    let instance = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&instance, socket, EventData::new_u64(0), flags).unwrap();
    instance
}

fn waits_in(instance: &OwnedFd) -> rustix::io::Result<usize> {
    epoll::wait(instance, spare_capacity(&mut Vec::with_capacity(1)), None)
}

/// Waits on a thread of its own, which nothing wakes.
fn in_thread<T: Send + 'static>(waits: impl FnOnce() -> T + Send + 'static) {
    drop(thread::spawn(waits));
}

#[test]
fn a_member_serves_from_when_a_thread_is_in_accept() {
    alone(|| {
        let group = Group::of(tcp("127.0.0.1:0"), "tcp");
        let socket = group.newcomer(tcp);
        let known = cookie(&socket);
        // Several threads, as in a pool.
        for _ in 0..3 {
            let listener = TcpListener::from(socket.try_clone().unwrap());
            in_thread(move || listener.accept());
        }
        group.joins(known, "accept");
        assert_eq!(group.state(cookie(&group.first)), Active, "the older one goes on");
    });
}

#[test]
fn a_member_that_is_merely_watched_is_held_until_a_thread_waits_in_epoll() {
    let nested = |inner: OwnedFd| {
        let outer = watching(&inner, EventFlags::IN);
        move || (waits_in(&outer), inner)
    };
    let polled = |inner: OwnedFd| move || poll(&mut [PollFd::new(&inner, PollFlags::IN)], None);
    for how in ["level", "edge", "exclusive", "nested", "polled"] {
        alone(|| {
            let group = Group::of(tcp("127.0.0.1:0"), "tcp");
            let socket = group.newcomer(tcp);
            let flags = match how {
                "edge" => EventFlags::IN | EventFlags::ET,
                "exclusive" => EventFlags::IN | EventFlags::EXCLUSIVE,
                _ => EventFlags::IN,
            };
            let instance = watching(&socket, flags);
            group.is_held(cookie(&socket));
            match how {
                "nested" => in_thread(nested(instance)),
                "polled" => in_thread(polled(instance)),
                _ => in_thread(move || waits_in(&instance)),
            }
            group.joins(cookie(&socket), how);
        });
    }
}

#[test]
fn a_member_serves_from_when_a_thread_polls_it() {
    alone(|| {
        let group = Group::of(tcp("127.0.0.1:0"), "tcp");
        let socket = group.newcomer(tcp);
        let polled = socket.try_clone().unwrap();
        in_thread(move || poll(&mut [PollFd::new(&polled, PollFlags::IN)], None));
        group.joins(cookie(&socket), "poll");
    });
}

/// A process whose standard input is the socket. It is killed in the end.
struct Python(Child);

impl Python {
    fn start(socket: &OwnedFd, script: &str) -> Self {
        let mut command = Command::new(program("python3"));
        command.args(["-c", script]).stdin(socket.as_fd().try_clone_to_owned().unwrap());
        Self(spawn(&mut command).unwrap())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_member_serves_from_when_a_process_selects_it() {
    alone(|| {
        let group = Group::of(tcp("127.0.0.1:0"), "tcp");
        let socket = group.newcomer(tcp);
        let _python = Python::start(&socket, "import select; select.select([0], [], [])");
        group.joins(cookie(&socket), "select");
    });
}

/// Submits a request to a ring and waits for it: what `$REQUEST` is (operation, descriptor, events).
const IN_RING: &str = "
import ctypes, mmap, select, struct
epoll = select.epoll()
epoll.register(0)
operation, descriptor, events = $REQUEST
call = ctypes.CDLL(None).syscall
params = ctypes.create_string_buffer(120)
ring = call(425, 1, params)
assert ring >= 0
entries, = struct.unpack_from('I', params, 0)
_, tail, _, _, _, _, array = struct.unpack_from('7I', params, 40)
queue = mmap.mmap(ring, array + 4 * entries)
requests = mmap.mmap(ring, 64 * entries, offset=0x10000000)
requests[:64] = struct.pack('BBHiQQIIQ', operation, 0, 0, descriptor, 0, 0, 0, events, 1) + bytes(24)
struct.pack_into('I', queue, array, 0)
struct.pack_into('I', queue, tail, 1)
call(426, ring, 1, 1, 1, None, 0)
";

#[test]
fn a_member_serves_from_when_a_ring_accepts() {
    if !require(&feature::IO_URING) {
        return;
    }
    for (how, request) in [("accept", "13, 0, 0"), ("poll of epoll", "6, epoll.fileno(), 1")] {
        alone(|| {
            let group = Group::of(tcp("127.0.0.1:0"), "tcp");
            let socket = group.newcomer(tcp);
            let _python = Python::start(&socket, &IN_RING.replace("$REQUEST", request));
            group.joins(cookie(&socket), how);
        });
    }
}

#[test]
fn a_udp_socket_serves_from_when_a_thread_reads() {
    alone(|| {
        let group = Group::of(udp("127.0.0.1:0"), "udp");
        let socket = group.newcomer(udp);
        let reading = UdpSocket::from(socket.try_clone().unwrap());
        in_thread(move || reading.recv(&mut [0; 8]));
        group.joins(cookie(&socket), "recv");
    });
}

#[test]
fn a_member_that_waits_when_it_comes_serves_at_once() {
    alone(|| {
        let group = Group::of(tcp("127.0.0.1:0"), "tcp");
        let socket = tcp(&local_address(&group.first).to_string());
        let listener = TcpListener::from(socket.try_clone().unwrap());
        in_thread(move || listener.accept());
        let member = |group: &Group| {
            let now = group.host.refresh(&group.key).unwrap();
            now.member(cookie(&socket)).unwrap().clone()
        };
        wait::until("a thread is in accept", wait::BOUND, || member(&group).waiters == Some(1));
        let changes = group.attach();
        assert_eq!((changes.held.len(), changes.enrolled.len()), (0, 1));
        assert_eq!(group.state(cookie(&socket)), Active);
    });
}

#[test]
fn what_is_held_gets_nothing_and_promoting_lets_it_join() {
    alone(|| {
        let old = listeners(2);
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", old[0].local_addr().unwrap());
        let attach = with(Policy::RoundRobin).hold_new(HoldNew::Accepting);
        let (balancer, _) = Balancer::attach(&host, &key, &attach).unwrap();
        let error = balancer.promote().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoGeneration);
        assert!(error.report().to_string().contains("no member is on standby"), "{error}");

        let mut all = old;
        all.extend(more(all[0].local_addr().unwrap(), 1));
        let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(attached.changes.held.len(), 1);
        assert_eq!(deal(&all, 20), [10, 10, 0]);
        let status = host.status(&key).unwrap();
        assert_eq!(status.hold_new, HoldNew::Accepting);
        let is_held = |m: &reuseport::status::MemberStatus| m.enrolment.as_ref().unwrap().is_held;
        assert_eq!(status.members.iter().map(is_held).collect::<Vec<_>>(), [false, false, true]);

        let promoted = balancer.promote().unwrap();
        assert_eq!((promoted.joined.len(), promoted.serving.len()), (1, 3));
        assert!(promoted.retired.is_empty());
        assert_eq!(deal(&all, 30), [10; 3]);
    });
}

#[test]
fn turning_it_off_lets_those_that_are_held_serve() {
    alone(|| {
        let group = Group::of(tcp("127.0.0.1:0"), "tcp");
        let socket = group.newcomer(tcp);
        let off = Attach::default().hold_new(HoldNew::Off);
        let (_, attached) = Balancer::attach(&group.host, &group.key, &off).unwrap();
        assert_eq!(attached.changes.taken_in, [cookie(&socket)]);
        assert_eq!(group.state(cookie(&socket)), Active);
        assert_eq!(group.host.status(&group.key).unwrap().hold_new, HoldNew::Off);
    });
}

#[test]
fn where_it_cannot_be_seen_who_waits_it_is_refused_and_nothing_changes() {
    alone(|| {
        let members = listeners(2);
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", members[0].local_addr().unwrap());
        let attach = with(Policy::RoundRobin).hold_new(HoldNew::Accepting);
        let refuse = |call| match call {
            Call::BpfProgLoad => Verdict::Fail(Errno::INVAL.raw_os_error()),
            _ => Verdict::Allow,
        };
        let error = intercept(refuse, || Balancer::attach(&host, &key, &attach).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = one_line(&error);
        assert!(text.contains("cannot hold newcomers") && text.contains("who waits"), "{text}");
        assert!(nothing_pinned());
        Balancer::attach(&host, &key, &attach).unwrap();
    });
}
