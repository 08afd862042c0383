//! Objects that are damaged, cut off or malicious: loading them is an error. It must not panic, not
//! even if the panic is caught, nor hang, nor allocate more than an object can need, nor leave
//! descriptors or pins behind.

mod elf;
mod made;
mod mangled;

use std::panic;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sk_reuseport::programs::Program;
use sk_reuseport::{Ebpf, EbpfLoader, KernelBtf};
use test_support::{bpffs, netns, wait};

use crate::fixtures::*;
use crate::{alone, descriptors};

/// Bytes of address space that the process may use beyond those at the start: much less than an
/// object can ask for, much more than one needs.
const ROOM: u64 = 1 << 30;

/// The longest time that an object may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

type PanicHook = Box<dyn Fn(&panic::PanicHookInfo<'_>) + Sync + Send>;

/// Panics that were printed.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Runs a test alone, with its own bpffs and with the limits of this module.
pub(crate) fn unharmed(test: impl FnOnce() + Send) {
    let _alone = alone();
    limit_once();
    let before = PANICS.load(Ordering::Relaxed);
    netns::isolated(|| {
        bpffs::private();
        test();
    });
    assert_eq!(PANICS.load(Ordering::Relaxed), before, "a panic was printed");
}

fn limit_once() {
    static LIMITS: Once = Once::new();
    LIMITS.call_once(|| {
        let printing = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            printing(what);
        }));
        let maximum = getrlimit(Resource::As).maximum;
        setrlimit(Resource::As, Rlimit { current: Some(memory() + ROOM), maximum }).unwrap();
    });
}

/// The process's address space in bytes.
fn memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

fn pins() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(bpffs::PATH).unwrap();
    let mut pins: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pins.sort_unstable();
    pins
}

/// Loads an object and those of its programs that have no target. Returns the report of an error.
/// Nothing of the object is left afterwards.
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
    let result = result.map_err(|error| report(&error)).and_then(|mut ebpf| load_all(&mut ebpf));
    assert_eq!(descriptors(), open, "descriptors were left behind");
    assert!(start.elapsed() < wait::scaled(PATIENCE), "it took {:?}", start.elapsed());
    for pin in pins().iter().filter(|pin| !pinned.contains(pin)) {
        std::fs::remove_file(pin).unwrap();
    }
    result.inspect_err(|report| assert!(!report.is_empty()))
}

fn load_all(ebpf: &mut Ebpf) -> Result<(), String> {
    for (_, program) in ebpf.programs_mut() {
        if let Program::SkReuseport(program) = program {
            program.load().map_err(|error| report(&error))?;
        }
    }
    Ok(())
}

/// The report of the error with which an object is refused.
#[track_caller]
pub(crate) fn refused(bytes: &[u8]) -> String {
    load(bytes, None).expect_err("the object is refused")
}

#[test]
fn the_panic_hook_of_the_process_stays_as_it_is() {
    let _alone = alone();
    limit_once();
    let called = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&called);
    let hook: PanicHook = Box::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let address: *const () = ptr::from_ref(&*hook).cast();
    let previous = panic::take_hook();
    panic::set_hook(hook);
    for object in [SELECT, BIG_ENDIAN, &SELECT[..SELECT.len() / 2], b""] {
        let _ = Ebpf::load(object);
    }
    assert_eq!(called.load(Ordering::Relaxed), 0);
    assert!(panic::catch_unwind(|| panic!("counted")).is_err());
    let hook = panic::take_hook();
    panic::set_hook(previous);
    assert_eq!(called.load(Ordering::Relaxed), 1);
    assert!(ptr::addr_eq(ptr::from_ref(&*hook), address), "another hook was set");
}

#[test]
fn valid_objects_load() {
    unharmed(|| {
        assert!(Path::new(bpffs::PATH).exists());
        for object in [SELECT, MAPS, LEGACY, PINNED, CLANG_19, AYA_LEGACY, AYA_BTF] {
            load(object, None).unwrap();
        }
    });
}
