//! Fails every system call of a path in turn. The error must be returned, nothing may panic, and no
//! descriptor may be left open.

use std::cell::RefCell;
use std::error::Error;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::rc::Rc;

use rustix::io::Errno;
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::maps::{
    Array, ArrayOfMaps, HashMap, MapData, MapError, PerCpuArray, ReusePortSockArray, RingBuf,
    SkStorage,
};
use sk_reuseport::net::Bind;
use sk_reuseport::programs::links::{FdLink, PinnedLink};
use sk_reuseport::programs::{
    BtfTracePoint, Iter, ProgramError, SkReuseport, SkReuseportAttachType,
};
use sk_reuseport::{Btf, Ebpf, EbpfLoader, Hint, KernelBtf};
use test_support::loopback;
use test_support::{bpffs, netns};

use crate::fixtures::*;
use crate::{alone, descriptors};

type Outcome = Result<(), Box<dyn Error>>;

/// Documented errors of the system calls, without those that are results rather than failures
/// (ENOENT, EEXIST).
const ERRORS: [Errno; 5] = [Errno::PERM, Errno::NOMEM, Errno::INVAL, Errno::AGAIN, Errno::NOSPC];

/// The calls that a path makes without a fault.
fn calls_of(path: &dyn Fn() -> Outcome) -> Vec<Call> {
    let calls = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&calls);
    let hook = move |call| {
        seen.borrow_mut().push(call);
        Verdict::Allow
    };
    intercept(hook, path).expect("the path succeeds without a fault");
    calls.take()
}

/// Fails each call of a path, once alone and once together with all later calls of its kind.
fn every_call_fails(path: &dyn Fn() -> Outcome, tolerated: &[Call], at_least: &[Call]) {
    let calls = calls_of(path);
    for call in at_least {
        assert!(calls.contains(call), "{call:?} is not on this path");
    }
    let before = descriptors();
    for (position, call) in calls.iter().enumerate() {
        for error in ERRORS {
            let result = with_fault(path, position, *call, error, false);
            assert_eq!(descriptors(), before, "{position}: {call:?} left descriptors behind");
            match result {
                Ok(()) => assert!(tolerated.contains(call), "{position}: {call:?} {error} is lost"),
                Err(failure) => {
                    let found = errno(&*failure);
                    assert_eq!(found, Some(error), "{position} {call:?}: {failure}");
                    assert!(!failure.to_string().is_empty());
                }
            }
            // A single failure may be retried successfully.
            let _ = with_fault(path, position, *call, error, true);
            assert_eq!(descriptors(), before, "{position}: {call:?} left descriptors behind");
        }
    }
}

fn with_fault(
    path: &dyn Fn() -> Outcome,
    position: usize,
    kind: Call,
    error: Errno,
    once: bool,
) -> Outcome {
    let mut made = 0;
    let hook = move |call| {
        made += 1;
        let fails = if once { made == position + 1 } else { made > position };
        if fails && call == kind { Verdict::Fail(error.raw_os_error()) } else { Verdict::Allow }
    };
    intercept(hook, path)
}

#[test]
fn loading_attaching_and_detaching() {
    let _alone = alone();
    netns::isolated(|| {
        let path = || -> Outcome {
            let sockets = Bind::new(loopback(false)).device("lo").udp_sockets(2)?;
            let mut ebpf = Ebpf::load(SELECT)?;
            let array = ebpf.take_map("sockets").ok_or("no map")?;
            let mut array: ReusePortSockArray<_> = array.try_into()?;
            array.set(0, &sockets[0], 0)?;
            array.get(&0)?;
            array.indices().collect::<Result<Vec<_>, _>>()?;
            let program: &mut SkReuseport =
                ebpf.program_mut("select_socket").ok_or("no program")?.try_into()?;
            program.load()?;
            program.info()?;
            program.attach(&sockets[0])?;
            SkReuseport::detach(&sockets[1])?;
            array.clear_index(&0)?;
            Ok(())
        };
        // An object's own types are optional: they help with debugging.
        let tolerated = [Call::BpfBtfLoad];
        let expected = [
            Call::BindToDevice,
            Call::BpfBtfLoad,
            Call::BpfMapCreate,
            Call::BpfMapUpdateElem,
            Call::BpfMapLookupElem,
            Call::BpfMapGetNextKey,
            Call::BpfMapDeleteElem,
            Call::BpfProgLoad,
            Call::BpfObjGetInfoByFd,
            Call::AttachReuseportEbpf,
            Call::DetachReuseportBpf,
        ];
        every_call_fails(&path, &tolerated, &expected);
    });
}

