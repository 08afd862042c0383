//! Error messages: what failed, the kernel's error, what to do.

use rustix::io::Errno;
use rustix::process::Uid;
use sk_reuseport::maps::{Array, MapData, MapError};
use sk_reuseport::pin::PinError;
use sk_reuseport::programs::{Program, ProgramError};
use sk_reuseport::{Ebpf, EbpfError, EbpfLoader, Hint, VerifierLogLevel, hint_of};
use test_support::{bpffs, netns};

use crate::fixtures::*;

fn refused_by_the_verifier(level: VerifierLogLevel) -> ProgramError {
    let mut ebpf = EbpfLoader::new().verifier_log_level(level).load(REFUSED).unwrap();
    let program: &mut sk_reuseport::programs::SkReuseport =
        ebpf.program_mut("read_beyond").unwrap().try_into().unwrap();
    program.load().unwrap_err()
}

#[test]
fn the_verifiers_reason_is_shown_without_the_whole_log() {
    let error = refused_by_the_verifier(VerifierLogLevel::default());
    let message = report(&error);
    assert!(message.contains("invalid access to packet"), "{message}");
    assert!(message.contains("the verifier refused the program"), "{message}");
    assert!(message.contains("BPF_PROG_LOAD"), "{message}");
    assert!(message.contains("[...]"), "{message}");
    assert!(message.lines().count() < 20, "{message}");
    assert!(!message.contains("processed "), "{message}");
    let ProgramError::LoadError { io_error, verifier_log } = error else { panic!("{message}") };
    assert_eq!(Errno::from_io_error(&io_error), Some(Errno::ACCESS));
    assert!(verifier_log.to_string().lines().count() > 100, "the whole log");
}

#[test]
fn a_disabled_log_is_not_requested() {
    let message = report(&refused_by_the_verifier(VerifierLogLevel::DISABLE));
    assert!(message.contains("the verifier refused the program"), "{message}");
    assert!(!message.contains("Verifier output"), "{message}");
}

/// Runs a test as a user without rights.
fn unprivileged(test: impl FnOnce() + Send) {
    netns::isolated(|| {
        let user = Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        test();
    });
}

#[test]
fn an_ordinary_user_sees_which_capability_is_missing() {
    unprivileged(|| {
        let error = Ebpf::load(SELECT).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::PERM));
        assert!(report(&error).contains("failed to create map"), "{error}");
        assert!(report(&error).contains("CAP_BPF"), "{error}");
        let error = Array::<_, u64>::create(1, 0).unwrap_err();
        assert!(report(&error).contains("CAP_BPF"), "{error}");
    });
}

#[test]
fn a_program_needs_cap_bpf_too() {
    netns::isolated(|| {
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        keep_only(rustix::thread::CapabilitySet::empty());
        let program: &mut sk_reuseport::programs::SkReuseport =
            ebpf.program_mut("select_socket").unwrap().try_into().unwrap();
        let error = program.load().unwrap_err();
        assert_eq!(errno(&error), Some(Errno::PERM));
        assert!(report(&error).contains("CAP_BPF"), "{error}");
    });
}

#[test]
fn opening_by_id_needs_cap_sys_admin() {
    netns::isolated(|| {
        let map: Array<_, u64> = Array::create(1, 0).unwrap();
        let id = map.map_data().info().unwrap().id();
        keep_only(rustix::thread::CapabilitySet::BPF);
        let error = MapData::from_id(id).unwrap_err();
        assert!(report(&error).contains("CAP_SYS_ADMIN"), "{error}");
    });
}

#[test]
fn pinning_outside_a_bpffs_explains_where_to_pin() {
    let directory = tempfile::tempdir().unwrap();
    let map: Array<_, u64> = Array::create(1, 0).unwrap();
    let error = map.map_data().pin(directory.path().join("map")).unwrap_err();
    let PinError::SyscallError(inner) = &error else { panic!("{error}") };
    assert_eq!(Errno::from_io_error(&inner.io_error), Some(Errno::PERM));
    assert!(report(&error).contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
    let error =
        EbpfLoader::new().default_map_pin_directory(directory.path()).load(PINNED).unwrap_err();
    assert!(report(&error).contains("shared_counts"), "{error}");
    assert!(report(&error).contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
}

#[test]
fn names_with_dots_and_missing_directories_are_explained() {
    netns::isolated(|| {
        bpffs::private();
        let map: Array<_, u64> = Array::create(1, 0).unwrap();
        let error = map.map_data().pin(format!("{}/127.0.0.1", bpffs::PATH)).unwrap_err();
        assert!(report(&error).contains("without dots"), "{error}");
        let error = map.map_data().pin(format!("{}/nothing/map", bpffs::PATH)).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::NOENT));
        assert!(report(&error).contains("directory"), "{error}");
    });
}

