//! MEMBER on the command line: the members that a verb works on.
//!
//! Makes no system call: it selects members from a group's status, and errors list the choices.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use reuseport::group::listed;
use reuseport::id::{Cookie, Weight};
use reuseport::status::{GroupStatus, MemberStatus};

use crate::error::{self, Failure};

/// One parsed MEMBER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selector {
    /// The member in this slot.
    Slot(u16),
    /// The socket with this cookie.
    Cookie(u64),
    /// The member that a process holds by this descriptor.
    Fd(u32),
    /// The members that this process owns.
    Pid(u32),
    /// The members that entered with this generation.
    Generation(u32),
}

/// As it is typed.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(n) => write!(f, "slot:{n}"),
            Self::Cookie(n) => write!(f, "cookie:{n}"),
            Self::Fd(n) => write!(f, "fd:{n}"),
            Self::Pid(n) => write!(f, "pid:{n}"),
            Self::Generation(n) => write!(f, "gen:{n}"),
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (kind, number) = text.split_once(':')?;
            Some(match kind {
                "slot" => Self::Slot(number.parse().ok()?),
                "cookie" => Self::Cookie(number.parse().ok()?),
                "fd" => Self::Fd(number.parse().ok()?),
                "pid" => Self::Pid(number.parse().ok()?),
                "gen" => Self::Generation(number.parse().ok()?),
                _ => return None,
            })
        };
        parse().ok_or_else(|| {
            "a member is slot:N, cookie:N, fd:N, pid:N or gen:N, with a number for N; `show` lists \
             them"
                .to_owned()
        })
    }
}

impl Selector {
    /// The members that it selects, at least one.
    ///
    /// # Errors
    ///
    /// [`Nothing`] if it selects none; another error if it is ambiguous.
    pub(crate) fn among<'a>(&self, group: &'a GroupStatus) -> Result<Vec<&'a MemberStatus>> {
        let is = |member: &&MemberStatus| match (self, &member.enrolment) {
            (Self::Slot(slot), Some(enrolment)) => enrolment.slot.get() == *slot,
            (Self::Generation(generation), Some(enrolment)) => enrolment.generation == *generation,
            (Self::Slot(_) | Self::Generation(_), None) => false,
            (Self::Cookie(cookie), _) => member.member.cookie.map(Cookie::get) == Some(*cookie),
            (Self::Fd(fd), _) => member.member.holders.iter().any(|holder| holder.fd == *fd),
            (Self::Pid(pid), _) => serves(member, *pid),
        };
        let members: Vec<&MemberStatus> = group.members.iter().filter(is).collect();
        match (self, members.len()) {
            (Self::Pid(pid), 0) => Err(self.no_owner(*pid, group)),
            (_, 0) => Err(self.no_match(group)),
            (Self::Fd(_), 2..) => Err(Failure::new(
                format!(
                    "{self} is more than one member of {}: {}",
                    group.group.key,
                    list(&members)
                ),
                "name them by slot:N or cookie:N",
            )
            .into()),
            _ => Ok(members),
        }
    }

    fn no_match(&self, group: &GroupStatus) -> anyhow::Error {
        let key = &group.group.key;
        let all: Vec<&MemberStatus> = group.members.iter().collect();
        Failure::nothing(
            format!("no member of {key} is {self}"),
            format!("there are {}", list(&all)),
        )
        .into()
    }

    /// nginx's master and every worker hold every listener: holding one does not mean serving it. The process may
    /// also wait for a member without epoll, or several may watch it.
    fn no_owner(&self, pid: u32, group: &GroupStatus) -> anyhow::Error {
        let holds = |member: &&MemberStatus| member.member.holders.iter().any(|h| h.pid == pid);
        let held: Vec<&MemberStatus> = group.members.iter().filter(holds).collect();
        if held.is_empty() {
            return self.no_match(group);
        }
        Failure::nothing(
            format!(
                "process {pid} shares members of {} with other processes, and is not known to \
                 serve one of them alone",
                group.group.key,
            ),
            format!("name the members instead: {}", list(&held)),
        )
        .into()
    }
}

/// Whether the process serves the member: it is the owner or, if no owner is known, the only
/// holder.
fn serves(member: &MemberStatus, pid: u32) -> bool {
    match member.owner {
        Some(owner) => owner == pid,
        None => {
            let holders = &member.member.holders;
            !holders.is_empty() && holders.iter().all(|holder| holder.pid == pid)
        }
    }
}

