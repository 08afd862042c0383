//! What a supervisor runs: where it listens, how many workers, which command. Values.

use std::env;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use reuseport::Policy;
use reuseport::group::Protocol;

use super::machine::Limits;
use crate::error::Failure;
use crate::policy::PolicyOptions;

/// What is asked of a supervisor.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) listen: Vec<Listen>,
    pub(crate) workers: u16,
    pub(crate) command: Vec<String>,
    pub(crate) policy: Option<Policy>,
    pub(crate) options: PolicyOptions,
    pub(crate) ready: Ready,
    pub(crate) limits: Limits,
    pub(crate) backlog: i32,
    pub(crate) output: Output,
}

/// An address at which all workers listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
}

/// When a worker is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ready {
    /// A thread waits for connections at each of its sockets.
    Accepting,
    /// It says so: sd_notify(3).
    Notify,
    Both,
    /// This command exits with 0.
    Command(String),
}

/// What becomes of what workers print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Output {
    /// Each line after the name and the number of its worker
    #[default]
    Prefix,
    /// As it is: workers write to the supervisor's output
    Inherit,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.protocol, self.address)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, address) = match text.split_once(':') {
            Some(("tcp", address)) => (Protocol::Tcp, address),
            Some(("udp", address)) => (Protocol::Udp, address),
            _ => (Protocol::Tcp, text),
        };
        match address.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                Err(format!("`{text}` has no port: workers and reloads need the same one"))
            }
            Ok(address) => Ok(Self { protocol, address }),
            Err(_) => Err(format!(
                "`{text}` is no address to listen at: write tcp:0.0.0.0:8080, tcp:[::]:8080 or udp:127.0.0.1:53"
            )),
        }
    }
}

impl Listen {
    /// Its name in LISTEN_FDNAMES, where a colon separates names.
    pub(crate) fn fd_name(&self) -> String {
        format!("{}-{}", self.protocol, self.address.port())
    }
}

impl FromStr for Ready {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("cmd:")) {
            ("accepting", _) => Ok(Self::Accepting),
            ("notify", _) => Ok(Self::Notify),
            ("both", _) => Ok(Self::Both),
            (_, Some(command)) if !command.trim().is_empty() => {
                Ok(Self::Command(command.to_owned()))
            }
            _ => Err(format!("`{text}`: write accepting, notify, both or cmd:COMMAND")),
        }
    }
}

impl Ready {
    pub(crate) fn needs_look(&self) -> bool {
        matches!(self, Self::Accepting | Self::Both)
    }

    /// Whether a worker has to say so.
    pub(crate) fn is_said(&self) -> bool {
        matches!(self, Self::Notify | Self::Both)
    }
}

/// A name for a supervisor: it is also that of files.
pub(crate) fn check_name(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    match name.len() <= 64 && starts_well && name.chars().all(is_plain) {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "`{}` is no name: letters, digits, `_`, `.` and `-`, beginning with a letter or a digit",
            name.escape_debug()
        )),
    }
}

/// The command's name: the last part of its path.
pub(crate) fn default_name(command: &[String]) -> Result<String> {
    let program = command.first().map_or("", String::as_str);
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    check_name(name)
        .map_err(|problem| Failure::new(problem, "--name NAME gives another one").into())
}

/// Fails if there is no such command.
pub(crate) fn check_command(command: &[String]) -> Result<()> {
    let Some(program) = command.first().filter(|program| !program.is_empty()) else {
        return Err(Failure::new(
            "no command is given: there is nothing to run",
            "write it after `--`: reuseport run --listen tcp:0.0.0.0:8080 -- COMMAND",
        )
        .into());
    };
    let is_executable = |path: &Path| {
        let metadata = path.metadata();
        metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        let path = Path::new(program);
        return match (is_executable(path), path.exists()) {
            (true, _) => Ok(()),
            (false, true) => Err(Failure::new(
                format!("cannot run `{program}`: it is no executable file"),
                format!("chmod +x {program}"),
            )
            .into()),
            (false, false) => Err(Failure::new(
                format!("cannot run `{program}`: there is no such file"),
                "give the path of an executable file",
            )
            .into()),
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories = env::split_paths(&path).map(|directory: PathBuf| directory.join(program));
    match directories.any(|path| is_executable(&path)) {
        true => Ok(()),
        false => Err(Failure::new(
            format!("cannot run `{program}`: no directory of PATH has it"),
            "give its path",
        )
        .into()),
    }
}

/// The command line of a worker: `{worker}` is its number, `{fd}` the descriptor of its first socket, `{fd2}` that of its
/// second one.
pub(crate) fn fill_in(command: &[String], worker: u16, sockets: usize) -> Vec<String> {
    let fill = |argument: &String| {
        let mut argument = argument.replace("{worker}", &worker.to_string());
        for at in 0..sockets {
            let fd = (FIRST_FD + at).to_string();
            argument = argument.replace(&format!("{{fd{}}}", at + 1), &fd);
            if at == 0 {
                argument = argument.replace("{fd}", &fd);
            }
        }
        argument
    };
    command.iter().map(fill).collect()
}

/// The first descriptor that is passed: SD_LISTEN_FDS_START.
pub(crate) const FIRST_FD: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_protocol_and_a_port() {
        for (text, written) in [
            ("tcp:0.0.0.0:8080", "tcp:0.0.0.0:8080"),
            ("udp:[::1]:53", "udp:[::1]:53"),
            ("127.0.0.1:80", "tcp:127.0.0.1:80"),
            ("[::]:80", "tcp:[::]:80"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), written);
        }
        for text in ["", ":80", "tcp:80", "localhost:80", "tcp:0.0.0.0", "sctp:0.0.0.0:80"] {
            assert!(text.parse::<Listen>().unwrap_err().contains("is no address"), "{text}");
        }
        assert!("127.0.0.1:0".parse::<Listen>().unwrap_err().contains("has no port"));
    }

    #[test]
    fn readiness_has_names_or_a_command() {
        assert_eq!("both".parse(), Ok(Ready::Both));
        assert_eq!("cmd:test -e x".parse(), Ok(Ready::Command("test -e x".to_owned())));
        for text in ["", "ready", "cmd:", "cmd: "] {
            assert!(text.parse::<Ready>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_that_of_the_command_and_fits_a_file() {
        let name = |program: &str| default_name(&[program.to_owned()]);
        assert_eq!(name("/usr/bin/python3.11").unwrap(), "python3.11");
        assert!(name("/").is_err());
        for wrong in ["", ".", "..", ".hidden", "a/b", "a b", "-x", &"x".repeat(65)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_in_the_command_are_filled_in() {
        let command = ["s", "--fd={fd},{fd1},{fd2},{fd3}", "{worker}{worker}"].map(str::to_owned);
        let filled = fill_in(&command, 7, 2);
        assert_eq!(filled, ["s", "--fd=3,3,4,{fd3}", "77"]);
        assert_eq!(fill_in(&command, 1, 0)[1], command[1], "there are no sockets");
    }

    #[test]
    fn a_command_that_is_not_there_is_refused() {
        let refused = |program: &str| check_command(&[program.to_owned()]).unwrap_err().to_string();
        assert!(refused("no-such-command").contains("no directory of PATH"));
        assert!(refused("/no/such").contains("there is no such file"));
        assert!(refused("/etc/passwd").contains("no executable file"));
        assert!(refused("").contains("no command"));
        assert!(check_command(&["sh".to_owned()]).is_ok());
    }
}