#[test]
fn an_object_for_the_other_byte_order_is_named() {
    let mut bytes = SELECT.to_vec();
    bytes[5] = if cfg!(target_endian = "little") { 2 } else { 1 };
    bytes[18..20].reverse(); // e_machine
    let error = Ebpf::load(&bytes).unwrap_err();
    assert!(matches!(error, EbpfError::WrongEndianness));
    assert!(report(&error).contains("other byte order"), "{error}");
}

#[test]
fn programs_in_sections_of_unknown_types_are_listed_and_not_loaded() {
    let mut bytes = SELECT.to_vec();
    let name = b"sk_reuseport";
    while let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
        bytes[at..at + 2].copy_from_slice(b"tc");
    }
    let ebpf = Ebpf::load(&bytes).unwrap();
    let Some(Program::Unsupported(program)) = ebpf.program("select_or_move") else {
        panic!("{:?}", ebpf.program("select_or_move"))
    };
    assert_eq!(program.section(), "tc_reuseport/migrate");
    let error = EbpfLoader::new().only("select_or_move").load(&bytes).unwrap_err();
    assert!(report(&error).contains("no program `select_or_move`"), "{error}");
}

#[test]
fn data_that_is_no_object_is_reported_as_such() {
    for bytes in [&b""[..], b"x", b"#include <linux/bpf.h>\nint main(void) {}\n", b"\x7fELF"] {
        let error = Ebpf::load(bytes).unwrap_err();
        assert!(matches!(error, EbpfError::ParseError(_)), "{error}");
        assert!(report(&error).contains("expected an ELF file"), "{error}");
    }
    // An ELF file for another machine: this test binary.
    let own = std::fs::read("/proc/self/exe").unwrap();
    let error = Ebpf::load(&own).unwrap_err();
    assert!(matches!(error, EbpfError::WrongMachine { .. }));
    assert!(report(&error).contains("clang -target bpf"), "{error}");
}

#[test]
fn a_truncated_object_is_refused_wherever_it_ends() {
    for object in [SELECT, TRACING, LEGACY, MAPS] {
        for length in (0..object.len()).step_by(7) {
            // The last bytes may not matter.
            if let Err(error) = Ebpf::load(&object[..length]) {
                assert!(!report(&error).is_empty());
            } else {
                assert!(length > object.len() / 2, "{length} of {}", object.len());
            }
        }
    }
}

#[test]
fn wrong_paths_are_explained() {
    let nothing = MapData::from_pin("/sys/fs/bpf/no/such/pin").unwrap_err();
    assert!(matches!(nothing, MapError::SyscallError(_)));
    assert!(report(&nothing).contains("nothing is pinned there"), "{nothing}");
    let zero = MapData::from_pin("a\0b").unwrap_err();
    assert!(report(&zero).contains("invalid pin path"), "{zero}");
}

#[test]
fn a_report_has_each_failure_once_and_the_hint_last() {
    netns::isolated(|| {
        bpffs::private();
        let directory = tempfile::tempdir().unwrap();
        let map: Array<_, u64> = Array::create(1, 0).unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut pinning = EbpfLoader::new();
        let detached = sk_reuseport::programs::SkReuseport::detach(&socket);
        let errors: [Box<dyn std::error::Error>; 9] = [
            Ebpf::load(b"no object").unwrap_err().into(),
            Ebpf::load_file("/no/such/file").unwrap_err().into(),
            refused_by_the_verifier(VerifierLogLevel::default()).into(),
            Array::<_, u64>::create(0, 0).unwrap_err().into(),
            map.mapped().unwrap_err().into(),
            map.map_data().pin(directory.path().join("map")).unwrap_err().into(),
            pinning.default_map_pin_directory(directory.path()).load(PINNED).unwrap_err().into(),
            detached.unwrap_err().into(),
            MapData::from_pin("a\0b").unwrap_err().into(),
        ];
        for error in &errors {
            let report = report(&**error);
            let mut cause: Option<&dyn std::error::Error> = Some(&**error);
            while let Some(error) = cause {
                let text = error.to_string();
                assert_eq!(report.matches(&text).count(), 1, "{text:?} in {report:?}");
                cause = error.source();
            }
            if let Some(hint) = hint_of(&**error) {
                assert!(report.ends_with(&format!("; {hint}")), "{report}");
            }
        }
    });
}

#[test]
fn a_hint_is_found_through_errors_of_other_crates() {
    #[derive(Debug)]
    struct Wrapped(MapError);

    impl std::fmt::Display for Wrapped {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("cannot read the table")
        }
    }

    impl std::error::Error for Wrapped {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    let error = Wrapped(MapData::from_pin("/sys/fs/bpf/no/such/pin").unwrap_err());
    assert_eq!(hint_of(&error), Some(Hint::NothingPinned));
    assert!(report(&error).starts_with("cannot read the table: `BPF_OBJ_GET` failed: "));
}
