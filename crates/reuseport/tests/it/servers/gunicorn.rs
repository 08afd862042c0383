//! Several gunicorns with `--reuse-port` on one port: members that belong to different servers,
//! each of which may crash.

use reuseport::{Host, Policy};
use test_support::client::{http_answer, http_ask};
use test_support::server::{Gunicorn, free_port};
use test_support::wait;

use crate::common::steering::{answers, attach, count, each, followed, picks, steered};
use crate::common::world::{alone, counter, key_at};

fn start(instances: usize) -> Vec<Gunicorn> {
    let port = free_port();
    (0..instances).map(|_| Gunicorn::start_on(port)).collect()
}

fn pids(servers: &[Gunicorn]) -> Vec<u32> {
    servers.iter().map(Gunicorn::pid).collect()
}

#[test]
fn connections_are_dealt_exactly() {
    alone(|| {
        let servers = start(2);
        let address = servers[0].addr();
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", address);
        attach(&host, &key, Policy::RoundRobin);
        assert_eq!(answers(address, 20), each(pids(&servers), 10));
        let status = steered(&host, &key).unwrap();
        assert_eq!(picks(&status), [10, 10]);
        // Workers of gunicorn wait in select(2), not epoll.
        assert!(status.members.iter().all(|member| member.owner.is_none()));
    });
}

#[test]
fn connections_that_wait_at_a_killed_server_are_answered_by_the_others() {
    alone(|| {
        let mut servers = start(3);
        let address = servers[0].addr();
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", address);
        attach(&host, &key, Policy::RoundRobin);

        // One worker stays busy.
        let mut held = http_ask(address, Gunicorn::HOLD).unwrap();
        let status = steered(&host, &key).unwrap();
        let victim = picks(&status).iter().position(|picks| *picks == 1).unwrap();
        let member = status.members[victim].member.clone();
        let waiting =
            || host.refresh(&key).unwrap().member(member.cookie.unwrap()).unwrap().queue.waiting;
        wait::until("its worker accepted", wait::BOUND, || waiting() == 0);
        let mut clients: Vec<_> = (0..9).map(|_| http_ask(address, "/").unwrap()).collect();
        wait::until("three wait there", wait::BOUND, || waiting() == 3);

        let victim = servers
            .iter()
            .position(|server| member.holders.iter().any(|holder| holder.pid == server.pid()))
            .unwrap();
        let victim = servers.remove(victim);
        let dead = victim.pid();
        victim.kill();
        let served = count(clients.iter_mut().map(|client| http_answer(client).unwrap()));
        assert_eq!(served.values().sum::<usize>(), 9);
        assert!(!served.contains_key(&dead), "{served:?}");
        assert!(http_answer(&mut held).is_err(), "a connection that it had accepted ends with it");
        let status = host.status(&key).unwrap();
        assert_eq!((counter(&status, "migrations"), counter(&status, "migrations_kernel")), (3, 0));
        assert_eq!(status.members.len(), 2);
    });
}

#[test]
fn a_killed_server_and_its_replacement_are_followed() {
    alone(|| {
        let mut servers = start(2);
        let address = servers[0].addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            servers.remove(0).kill();
            group.settled(1);
            assert_eq!(answers(address, 10), each(pids(&servers), 10));
            servers.push(Gunicorn::start_on(address.port()));
            group.settled(2);
            assert_eq!(answers(address, 20), each(pids(&servers), 10));
        });
    });
}
