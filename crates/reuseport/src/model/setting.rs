//! Values for the variables and arrays of a user's own program.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use sk_reuseport::ValueType;

use super::roster::Roster;
use crate::error::{Error, ErrorKind};

/// A value to set in a user's own program.
///
/// # Examples
///
/// ```
/// use reuseport::setting::{Place, Setting, Value};
///
/// let setting: Setting = "limits[2]=0x10".parse()?;
/// assert_eq!(setting.place, Place::from(("limits", 2)));
/// assert_eq!(setting.value, Value::Number(16));
/// # Ok::<(), reuseport::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Setting {
    /// What is set.
    pub place: Place,
    /// To what.
    pub value: Value,
}

/// A global variable, or an element of an array: of a variable, or of a map (`BPF_MAP_TYPE_ARRAY`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Place {
    /// The name of the variable or the map.
    pub name: String,
    /// The element.
    pub index: Option<u32>,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Value {
    /// A number.
    Number(i128),
    /// True or false.
    Bool(bool),
    /// An address, in network byte order: for arrays of 4 or 16 bytes, `struct in_addr`, `struct in6_addr` and
    /// `__be32`. Where there is room for an IPv6 address, an IPv4 address is mapped (`::ffff:192.0.2.1`).
    Address(IpAddr),
    /// As many bytes as an array has.
    Bytes(Vec<u8>),
    /// Text, for an array of bytes; the rest of it becomes zero.
    Text(String),
    /// The number of members, also when members come and go.
    Members,
    /// One more than the highest index that a member has, also when members come and go. Where members have left,
    /// it is more than [`Members`](Self::Members).
    Indices,
}

impl Value {
    /// Whether it changes with the members.
    pub fn follows_members(&self) -> bool {
        matches!(self, Self::Members | Self::Indices)
    }

    /// The value among the members of this roster.
    pub(crate) fn of(&self, roster: &Roster) -> Self {
        let indices = || roster.occupied().map(|(slot, ..)| slot.index() + 1);
        match self {
            Self::Members => Self::Number(indices().count() as i128),
            Self::Indices => Self::Number(indices().max().unwrap_or(0).into()),
            other => other.clone(),
        }
    }
}

/// The bytes of a value as a type has it.
///
/// # Errors
///
/// Why the type does not have it, as a clause.
pub(crate) fn encode(value: &Value, of: ValueType) -> Result<Vec<u8>, String> {
    match (of, value) {
        (ValueType::Integer { size: 4, big_endian: true, .. }, Value::Address(IpAddr::V4(ip))) => {
            Ok(ip.octets().to_vec())
        }
        (ValueType::Integer { size, signed, big_endian }, Value::Number(number)) => {
            integer(*number, size, signed, big_endian)
        }
        (ValueType::Integer { size, big_endian, .. }, Value::Bool(on)) => {
            integer((*on).into(), size, false, big_endian)
        }
        (ValueType::Bool, Value::Bool(on)) => Ok(vec![u8::from(*on)]),
        (ValueType::Bool, Value::Number(0)) => Ok(vec![0]),
        (ValueType::Bool, Value::Number(1)) => Ok(vec![1]),
        (ValueType::Bytes { len }, value) => bytes(value, len as usize),
        // With a sign or without.
        (ValueType::Unknown { size: size @ (1 | 2 | 4 | 8) }, Value::Number(number)) => {
            integer(*number, size, *number < 0, false)
        }
        (ValueType::Unknown { size }, _) => {
            Err(format!("it has {size} bytes, and the object does not describe its type"))
        }
        (ValueType::Other { .. }, _) => {
            Err("its type is no integer, no bool and no array of bytes".to_owned())
        }
        (ValueType::Integer { size, .. }, _) => Err(format!("it is an integer of {size} bytes")),
        (ValueType::Bool, _) => Err("it is a bool: true or false".to_owned()),
        _ => Err("values of its type cannot be set".to_owned()),
    }
}

