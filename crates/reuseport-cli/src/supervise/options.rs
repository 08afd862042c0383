//! What `run` is asked for: by options, by a file with the same names, or by both; options win.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum as _};
use reuseport::Policy;

use super::machine::Limits;
use super::spec::{Listen, Output, Ready, Spec, check_name, default_name};
use crate::args;
use crate::config::read;
use crate::config::table::{Problem, Table, Value, parse};
use crate::error::Failure;
use crate::policy::{PolicyOptions, PolicyParser};

/// The page that has all keys of the file.
const PAGE: &str = "docs/run.md";

/// Options of `run`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RunOptions {
    /// Its name, for `reload` and for its files [default: the command's file name]
    #[arg(long, value_name = "NAME", value_parser = check_name)]
    name: Option<String>,

    /// An address at which all workers listen: tcp:0.0.0.0:8080, udp:[::]:53
    ///
    /// Can be given several times. Each worker gets a socket of its own for each address, in this order, as
    /// descriptors 3, 4 and so on.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Listen>,

    /// How many workers [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,

    /// The policy [default: the current one; at first least-loaded for tcp, hash for udp]
    #[arg(long, value_name = "POLICY", value_parser = PolicyParser, hide_possible_values = true)]
    policy: Option<Policy>,

    #[command(flatten)]
    options: PolicyOptions,

    /// When a worker is ready: accepting, notify, both, cmd:COMMAND [default: accepting]
    ///
    /// accepting: a thread waits for connections at each of its sockets. notify: it says so, by sd_notify(3).
    /// both: it does both; gunicorn, for one, says so before it has imported the application. cmd:COMMAND:
    /// `sh -c COMMAND` exits with 0, which is run every 200 ms with REUSEPORT_PID and REUSEPORT_WORKER. Nothing
    /// ever connects to the shared port.
    #[arg(long, value_name = "HOW")]
    ready: Option<Ready>,

    /// How long a new generation may take to get ready [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = args::time)]
    ready_timeout: Option<Duration>,

    /// How long a new generation is taken back if one of its workers ends [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = args::time)]
    probation: Option<Duration>,

    /// How long an old generation may take what waits at it [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = args::time)]
    drain_timeout: Option<Duration>,

    /// How long a worker may take to end after SIGTERM, before SIGKILL [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = args::time)]
    stop_timeout: Option<Duration>,

    /// How many connections may wait at each socket [default: 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    backlog: Option<i32>,

    /// Whether each line that a worker prints begins with its name [default: prefix]
    #[arg(long, value_name = "prefix|inherit", hide_possible_values = true)]
    output: Option<Output>,

    /// Leave the choice to the kernel's hash: where the rights for a program are missing
    ///
    /// It says what is lost.
    #[arg(long)]
    no_program: bool,

    /// A TOML file with these options, without the dashes, and `command`
    ///
    /// Options that are given here, too, win. Only root, or the user who runs this, may be able to change the
    /// file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// What each worker runs, without a shell
    ///
    /// {fd} stands for the descriptor of its first socket, {fd2} for that of its second one, {worker} for its
    /// number.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl RunOptions {
    /// What is to be done, and whether by a program.
    ///
    /// # Errors
    ///
    /// If something is missing, or the file is wrong.
    pub(super) fn spec(self) -> Result<(Spec, bool)> {
        let file = self.config.as_deref().map(Self::read).transpose()?.unwrap_or_default();
        let all = self.or(file);
        if all.listen.is_empty() {
            return Err(Failure::new(
                "no address to listen at is given",
                "give one, as in --listen tcp:0.0.0.0:8080",
            )
            .into());
        }
        if let Some(twice) = twice(&all.listen) {
            return Err(Failure::new(format!("{twice} is given twice"), "give it once").into());
        }
        all.options.check(all.policy)?;
        super::spec::check_command(&all.command)?;
        let name = match all.name {
            Some(name) => name,
            None => default_name(&all.command)?,
        };
        let seconds = Duration::from_secs;
        let spec = Spec {
            name,
            listen: all.listen,
            workers: all.workers.unwrap_or(1),
            command: all.command,
            policy: all.policy,
            options: all.options,
            ready: all.ready.unwrap_or(Ready::Accepting),
            limits: Limits {
                ready: all.ready_timeout.unwrap_or(seconds(60)),
                probation: all.probation.unwrap_or(seconds(5)),
                drain: all.drain_timeout.unwrap_or(seconds(30)),
                stop: all.stop_timeout.unwrap_or(seconds(30)),
            },
            backlog: all.backlog.unwrap_or(4096),
            output: all.output.unwrap_or_default(),
        };
        Ok((spec, !all.no_program))
    }

    /// These, and where they say nothing, others.
    fn or(self, other: Self) -> Self {
        let given = |ours: Vec<_>, theirs| if ours.is_empty() { theirs } else { ours };
        let command = if self.command.is_empty() { other.command } else { self.command };
        Self {
            name: self.name.or(other.name),
            listen: given(self.listen, other.listen),
            workers: self.workers.or(other.workers),
            policy: self.policy.or(other.policy),
            options: PolicyOptions {
                load: self.options.load.or(other.options.load),
                max_share: self.options.max_share.or(other.options.max_share),
                cpus: self.options.cpus.or(other.options.cpus),
            },
            ready: self.ready.or(other.ready),
            ready_timeout: self.ready_timeout.or(other.ready_timeout),
            probation: self.probation.or(other.probation),
            drain_timeout: self.drain_timeout.or(other.drain_timeout),
            stop_timeout: self.stop_timeout.or(other.stop_timeout),
            backlog: self.backlog.or(other.backlog),
            output: self.output.or(other.output),
            no_program: self.no_program || other.no_program,
            config: self.config,
            command,
        }
    }

    fn read(path: &Path) -> Result<Self> {
        read(path, PAGE, Self::parse)
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let mut file = parse(text)?;
        let options = Self {
            name: file.take("name").map(|name| checked(&name, check_name)).transpose()?,
            listen: file.take("listen").map_or(Ok(Vec::new()), Value::list)?,
            workers: number(&mut file, "workers", 1_u16)?,
            policy: file.parsed("policy")?,
            options: PolicyOptions {
                load: file.parsed("load")?,
                max_share: file.take("max-share").map(|value| value.number()).transpose()?,
                cpus: file.parsed("cpus")?,
            },
            ready: file.parsed("ready")?,
            ready_timeout: time(&mut file, "ready-timeout")?,
            probation: time(&mut file, "probation")?,
            drain_timeout: time(&mut file, "drain-timeout")?,
            stop_timeout: time(&mut file, "stop-timeout")?,
            backlog: number(&mut file, "backlog", 1_i32)?,
            output: file.take("output").map(|value| checked(&value, output)).transpose()?,
            no_program: file.take("no-program").map_or(Ok(false), |value| value.flag())?,
            config: None,
            command: file.take("command").map_or(Ok(Vec::new()), Value::list)?,
        };
        file.finish()?;
        Ok(options)
    }
}

