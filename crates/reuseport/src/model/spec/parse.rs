//! Parsing of names, and what may be wrong with them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{GroupSpec, Host, MemberOf, NetnsName};
use crate::error::{Error, ErrorKind};
use crate::model::group::Protocol;
use crate::model::id::Cookie;

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
    /// A device in two places.
    #[error("it names the device twice; write it like tcp:[fe80::1]%eth0:80")]
    TwoDevices,
    /// What follows `of=` is no member.
    #[error(
        "`{}` is no member; name its socket or its process, as in udp:[::]:53,of=cookie:7 or \
         udp:[::]:53,of=pid:1234", .0.escape_debug()
    )]
    Member(String),
    /// More than one member.
    #[error("it names two members; one is enough, as in udp:[::]:53,of=cookie:7")]
    TwoMembers,
    /// What follows `uid=` is no number of a user.
    #[error("`{}` is no user; write the number, as in udp:[::]:53,uid=33", .0.escape_debug())]
    User(String),
    /// What follows `netns=` can be neither a name in `ip netns` nor an inode number.
    #[error(
        "`{}` is no network namespace; write its name in `ip netns` or its inode number, as in \
         :53,netns=blue", .0.escape_debug()
    )]
    Netns(String),
    /// The text after a comma is nothing that tells groups apart.
    #[error(
        "`{}` does not tell groups apart; these do: uid=N, netns=X, v6only, dev=X, of=cookie:N, \
         of=pid:N", .0.escape_debug()
    )]
    Unknown(String),
    /// The same twice, such as two users.
    #[error("`{0}` is given twice; once is enough")]
    Twice(&'static str),
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
    let (text, parts) = split_parts(text);
    let (protocol, rest) = split_protocol(text)?;
    let (place, port) = split_port(rest).map_err(|problem| match (problem, protocol) {
        (SpecProblem::PortAlone(port), Some(protocol)) => {
            SpecProblem::PortAlone(format!("{protocol}:{port}"))
        }
        (problem, _) => problem,
    })?;
    let (host, device) = parse_place(place)?;
    let device = device.map(parse_device).transpose()?;
    let mut spec =
        GroupSpec { protocol, host, device, port, v6only: false, uid: None, netns: None, of: None };
    parts.into_iter().try_for_each(|part| spec.add(part))?;
    Ok(spec)
}

/// The text before the parts that tell groups apart, and these parts. A device's name may have commas.
fn split_parts(text: &str) -> (&str, Vec<&str>) {
    let is_part = |rest: &str| {
        let first = rest.split(',').next().unwrap_or_default();
        let is_named = first.split_once('=').is_some_and(|(name, _)| is_word(name));
        is_named || first == V6ONLY || !rest.contains(':')
    };
    let mut commas = text.match_indices(',').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let found = commas.find(|(_, rest)| is_part(rest));
    found.map_or((text, Vec::new()), |(before, rest)| (before, rest.split(',').collect()))
}

const V6ONLY: &str = "v6only";

impl GroupSpec {
    /// Adds a part that tells groups apart.
    fn add(&mut self, part: &str) -> Result<(), SpecProblem> {
        let problem = match part.split_once('=') {
            None if part == V6ONLY => {
                let twice = std::mem::replace(&mut self.v6only, true);
                twice.then_some(SpecProblem::Twice(V6ONLY))
            }
            Some(("uid", uid)) => {
                let number = uid.parse().ok().filter(|_| is_number(uid));
                let number = number.ok_or_else(|| SpecProblem::User(uid.to_owned()))?;
                self.uid.replace(number).map(|_| SpecProblem::Twice("uid"))
            }
            Some(("netns", text)) => {
                let netns = NetnsName { text: parse_netns(text)?, inode: None };
                self.netns.replace(netns).map(|_| SpecProblem::Twice("netns"))
            }
            Some(("dev", device)) => {
                self.device.replace(parse_device(device)?).map(|_| SpecProblem::TwoDevices)
            }
            Some(("of", member)) => {
                let of =
                    parse_member(member).ok_or_else(|| SpecProblem::Member(member.to_owned()))?;
                self.of.replace(of).map(|_| SpecProblem::TwoMembers)
            }
            _ => Some(SpecProblem::Unknown(part.to_owned())),
        };
        problem.map_or(Ok(()), Err)
    }
}

/// A name in `ip netns`, or an inode number.
fn parse_netns(text: &str) -> Result<String, SpecProblem> {
    let prohibited = |c: char| c == '/' || c.is_control();
    if text.is_empty() || text.contains(prohibited) {
        return Err(SpecProblem::Netns(text.to_owned()));
    }
    Ok(text.to_owned())
}

/// What `of=` names.
fn parse_member(text: &str) -> Option<MemberOf> {
    let (kind, number) = text.split_once(':')?;
    if !is_number(number) {
        return None;
    }
    match kind {
        "cookie" => number.parse().ok().and_then(Cookie::new).map(MemberOf::Cookie),
        "pid" => number.parse().ok().filter(|pid| *pid != 0).map(MemberOf::Pid),
        _ => None,
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
