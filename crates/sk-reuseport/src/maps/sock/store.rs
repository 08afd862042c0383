//! Storing sockets, and reading which ones are stored.

use std::io;
use std::os::fd::{AsFd as _, RawFd};

use crate::error::MapError;
use crate::maps::data::MapData;
use crate::sys::{self, Operation, Pod, SyscallError};

/// Stores a socket in a map with values of 4 or 8 bytes.
pub(super) fn store<K: Pod>(
    map: &MapData,
    key: &K,
    socket: RawFd,
    flags: u64,
) -> Result<(), MapError> {
    let fd = map.fd().as_fd();
    // The kernel reads all 8 bytes (reuseport_array_update_elem).
    let result = if map.definition().value_size() == 8 {
        let socket = u64::try_from(socket).map_err(io::Error::other)?;
        sys::bpf_map_update_elem(fd, key, &socket, flags)
    } else {
        sys::bpf_map_update_elem(fd, key, &socket, flags)
    };
    Ok(result.map_err(SyscallError::of(Operation::StoreSocket))?)
}

/// The cookie of the socket at a key; `None` if there is no socket.
pub(super) fn cookie<K: Pod>(map: &MapData, key: &K) -> Result<Option<u64>, MapError> {
    if map.definition().value_size() != 8 {
        return Err(MapError::CookiesUnreadable);
    }
    Ok(sys::bpf_map_lookup_elem(map.fd().as_fd(), key, 0)
        .map_err(SyscallError::of(Operation::LookUp))?)
}
