//! Threads that serve sockets, each bound to a CPU of its own.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc;
use std::thread;

use reuseport::id::Cookie;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::net::{RecvFlags, accept, recv};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

use super::{cookie, local_address, tcp, udp};

/// A thread that serves a socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) cookie: Cookie,
    pub(crate) tid: u32,
    pub(crate) cpu: u16,
}

/// How threads wait.
pub(crate) const HOW: [&str; 5] = ["epoll", "accept", "poll", "receive", "work"];

impl Worker {
    /// Starts two threads that wait in this way for the socket on standard input and for another one of its group;
    /// `work`: that wait for neither. Returns what [`parse`](Self::parse) reads.
    pub(crate) fn start(how: &'static str) -> String {
        let first = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        let address = local_address(&first).to_string();
        let is_tcp =
            rustix::net::sockopt::socket_type(&first).unwrap() == rustix::net::SocketType::STREAM;
        let second = if is_tcp { tcp(&address) } else { udp(&address) };
        let allowed = sched_getaffinity(None).unwrap();
        let mut cpus =
            (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(2).collect::<Vec<_>>();
        // The order of the slots would be a guess that is right.
        cpus.reverse();
        let (said, heard) = mpsc::channel();
        for (n, socket) in [first, second].into_iter().enumerate() {
            let (cpu, said) = (cpus[n % cpus.len()], said.clone());
            thread::spawn(move || {
                let mut only = CpuSet::new();
                only.set(cpu);
                sched_setaffinity(None, &only).unwrap();
                let tid = gettid().as_raw_nonzero();
                said.send(format!("{}:{tid}:{cpu}", cookie(&socket))).unwrap();
                serve(&socket, how);
            });
        }
        drop(said);
        heard.into_iter().take(2).collect::<Vec<_>>().join(" ")
    }

    /// What the threads said of themselves.
    pub(crate) fn parse(said: &str) -> Vec<Self> {
        let one = |text: &str| {
            let mut parts = text.split(':');
            let mut next = || parts.next().unwrap();
            Self {
                cookie: Cookie::new(next().parse().unwrap()).unwrap(),
                tid: next().parse().unwrap(),
                cpu: next().parse().unwrap(),
            }
        };
        said.split(' ').map(one).collect()
    }
}

fn serve(socket: &OwnedFd, how: &str) {
    let instance = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&instance, socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
    if how != "epoll" && how != "work" {
        epoll::delete(&instance, socket).unwrap();
    }
    let mut events = Vec::with_capacity(1);
    loop {
        let waited = match how {
            "epoll" => {
                epoll::wait(&instance, rustix::buffer::spare_capacity(&mut events), None).map(drop)
            }
            "poll" => poll(&mut [PollFd::new(socket, PollFlags::IN)], None).map(drop),
            "accept" => Ok(()),
            "receive" => recv(socket, &mut [0; 8], RecvFlags::empty()).map(drop),
            _ => {
                thread::park();
                continue;
            }
        };
        waited.unwrap();
        if how != "receive" {
            drop(accept(socket));
        }
    }
}
