//! A few restarts of each server while clients ask: nothing is lost before a server has accepted it.
//! `cargo xtask soak restarts` makes thousands.

use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use restarts::protocol::Protocol;
use restarts::rollover::Way;
use restarts::run::{Setting, run};
use restarts::servers::{Family, How, Server};
use test_support::wait;

fn restarts_lose_nothing(name: &str, family: Family) {
    let server = Server::named(name).unwrap();
    let rate = wait::times_or(200, 20) as f64;
    let outcome = run(&Setting {
        server,
        way: Way::Ours,
        family,
        restarts: 3,
        rate: Some(rate),
        most: rate,
        between: wait::scaled(Duration::from_millis(100)),
        command: cargo_bin!("reuseport").into(),
    });
    let outcome = outcome.unwrap();
    let counts = outcome.counts;
    println!("{name}: {counts:?}");
    // A datagram that met a full buffer was lost as it would have been without a restart.
    let lost = counts.ours.sum() - counts.ours.timed_out.min(outcome.overflowed);
    assert_eq!((lost, counts.misplaced), (0, 0), "{outcome:?}");
    // pgbouncer says to some clients that it is shutting down.
    assert!(counts.wrong == 0 || server.protocol == Protocol::Postgres, "{outcome:?}");
    assert!(counts.answered > 0, "{outcome:?}");
    if server.protocol == Protocol::Http
        && matches!(server.how, How::RollOut)
        && server.clients.0 > 0
    {
        assert!(counts.kept > 0, "old processes answer over old connections: {outcome:?}");
    }
}

#[test]
fn slow_restarts_of_nginx_with_more_and_fewer_workers_lose_nothing() {
    restarts_lose_nothing("nginx", Family::V4);
}

#[test]
fn slow_reloads_of_nginx_with_more_and_fewer_workers_lose_nothing() {
    restarts_lose_nothing("nginx-reload", Family::V6);
}

#[test]
fn slow_upgrades_of_nginx_lose_nothing() {
    restarts_lose_nothing("nginx-upgrade", Family::V4);
}

#[test]
fn slow_restarts_of_haproxy_lose_nothing() {
    restarts_lose_nothing("haproxy", Family::V6);
}

#[test]
fn slow_reloads_of_haproxy_lose_nothing() {
    restarts_lose_nothing("haproxy-reload", Family::V4);
}

#[test]
fn slow_restarts_of_unbound_lose_nothing() {
    restarts_lose_nothing("unbound", Family::V6);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_granian_restarts_without_a_loss() {
    restarts_lose_nothing("granian", Family::V4);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_gunicorn_restarts_without_a_loss() {
    restarts_lose_nothing("gunicorn", Family::V6);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_node_restarts_without_a_loss() {
    restarts_lose_nothing("node", Family::V4);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_hitch_restarts_without_a_loss() {
    restarts_lose_nothing("hitch", Family::V6);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_pgbouncer_restarts_without_a_loss() {
    restarts_lose_nothing("pgbouncer", Family::V4);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_knot_restarts_without_a_loss() {
    restarts_lose_nothing("knot", Family::V6);
}