/// An address that is there twice.
fn twice(listen: &[Listen]) -> Option<&Listen> {
    listen.iter().enumerate().find(|(at, one)| listen[..*at].contains(one)).map(|(_, one)| one)
}

fn output(text: &str) -> Result<Output, String> {
    let error = |_| format!("`{text}`: write prefix or inherit");
    Output::from_str(text, false).map_err(error)
}

/// A value that this function parses.
fn checked<T>(value: &Value<'_>, parse: fn(&str) -> Result<T, String>) -> Result<T, Problem> {
    parse(value.text()?).map_err(|problem| Problem::new(&value.span(), problem))
}

fn time(file: &mut Table<'_>, key: &'static str) -> Result<Option<Duration>, Problem> {
    file.take(key).map(|value| checked(&value, args::time)).transpose()
}

/// A whole number that is not less than `least`.
fn number<T>(file: &mut Table<'_>, key: &'static str, least: T) -> Result<Option<T>, Problem>
where
    T: FromStr<Err: Display> + PartialOrd + Display,
{
    let Some(value) = file.take(key) else { return Ok(None) };
    let number: T = value.number()?;
    match number >= least {
        true => Ok(Some(number)),
        false => Err(Problem::new(&value.span(), format!("`{key}` is at least {least}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
name = "web"
listen = ["tcp:0.0.0.0:8080", "udp:[::]:53"]
workers = 4
policy = "least-loaded"
load = "queue"
max-share = 1.5
ready = "cmd:test -e /ready"
ready-timeout = "90s"
probation = "1m"
drain-timeout = "5"
stop-timeout = "500ms"
backlog = 100
output = "inherit"
command = ["sh", "-c", "server --fd {fd}"]
"#;

    #[test]
    fn a_file_has_all_options_and_given_ones_win() {
        let file = RunOptions::parse(FILE).unwrap();
        let given =
            RunOptions { workers: Some(2), name: Some("api".to_owned()), ..Default::default() };
        let (spec, program) = given.or(file).spec().unwrap();
        assert_eq!((spec.name.as_str(), spec.workers, program), ("api", 2, true));
        assert_eq!(spec.listen.len(), 2);
        assert_eq!(spec.ready, Ready::Command("test -e /ready".to_owned()));
        assert_eq!(spec.limits.stop, Duration::from_millis(500));
        assert_eq!((spec.backlog, spec.output), (100, Output::Inherit));
        assert_eq!(spec.command.len(), 3);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named_with_its_line() {
        let problem = |text: &str| RunOptions::parse(text).unwrap_err().in_file(text);
        assert!(problem("worker = 4").contains("did you mean `workers`?"));
        assert!(problem("\nworkers = 0").starts_with("line 2: `workers` is at least 1"));
        assert!(problem("listen = [\"8080\"]").contains("is no address"));
        assert!(problem("output = \"both\"").contains("write prefix or inherit"));
        assert!(problem("ready-timeout = \"soon\"").contains("is no time"));
        assert!(problem("name = \"a/b\"").contains("is no name"));
        assert!(problem("command = \"sh\"").contains("not a list of strings"));
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        let refused = |options: RunOptions| options.spec().unwrap_err().to_string();
        let listen = vec!["tcp:127.0.0.1:80".parse().unwrap()];
        assert!(refused(RunOptions::default()).contains("no address"));
        let without = RunOptions { listen: listen.clone(), ..Default::default() };
        assert!(refused(without).contains("no command"));
        let twice = RunOptions { listen: [listen.clone(), listen].concat(), ..Default::default() };
        assert!(refused(twice).contains("is given twice"));
    }
}
