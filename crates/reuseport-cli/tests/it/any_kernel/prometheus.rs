//! A real Prometheus scrapes what `metrics --listen` serves: its counters are those of `show`, and every query of the
//! alert rules and of the dashboard in `dist/` finds something.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use serde_json::Value;
use sk_reuseport::net::Bind;
use test_support::loopback;
use test_support::process::output;
use test_support::server::{Daemon, free_port};
use test_support::wait::{BOUND, poll, until_some};

use crate::common::{Running, isolated, json, own_netns, stdout};

const DIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist");

/// What serves the metrics of the groups of this test, and what scrapes it.
struct Prometheus {
    server: Option<Running>,
    daemon: Daemon,
    address: SocketAddr,
}

impl Prometheus {
    fn start() -> Self {
        let netns = own_netns();
        let arguments = ["metrics", "--netns", &netns, "--listen", "127.0.0.1:0"];
        let mut server = Running::start(&arguments);
        let line = server.read_until("serving metrics at ");
        let target = line.split('/').nth(2).unwrap().to_owned();
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let mut daemon = Daemon::spawn("prometheus", |directory| {
            let at = |name: &str| directory.join(name).display().to_string();
            let config = format!(
                "global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}\n\
                 rule_files: ['{DIST}/prometheus/reuseport.rules.yml']\n\
                 scrape_configs:\n\
                 - {{job_name: reuseport, scrape_interval: 1s, scrape_timeout: 1s, static_configs: [{{targets: ['{target}']}}]}}\n",
            );
            fs::write(at("prometheus.yml"), config).unwrap();
            let mut command = Command::new("prometheus");
            command.arg(format!("--config.file={}", at("prometheus.yml")));
            command.arg(format!("--storage.tsdb.path={}", at("data")));
            command.arg(format!("--web.listen-address={address}"));
            command
        });
        daemon.wait_until("it listens", || TcpStream::connect(address).is_ok());
        let prometheus = Self { server: Some(server), daemon, address };
        prometheus.until("the first scrape", "reuseport_scrape_success == 1");
        prometheus
    }

    fn api(&self, path: &str, query: &str) -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--get", "--data-urlencode", &format!("query={query}")]);
        let said = output(curl.arg(format!("http://{}/api/v1/{path}", self.address))).unwrap();
        let answer: Value = serde_json::from_slice(&said.stdout).ok()?;
        // It is not ready in its first moments.
        (answer["error"] != "Service Unavailable").then_some(answer)
    }

    /// What a query finds.
    fn query(&self, query: &str) -> Vec<Value> {
        let Some(answer) = self.api("query", query) else { return Vec::new() };
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until a query finds something.
    fn until(&self, what: &str, query: &str) -> Vec<Value> {
        until_some(&format!("{what}: {query}"), BOUND * 2, || {
            Some(self.query(query)).filter(|found| !found.is_empty())
        })
    }

    /// Waits until a query finds something, with each of these labels in some series.
    fn until_labelled(&self, query: &str, labels: &[&str]) {
        until_some(&format!("{labels:?}: {query}"), BOUND * 2, || {
            let found = self.query(query);
            let has = |label: &&str| found.iter().any(|series| series["metric"][label].is_string());
            (!found.is_empty() && labels.iter().all(has)).then_some(())
        });
    }

    /// The alert rules, by name: their queries and states.
    fn rules(&self) -> Vec<(String, String, String)> {
        let rules = self.api("rules", "").unwrap();
        let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rule = |rule: &Value| (text(&rule["name"]), text(&rule["query"]), text(&rule["state"]));
        rules.iter().map(rule).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.daemon.log());
        }
        drop(self.server.take().map(Running::interrupt));
    }
}

