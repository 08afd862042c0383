//! The agent's file: which groups it follows, and how.
//!
//! ```toml
//! [server.web]
//! groups = ["tcp:*:80", "tcp:*:443"]
//! policy = "least-loaded"
//! ```

pub(crate) mod table;

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use reuseport::group::Group;
use reuseport::id::{Slot, Weight};
use reuseport::spec::GroupSpec;
use reuseport::{CpuList, HoldNew, Policy};

use crate::error::Failure;
use crate::metrics::Address;
use crate::policy::PolicyOptions;
use crate::silence::Silenced;
use table::{Problem, Table, Value};

/// Where it is, unless another one is named.
pub(crate) const FILE: &str = "/etc/reuseport.toml";

/// The largest file: what is larger is another one.
const MAX_SIZE: u64 = 1 << 20;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// In the order of the file: the first one that matches a group decides.
    pub(crate) servers: Vec<Server>,
    /// Whether groups are taken back from other owners' programs.
    pub(crate) retake: bool,
    /// Findings that are not told.
    pub(crate) silence: Vec<Silenced>,
    /// Where metrics are served.
    pub(crate) metrics: Option<Address>,
}

/// A server, perhaps on many addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) name: String,
    /// All groups that match one of these.
    pub(crate) groups: Vec<GroupSpec>,
    /// `None`: the current one, or the default.
    pub(crate) policy: Option<Policy>,
    pub(crate) options: PolicyOptions,
    /// By slot.
    pub(crate) weights: Vec<(Slot, Weight)>,
    /// The most members.
    pub(crate) slots: Option<u32>,
    /// Whether newer generations wait; `None`: as it is.
    pub(crate) hold_new: Option<HoldNew>,
}

impl Config {
    /// Reads a file that only its owner, root or the caller, may write.
    ///
    /// # Errors
    ///
    /// If it cannot be read, others may write to it, or it is wrong: with the line, and what is wrong there.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        read(path, "docs/agent.md", Self::parse)
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let mut file = table::parse(text)?;
        let retake = file.take("retake").map_or(Ok(false), |value| value.flag())?;
        let silence = file.take("silence").map_or(Ok(Vec::new()), Value::list)?;
        let metrics = match file.take("metrics") {
            Some(metrics) => Some(served(metrics)?),
            None => None,
        };
        let servers = match file.take("server") {
            Some(servers) => servers.table("[server]".to_owned())?.entries(),
            None => Vec::new(),
        };
        file.finish()?;
        let servers = servers.into_iter().map(|(name, value)| {
            let span = name.span();
            let name = name.into_inner();
            let table = value.table(format!("[server.{name}]"))?;
            let server = Server::parse(name, span.clone(), table)?;
            match server.groups.is_empty() {
                true => Err(Problem::new(&span, no_groups(&server.name))),
                false => Ok(server),
            }
        });
        let servers = servers.collect::<Result<_, _>>()?;
        Ok(Self { servers, retake, silence, metrics })
    }
}

/// Reads a file that only its owner, root or the caller, may write. `page`: what shows one and has all keys.
///
/// # Errors
///
/// As [`Config::read`].
pub(crate) fn read<T>(
    path: &Path,
    page: &str,
    parse: impl FnOnce(&str) -> Result<T, Problem>,
) -> Result<T> {
    let failed = || format!("cannot read {}", path.display());
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            format!("{}: there is no such file", failed()),
            format!("{page} shows one; --config names another"),
        )
        .into(),
        _ => anyhow::Error::new(error).context(failed()),
    })?;
    refuse_if_others_may_write(path, &file)?;
    let mut text = String::new();
    file.take(MAX_SIZE + 1).read_to_string(&mut text).with_context(failed)?;
    if text.len() as u64 > MAX_SIZE {
        anyhow::bail!("{}: it is larger than {MAX_SIZE} bytes", failed());
    }
    parse(&text).map_err(|problem| {
        Failure::new(
            format!("{}, {}", path.display(), problem.in_file(&text)),
            format!("{page} has all keys; nothing was changed"),
        )
        .into()
    })
}

/// The address of `[metrics]`.
fn served(metrics: Value<'_>) -> Result<Address, Problem> {
    let span = metrics.span();
    let mut metrics = metrics.table("[metrics]".to_owned())?;
    let listen = metrics.parsed("listen")?;
    metrics.finish()?;
    listen.ok_or_else(|| {
        Problem::new(&span, "[metrics] names no address, such as listen = \"127.0.0.1:9719\"")
    })
}

fn no_groups(server: &str) -> String {
    format!("[server.{server}] names no groups, such as groups = [\"tcp:*:80\"]")
}

/// `true`, `false`, or the word for it.
fn hold_new(value: &Value<'_>) -> Result<HoldNew, Problem> {
    match (value.text(), value.flag()) {
        (Ok(_), _) => value.parsed(),
        (_, Ok(true)) => Ok(HoldNew::On),
        (_, Ok(false)) => Ok(HoldNew::Off),
        _ => Err(value.wrong("true, false or \"accepting\"")),
    }
}

