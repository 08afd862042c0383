//! Pins of the values that follow the members of a user's own program: its maps, under names that say where the value
//! is in the map, and what it is.
//!
//! `follow-variable-16-u4-ne-members-workers`: the variable `workers`, 4 bytes without a sign in the order of this
//! machine, 16 bytes into the map, is the number of members.

use std::path::Path;

use sk_reuseport::maps::{MapData, MapError};
use sk_reuseport::pin::PinError;

use super::bpffs;
use crate::error::Result;
use crate::kernel::followed::{Followed, FollowedValue, Target};
use crate::model::roster::Roster;
use crate::model::setting::{Place, Value};

const PREFIX: &str = "follow-";

/// Bytes of the user's name for a value that a pin's name has.
const LONGEST: usize = 100;

/// Tells a user's own program how many members these are.
pub(super) fn tell(followed: &[Followed], roster: &Roster) -> Result<()> {
    followed.iter().try_for_each(|one| one.write(roster))
}

/// Pins values in this directory.
pub(super) fn pin(followed: &[Followed], directory: &Path) -> Result<(), PinError> {
    followed.iter().try_for_each(|one| one.map.pin(directory.join(name(&one.value))))
}

/// The values that are pinned in this directory.
pub(super) fn open(directory: &Path) -> Result<Vec<Followed>, MapError> {
    // The directory was listed a moment ago.
    let names = bpffs::names(directory).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| Some((name, parse(name)?)))
        .map(|(name, value)| Ok(Followed { map: MapData::from_pin(directory.join(name))?, value }))
        .collect()
}

fn name(value: &FollowedValue) -> String {
    let FollowedValue { target, size, signed, big_endian, value, place, .. } = value;
    let (kind, at) = match target {
        Target::Element(index) => ("element", index),
        Target::Variable(offset) => ("variable", offset),
    };
    let order = if *big_endian { "be" } else { "ne" };
    let what = if *value == Value::Indices { "indices" } else { "members" };
    let sign = if *signed { 'i' } else { 'u' };
    // Names of pins have no dots, and are not long.
    let mut named = place.name.replace(['.', '/'], "_");
    named.truncate((0..=LONGEST).rev().find(|at| named.is_char_boundary(*at)).unwrap_or(0));
    format!("{PREFIX}{kind}-{at}-{sign}{size}-{order}-{what}-{named}")
}

fn parse(name: &str) -> Option<FollowedValue> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(6, '-');
    let (kind, at) = (parts.next()?, parts.next()?.parse().ok()?);
    let (signed, size) = match parts.next()?.split_at_checked(1)? {
        ("i", size) => (true, size.parse().ok()?),
        ("u", size) => (false, size.parse().ok()?),
        _ => return None,
    };
    if !matches!(size, 1 | 2 | 4 | 8) {
        return None;
    }
    let big_endian = parts.next()? == "be";
    let value = match parts.next()? {
        "members" => Value::Members,
        "indices" => Value::Indices,
        _ => return None,
    };
    let name = parts.next()?.to_owned();
    let (target, index) = match kind {
        "element" => (Target::Element(at), Some(at)),
        "variable" => (Target::Variable(at), None),
        _ => return None,
    };
    let place = Place { name, index };
    Some(FollowedValue { map: String::new(), target, size, signed, big_endian, value, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_all_of_a_value() {
        let of = |target, index, value, big_endian| FollowedValue {
            map: String::new(),
            target,
            size: 4,
            signed: big_endian,
            big_endian,
            value,
            place: Place { name: "workers_now".to_owned(), index },
        };
        for value in [
            of(Target::Element(3), Some(3), Value::Members, false),
            of(Target::Variable(16), None, Value::Indices, true),
        ] {
            assert_eq!(parse(&name(&value)), Some(value));
        }
        let long = Place { name: "é".repeat(200), index: None };
        let long =
            FollowedValue { place: long, ..of(Target::Variable(0), None, Value::Members, false) };
        assert!(name(&long).len() < 255);
        for other in
            ["variable-16-u4-ne-more-x", "element-0-u1000-ne-members-x", "variable-0--ne-members-x"]
        {
            assert_eq!(parse(&format!("{PREFIX}{other}")), None);
        }
        assert_eq!(parse("sockets"), None);
    }
}