#[test]
fn maps_of_every_kind() {
    let _alone = alone();
    netns::isolated(|| {
        let path = || -> Outcome {
            let mut ebpf = Ebpf::load(MAPS)?;
            let mut array: Array<_, [u64; 2]> =
                ebpf.map_mut("shared").ok_or("no map")?.try_into()?;
            array.set(0, [1, 2], 0)?;
            array.get(&0, 0)?;
            array.mapped()?;
            let mut hash: HashMap<_, u32, u64> =
                ebpf.map_mut("hash").ok_or("no map")?.try_into()?;
            hash.insert(1, 1, 0)?;
            hash.iter().collect::<Result<Vec<_>, _>>()?;
            hash.remove(&1)?;
            let per_cpu = ebpf.map_mut("per_cpu").ok_or("no map")?;
            let mut per_cpu: PerCpuArray<_, u32> = per_cpu.try_into()?;
            let values = per_cpu.get(&0, 0)?;
            per_cpu.set(0, values, 0)?;
            let mut records = RingBuf::try_from(ebpf.map("records").ok_or("no map")?)?;
            assert!(records.next().is_none());
            let inner: Array<_, u32> = Array::create(64, 0)?;
            let mut tables = ArrayOfMaps::create("tables", 1, inner.map_data())?;
            tables.set(0, inner.map_data(), 0)?;
            tables.remove(0)?;
            inner.map_data().freeze()?;
            MapData::from_id(inner.map_data().info()?.id())?;
            Ok(())
        };
        let expected = [Call::BpfMapFreeze, Call::Mmap, Call::BpfMapGetFdById];
        every_call_fails(&path, &[Call::BpfBtfLoad], &expected);
    });
}

#[test]
fn pins() {
    let _alone = alone();
    netns::isolated(|| {
        bpffs::private();
        let at = |name: &str| Path::new(bpffs::PATH).join(name);
        let path = || -> Outcome {
            for name in ["shared_counts", "program"] {
                let _ = std::fs::remove_file(at(name));
            }
            let _first = Ebpf::load(PINNED)?;
            let mut ebpf = Ebpf::load(PINNED)?;
            let program: &mut SkReuseport =
                ebpf.program_mut("count_up").ok_or("no program")?.try_into()?;
            program.load()?;
            program.pin(at("program"))?;
            let again = SkReuseport::from_pin(at("program"), SkReuseportAttachType::Select)?;
            again.info()?.fd()?;
            Ok(())
        };
        let expected = [Call::BpfObjPin, Call::BpfObjGet, Call::BpfProgGetFdById];
        every_call_fails(&path, &[Call::BpfBtfLoad], &expected);
    });
}

#[test]
fn tracing() {
    let _alone = alone();
    let kernel = Btf::from_sys_fs().unwrap();
    netns::isolated(|| {
        bpffs::private();
        let link_path = Path::new(bpffs::PATH).join("link");
        let path = || -> Outcome {
            let _ = std::fs::remove_file(&link_path);
            let mut ebpf = EbpfLoader::new().btf(Some(&kernel)).load(TRACING)?;
            let socket = &Bind::new(loopback(false)).listeners(1)?[0];
            let mut marks: SkStorage<_, u64> =
                ebpf.take_map("marks").ok_or("no map")?.try_into()?;
            marks.insert(socket, 1, 0)?;
            marks.get(socket, 0)?;
            let program: &mut BtfTracePoint =
                ebpf.program_mut("on_state").ok_or("no program")?.try_into()?;
            program.load("inet_sock_set_state", &kernel)?;
            let id = program.attach()?;
            FdLink::from(program.take_link(id)?).pin(&link_path)?;
            PinnedLink::from_pin(&link_path)?.unpin()?;
            let program: &mut Iter =
                ebpf.program_mut("each_mark").ok_or("no program")?.try_into()?;
            program.load("bpf_sk_storage_map", &kernel)?;
            let id = program.attach_to_map(marks.map_data())?;
            program.take_link(id)?.into_file()?.read_to_end(&mut Vec::new())?;
            marks.remove(socket)?;
            Ok(())
        };
        let expected = [Call::BpfRawTracepointOpen, Call::BpfLinkCreate, Call::BpfIterCreate];
        every_call_fails(&path, &[], &expected);
    });
}