fn integer(number: i128, size: u32, signed: bool, big_endian: bool) -> Result<Vec<u8>, String> {
    let bits = size * 8;
    let (lowest, highest) = match signed {
        true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        false => (0, (1i128 << bits) - 1),
    };
    if !(lowest..=highest).contains(&number) {
        return Err(format!("it has {size} bytes: from {lowest} to {highest}"));
    }
    let size = size as usize;
    Ok(match big_endian || cfg!(target_endian = "big") {
        true => number.to_be_bytes()[size_of::<i128>() - size..].to_vec(),
        false => number.to_le_bytes()[..size].to_vec(),
    })
}

fn bytes(value: &Value, len: usize) -> Result<Vec<u8>, String> {
    match value {
        Value::Address(IpAddr::V4(ip)) if len == 4 => Ok(ip.octets().to_vec()),
        Value::Address(IpAddr::V4(ip)) if len == 16 => Ok(ip.to_ipv6_mapped().octets().to_vec()),
        Value::Address(IpAddr::V6(ip)) if len == 16 => Ok(ip.octets().to_vec()),
        Value::Bytes(bytes) if bytes.len() == len => Ok(bytes.clone()),
        Value::Bytes(bytes) => Err(format!("it has {len} bytes, and these are {}", bytes.len())),
        Value::Text(text) if text.len() <= len => {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(len, 0);
            Ok(bytes)
        }
        Value::Text(text) => Err(format!("it has {len} bytes, and the text {}", text.len())),
        _ => Err(format!("it is an array of {len} bytes: give an IP address, text:... or hex:...")),
    }
}

impl FromStr for Setting {
    type Err = Error;

    /// `NAME=VALUE` or `NAME[INDEX]=VALUE`.
    fn from_str(text: &str) -> Result<Self, Error> {
        const FORM: &str =
            "give NAME=VALUE or NAME[INDEX]=VALUE, such as workers=members or limits[2]=100";

        let wrong =
            || Error::new(ErrorKind::Invalid, format!("`{text}` sets nothing")).with_hint(FORM);
        let (place, value) = text.split_once('=').ok_or_else(wrong)?;
        let place = match place.strip_suffix(']') {
            Some(place) => {
                let (name, index) = place.split_once('[').ok_or_else(wrong)?;
                Place { name: name.to_owned(), index: Some(index.parse().map_err(|_| wrong())?) }
            }
            None => Place::from(place),
        };
        if place.name.is_empty() || place.name.contains(['[', ']']) {
            return Err(wrong());
        }
        Ok(Self { place, value: value.parse()? })
    }
}

impl FromStr for Value {
    type Err = Error;

    /// A number (decimal, or hexadecimal with `0x`), `true`, `false`, an IP address, `text:...`, `hex:...`, `members`
    /// or `indices`.
    fn from_str(text: &str) -> Result<Self, Error> {
        const FORMS: &str =
            "give a number, true, false, an IP address, text:..., hex:..., members or indices";

        let wrong =
            || Error::new(ErrorKind::Invalid, format!("`{text}` is no value")).with_hint(FORMS);
        if let Some(text) = text.strip_prefix("text:") {
            return Ok(Self::Text(text.to_owned()));
        }
        if let Some(digits) = text.strip_prefix("hex:") {
            return from_hex(digits).map(Self::Bytes).ok_or_else(wrong);
        }
        match text {
            "members" => return Ok(Self::Members),
            "indices" => return Ok(Self::Indices),
            "true" => return Ok(Self::Bool(true)),
            "false" => return Ok(Self::Bool(false)),
            _ => {}
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        // `u64` also takes a sign.
        let number = number.ok().filter(|_| !digits.contains(['+', '-'])).ok_or_else(wrong)?;
        Ok(Self::Number(if negative { -i128::from(number) } else { number.into() }))
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let [high, low] = pair else { return None };
        u8::try_from(digit(high)? << 4 | digit(low)?).ok()
    });
    pairs.collect()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}[{index}]", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl From<&str> for Place {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), index: None }
    }
}

impl From<String> for Place {
    fn from(name: String) -> Self {
        Self { name, index: None }
    }
}

impl From<(&str, u32)> for Place {
    fn from((name, index): (&str, u32)) -> Self {
        Self { name: name.to_owned(), index: Some(index) }
    }
}

macro_rules! from_numbers {
    ($($number:ty),*) => {
        $(impl From<$number> for Value {
            fn from(number: $number) -> Self {
                Self::Number(number.into())
            }
        })*
    };
}

