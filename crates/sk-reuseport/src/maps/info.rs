//! The kernel's description of a map.

use std::os::fd::BorrowedFd;

use aya_obj::generated::bpf_map_info;

use crate::error::MapError;
use crate::sys::{self, Operation, SyscallError};

/// The kernel's description of a map.
#[derive(Debug)]
#[doc(alias = "bpf_map_info")]
pub struct MapInfo(pub(super) bpf_map_info);

impl MapInfo {
    pub(super) fn new_from_fd(fd: BorrowedFd<'_>) -> Result<Self, MapError> {
        let info = sys::bpf_map_info_by_fd(fd).map_err(SyscallError::of(Operation::GetInfo))?;
        Ok(Self(info))
    }

    /// The map's type, as the kernel numbers them.
    pub fn map_type(&self) -> u32 {
        self.0.type_
    }

    /// The map's id.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// The size of a key in bytes.
    pub fn key_size(&self) -> u32 {
        self.0.key_size
    }

    /// The size of a value in bytes.
    pub fn value_size(&self) -> u32 {
        self.0.value_size
    }

    /// The maximum number of elements.
    pub fn max_entries(&self) -> u32 {
        self.0.max_entries
    }

    /// The flags that it was created with.
    pub fn map_flags(&self) -> u32 {
        self.0.map_flags
    }

    /// The first 15 bytes of the name, if they are UTF-8.
    pub fn name_as_str(&self) -> Option<&str> {
        let length = self.0.name.iter().position(|byte| *byte == 0).unwrap_or(self.0.name.len());
        std::str::from_utf8(sys::bytes_of(&self.0.name[..length])).ok()
    }
}