#[test]
fn slow_the_picks_that_prometheus_has_are_those_of_show() {
    isolated(|| {
        let listeners = Bind::new(loopback(false)).listeners(3).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let name = format!("tcp:{address}");
        stdout(&["attach", &name, "--policy", "random"]);
        let prometheus = Prometheus::start();
        let _clients: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
        let shown = json(&["show", &name, "--json"]);
        let expected: Vec<(String, String)> = shown["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| (member["slot"].to_string(), member["picks"].to_string()))
            .collect();
        let sum = format!("sum(reuseport_picks_total{{group=\"{name}\"}}) == 100");
        prometheus.until("all connections", &sum);
        let found =
            prometheus.query(&format!("sort_desc(reuseport_picks_total{{group=\"{name}\"}})"));
        let mut found: Vec<(String, String)> = found
            .iter()
            .map(|series| {
                let slot = series["metric"]["slot"].as_str().unwrap();
                (slot.to_owned(), series["value"][1].as_str().unwrap().to_owned())
            })
            .collect();
        found.sort();
        assert_eq!(found, expected);
        // The documented way to the process in a slot.
        let joined = prometheus.query(
            "rate(reuseport_picks_total[5m]) * on (group, slot) group_left (pid, comm) reuseport_member_info",
        );
        let pid = std::process::id().to_string();
        assert!(joined.iter().all(|series| series["metric"]["pid"] == pid.as_str()), "{joined:?}");
        assert_eq!(joined.len(), 3);
    });
}

/// Groups at which everything goes wrong that there is an alert for.
struct Trouble {
    /// Of two groups: one policy never leaves a choice to the kernel, and the other counts no open connections.
    tcp: [Vec<TcpListener>; 2],
    udp: Vec<UdpSocket>,
    clients: Vec<OwnedFd>,
    client: UdpSocket,
}

impl Trouble {
    fn new() -> Self {
        let tcp = [(); 2].map(|()| Bind::new(loopback(false)).backlog(1).listeners(2).unwrap());
        let udp = Bind::new(loopback(false)).udp_sockets(2).unwrap();
        udp.iter().for_each(|socket| set_socket_recv_buffer_size(socket, 4096).unwrap());
        let client = UdpSocket::bind(loopback(false)).unwrap();
        Self { tcp, udp, clients: Vec::new(), client }
    }

    fn tcp(&self) -> [SocketAddr; 2] {
        self.tcp.each_ref().map(|group| group[0].local_addr().unwrap())
    }

    fn udp(&self) -> SocketAddr {
        self.udp[0].local_addr().unwrap()
    }

    /// More than the queues take, and none is taken out of them.
    fn traffic(&mut self) {
        for address in [self.tcp(), self.tcp()].concat() {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let client = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
            // It does not come to an end where queues are full.
            let _ = connect(&client, &address);
            self.clients.push(client);
            let _ = self.client.send_to(&[0; 900], self.udp());
        }
    }
}

#[test]
fn slow_every_alert_and_every_query_of_the_dashboard_finds_something() {
    isolated(|| {
        let mut trouble = Trouble::new();
        let udp = format!("udp:{}", trouble.udp());
        let [tcp, other] = trouble.tcp().map(|address| format!("tcp:{address}"));
        stdout(&["attach", &tcp]);
        stdout(&["attach", &other, "--policy", "round-robin"]);
        let mut watcher = Running::start(&["attach", &udp, "--policy", "round-robin", "--watch"]);
        watcher.read_until("Watching");
        // Something has been queued for as long as Prometheus knows.
        (0..8).for_each(|_| trouble.traffic());
        let prometheus = Prometheus::start();
        prometheus.until("it is watched", "reuseport_group_watched == 1");
        watcher.interrupt();
        let _unsteered = Bind::new(trouble.tcp()[0]).backlog(1).listeners(1).unwrap();
        let _datagrams = Bind::new(trouble.udp()).udp_sockets(1).unwrap();

        // Each alert is pending: it holds, and has not held for long enough to fire.
        let mut quiet = Vec::new();
        let all = poll(BOUND * 3, || {
            trouble.traffic();
            let inactive =
                prometheus.rules().into_iter().filter(|(_, _, state)| state == "inactive");
            quiet = inactive.map(|(name, ..)| name).collect();
            (quiet == ["ReuseportScrapeFailed"]).then_some(())
        });
        assert!(
            all.is_some(),
            "no alert: {quiet:?}\n{}",
            stdout(&["metrics", "--netns", &own_netns()])
        );
        assert_eq!(prometheus.rules().len(), 7);
        let (_, failed, _) = prometheus.rules().pop().unwrap();
        prometheus.until("its metric", &failed.replace("== 0", "== 1"));
        let page = include_str!("../../../../../docs/metrics.md");
        for (name, ..) in prometheus.rules() {
            assert!(page.contains(&format!("| `{name}` |")), "{name} is not in docs/metrics.md");
        }

        let dashboard = fs::read_to_string(format!("{DIST}/grafana/reuseport.json")).unwrap();
        let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
        let mut queries = 0;
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let query = target["expr"].as_str().unwrap();
                let query = query.replace("$__rate_interval", "5m").replace("$instance", ".*");
                let legend = target["legendFormat"].as_str().unwrap();
                prometheus.until_labelled(&query.replace("$group", ".*"), &labels(legend));
                queries += 1;
            }
        }
        assert!(queries > 20, "{queries}");
        for variable in dashboard["templating"]["list"].as_array().unwrap().iter().skip(1) {
            let definition = variable["definition"].as_str().unwrap();
            let arguments = definition.strip_prefix("label_values(").unwrap();
            let (series, label) = arguments.rsplit_once(", ").unwrap();
            let label = label.trim_end_matches(')');
            prometheus.until_labelled(&series.replace("$instance", ".*"), &[label]);
        }
    });
}

/// The labels in a legend: `{{slot}}`.
fn labels(legend: &str) -> Vec<&str> {
    legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).collect()
}
