//! The thread that waits for a member, and its CPU: a process with two members, each served by a thread that is bound
//! to another CPU than the other one and the main thread.

use std::os::fd::OwnedFd;

use reuseport::group::GroupKey;
use reuseport::id::Cookie;
use reuseport::status::{GroupStatus, OwnerCpu};
use reuseport::{Attach, Balancer, Host, Policy};
use test_support::wait;

use crate::common::helper::Helper;
use crate::common::waiting::Worker;
use crate::common::world::{alone, key_at};
use crate::common::{local_address, tcp, udp};

/// A process with two threads, as [`Worker::start`] says, and the group of their sockets.
struct Server {
    host: Host,
    key: GroupKey,
    workers: Vec<Worker>,
    _process: Helper,
}

impl Server {
    fn waiting(protocol: &str, how: &str) -> Self {
        let host = Host::open().unwrap();
        let socket: OwnedFd =
            if protocol == "tcp" { tcp("127.0.0.1:0") } else { udp("127.0.0.1:0") };
        let key = key_at(&host, protocol, local_address(&socket));
        let process = Helper::holding(&socket, how);
        drop(socket);
        wait::until("it alone holds both", wait::BOUND, || {
            let group = host.refresh(&key).unwrap();
            group.members.len() == 2 && group.pids() == [process.pid()]
        });
        let workers = Worker::parse(process.said());
        Self { host, key, workers, _process: process }
    }

    fn status(&self) -> GroupStatus {
        self.host.status(&self.key).unwrap()
    }

    fn attach(&self) -> GroupStatus {
        Balancer::attach(&self.host, &self.key, &Attach::from(Policy::Cpu)).unwrap();
        self.status()
    }
}

/// The members' CPUs, by cookie.
fn cpus(status: &GroupStatus) -> Vec<(Cookie, u16)> {
    let cpu =
        |m: &reuseport::status::MemberStatus| Some((m.member.cookie?, m.enrolment.as_ref()?.cpu?));
    let mut cpus: Vec<_> = status.members.iter().filter_map(cpu).collect();
    cpus.sort_unstable();
    cpus
}

#[test]
fn a_member_has_the_cpu_of_the_thread_that_waits_for_it() {
    for (protocol, how) in
        [("tcp", "epoll"), ("tcp", "accept"), ("tcp", "poll"), ("udp", "epoll"), ("udp", "receive")]
    {
        alone(|| {
            let server = Server::waiting(protocol, how);
            // The threads have not yet begun to wait.
            wait::until(&format!("{protocol}: both wait in {how}"), wait::BOUND, || {
                let waits = |worker: &Worker| {
                    server.status().members.iter().any(|m| {
                        m.member.cookie == Some(worker.cookie)
                            && m.owner_thread == Some(worker.tid)
                            && m.threads_waiting == 1
                    })
                };
                server.workers.iter().all(waits)
            });
            let status = server.attach();
            let mut expected: Vec<_> = server.workers.iter().map(|w| (w.cookie, w.cpu)).collect();
            expected.sort_unstable();
            assert_eq!(cpus(&status), expected, "{protocol} {how}");
            for member in &status.members {
                let cpu = member.enrolment.as_ref().unwrap().cpu.unwrap();
                assert_eq!(member.owner_cpu, Some(OwnerCpu::Bound(cpu)), "{protocol} {how}");
                assert!(!member.enrolment.as_ref().unwrap().cpu_guessed);
            }
            // Not those of the other threads of that process.
            let taken = expected.iter().map(|(_, cpu)| *cpu);
            assert!(taken.clone().all(|cpu| !status.cpus_without_member.contains(&cpu)));
        });
    }
}

#[test]
fn a_thread_that_does_not_wait_is_not_guessed() {
    alone(|| {
        let server = Server::waiting("tcp", "work");
        if server.workers[0].cpu == server.workers[1].cpu {
            return; // one CPU
        }
        let status = server.attach();
        for member in &status.members {
            let Some(OwnerCpu::Unknown { threads }) = member.owner_cpu else {
                panic!("{:?}", member.owner_cpu)
            };
            assert!(threads > 2, "{threads}: two workers and the main thread");
            assert_eq!((member.owner_thread, member.threads_waiting), (None, 0));
            assert!(member.enrolment.as_ref().unwrap().cpu_guessed);
        }
        // The first CPUs, one after the other.
        let mut guessed: Vec<u16> = cpus(&status).into_iter().map(|(_, cpu)| cpu).collect();
        guessed.sort_unstable();
        assert_eq!(guessed, [0, 1]);
    });
}
