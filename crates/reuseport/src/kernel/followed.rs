//! Values of a user's own program that follow its members: how many there are, in variables and arrays of its own.

use sk_reuseport::ValueType;
use sk_reuseport::maps::{MapData, MapError};

use super::caps;
use crate::error::{Error, ErrorKind, Result};
use crate::model::roster::Roster;
use crate::model::setting::{Place, Value, encode};

/// Where in a map the value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The element with this index is the value.
    Element(u32),
    /// A variable, this many bytes into the map of its section.
    Variable(u32),
}

/// A value that follows the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FollowedValue {
    /// The name of the map in the object.
    pub(crate) map: String,
    pub(crate) target: Target,
    /// Bytes: 1, 2, 4 or 8.
    pub(crate) size: u32,
    pub(crate) signed: bool,
    pub(crate) big_endian: bool,
    pub(crate) value: Value,
    /// What the user called it.
    pub(crate) place: Place,
}

/// A value with its map.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) map: MapData,
    pub(crate) value: FollowedValue,
}

impl Followed {
    /// Writes what the value is among these members.
    pub(crate) fn write(&self, roster: &Roster) -> Result<()> {
        let FollowedValue { target, size, signed, big_endian, value, place, .. } = &self.value;
        let failed = || format!("cannot set `{place}` of the user's own program");
        let of = ValueType::Integer { size: *size, signed: *signed, big_endian: *big_endian };
        let bytes = encode(&value.of(roster), of)
            .map_err(|why| Error::new(ErrorKind::Full, failed()).because(why))?;
        let written: Result<(), MapError> = match target {
            Target::Element(index) => self.map.set_bytes(&index.to_ne_bytes(), &bytes),
            Target::Variable(offset) => self.map.set_variable(*offset, &bytes),
        };
        written.map_err(|error| caps::failed(&failed(), error, caps::LOADING))
    }
}