impl Server {
    fn parse(name: String, span: Range<usize>, mut table: Table<'_>) -> Result<Self, Problem> {
        let groups = table.take("groups").map_or(Ok(Vec::new()), groups)?;
        let policy = table.take("policy");
        let load = table.parsed("load")?;
        let max_share = table.take("max-share").map(|value| value.number()).transpose()?;
        let cpus: Option<CpuList> = table.parsed("cpus")?;
        let weights = table.take("weights").map_or(Ok(Vec::new()), weights)?;
        let slots = table.take("slots").map(|value| slots(&value)).transpose()?;
        let hold_new = table.take("hold-new").map(|value| hold_new(&value)).transpose()?;
        table.finish()?;
        let options = PolicyOptions { load, max_share, cpus };
        let given = policy.as_ref().map(Value::parsed).transpose()?;
        if let Err(error) = options.check(given) {
            let at = policy.map_or(span, |value| value.span());
            return Err(Problem::new(&at, format!("[server.{name}]: {error}")));
        }
        Ok(Self { name, groups, policy: given, options, weights, slots, hold_new })
    }

    /// Whether it says the same of a group as another one, which may have other groups.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let others = Self { name: self.name.clone(), groups: self.groups.clone(), ..other.clone() };
        *self == others
    }

    /// Whether one of its names is that of the group.
    pub(crate) fn has(&self, group: &Group) -> bool {
        self.groups.iter().any(|spec| spec.matches(group))
    }
}

/// Groups, whatever their members.
fn groups(value: Value<'_>) -> Result<Vec<GroupSpec>, Problem> {
    let span = value.span();
    let groups: Vec<GroupSpec> = value.list()?;
    match groups.iter().find(|spec| spec.of_member()) {
        Some(spec) => {
            let text = format!("`{spec}` names a group by a member, which ends with its process");
            Err(Problem::new(&span, text))
        }
        None => Ok(groups),
    }
}

/// Weights by slot: `{ "slot:0" = 3 }`.
fn weights(value: Value<'_>) -> Result<Vec<(Slot, Weight)>, Problem> {
    let weight = |(key, value): (toml::Spanned<String>, Value<'_>)| {
        let number = |name: &String| Some(Slot::new(name.strip_prefix("slot:")?.parse().ok()?));
        let slot = number(key.get_ref()).ok_or_else(|| {
            let text = "a weight is for a slot: \"slot:0\" = 3; what else names members changes \
                        with each restart";
            Problem::new(&key.span(), text)
        })?;
        let weight = Weight::new(value.number()?).ok_or_else(|| {
            let text = format!("a weight is a whole number from 0 to {}", Weight::MAX);
            Problem::new(&value.span(), text)
        })?;
        Ok((slot, weight))
    };
    value.table("`weights`".to_owned())?.entries().into_iter().map(weight).collect()
}

fn slots(value: &Value<'_>) -> Result<u32, Problem> {
    let slots = value.number()?;
    match (1..=Slot::LIMIT).contains(&slots) {
        true => Ok(slots),
        false => {
            let text = format!("`slots` is a whole number from 1 to {}", Slot::LIMIT);
            Err(Problem::new(&value.span(), text))
        }
    }
}

/// Fails if another user than root and the caller may change what the file says.
fn refuse_if_others_may_write(path: &Path, file: &File) -> Result<()> {
    const OTHERS: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let failed = || format!("cannot read {}", path.display());
    let own = rustix::process::geteuid().as_raw();
    let is_trusted = |uid: u32| uid == 0 || uid == own;
    let of_file = file.metadata().with_context(failed)?;
    if !of_file.is_file() {
        anyhow::bail!("{} is no regular file", path.display());
    }
    let path = std::path::absolute(path).with_context(failed)?;
    let directory = path.parent().unwrap_or(&path);
    let of_directory = directory.metadata().with_context(failed)?;
    let refuse = |what: &Path, uid: u32, mode: u32| {
        Failure::new(
            format!(
                "others may change {}: it belongs to uid {uid}, with mode {:o}",
                path.display(),
                mode & 0o7777
            ),
            format!("chown root {0} && chmod go-w {0}", what.display()),
        )
    };
    if !is_trusted(of_file.uid()) || of_file.mode() & OTHERS != 0 {
        return Err(refuse(&path, of_file.uid(), of_file.mode()).into());
    }
    let shared = of_directory.mode() & OTHERS != 0 && of_directory.mode() & STICKY == 0;
    if !is_trusted(of_directory.uid()) || shared {
        return Err(Failure::new(
            format!(
                "others may change {}: its directory belongs to uid {}, with mode {:o}",
                path.display(),
                of_directory.uid(),
                of_directory.mode() & 0o7777
            ),
            format!("chown root {0} && chmod go-w {0}", directory.display()),
        )
        .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
