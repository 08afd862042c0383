//! Threads with fewer rights. User and capabilities belong to a thread, not to the process.

use std::panic::resume_unwind;
use std::thread;

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// The id of an ordinary user and of its group.
pub(crate) const ORDINARY: u32 = 65_534;

/// The capabilities of the calling thread.
pub(crate) fn present() -> CapabilitySet {
    capabilities(None).unwrap().effective
}

/// Runs `body` on a thread that has exactly these capabilities.
pub(crate) fn capable_of<T: Send>(wanted: CapabilitySet, body: impl FnOnce() -> T + Send) -> T {
    let restricted = || {
        let sets = CapabilitySets {
            effective: wanted,
            permitted: wanted,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).unwrap();
        assert_eq!(capabilities(None).unwrap(), sets);
        body()
    };
    thread::scope(|scope| scope.spawn(restricted).join())
        .unwrap_or_else(|panic| resume_unwind(panic))
}

/// Like [`capable_of`], as an ordinary user.
pub(crate) fn user_capable_of<T: Send>(
    wanted: CapabilitySet,
    body: impl FnOnce() -> T + Send,
) -> T {
    let as_user = || {
        let (uid, gid) = (Uid::from_raw(ORDINARY), Gid::from_raw(ORDINARY));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        // Otherwise, becoming an ordinary user drops all capabilities.
        set_keep_capabilities(true).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        capable_of(wanted, body)
    };
    thread::scope(|scope| scope.spawn(as_user).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
