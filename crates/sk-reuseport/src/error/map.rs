//! Why an operation on a map failed.

use std::io;

use aya_obj::InvalidTypeBinding;
use aya_obj::generated::bpf_map_type;
use thiserror::Error;

use super::pin::PinError;
use crate::hint::Hint;
use crate::sys::SyscallError;

/// An operation on a map failed.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// A map of maps does not define its inner maps.
    #[error("map `{outer_name}` is a map of maps but does not define its inner map")]
    MissingInnerMapDefinition {
        /// The map.
        outer_name: String,
    },
    /// The map is not of the type that was asked for.
    #[error("invalid map type {}", type_name(*map_type))]
    InvalidMapType {
        /// The type that it is, as the kernel numbers them.
        map_type: u32,
    },
    /// The descriptor or pin is not a map.
    #[error("{what} is no BPF map")]
    NotAMap {
        /// A path, or "the descriptor".
        what: String,
    },
    /// The name has a zero byte, or is no file name although the map is pinned by its name.
    #[error("invalid map name `{name}`")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// The maps of an object would take more memory than the loader allows by default.
    #[error(
        "the object's maps take {bytes} bytes at once, more than {limit}; the largest is `{name}`"
    )]
    TooLarge {
        /// The largest of them.
        name: String,
        /// Bytes that all of them take, roughly.
        bytes: u64,
        /// The most that is allowed, in bytes.
        limit: u64,
    },
    /// The kernel refused to create the map.
    #[error("failed to create map `{name}`")]
    CreateError {
        /// The map.
        name: String,
        /// The kernel's error.
        #[source]
        io_error: io::Error,
    },
    /// The kernel has no maps of this type: it refuses even the smallest one.
    #[error("map `{name}`: this kernel has no maps of type {}", type_name(*map_type))]
    Unsupported {
        /// The map.
        name: String,
        /// The type, as the kernel numbers them.
        map_type: u32,
        /// The kernel's error.
        #[source]
        io_error: io::Error,
    },
    /// The Rust type of the keys is not as long as the map's keys.
    #[error("invalid key size {size}, expected {expected}")]
    InvalidKeySize {
        /// Bytes of the Rust type.
        size: usize,
        /// Bytes of the map's keys.
        expected: usize,
    },
    /// The Rust type of the values is not as long as the map's values.
    #[error("invalid value size {size}, expected {expected}")]
    InvalidValueSize {
        /// Bytes of the Rust type.
        size: usize,
        /// Bytes of the map's values.
        expected: usize,
    },
    /// The index is beyond the map's end.
    #[error("the index is {index} but `max_entries` is {max_entries}")]
    OutOfBounds {
        /// The index.
        index: u32,
        /// The map's number of elements.
        max_entries: u32,
    },
    /// The map has no such key.
    #[error("key not found")]
    KeyNotFound,
    /// The map has no such element.
    #[error("element not found")]
    ElementNotFound,
    /// The map that is to replace one of an object has other sizes.
    #[error(
        "map `{name}`: the object wants keys of {} and values of {} bytes, the map that is to \
         take its place has {} and {}",
        wanted.0, wanted.1, given.0, given.1
    )]
    Incompatible {
        /// The map's name in the object.
        name: String,
        /// Bytes of its keys and values according to the object.
        wanted: (u32, u32),
        /// Bytes of the given map's keys and values.
        given: (u32, u32),
    },
    /// A map of another type is pinned at the path of an object's map.
    #[error(
        "map `{name}`: the object wants {}, what is pinned there is {}",
        type_name(*wanted), type_name(*given)
    )]
    IncompatibleType {
        /// The map's name in the object.
        name: String,
        /// The type in the object, as the kernel numbers them.
        wanted: u32,
        /// The type of the pinned map.
        given: u32,
    },
    /// A map of sockets with 4-byte values cannot be read: a cookie takes 8 bytes.
    #[error(
        "the cookies of sockets can only be read from a map with 8-byte values; this one has \
         4-byte values"
    )]
    CookiesUnreadable,
    /// A system call failed, or a file could not be read.
    #[error(transparent)]
    IoError(#[from] io::Error),
    /// A system call failed.
    #[error(transparent)]
    SyscallError(#[from] SyscallError),
    /// The map was not pinned, or a pinned one not opened.
    #[error("{}", pin_failure(name.as_deref()))]
    PinError {
        /// The map, where its name is known.
        name: Option<String>,
        /// The cause.
        #[source]
        error: PinError,
    },
}

impl From<InvalidTypeBinding<u32>> for MapError {
    fn from(error: InvalidTypeBinding<u32>) -> Self {
        Self::InvalidMapType { map_type: error.value }
    }
}

impl MapError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::CreateError { io_error, .. } => hint_for_creating(io_error),
            Self::TooLarge { .. } => Some(Hint::ChooseMaxEntries),
            Self::IncompatibleType { .. } => Some(Hint::OtherPin),
            Self::CookiesUnreadable => Some(Hint::NarrowValues),
            Self::SyscallError(error) => error.hint(),
            Self::PinError { error, .. } => error.hint(),
            _ => None,
        }
    }
}

/// What to do where the kernel does not create a map.
fn hint_for_creating(error: &io::Error) -> Option<Hint> {
    Some(match error.raw_os_error()? {
        libc::EPERM => Hint::CapBpfOrNetAdmin,
        libc::EINVAL => Hint::MapShape,
        libc::E2BIG => Hint::MapTooLarge,
        libc::ENOMEM => Hint::NoMemory,
        libc::ENOSYS => Hint::NoBpf,
        _ => return None,
    })
}

fn pin_failure(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("cannot pin map `{name}`"),
        None => "cannot open a pinned map".to_owned(),
    }
}

/// The kernel's name of a map type, or its number.
fn type_name(number: u32) -> String {
    match bpf_map_type::try_from(number) {
        Ok(name) => format!("{name:?}"),
        Err(_) => number.to_string(),
    }
}