/// A member's name for people: its slot, or else its cookie, and the process that serves it.
pub(crate) fn name(member: &MemberStatus) -> String {
    let name = match &member.enrolment {
        Some(enrolment) => format!("slot:{}", enrolment.slot),
        None => member.member.name(),
    };
    match (member.owner, member.member.holders.first()) {
        (Some(owner), _) => format!("{name} (pid {owner})"),
        (None, Some(holder)) if serves(member, holder.pid) => {
            format!("{name} (pid {})", holder.pid)
        }
        _ => name,
    }
}

/// Members by name; a long list is cut.
fn list(members: &[&MemberStatus]) -> String {
    listed(members.iter().map(|member| name(member)), 12)
}

/// `MEMBER=N`: a weight for members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightOf {
    pub(crate) who: Selector,
    pub(crate) weight: Weight,
}

impl FromStr for WeightOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (who, weight) =
            text.split_once('=').ok_or("give a member and its weight, such as slot:0=3")?;
        let parsed = weight.parse().ok().and_then(Weight::new);
        let range =
            || format!("a weight is a whole number from 0 to {}, not `{weight}`", Weight::MAX);
        Ok(Self { who: who.parse()?, weight: parsed.ok_or_else(range)? })
    }
}

/// What is selected in each of several groups. Each selector has to select members of at least one of them.
///
/// # Errors
///
/// As `select`, which selects in one group.
pub(crate) fn in_each<'a, S, T>(
    wanted: &[S],
    groups: &[&'a GroupStatus],
    select: impl Fn(&[&S], &'a GroupStatus) -> Result<Vec<T>>,
) -> Result<Vec<Vec<T>>> {
    let (mut known, mut nothing) = (vec![Vec::new(); groups.len()], None);
    for selector in wanted {
        let mut is_known = false;
        for (group, known) in groups.iter().zip(&mut known) {
            match select(&[selector], group) {
                Ok(_) => {
                    known.push(selector);
                    is_known = true;
                }
                Err(error) if groups.len() > 1 && error::is_nothing(&error) => {
                    nothing.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match nothing.take() {
            Some(error) if !is_known => return Err(error),
            _ => {}
        }
    }
    groups.iter().zip(known).map(|(group, known)| select(&known, group)).collect()
}

/// The weights by member: each member once.
///
/// # Errors
///
/// As [`Selector::among`], and if a member is named twice with different weights.
pub(crate) fn weights<'a>(
    wanted: &[&WeightOf],
    group: &'a GroupStatus,
) -> Result<Vec<(&'a MemberStatus, Weight)>> {
    let mut weights: Vec<(&MemberStatus, Weight)> = Vec::new();
    for WeightOf { who, weight } in wanted {
        for member in who.among(group)? {
            let same =
                |(other, _): &&(&MemberStatus, Weight)| other.member.cookie == member.member.cookie;
            match weights.iter().find(same) {
                None => weights.push((member, *weight)),
                Some((_, before)) if before == weight => {}
                Some((_, before)) => {
                    bail!("{} is given two weights: {before} and {weight}", name(member))
                }
            }
        }
    }
    Ok(weights)
}

/// The members that any of the selectors select, each once, in the group's order.
///
/// # Errors
///
/// As [`Selector::among`].
pub(crate) fn members<'a>(
    wanted: &[&Selector],
    group: &'a GroupStatus,
) -> Result<Vec<&'a MemberStatus>> {
    let mut cookies = Vec::new();
    for selector in wanted {
        cookies.extend(selector.among(group)?.iter().map(|member| member.member.cookie));
    }
    Ok(group.members.iter().filter(|member| cookies.contains(&member.member.cookie)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_they_are_shown() {
        for text in ["slot:0", "cookie:18446744073709551615", "fd:6", "pid:1", "gen:3"] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
        for text in ["", "0", "slot", "slot:", "slot:-1", "slot:65536", "SLOT:1", "comm:nginx"] {
            let error = text.parse::<Selector>().unwrap_err();
            assert!(error.contains("slot:N"), "{text}: {error}");
        }
    }

    #[test]
    fn a_weight_has_a_range_and_the_error_names_it() {
        let weight: WeightOf = "slot:3=1000".parse().unwrap();
        assert_eq!((weight.who, weight.weight), (Selector::Slot(3), Weight::MAX));
        for text in ["slot:3=1001", "slot:3=-1", "slot:3=99999", "slot:3=", "slot:3=1.5"] {
            let error = text.parse::<WeightOf>().unwrap_err();
            assert!(error.contains("from 0 to 1000"), "{text}: {error}");
        }
        for text in ["slot:3", "3=4", "=4"] {
            assert!(text.parse::<WeightOf>().is_err(), "{text}");
        }
    }
}
