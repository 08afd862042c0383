//! Where state is pinned, whose the directory is, and what is in it that decides nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::model::check::Check;
use crate::model::finding::Severity::{Advice, Problem};
use crate::model::group::Group;
use crate::pins::bpffs::{self, Root};
use crate::pins::leftover::{Oddities, oddities};
use crate::pins::place::Place;

/// The groups of the host, or why they cannot be listed.
type Groups<'a> = Result<&'a [Group], &'a String>;

/// The most directories that a check names.
const NAMED: usize = 4;

pub(super) fn checks(groups: Groups<'_>) -> [Check; 4] {
    let bpffs = Check::fine(
        "bpffs",
        "the BPF filesystem on which state is pinned: without, nothing can be attached",
        "",
    );
    let other =
        Check::fine("other-versions", "state that another version of this tool pinned", "none");
    let left = Check::fine(
        "leftovers",
        "state of groups that are gone, or of interrupted commands",
        "none",
    );
    let bpffs = match Place::Host.existing() {
        Ok(Some(path)) => Check { seen: path.display().to_string(), ..bpffs },
        Ok(None) => bpffs.found(Advice, "none is mounted; `attach` mounts it", MOUNT),
        Err(error) => {
            let hint = error.report().hint().unwrap_or_default();
            bpffs.found(Problem, error.report().causes(), hint)
        }
    };
    let [other, left] = match found(groups) {
        Ok(Oddities { leftovers, other_versions }) => [
            match &other_versions[..] {
                [] => other,
                some => other.found(
                    Advice,
                    listed(some),
                    "detach these groups with the version that attached them; docs/state.md has how by hand",
                ),
            },
            match &leftovers[..] {
                [] => left,
                some => left.found(
                    Advice,
                    format!("{}; it decides nothing", listed(some)),
                    "none: the next `attach` or `detach` of any group removes it",
                ),
            },
        ],
        Err(why) => [other.unseen(&why), left.unseen(why)],
    };
    [bpffs, directory(), other, left]
}

const MOUNT: &str = "`mount -t bpf -o mode=700 bpf /sys/fs/bpf`, at boot";

fn found(groups: Groups<'_>) -> Result<Oddities, String> {
    let groups = groups?;
    let root = Root::existing(&Place::Host).map_err(|error| error.report().to_string())?;
    let Some(root) = root else { return Ok(Oddities::default()) };
    let _lock = root.lock_shared().map_err(|error| error.report().to_string())?;
    oddities(&root, groups).map_err(|error| error.report().to_string())
}

fn listed(paths: &[PathBuf]) -> String {
    crate::group::listed(paths.iter().map(|path| path.display().to_string()), NAMED)
}

fn directory() -> Check {
    const OTHERS_WRITE: u32 = 0o002;

    let one =
        Check::fine("directory", "the directory of the state, which belongs to who attaches", "");
    let Some((path, metadata)) = root() else {
        return Check { seen: "none yet: the first `attach` makes it".to_owned(), ..one };
    };
    let metadata = match metadata {
        Ok(metadata) => metadata,
        Err(error) => return one.unseen(format!("{}: {error}", path.display())),
    };
    let (shown, owner) = (path.display(), metadata.uid());
    let seen = format!("{shown} belongs to uid {owner}, with mode {:o}", metadata.mode() & 0o7777);
    if metadata.mode() & OTHERS_WRITE != 0 {
        return one.found(
            Problem,
            seen,
            format!("`chmod o-w {shown}`: other users could exchange pins"),
        );
    }
    match owner == bpffs::own_uid() || bpffs::own_uid() == 0 {
        true => Check { seen, ..one },
        false => one.found(Advice, seen, format!("attach as uid {owner}, or as root")),
    }
}

/// The state directory, if there is one or it cannot be told.
fn root() -> Option<(PathBuf, std::io::Result<fs::Metadata>)> {
    let path = Place::Host.existing().ok()??.join("reuseport");
    match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        metadata => Some((path, metadata)),
    }
}

/// Whether the state directory belongs to another user, as far as can be told.
pub(super) fn is_of_another_user() -> bool {
    let own = bpffs::own_uid();
    match root() {
        Some((_, Ok(metadata))) => metadata.uid() != own,
        Some((_, Err(_))) => true,
        None => {
            let bpffs = Place::Host.existing().ok().flatten();
            let owner = bpffs.as_deref().and_then(|path: &Path| fs::metadata(path).ok());
            owner.is_some_and(|metadata| metadata.uid() != own)
        }
    }
}

/// Whether no BPF filesystem is mounted yet.
pub(super) fn is_unmounted() -> bool {
    matches!(Place::Host.existing(), Ok(None))
}
