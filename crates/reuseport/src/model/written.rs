//! How a group's name is written: the parts that tell it apart from other groups.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What a key's text has in addition to protocol, address, device and port: as much as told it apart from the
/// other groups of the host when it was listed. It is no part of the identity: any two are equal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    pub(crate) v6only: bool,
    pub(crate) uid: bool,
    pub(crate) netns: bool,
    /// The namespace's name in `ip netns`, if it has one.
    pub(crate) netns_name: Option<Arc<str>>,
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Written {}

impl Hash for Written {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Written {
    /// The namespace's name, or its inode number.
    pub(crate) fn netns_text(&self, inode: u32) -> String {
        name_or_number(self.netns_name.as_deref(), inode)
    }
}

/// The name where it can be typed as a part of a group's name, and is not taken for a number; else the number. Names are
/// untrusted: those of devices come from any network namespace.
pub(crate) fn name_or_number(name: Option<&str>, number: u32) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = name.filter(|name| name.chars().all(plain) && !is_number(name));
    name.map_or_else(|| number.to_string(), str::to_owned)
}

/// Whether a name is only digits.
pub(crate) fn is_number(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_digit())
}

/// The parts after the port.
pub(crate) struct Parts {
    pub(crate) v6only: bool,
    pub(crate) uid: Option<u32>,
    pub(crate) netns: Option<String>,
    pub(crate) of: Option<String>,
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.v6only {
            f.write_str(",v6only")?;
        }
        if let Some(uid) = self.uid {
            write!(f, ",uid={uid}")?;
        }
        if let Some(netns) = &self.netns {
            write!(f, ",netns={netns}")?;
        }
        self.of.as_ref().map_or(Ok(()), |of| write!(f, ",of={of}"))
    }
}