/// A hook that fails the first calls of a kind with these errors, and allows all others.
fn failing_first(kind: Call, errors: &[Errno]) -> impl FnMut(Call) -> Verdict + 'static {
    let mut left = errors.to_vec();
    left.reverse();
    move |call| match left.pop_if(|_| call == kind) {
        Some(error) => Verdict::Fail(error.raw_os_error()),
        None => Verdict::Allow,
    }
}

#[test]
fn a_verifier_that_is_interrupted_is_asked_again() {
    let _alone = alone();
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    let program: &mut SkReuseport = ebpf.program_mut("select_socket").unwrap().try_into().unwrap();
    intercept(failing_first(Call::BpfProgLoad, &[Errno::AGAIN; 5]), || program.load()).unwrap();
}

#[test]
fn the_error_is_the_verifiers_even_if_its_log_never_fits() {
    let _alone = alone();
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    let program: &mut SkReuseport = ebpf.program_mut("select_socket").unwrap().try_into().unwrap();
    let mut first = true;
    let hook = move |call| match call {
        Call::BpfProgLoad if std::mem::take(&mut first) => {
            Verdict::Fail(Errno::ACCESS.raw_os_error())
        }
        Call::BpfProgLoad => Verdict::Fail(Errno::NOSPC.raw_os_error()),
        _ => Verdict::Allow,
    };
    let error = intercept(hook, || program.load()).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::ACCESS));
}

#[test]
fn a_kernel_that_refuses_a_program_is_asked_whether_it_has_the_type() {
    let _alone = alone();
    let mut ebpf = Ebpf::load(SELECT).unwrap();
    let mut load = |name: &str, refused: usize| {
        let program: &mut SkReuseport = ebpf.program_mut(name).unwrap().try_into().unwrap();
        let hook = failing_first(Call::BpfProgLoad, &[Errno::INVAL].repeat(refused));
        intercept(hook, || program.load()).unwrap_err()
    };
    // `load` tries twice, without a log and with one. The third try is a program that does nothing.
    assert!(matches!(load("select_or_move", 2), ProgramError::LoadError { .. }));
    let lacking = load("select_or_move", 3);
    assert!(report(&lacking).contains("no programs of type sk_reuseport/migrate (Linux 5.14)"));
    assert_eq!(errno(&lacking), Some(Errno::INVAL));
    let lacking = load("select_or_move", 10);
    assert!(report(&lacking).contains("no programs of type sk_reuseport (Linux 4.19)"));
    let lacking = load("select_socket", 10);
    assert!(matches!(lacking, ProgramError::Unsupported { program_type: "sk_reuseport", .. }));
}

#[test]
fn a_kernel_that_refuses_a_map_is_asked_whether_it_has_the_type() {
    let _alone = alone();
    let create = |refused: usize| {
        let hook = failing_first(Call::BpfMapCreate, &[Errno::INVAL].repeat(refused));
        intercept(hook, || Array::<_, u64>::create(1, 0)).unwrap_err()
    };
    let shape = create(1);
    assert!(matches!(shape, MapError::CreateError { .. }));
    assert_eq!(shape.hint(), Some(Hint::MapShape));
    let lacking = create(2);
    assert!(report(&lacking).contains("no maps of type BPF_MAP_TYPE_ARRAY"));
    assert_eq!(errno(&lacking), Some(Errno::INVAL));
}

