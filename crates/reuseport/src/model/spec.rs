//! Names of groups as users type them: `tcp:127.0.0.1:8080`, `udp:[::]:53`, `:8080`.
//!
//! A [`GroupSpec`] chooses among the groups that [`Host::groups`](crate::Host::groups) lists. It resolves no
//! host names.

mod choose;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::{Error, ErrorKind};
use crate::model::group::{Group, GroupKey, Protocol};
use crate::model::id::Cookie;

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
/// | `udp::53,of=cookie:7` | the group with this socket, where [several have the same name](GroupKey) |
/// | `udp::53,of=pid:1234` | a group with a socket that this process holds |
///
/// An address is literal: `tcp:1.2.3.4:80` does not name a group on `[::]`, although that group receives
/// traffic to 1.2.3.4, too.
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
    of: Option<MemberOf>,
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
    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The protocol, if given.
    pub fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// Whether it names this group.
    pub fn matches(&self, group: &Group) -> bool {
        self.matches_name(&group.key) && self.of.is_none_or(|of| of.is_in(group))
    }

    /// The same, whatever members the group has.
    pub(crate) fn matches_name(&self, key: &GroupKey) -> bool {
        let address = match self.host {
            Host::Any => true,
            Host::Wildcard => key.address.ip().is_unspecified(),
            Host::Ip(ip) => key.address.ip() == ip,
        };
        address
            && key.address.port() == self.port
            && self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && self.device.as_ref().is_none_or(|wanted| is_device(key, wanted))
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

/// Whether the group's sockets are bound to the device with this name or index.
fn is_device(key: &GroupKey, wanted: &str) -> bool {
    key.device.as_ref().is_some_and(|device| {
        device.name.as_deref() == Some(wanted) || device.index.to_string() == wanted
    })
}

/// The form that [`FromStr`] accepts and [`GroupKey`] shows.
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
        match self.of {
            Some(MemberOf::Cookie(cookie)) => write!(f, ",of=cookie:{cookie}"),
            Some(MemberOf::Pid(pid)) => write!(f, ",of=pid:{pid}"),
            None => Ok(()),
        }
    }
}

/// Why a text does not name a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` does not name a group: {problem}", text.escape_debug())]
pub struct ParseSpecError {
    text: String,
    problem: SpecProblem,
}

impl ParseSpecError {
    /// What is wrong with the text.
    pub fn problem(&self) -> &SpecProblem {
        &self.problem
    }
}

impl From<ParseSpecError> for Error {
    fn from(error: ParseSpecError) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}

/// A mistake in a group's name. The message shows the correct form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecProblem {
    /// The text is empty.
    #[error("it is empty; write it like tcp:127.0.0.1:8080, udp:[::]:53 or :8080")]
    Empty,
    /// The protocol is neither `tcp` nor `udp`.
    #[error("`{}` is not a protocol; write tcp or udp, as in tcp:127.0.0.1:8080", .0.escape_debug())]
    Protocol(String),
    /// It looks like a URL.
    #[error("no slashes follow the protocol; write it like tcp:127.0.0.1:8080")]
    Slashes,
    /// A number alone; holds the correct form.
    #[error("a port alone is written with a colon, as in `{0}`")]
    PortAlone(String),
    /// The port is missing.
    #[error("the port is missing; write it like 127.0.0.1:8080 or [::1]:8080")]
    NoPort,
    /// The port is not a number from 1 to 65535.
    #[error("`{}` is not a port; write a number from 1 to 65535, as in :8080", .0.escape_debug())]
    Port(String),
    /// An IPv6 address without brackets.
    #[error("an IPv6 address goes into brackets; write it like tcp:[::1]:8080")]
    NoBrackets,
    /// The brackets do not hold exactly one IPv6 address, or text follows them.
    #[error("brackets hold one IPv6 address and nothing else; write it like tcp:[::1]:8080")]
    Brackets,
    /// The address is not an IP address.
    #[error(
        "`{}` is not an address; write it in numbers (127.0.0.1, [::1]), * for a wildcard, or \
         nothing for any", .0.escape_debug()
    )]
    Address(String),
    /// The text after `%` cannot be a network device.
    #[error(
        "`{}` is not a network device; write its name or index, as in 0.0.0.0%eth0:80",
        .0.escape_debug()
    )]
    Device(String),
    /// A device both in the brackets and after them.
    #[error("it names the device twice; write it like tcp:[fe80::1]%eth0:80")]
    TwoDevices,
    /// The text after a comma is not `of=` and a member.
    #[error(
        "`{}` does not tell groups apart; name a member by its socket or process, as in \
         udp:[::]:53,of=cookie:7 or udp:[::]:53,of=pid:1234", .0.escape_debug()
    )]
    Member(String),
    /// More than one member.
    #[error("it names two members; one is enough, as in udp:[::]:53,of=cookie:7")]
    TwoMembers,
}

impl FromStr for GroupSpec {
    type Err = ParseSpecError;

