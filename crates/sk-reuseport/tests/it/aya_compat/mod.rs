//! Compatibility with aya: `program.rs` and `lookups.rs` are compiled with aya and with this crate,
//! and must do the same.

/// The program with aya.
mod with_aya {
    use aya as lib;
    include!("program.rs");
    include!("lookups.rs");
}

/// The same program with this crate.
mod with_sk_reuseport {
    use sk_reuseport as lib;
    include!("program.rs");
    include!("lookups.rs");
}

/// Nothing in a glob has the crate's own name.
mod with_a_glob {
    #[expect(unused_imports, reason = "compiles")]
    use sk_reuseport::{Ebpf, maps::*, programs::*};
}

use std::fmt::Debug;

use test_support::{bpffs, netns};

/// Runs a part of the program with both, and compares the results.
fn same<T: PartialEq + Debug + Send>(with_aya: fn() -> T, with_ours: fn() -> T) {
    let run = |part: fn() -> T| {
        netns::isolated(|| {
            bpffs::private();
            part()
        })
    };
    assert_eq!(run(with_aya), run(with_ours));
}

/// A test for each part.
macro_rules! parts {
    ($($part:ident),+ $(,)?) => {$(
        #[test]
        fn $part() {
            same(with_aya::$part, with_sk_reuseport::$part);
        }
    )+};
}

parts!(
    select_and_detach,
    select_with_clangs_maps,
    socket_array,
    refusals,
    pins,
    plain_maps,
    lookups,
    queue,
    storage_and_tracepoint,
    iterator,
    constants,
    what_an_object_has,
    kernel_versions,
);
