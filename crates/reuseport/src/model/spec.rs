//! Names of groups as users type them: `tcp:127.0.0.1:8080`, `udp:[::]:53`, `:8080`.
//!
//! A [`GroupSpec`] chooses among the groups that [`Host::groups`](crate::Host::groups) lists. It resolves no
//! host names.

mod apart;
mod choose;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use crate::model::group::{Device, Group, GroupKey, Protocol};
use crate::model::id::Cookie;
use crate::model::written::{Parts, Written, is_number};

pub(crate) use apart::tell_names_apart;
pub use parse::{ParseSpecError, SpecProblem};

/// A name for one or several groups: a part that is left out matches anything.
///
/// | written | names |
/// |---|---|
/// | `tcp:127.0.0.1:8080` | the TCP group on that address |
/// | `udp:[::]:53` | the UDP group on the IPv6 wildcard, not the one on `0.0.0.0` |
/// | `tcp:*:80` | TCP on either wildcard, `0.0.0.0` or `[::]` |
/// | `tcp:0.0.0.0%eth0:80` | only sockets that are bound to this device (its name or its index) |
/// | `tcp:[fe80::1%eth0]:80` | the same, with the device inside the brackets, as other programs write it |
/// | `127.0.0.1:8080` | TCP or UDP |
/// | `tcp::8080` | TCP on any address |
/// | `:8080` | anything on that port |
///
/// What follows the port tells groups apart that are otherwise written alike:
///
/// | written | names |
/// |---|---|
/// | `tcp:[::]:80,v6only` | the group that refuses IPv4 traffic, next to one that does not |
/// | `udp::53,uid=33` | the group of this user's sockets |
/// | `tcp::80,netns=blue` | the group in this network namespace: its name in `ip netns`, or its inode number |
/// | `tcp::80,dev=eth0` | the same as `tcp:%eth0:80` |
/// | `udp::53,of=cookie:7` | the group with this socket, where [several have the same name](GroupKey) |
/// | `udp::53,of=pid:1234` | a group with a socket that this process holds |
///
/// An address is literal: `tcp:1.2.3.4:80` does not name a group on `[::]`, although that group receives
/// traffic to 1.2.3.4, too. `1.2.3.4` and `[::ffff:1.2.3.4]` are one address, and the one that is written as the
/// group's is goes before.
///
/// ```
/// use reuseport::spec::GroupSpec;
///
/// let spec: GroupSpec = "tcp:[fe80::1%eth0]:80".parse()?;
/// assert_eq!(spec.to_string(), "tcp:[fe80::1]%eth0:80");
/// assert!("8080".parse::<GroupSpec>().unwrap_err().to_string().contains("`:8080`"));
/// # Ok::<(), reuseport::spec::ParseSpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupSpec {
    protocol: Option<Protocol>,
    host: Host,
    device: Option<String>,
    port: u16,
    v6only: bool,
    uid: Option<u32>,
    netns: Option<NetnsName>,
    of: Option<MemberOf>,
}

/// A network namespace, by its name or its inode number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct NetnsName {
    text: String,
    /// What the text means, where that is known.
    inode: Option<u32>,
}

/// A member of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum MemberOf {
    Cookie(Cookie),
    /// One that this process holds.
    Pid(u32),
}

/// The local addresses that a name matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Host {
    /// Any address.
    Any,
    /// `*`: either wildcard.
    Wildcard,
    /// This address.
    Ip(IpAddr),
}

impl GroupSpec {
    /// Whether it names a group by a member, which ends with its socket or process.
    pub fn of_member(&self) -> bool {
        self.of.is_some()
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The protocol, if given.
    pub fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// The network namespace, if given: its name, or its inode number.
    pub fn netns(&self) -> Option<&str> {
        self.netns.as_ref().map(|netns| netns.text.as_str())
    }

    /// The same name in the network namespace with this inode number, which people write as `name`.
    ///
    /// A name that [`netns_names`](crate::netns_names) does not have names no namespace without this.
    #[must_use]
    pub fn in_netns(mut self, name: &str, inode: u32) -> Self {
        self.netns = Some(NetnsName { text: name.to_owned(), inode: Some(inode) });
        self
    }

    /// Whether it names this group.
    pub fn matches(&self, group: &Group) -> bool {
        self.matches_name(&group.key) && self.of.is_none_or(|of| of.is_in(group))
    }

    /// The same, whatever members the group has.
    pub fn matches_name(&self, key: &GroupKey) -> bool {
        let address = match self.host {
            Host::Any => true,
            Host::Wildcard => key.address.ip().is_unspecified(),
            Host::Ip(ip) => key.address.ip().to_canonical() == ip.to_canonical(),
        };
        address
            && key.address.port() == self.port
            && self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && self.device.as_ref().is_none_or(|wanted| is_device(key, wanted))
            && (key.v6only || !self.v6only)
            && self.uid.is_none_or(|uid| uid == key.uid)
            && self.netns.as_ref().is_none_or(|netns| netns.is_of(key))
    }

    /// The text of a group's key, as a name.
    fn of_key(key: &GroupKey, written: &Written) -> Self {
        Self {
            protocol: Some(key.protocol),
            host: Host::Ip(key.address.ip()),
            device: key.device.as_ref().map(Device::text),
            port: key.address.port(),
            v6only: written.v6only,
            uid: written.uid.then_some(key.uid),
            netns: written.netns.then(|| NetnsName {
                text: written.netns_text(key.netns.inode),
                inode: Some(key.netns.inode),
            }),
            of: key.of.map(MemberOf::Cookie),
        }
    }
}

impl NetnsName {
    fn is_of(&self, key: &GroupKey) -> bool {
        match self.inode {
            Some(inode) => inode == key.netns.inode,
            None => {
                key.written.netns_name.as_deref() == Some(&self.text)
                    || self.text.parse() == Ok(key.netns.inode)
            }
        }
    }
}

impl MemberOf {
    fn is_in(self, group: &Group) -> bool {
        match self {
            Self::Cookie(cookie) => group.member(cookie).is_some(),
            Self::Pid(pid) => group.members.iter().any(|m| m.holders.iter().any(|h| h.pid == pid)),
        }
    }
}

/// Whether the group's sockets are bound to the device with this name or, if it is a number, this index.
fn is_device(key: &GroupKey, wanted: &str) -> bool {
    key.device.as_ref().is_some_and(|device| match is_number(wanted) {
        true => device.index.to_string() == wanted,
        false => device.name.as_deref() == Some(wanted),
    })
}

/// The form that [`FromStr`](std::str::FromStr) accepts and [`GroupKey`] shows.
impl fmt::Display for GroupSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}:")?;
        }
        match self.host {
            Host::Any => {}
            Host::Wildcard => f.write_str("*")?,
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}")?,
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
        }
        if let Some(device) = &self.device {
            write!(f, "%{device}")?;
        }
        write!(f, ":{}", self.port)?;
        let parts = Parts {
            v6only: self.v6only,
            uid: self.uid,
            netns: self.netns.as_ref().map(|netns| netns.text.clone()),
            of: self.of.map(|of| match of {
                MemberOf::Cookie(cookie) => format!("cookie:{cookie}"),
                MemberOf::Pid(pid) => format!("pid:{pid}"),
            }),
        };
        parts.fmt(f)
    }
}
