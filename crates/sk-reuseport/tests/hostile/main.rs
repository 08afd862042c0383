//! Objects that are damaged, cut off or made to do harm: an error, and nothing else. No panic, not
//! even one that is caught and printed; no hang; no memory beyond what an object can need; no
//! descriptor and no pin left behind. A test binary of its own, because descriptors, panics and
//! memory are those of the whole process.

#![allow(clippy::unwrap_used, reason = "clippy takes only functions with #[test] for tests")]

mod elf;
mod made;
mod mangled;

use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sk_reuseport::programs::Program;
use sk_reuseport::{Ebpf, EbpfLoader, KernelBtf};
use test_support::{bpffs, netns, wait};

pub(crate) const SELECT: &[u8] = include_bytes!("../bpf/select.bpf.o");
pub(crate) const MAPS: &[u8] = include_bytes!("../bpf/maps.bpf.o");
pub(crate) const LEGACY: &[u8] = include_bytes!("../bpf/legacy.bpf.o");
pub(crate) const PINNED: &[u8] = include_bytes!("../bpf/pinned.bpf.o");
pub(crate) const TRACING: &[u8] = include_bytes!("../bpf/tracing.bpf.o");
pub(crate) const REFUSED: &[u8] = include_bytes!("../bpf/refused.bpf.o");
pub(crate) const BIG_ENDIAN: &[u8] = include_bytes!("../objects/clang/big_endian.o");
pub(crate) const CLANG_19: &[u8] = include_bytes!("../objects/clang/clang19.o");
pub(crate) const AYA_LEGACY: &[u8] = include_bytes!("../objects/aya/legacy.o");
pub(crate) const AYA_BTF: &[u8] = include_bytes!("../objects/aya/btf.o");

/// What the process may take beyond what it has at the beginning: much less than an object can ask
/// for, much more than one needs.
const ROOM: u64 = 1 << 30;

/// The longest that one object may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

/// Panics of which something was printed.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// One test at a time, with a bpffs of its own, and with the limits of this file.
pub(crate) fn unharmed(test: impl FnOnce() + Send) {
    let _alone = alone();
    let before = PANICS.load(Ordering::Relaxed);
    netns::isolated(|| {
        bpffs::private();
        test();
    });
    assert_eq!(PANICS.load(Ordering::Relaxed), before, "a panic was printed");
}

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static LIMITS: Once = Once::new();
    LIMITS.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            report(what);
        }));
        let maximum = getrlimit(Resource::As).maximum;
        setrlimit(Resource::As, Rlimit { current: Some(memory() + ROOM), maximum }).unwrap();
    });
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process's address space in bytes.
fn memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn pins() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(bpffs::PATH).unwrap();
    let mut pins: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pins.sort_unstable();
    pins
}

/// Loads an object and every program of it that needs no more than itself. What the error says, if
/// there is one; nothing is left of either.
pub(crate) fn load(bytes: &[u8], kernel: Option<&KernelBtf>) -> Result<(), String> {
    let (open, pinned, start) = (descriptors(), pins(), Instant::now());
    let mut loader = EbpfLoader::new();
    match kernel {
        Some(kernel) => loader.kernel_btf(kernel),
        None => loader.btf(None),
    };
    let result = loader.load(bytes);
    if result.is_err() {
        assert_eq!(pins(), pinned, "a pin was left behind");
    }
    let result = result.map_err(|error| error.to_string()).and_then(|mut ebpf| load_all(&mut ebpf));
    assert_eq!(descriptors(), open, "descriptors were left behind");
    assert!(start.elapsed() < wait::scaled(PATIENCE), "it took {:?}", start.elapsed());
    for pin in pins().iter().filter(|pin| !pinned.contains(pin)) {
        std::fs::remove_file(pin).unwrap();
    }
    result.inspect_err(|said| assert!(!said.is_empty()))
}

fn load_all(ebpf: &mut Ebpf) -> Result<(), String> {
    for (_, program) in ebpf.programs_mut() {
        if let Program::SkReuseport(program) = program {
            program.load().map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// What is said of an object that is refused.
#[track_caller]
pub(crate) fn refused(bytes: &[u8]) -> String {
    load(bytes, None).expect_err("it is refused")
}

#[test]
fn what_is_sound_loads() {
    unharmed(|| {
        assert!(Path::new(bpffs::PATH).exists());
        for object in [SELECT, MAPS, LEGACY, PINNED, CLANG_19, AYA_LEGACY, AYA_BTF] {
            load(object, None).unwrap();
        }
    });
}
