//! Names and numbers that configure a select program: `bpf/wire/config.h`.

use crate::model::group::Protocol;

/// Globals of the program, set before it is loaded. Policies set more: [`Policy::globals`].
///
/// [`Policy::globals`]: crate::model::policy::Policy::globals
pub(crate) const POLICY: &str = "POLICY";
pub(crate) const PROTOCOL: &str = "PROTOCOL";
pub(crate) const SEED: &str = "SEED";
pub(crate) const CPUS: &str = "CPUS";
pub(crate) const SOCKET_TYPE: &str = "SOCKET_TYPE";

/// Stands in the object for the kernel's `bpf_rdonly_cast`: the loader puts the function's BTF id in
/// its place.
pub(crate) const RDONLY_CAST: u32 = 0x7265_6164;

/// `IPPROTO_TCP` or `IPPROTO_UDP`.
pub(crate) const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// The protocol with this number, if groups can have it.
pub(crate) const fn protocol(number: u8) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        _ => None,
    }
}