    fn from_str(text: &str) -> Result<Self, ParseSpecError> {
        parse(text).map_err(|problem| ParseSpecError { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<GroupSpec, SpecProblem> {
    if text.is_empty() {
        return Err(SpecProblem::Empty);
    }
    let (text, of) = split_member(text);
    let of = of.map(parse_member).transpose()?;
    let (protocol, rest) = split_protocol(text)?;
    let (place, port) = split_port(rest).map_err(|problem| match (problem, protocol) {
        (SpecProblem::PortAlone(port), Some(protocol)) => {
            SpecProblem::PortAlone(format!("{protocol}:{port}"))
        }
        (problem, _) => problem,
    })?;
    let (host, device) = parse_place(place)?;
    let device = device.map(parse_device).transpose()?;
    Ok(GroupSpec { protocol, host, device, port, of })
}

/// The text before the first comma that `NAME=` follows, and the text after it. A device's name may have
/// commas.
fn split_member(text: &str) -> (&str, Option<&str>) {
    let is_option = |rest: &str| rest.split_once('=').is_some_and(|(name, _)| is_word(name));
    let commas = text.match_indices(',').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let found = commas.into_iter().find(|(_, rest)| is_option(rest));
    found.map_or((text, None), |(before, rest)| (before, Some(rest)))
}

/// What `of=` names.
fn parse_member(option: &str) -> Result<MemberOf, SpecProblem> {
    let parsed = || {
        let (kind, number) = option.strip_prefix("of=")?.split_once(':')?;
        if !is_number(number) {
            return None;
        }
        match kind {
            "cookie" => number.parse().ok().and_then(Cookie::new).map(MemberOf::Cookie),
            "pid" => number.parse().ok().filter(|pid| *pid != 0).map(MemberOf::Pid),
            _ => None,
        }
    };
    match option.split_once(",of=") {
        Some(_) => Err(SpecProblem::TwoMembers),
        None => parsed().ok_or_else(|| SpecProblem::Member(option.to_owned())),
    }
}

/// The protocol before the first colon, if there is one, and the rest.
fn split_protocol(text: &str) -> Result<(Option<Protocol>, &str), SpecProblem> {
    let Some((head, tail)) = text.split_once(':') else {
        return Ok((None, text));
    };
    let protocol = match head.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        // `localhost:80` has one colon only, `fe80::1:80` is an address without brackets.
        _ if tail.contains(':') && is_word(head) && !is_hexadecimal(head) => {
            return Err(SpecProblem::Protocol(head.to_owned()));
        }
        _ => return Ok((None, text)),
    };
    if tail.starts_with("//") {
        return Err(SpecProblem::Slashes);
    }
    Ok((Some(protocol), tail))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(char::is_alphanumeric)
}

fn is_hexadecimal(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_hexdigit())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

/// The text before the last colon, and the port after it.
fn split_port(text: &str) -> Result<(&str, u16), SpecProblem> {
    if is_number(text) {
        return Err(parse_port(text).err().unwrap_or(SpecProblem::PortAlone(format!(":{text}"))));
    }
    let (place, port) = text.rsplit_once(':').ok_or(SpecProblem::NoPort)?;
    // The last colon may be one of an IPv6 address.
    if port.is_empty() || port.contains(']') {
        return Err(SpecProblem::NoPort);
    }
    Ok((place, parse_port(port)?))
}

fn parse_port(port: &str) -> Result<u16, SpecProblem> {
    // Rust's numbers may have a sign; ports do not.
    match port.parse() {
        Ok(number) if is_number(port) && number != 0 => Ok(number),
        _ => Err(SpecProblem::Port(port.to_owned())),
    }
}

/// The address and the device.
fn parse_place(place: &str) -> Result<(Host, Option<&str>), SpecProblem> {
    if let Some(opened) = place.strip_prefix('[') {
        let (inside, after) = opened.split_once(']').ok_or(SpecProblem::Brackets)?;
        let (ip, device_inside) = split_device(inside);
        let ip: Ipv6Addr = ip.parse().map_err(|_| SpecProblem::Brackets)?;
        let (nothing, device_behind) = split_device(after);
        if !nothing.is_empty() {
            return Err(SpecProblem::Brackets);
        }
        if device_inside.is_some() && device_behind.is_some() {
            return Err(SpecProblem::TwoDevices);
        }
        return Ok((Host::Ip(ip.into()), device_inside.or(device_behind)));
    }
    let (host, device) = split_device(place);
    let host = match host {
        "" => Host::Any,
        "*" => Host::Wildcard,
        _ if host.contains(':') => return Err(SpecProblem::NoBrackets),
        _ => match host.parse::<Ipv4Addr>() {
            Ok(ip) => Host::Ip(ip.into()),
            Err(_) => return Err(SpecProblem::Address(host.to_owned())),
        },
    };
    Ok((host, device))
}

/// The text before the first `%`, and the text after it.
fn split_device(text: &str) -> (&str, Option<&str>) {
    match text.split_once('%') {
        Some((before, device)) => (before, Some(device)),
        None => (text, None),
    }
}

/// A device's name as the kernel allows it (`dev_valid_name` in `net/core/dev.c`: at most 15 bytes,
/// no slash, colon or white space), or its index.
fn parse_device(device: &str) -> Result<String, SpecProblem> {
    let prohibited = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if device.is_empty() || device.len() > 15 || device.contains(prohibited) {
        return Err(SpecProblem::Device(device.to_owned()));
    }
    Ok(device.to_owned())
}