from_numbers!(u8, u16, u32, u64, i8, i16, i32, i64);

impl From<bool> for Value {
    fn from(on: bool) -> Self {
        Self::Bool(on)
    }
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str, of: ValueType) -> Result<Vec<u8>, String> {
        encode(&text.parse().unwrap(), of)
    }

    const fn of_size(size: u32, signed: bool) -> ValueType {
        ValueType::Integer { size, signed, big_endian: false }
    }

    #[test]
    fn settings_are_parsed() {
        let parsed = |text: &str| text.parse::<Setting>().map(|s| (s.place.to_string(), s.value));
        let of = |place: &str, value: Value| (place.to_owned(), value);
        assert_eq!(parsed("n=members").unwrap(), of("n", Value::Members));
        assert_eq!(parsed("a[3]=-0x10").unwrap(), of("a[3]", Value::Number(-16)));
        assert_eq!(parsed("t=text:a=b").unwrap(), of("t", Value::Text("a=b".to_owned())));
        assert_eq!(parsed("b=hex:0aFF").unwrap(), of("b", Value::Bytes(vec![10, 255])));
        assert_eq!(parsed("i=::1").unwrap(), of("i", Value::Address("::1".parse().unwrap())));
        for wrong in
            ["n", "=1", "a[x]=1", "a[=1", "a]=1", "a[-1]=1", "n=1e3", "n=", "n=--1", "n=+1"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        for wrong in ["b=hex:0", "b=hex:0g", "n=0x", "n=18446744073709551616"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_fit_their_type_or_are_refused() {
        assert_eq!(encoded("255", of_size(1, false)), Ok(vec![255]));
        assert!(encoded("256", of_size(1, false)).unwrap_err().contains("from 0 to 255"));
        assert_eq!(encoded("-1", of_size(2, true)), Ok(vec![255, 255]));
        assert!(encoded("-1", of_size(4, false)).is_err());
        assert_eq!(
            encoded("0xffffffffffffffff", of_size(8, false)),
            Ok(u64::MAX.to_ne_bytes().to_vec())
        );
        assert!(encoded("0xffffffffffffffff", of_size(8, true)).is_err());
        let port = ValueType::Integer { size: 2, signed: false, big_endian: true };
        assert_eq!(encoded("443", port), Ok(vec![1, 187]));
        assert_eq!(encoded("true", ValueType::Bool), Ok(vec![1]));
        assert!(encoded("2", ValueType::Bool).is_err());
        // Without a description, with a sign or without.
        let plain = ValueType::Unknown { size: 4 };
        assert_eq!(encoded("-1", plain), encoded("0xffffffff", plain));
        assert!(encoded("1", ValueType::Unknown { size: 12 }).is_err());
        assert!(encoded("1", ValueType::Other { size: 4 }).is_err());
    }

    #[test]
    fn addresses_and_texts_fill_arrays_of_bytes() {
        let of = |len| ValueType::Bytes { len };
        assert_eq!(encoded("192.0.2.1", of(4)), Ok(vec![192, 0, 2, 1]));
        let mapped = encoded("192.0.2.1", of(16)).unwrap();
        assert_eq!(
            (&mapped[..12], &mapped[12..]),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255][..], &[192, 0, 2, 1][..])
        );
        assert_eq!(encoded("::1", of(16)).unwrap()[15], 1);
        assert!(encoded("::1", of(4)).is_err());
        assert_eq!(encoded("text:ab", of(4)), Ok(vec![b'a', b'b', 0, 0]));
        assert!(encoded("text:abcde", of(4)).is_err());
        assert_eq!(encoded("hex:01020304", of(4)), Ok(vec![1, 2, 3, 4]));
        assert!(encoded("hex:0102", of(4)).unwrap_err().contains("has 4 bytes, and these are 2"));
        assert!(encoded("7", of(4)).unwrap_err().contains("array of 4 bytes"));
        let big = ValueType::Integer { size: 4, signed: false, big_endian: true };
        assert_eq!(encoded("192.0.2.1", big), Ok(vec![192, 0, 2, 1]));
    }
}