#[test]
fn a_map_that_another_process_pinned_meanwhile_is_used() {
    let _alone = alone();
    netns::isolated(|| {
        bpffs::private();
        let id_of = |ebpf: &Ebpf| ebpf.map("shared_counts").unwrap().data().info().unwrap().id();
        let theirs = Ebpf::load(PINNED).unwrap();
        // It does not exist when the loader looks, and exists when the loader pins its own.
        let hook = failing_first(Call::BpfObjGet, &[Errno::NOENT]);
        let ours = intercept(hook, || Ebpf::load(PINNED)).unwrap();
        assert_eq!(id_of(&ours), id_of(&theirs));
    });
}

#[test]
fn a_kernel_that_knows_fewer_types_is_given_fewer() {
    let _alone = alone();
    let hook = failing_first(Call::BpfBtfLoad, &[Errno::INVAL; 2]);
    let kernel = Btf::from_sys_fs().unwrap();
    intercept(hook, || EbpfLoader::new().btf(Some(&kernel)).load(TRACING)).unwrap();
}

#[test]
fn a_made_up_result_in_place_of_the_kernels() {
    let _alone = alone();
    let before = descriptors();
    let real: Array<_, u64> = Array::create(1, 0).unwrap();
    let number = i64::from(real.map_data().fd().as_fd().as_raw_fd());
    let answer = move |call| match call {
        Call::BpfMapCreate => Verdict::Answer(number),
        Call::Mmap => Verdict::Answer(4096),
        _ => Verdict::Allow,
    };
    let copy: Array<_, u64> = intercept(answer, || Array::create(1, 0)).unwrap();
    drop(real);
    assert_eq!(copy.get(&0, 0).unwrap(), 0);
    assert!(intercept(answer, || copy.mapped()).is_err(), "a mapping cannot be made up");
    drop(copy);
    for none in [-1, i64::MAX, 1 << 20] {
        let answer = move |_| Verdict::Answer(none);
        assert!(intercept(answer, || Array::<_, u64>::create(1, 0)).is_err());
    }
    assert_eq!(descriptors(), before);
}

#[test]
fn hooks_nest_and_end_also_with_a_panic() {
    let _alone = alone();
    let deny = |_| Verdict::Fail(Errno::PERM.raw_os_error());
    let create = || Array::<_, u64>::create(1, 0).is_ok();
    intercept(deny, || {
        assert!(!create());
        assert!(intercept(|_| Verdict::Allow, create));
        assert!(!create());
        let panicked = std::panic::catch_unwind(|| intercept(|_| Verdict::Allow, || panic!("x")));
        assert!(panicked.is_err());
        assert!(!create());
    });
    assert!(create());
}

#[test]
fn a_damaged_object_never_brings_the_process_down() {
    let _alone = alone();
    // xorshift, so that failures are reproducible.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    // Damaged maps may have any size, so the kernel creates none of them.
    let map: Array<_, u64> = Array::create(1, 0).unwrap();
    let number = i64::from(map.map_data().as_fd().as_raw_fd());
    let answer = move |call| match call {
        Call::BpfObjGet => Verdict::Fail(Errno::NOENT.raw_os_error()),
        _ => Verdict::Answer(number),
    };
    let parsed = Btf::from_sys_fs().unwrap();
    let raw = KernelBtf::from_sys_fs().unwrap();
    let before = descriptors();
    for object in [SELECT, TRACING, LEGACY, MAPS] {
        for round in 0..100 {
            let mut loader = EbpfLoader::new();
            // Taking a subset of all types is slow without optimisation.
            let loader =
                if round % 10 == 0 { loader.kernel_btf(&raw) } else { loader.btf(Some(&parsed)) };
            let mut damaged = object.to_vec();
            for _ in 0..=random(8) {
                let at = random(damaged.len());
                damaged[at] = random(256) as u8;
            }
            let load = || intercept(answer, || loader.load(&damaged).map(drop).is_ok());
            let result = std::panic::catch_unwind(AssertUnwindSafe(load));
            assert!(result.is_ok(), "it panicked");
            assert_eq!(descriptors(), before);
        }
    }
}
