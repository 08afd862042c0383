//! One run: some restarts of a server that clients ask all the time, and what they tell.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, net, thread};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use test_support::recipe::{POSTGRES, POSTGRES_ADDRESS, Scene};
use test_support::{bpffs, netns, wait};

use crate::account::Account;
use crate::clients::{Clients, Load, capacity};
use crate::protocol::{Place, Protocol};
use crate::record::{Loss, Times};
use crate::rollover::{Course, Way};
use crate::servers::{Family, How, Server};
use crate::tally::Counts;

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Which server.
    pub server: &'static Server,
    /// How it is restarted.
    pub way: Way,
    /// Over which protocol.
    pub family: Family,
    /// How often it is restarted.
    pub restarts: usize,
    /// New connections a second; without, half of the capacity, which is measured at the beginning.
    pub rate: Option<f64>,
    /// At most.
    pub most: f64,
    /// How long it runs between two restarts.
    pub between: Duration,
    /// The command.
    pub command: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// How often the server was restarted.
    pub restarts: u64,
    /// How many requests it answered in a second, 0 if that was not measured.
    pub capacity: f64,
    /// New connections a second.
    pub rate: f64,
    /// What became of all.
    pub counts: Counts,
    /// The first of those lost before a server had accepted them.
    pub losses: Vec<Loss>,
    /// When the restarts began and ended, in seconds, if something was lost.
    pub spans: Vec<(f32, f32)>,
    /// Datagrams that the kernel dropped because a receive buffer was full; among the timed out ones of `counts`.
    #[serde(default)]
    pub overflowed: u64,
    /// Of new connections, during the restarts.
    pub times: Times,
    /// Of new connections, between them.
    pub quiet: Times,
    /// How late the latest new connection was sent, in milliseconds.
    pub late: f64,
    /// How many were sent more than 10 ms late.
    pub sent_late: u64,
    /// How many were not sent, because the generator was later still: about, from the rate.
    #[serde(default)]
    pub left_out: u64,
    /// How long the clients asked, in seconds.
    pub seconds: f64,
}

/// Runs in a network namespace and with a bpffs of its own.
///
/// # Errors
///
/// If the clients or the account fail.
///
/// # Panics
///
/// If the server or the command does not do what it should.
pub fn run(setting: &Setting) -> Result<Outcome> {
    netns::isolated(|| {
        bpffs::private();
        prepare_network(setting.way)?;
        run_here(setting)
    })
}

/// Ports for all clients, and the setting that is tried.
fn prepare_network(way: Way) -> Result<()> {
    let set = |name: &str, value: &str| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| path)
    };
    // Below are the servers.
    set("ip_local_port_range", "16384 65535")?;
    if way == Way::Migrate { set("tcp_migrate_req", "1") } else { Ok(()) }
}

fn run_here(setting: &Setting) -> Result<Outcome> {
    let Setting { server, family, way, .. } = *setting;
    let address = server.configure(family, 0).server;
    let account = Arc::new(Account::open(address.port())?);
    let scene = Scene::with(std::iter::empty(), &setting.command);
    if server.protocol == Protocol::Postgres {
        scene.run(POSTGRES);
        wait::until("PostgreSQL takes sessions", 3 * wait::BOUND, postgres_answers);
    }
    let reload = match (way, server.how) {
        (Way::Own, _) => Some(server.reload.context("it has no reload of its own")?),
        (_, How::Own(reload)) => Some(reload),
        (_, How::RollOut) => None,
    };
    let mut course = Course::start(server, family, (way, reload), scene, &setting.command);
    let (keeping, slow) = server.clients;
    let load =
        Load { server: address, protocol: server.protocol, rate: setting.most, keeping, slow };
    let (rate, capacity) = match setting.rate {
        Some(rate) => (rate, 0.0),
        None => {
            let capacity = capacity(load, Arc::clone(&account), Duration::from_secs(1))?;
            ((capacity / 2.0).clamp(1.0, setting.most), capacity)
        }
    };
    let clients = Clients::start(Load { rate, ..load }, account)?;
    let mut spans = Vec::new();
    for _ in 0..setting.restarts {
        thread::sleep(setting.between);
        let from = clients.time();
        course.restart(|old| clients.promoted(old));
        spans.push((from, clients.time()));
    }
    thread::sleep(setting.between);
    let seconds = clients.time();
    let told = clients.stop()?;
    let ends = spans.iter().map(|(_, end)| *end);
    let begins = spans.iter().map(|(from, _)| *from).chain([seconds]);
    let quiet: Vec<(f32, f32)> = std::iter::once(0.0).chain(ends).zip(begins).collect();
    let rounded = |value: f64| (value * 10.0).round() / 10.0;
    Ok(Outcome {
        restarts: setting.restarts as u64,
        capacity: rounded(capacity),
        rate: rounded(rate),
        counts: told.counts,
        times: Times::of(&told.samples, &spans),
        spans: if told.losses.is_empty() { Vec::new() } else { spans },
        losses: told.losses,
        overflowed: overflowed(),
        quiet: Times::of(&told.samples, &quiet),
        late: rounded(f64::from(told.late) * 1e3),
        sent_late: told.sent_late,
        left_out: told.left_out,
        seconds: rounded(seconds.into()),
    })
}

/// `RcvbufErrors` of this network namespace, for both families.
fn overflowed() -> u64 {
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    let v4 = read("snmp").unwrap_or_default();
    let mut udp = v4.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (udp.next().unwrap_or_default(), udp.next().unwrap_or_default());
    let mut both = names.split(' ').zip(values.split(' '));
    let v4 = both.find(|(name, _)| *name == "RcvbufErrors").map(|(_, value)| value.to_owned());
    let v6 = read("snmp6").unwrap_or_default();
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    let number = |text: Option<&str>| text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    number(v4.as_deref()) + number(v6)
}

fn postgres_answers() -> bool {
    use std::io::{Read as _, Write as _};

    let session = || -> Option<bool> {
        let mut stream = net::TcpStream::connect(POSTGRES_ADDRESS).ok()?;
        stream.set_read_timeout(Some(wait::scaled(wait::BOUND))).ok()?;
        let place = Place { first: true, last: true };
        stream.write_all(&Protocol::Postgres.request(place)).ok()?;
        let (mut received, mut bytes) = (Vec::new(), [0; 1024]);
        loop {
            if let Some(answer) = Protocol::Postgres.answer(&received) {
                return Some(answer.right);
            }
            match stream.read(&mut bytes).ok()? {
                0 => return None,
                read => received.extend_from_slice(&bytes[..read]),
            }
        }
    };
    session() == Some(true)
}

/// The command that cargo built next to this program.
///
/// # Errors
///
/// If it is not there.
pub fn command_beside_this() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let command: &Path = &program.with_file_name("reuseport");
    anyhow::ensure!(command.is_file(), "there is no {}: build `reuseport-cli`", command.display());
    Ok(command.to_owned())
}
