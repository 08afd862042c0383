//! Sockets that only a thread leads to.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use reuseport::{Balancer, ErrorKind, Host, Policy};
use sk_reuseport::net::Bind;
use sk_reuseport::util::KernelVersion;
use test_support::process::{close, spawn};
use test_support::{program, wait};

use crate::common::steering::{answers, each};
use crate::common::world::{alone, key_at, with};

/// Accepts in a thread per listener (descriptors from the command line) and answers with the number of the
/// listener, in HTTP. Then the main thread ends (`exit`), or each thread has taken a table of its own before
/// (`unshare`: the descriptors of the main thread are closed).
const SERVER: &str = r#"
import ctypes, os, platform, socket, sys, threading
mode, fds = sys.argv[1], [int(fd) for fd in sys.argv[2:]]
libc = ctypes.CDLL(None, use_errno=True)
ready = threading.Barrier(len(fds) + 1)
def serve(number, fd):
    if mode == "unshare":
        assert libc.unshare(0x400) == 0
    ready.wait()
    listener = socket.socket(fileno=fd)
    listener.setblocking(True)
    while True:
        connection, _ = listener.accept()
        connection.recv(1000)
        body = str(number)
        connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        connection.close()
for number, fd in enumerate(fds):
    threading.Thread(target=serve, args=(number, fd)).start()
ready.wait()
if mode == "unshare":
    for fd in fds:
        os.close(fd)
os.write(1, b"ready\n")
if mode == "exit":
    # The system call of pthread_exit: this thread ends, and the process goes on.
    libc.syscall({"x86_64": 60}.get(platform.machine(), 93), 0)
threading.Event().wait()
"#;

struct Server(Child);

impl Server {
    /// A server of another process, which alone has the listeners when this returns.
    fn start(mode: &str, listeners: Vec<TcpListener>) -> Self {
        use std::os::fd::AsRawFd as _;
        // Standard input and output are taken; the others are inherited as they are.
        for listener in &listeners {
            rustix::io::fcntl_setfd(listener, rustix::io::FdFlags::empty()).unwrap();
        }
        let fds = listeners.iter().map(|listener| listener.as_raw_fd().to_string());
        let mut command = Command::new(program("python3"));
        command.args(["-c", SERVER, mode]).args(fds).stdout(Stdio::piped());
        let mut child = spawn(&mut command).unwrap();
        for listener in &listeners {
            rustix::io::fcntl_setfd(listener, rustix::io::FdFlags::CLOEXEC).unwrap();
        }
        close(listeners);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Attaches to a server of which only threads have the listeners.
fn is_steered_through_threads(mode: &str) {
    alone(|| {
        let listeners = Bind::new("127.0.0.1:0".parse().unwrap()).listeners(2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let server = Server::start(mode, listeners);
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", address);
        let group = wait::until_some("threads that hold the sockets", wait::BOUND, || {
            let group = host.refresh(&key).unwrap();
            let holders = || group.members.iter().map(|member| &member.holders[..]);
            let of_thread = |holders: &[_]| {
                matches!(holders, [reuseport::group::Holder { thread: Some(_), .. }, ..])
            };
            (group.members.len() == 2 && holders().all(of_thread)).then_some(group)
        });
        assert_eq!(group.pids(), [server.0.id()]);

        let attached = Balancer::attach(&host, &key, &with(Policy::RoundRobin));
        if KernelVersion::current().unwrap() < KernelVersion::new(6, 9, 0) {
            // kernel/fork.c, pidfd_create: PIDFD_THREAD
            let error = attached.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
            assert!(host.refresh(&key).unwrap().program.is_none());
            return;
        }
        attached.unwrap();
        assert_eq!(answers(address, 20), each([0, 1], 10));
        let status = host.status(&key).unwrap();
        let picks = |m: &reuseport::status::MemberStatus| m.enrolment.as_ref().unwrap().picks;
        assert_eq!(status.members.iter().map(picks).collect::<Vec<_>>(), [Some(10), Some(10)]);
        assert!(reuseport::detach(&host, &key).unwrap().left_attached.is_none());
    });
}

#[test]
fn a_server_whose_main_thread_has_ended_is_steered() {
    is_steered_through_threads("exit");
}

#[test]
fn a_server_whose_threads_have_their_own_descriptors_is_steered() {
    is_steered_through_threads("unshare");
}
