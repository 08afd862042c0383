//! Refuses state that this version would misread.

use rustix::io::Errno;
use sk_reuseport::maps::{Array, MapData, MapError};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::wire::header::{Header, MAGIC, PREVIOUS_SCHEMA, SCHEMA};

/// Refuses a header that this version would misread.
pub(super) fn check_schema(header: &MapData, failed: &str) -> Result<()> {
    let info =
        header.info().map_err(|error| Error::new(ErrorKind::System, failed).because(error))?;
    if info.value_size() as usize != size_of::<Header>() {
        return Err(another_schema(failed, "its header has another length"));
    }
    let header: Array<&MapData, Header> = Array::over(header)
        .map_err(|error| Error::new(ErrorKind::System, failed).because(error))?;
    let header =
        header.get(&0, 0).map_err(|error| Error::new(ErrorKind::System, failed).because(error))?;
    if header.magic != MAGIC {
        return Err(another_schema(failed, "it was not written by this program"));
    }
    if header.schema != SCHEMA && header.schema != PREVIOUS_SCHEMA {
        let cause = format!(
            "it has schema {}, and this version knows schemas {PREVIOUS_SCHEMA} and {SCHEMA}",
            header.schema
        );
        return Err(another_schema(failed, cause));
    }
    Ok(())
}

/// The error for state that cannot be read: the kernel refused, or the pins are not this version's.
pub(super) fn unreadable(failed: &str, error: MapError) -> Error {
    let other = match &error {
        MapError::NotAMap { .. }
        | MapError::InvalidMapType { .. }
        | MapError::InvalidKeySize { .. }
        | MapError::InvalidValueSize { .. } => true,
        error => caps::os_error(error) == Some(Errno::NOENT),
    };
    if other { another_schema(failed, error) } else { caps::failed(failed, error, caps::LOADING) }
}

pub(super) fn another_schema(
    failed: &str,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::new(ErrorKind::Schema, failed)
        .because(cause)
        .with_hint("detach the group with the version that attached it, or remove that directory")
}
