//! Where the values belong that a user sets.

use sk_reuseport::{Contents, MapType, Uses, ValueType, Variable};

use super::choose::{Refused, listed, type_name, used};
use crate::kernel::followed::{FollowedValue, Target};
use crate::model::setting::{Place, Setting, Value, encode};

/// The values to set, by where they belong.
#[derive(Default)]
pub(super) struct Settings {
    /// Before the object is loaded.
    pub(super) variables: Vec<(Variable, u32, Vec<u8>)>,
    /// After its maps are created: the map, the element, the value.
    pub(super) elements: Vec<(String, u32, Vec<u8>)>,
    /// With each change of the members.
    pub(super) followed: Vec<FollowedValue>,
}

/// Finds where the values belong, and how each is written there.
pub(super) fn resolve(
    contents: &Contents,
    program: &str,
    uses: &Uses,
    settings: &[Setting],
) -> Result<Settings, Refused> {
    let mut resolved = Settings::default();
    for (at, Setting { place, value }) in settings.iter().enumerate() {
        if settings[..at].iter().any(|before| before.place == *place) {
            return Err(refused(place, "it is set twice", "give it one value"));
        }
        let element = match contents.maps().any(|map| map.name == place.name) {
            true => Element::of_map(contents, program, uses, place)?,
            false => Element::of_variable(contents, program, uses, place)?,
        };
        if value.follows_members() {
            resolved.followed.push(element.followed(place, value)?);
            continue;
        }
        let bytes = encode(value, element.of())
            .map_err(|why| refused(place, why, "give a value of its type (docs/own-program.md)"))?;
        match element {
            Element::OfMap { map, index, .. } => resolved.elements.push((map, index, bytes)),
            Element::OfVariable { variable, element } => {
                resolved.variables.push((variable, element, bytes));
            }
        }
    }
    Ok(resolved)
}

/// What a place names.
enum Element {
    OfMap { map: String, index: u32, of: ValueType },
    OfVariable { variable: Variable, element: u32 },
}

impl Element {
    fn of_map(
        contents: &Contents,
        program: &str,
        uses: &Uses,
        place: &Place,
    ) -> Result<Self, Refused> {
        let Some(map) = used(contents, uses).into_iter().find(|map| map.name == place.name) else {
            return Err(unused(program, place));
        };
        if map.map_type != Some(MapType::BPF_MAP_TYPE_ARRAY) {
            let why = format!("it is a map of type {}", type_name(map.map_type));
            return Err(refused(place, why, "elements of arrays (BPF_MAP_TYPE_ARRAY) can be set"));
        }
        let of = contents.value_type(&place.name);
        let index = index(place, Some(map.max_entries))?;
        Ok(Self::OfMap { map: place.name.clone(), index, of })
    }

    fn of_variable(
        contents: &Contents,
        program: &str,
        uses: &Uses,
        place: &Place,
    ) -> Result<Self, Refused> {
        let Some(variable) = contents.variable(&place.name) else {
            let arrays =
                contents.maps().filter(|m| m.map_type == Some(MapType::BPF_MAP_TYPE_ARRAY));
            let arrays: Vec<&str> = arrays.map(|map| map.name).collect();
            let hint = format!(
                "its variables: {}; its arrays: {} (variables need -g)",
                listed(&contents.variables()),
                listed(&arrays)
            );
            return Err(refused(
                place,
                "the object has neither a variable nor an array of this name",
                hint,
            ));
        };
        if !uses.maps.contains(&variable.section) {
            return Err(unused(program, place));
        }
        let element = index(place, variable.elements)?;
        Ok(Self::OfVariable { variable, element })
    }

    fn of(&self) -> ValueType {
        match self {
            Self::OfMap { of, .. } => *of,
            Self::OfVariable { variable, .. } => variable.of,
        }
    }

    /// As a value that is written again whenever the members change.
    fn followed(self, place: &Place, value: &Value) -> Result<FollowedValue, Refused> {
        let (size, signed, big_endian) = match self.of() {
            ValueType::Integer { size, signed, big_endian } => (size, signed, big_endian),
            ValueType::Unknown { size: size @ (1 | 2 | 4 | 8) } => (size, false, false),
            _ => {
                let hint = "declare it as an integer, such as __u32";
                return Err(refused(place, "a number does not fit its type", hint));
            }
        };
        let (map, target) = match self {
            Self::OfMap { map, index, .. } => (map, Target::Element(index)),
            Self::OfVariable { variable, .. } if variable.section.starts_with(".rodata") => {
                return Err(refused(
                    place,
                    "it is a constant, and the number of members changes",
                    "declare it without `const`, or give a number",
                ));
            }
            Self::OfVariable { variable, element } => {
                let place = variable.place_of(element).unwrap_or(variable.offset);
                (variable.section, Target::Variable(place))
            }
        };
        let value = value.clone();
        let place = place.clone();
        Ok(FollowedValue { map, target, size, signed, big_endian, value, place })
    }
}

/// The element that a place names: 0 of what has no elements.
fn index(place: &Place, elements: Option<u32>) -> Result<u32, Refused> {
    match (place.index, elements) {
        (None, None) => Ok(0),
        (Some(index), Some(elements)) if index < elements => Ok(index),
        (Some(_), Some(elements)) => {
            let last = elements.saturating_sub(1);
            Err(refused(
                place,
                format!("it has {elements} elements"),
                format!("the last one is {last}"),
            ))
        }
        (Some(_), None) => Err(refused(place, "it has no elements", "leave out the index")),
        (None, Some(_)) => {
            let hint = format!("name an element, such as {}[0]", place.name);
            Err(refused(place, "it is an array", hint))
        }
    }
}

fn unused(program: &str, place: &Place) -> Refused {
    refused(
        place,
        format!("program `{program}` does not use it"),
        "if the compiler has put its value into the code, declare it `volatile`",
    )
}

fn refused(place: &Place, why: impl Into<String>, hint: impl Into<String>) -> Refused {
    Refused::new(format!("cannot set `{place}`: {}", why.into()), hint)
}
