//! The running kernel's types.

use std::sync::OnceLock;

use sk_reuseport::{EbpfError, KernelBtf};

/// The running kernel's types, which are read once: they do not change.
///
/// # Errors
///
/// If they cannot be read.
pub(crate) fn types() -> Result<&'static KernelBtf, EbpfError> {
    static TYPES: OnceLock<KernelBtf> = OnceLock::new();

    match TYPES.get() {
        Some(types) => Ok(types),
        None => {
            let types = KernelBtf::from_sys_fs()?;
            Ok(TYPES.get_or_init(|| types))
        }
    }
}
