//! The events of the watching program's ring buffer: `struct event` in `bpf/wire/event.h`.

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A listener on the watched port started or stopped listening.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Event {
    pub(crate) cookie: u64,
    /// 1: started; 0: stopped.
    pub(crate) listening: u32,
    reserved: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mirror::{assert_mirrors, object};

    #[test]
    fn both_sides_agree() {
        let btf = object("watch");
        assert_mirrors!(btf, "event", Event { cookie, listening, reserved });
        let globals = btf.variables(".rodata");
        for (name, size) in [("PORT", 2), ("NETNS", 8)] {
            assert!(globals.contains(&(name.to_owned(), size)), "{name}: {globals:?}");
        }
    }
}
