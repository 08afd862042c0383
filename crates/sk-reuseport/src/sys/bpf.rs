//! bpf(2): one function per command.

use std::ffi::CStr;
use std::io;
use std::mem::{self, MaybeUninit};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_map_info, bpf_prog_info, bpf_prog_type,
};

use super::funnel::{Call, funnel};
use super::pod::{Pod, bytes_of};

/// The length that the kernel gives names (`BPF_OBJ_NAME_LEN`), with the final 0.
pub(crate) const NAME_LEN: usize = 16;

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a whole, initialised bpf_attr; the pointers in it were taken from
    // slices that the callers in this file keep alive over the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, cmd, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn bpf_unit(call: Call, cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    funnel(call, || bpf(cmd, attr).map(|_| ()))
}

/// For commands that return a new descriptor. bpf(2) makes all of them close-on-exec.
fn bpf_fd(call: Call, cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    funnel(call, || {
        let fd = bpf(cmd, attr)? as RawFd; // the kernel's descriptors are ints
        // SAFETY: the command returned a new descriptor, which has no other owner.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

fn empty() -> bpf_attr {
    // SAFETY: bpf_attr is a union of plain structures, for which zero is a value; the kernel
    // wants every byte that a command does not use to be zero.
    unsafe { mem::zeroed() }
}

fn pointer<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

/// Copies as much of a name as fits, and keeps the final 0.
fn copy_name(to: &mut [libc::c_char; NAME_LEN], name: &CStr) {
    for (to, from) in to[..NAME_LEN - 1].iter_mut().zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
}

/// The parameters of `BPF_MAP_CREATE`.
#[derive(Default)]
pub(crate) struct MapCreate<'a> {
    pub(crate) name: &'a CStr,
    pub(crate) map_type: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
    pub(crate) extra: u64,
    pub(crate) inner: Option<BorrowedFd<'a>>,
    /// The object's BTF and the type ids of key and value in it.
    pub(crate) btf: Option<(BorrowedFd<'a>, u32, u32)>,
}

pub(crate) fn bpf_map_create(request: &MapCreate<'_>) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: BPF_MAP_CREATE reads this member of the union.
    let a = unsafe { &mut attr.__bindgen_anon_1 };
    a.map_type = request.map_type;
    a.key_size = request.key_size;
    a.value_size = request.value_size;
    a.max_entries = request.max_entries;
    a.map_flags = request.flags;
    a.map_extra = request.extra;
    copy_name(&mut a.map_name, request.name);
    if let Some(inner) = request.inner {
        a.inner_map_fd = inner.as_raw_fd() as u32;
    }
    if let Some((fd, key, value)) = request.btf {
        a.btf_fd = fd.as_raw_fd() as u32;
        a.btf_key_type_id = key;
        a.btf_value_type_id = value;
    }
    bpf_fd(Call::BpfMapCreate, bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

fn element(map: BorrowedFd<'_>, key: u64, value: u64, flags: u64) -> bpf_attr {
    let mut attr = empty();
    // SAFETY: the commands on elements read this member of the union.
    let a = unsafe { &mut attr.__bindgen_anon_2 };
    a.map_fd = map.as_raw_fd() as u32;
    a.key = key;
    a.__bindgen_anon_1.value = value;
    a.flags = flags;
    attr
}

/// Looks an element up into `value`, which must be as long as the map's values (for a per-CPU map,
/// as those of all CPUs, each rounded up to 8 bytes). False if the map has no such element.
pub(crate) fn bpf_map_lookup_elem_into<K: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &mut [u8],
    flags: u64,
) -> io::Result<bool> {
    let key = std::slice::from_ref(key);
    let mut attr = element(map, pointer(key), value.as_mut_ptr() as u64, flags);
    match bpf_unit(Call::BpfMapLookupElem, bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn bpf_map_lookup_elem<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    flags: u64,
) -> io::Result<Option<V>> {
    let key = std::slice::from_ref(key);
    let mut value = MaybeUninit::<V>::zeroed();
    let mut attr = element(map, pointer(key), value.as_mut_ptr() as u64, flags);
    match bpf_unit(Call::BpfMapLookupElem, bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        // SAFETY: it was zeroed, and any bytes that the kernel wrote over it are a valid `Pod`.
        Ok(()) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn bpf_map_update_elem_bytes(
    map: BorrowedFd<'_>,
    key: &[u8],
    value: &[u8],
    flags: u64,
) -> io::Result<()> {
    let mut attr = element(map, pointer(key), pointer(value), flags);
    bpf_unit(Call::BpfMapUpdateElem, bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)
}

pub(crate) fn bpf_map_update_elem<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
    flags: u64,
) -> io::Result<()> {
    let key = bytes_of(std::slice::from_ref(key));
    bpf_map_update_elem_bytes(map, key, bytes_of(std::slice::from_ref(value)), flags)
}

pub(crate) fn bpf_map_delete_elem<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = element(map, pointer(std::slice::from_ref(key)), 0, 0);
    bpf_unit(Call::BpfMapDeleteElem, bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr)
}

/// The key after `key`, or the first one; `None` after the last.
pub(crate) fn bpf_map_get_next_key<K: Pod>(
    map: BorrowedFd<'_>,
    key: Option<&K>,
) -> io::Result<Option<K>> {
    let mut next = MaybeUninit::<K>::zeroed();
    let key = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
    let mut attr = element(map, key, next.as_mut_ptr() as u64, 0);
    match bpf_unit(Call::BpfMapGetNextKey, bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
        // SAFETY: zeroed, then written by the kernel; any bytes are a valid `Pod`.
        Ok(()) => Ok(Some(unsafe { next.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a map read-only for user space. Linux 5.2.
pub(crate) fn bpf_map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = element(map, 0, 0, 0);
    bpf_unit(Call::BpfMapFreeze, bpf_cmd::BPF_MAP_FREEZE, &mut attr)
}

/// The parameters of `BPF_PROG_LOAD`.
pub(crate) struct ProgLoad<'a> {
    pub(crate) name: Option<&'a CStr>,
    pub(crate) program_type: bpf_prog_type,
    pub(crate) instructions: &'a [bpf_insn],
    pub(crate) license: &'a CStr,
    pub(crate) expected_attach_type: Option<bpf_attach_type>,
    pub(crate) attach_btf_id: Option<u32>,
    pub(crate) flags: u32,
    pub(crate) debug: Option<ProgDebug<'a>>,
}

/// The object's BTF, and the records that tie instructions to it.
pub(crate) struct ProgDebug<'a> {
    pub(crate) btf: BorrowedFd<'a>,
    pub(crate) func_info: Vec<u8>,
    pub(crate) func_info_size: u32,
    pub(crate) line_info: Vec<u8>,
    pub(crate) line_info_size: u32,
}

/// Loads a program. `log` receives the verifier's log at `log_level`, unless it is empty.
pub(crate) fn bpf_prog_load(
    request: &ProgLoad<'_>,
    log: &mut [u8],
    log_level: u32,
) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: BPF_PROG_LOAD reads this member of the union.
    let a = unsafe { &mut attr.__bindgen_anon_3 };
    if let Some(name) = request.name {
        copy_name(&mut a.prog_name, name);
    }
    a.prog_type = request.program_type as u32;
    a.insns = pointer(request.instructions);
    a.insn_cnt = request.instructions.len() as u32;
    a.license = request.license.as_ptr() as u64;
    a.prog_flags = request.flags;
    a.expected_attach_type = request.expected_attach_type.map_or(0, |t| t as u32);
    a.attach_btf_id = request.attach_btf_id.unwrap_or(0);
    if let Some(debug) = &request.debug {
        let records = |bytes: &[u8], size: u32| bytes.len().checked_div(size as usize);
        a.prog_btf_fd = debug.btf.as_raw_fd() as u32;
        if let Some(count) = records(&debug.func_info, debug.func_info_size) {
            a.func_info = pointer(&debug.func_info);
            a.func_info_cnt = count as u32;
            a.func_info_rec_size = debug.func_info_size;
        }
        if let Some(count) = records(&debug.line_info, debug.line_info_size) {
            a.line_info = pointer(&debug.line_info);
            a.line_info_cnt = count as u32;
            a.line_info_rec_size = debug.line_info_size;
        }
    }
    if !log.is_empty() {
        a.log_level = log_level;
        a.log_buf = log.as_mut_ptr() as u64;
        a.log_size = log.len() as u32;
    }
    bpf_fd(Call::BpfProgLoad, bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// Loads a program that does nothing and returns 1, which every type of program may, and unloads
/// it.
pub(crate) fn bpf_prog_probe(
    program_type: bpf_prog_type,
    expected_attach_type: Option<bpf_attach_type>,
) -> io::Result<()> {
    const MOVE_IMMEDIATE: u8 = 0xb7;
    const EXIT: u8 = 0x95;

    let instruction = |code, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm,
    };
    let request = ProgLoad {
        name: None,
        program_type,
        instructions: &[instruction(MOVE_IMMEDIATE, 1), instruction(EXIT, 0)],
        license: c"GPL",
        expected_attach_type,
        attach_btf_id: None,
        flags: 0,
        debug: None,
    };
    bpf_prog_load(&request, &mut [], 0).map(drop)
}

/// Loads BTF. `log` receives the kernel's log, unless it is empty.
pub(crate) fn bpf_btf_load(btf: &[u8], log: &mut [u8], log_level: u32) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: BPF_BTF_LOAD reads this member of the union.
    let a = unsafe { &mut attr.__bindgen_anon_7 };
    a.btf = pointer(btf);
    a.btf_size = btf.len() as u32;
    if !log.is_empty() {
        a.btf_log_level = log_level;
        a.btf_log_buf = log.as_mut_ptr() as u64;
        a.btf_log_size = log.len() as u32;
    }
    bpf_fd(Call::BpfBtfLoad, bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

pub(crate) fn bpf_obj_pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let mut attr = empty();
    // SAFETY: BPF_OBJ_PIN reads this member of the union.
    let a = unsafe { &mut attr.__bindgen_anon_4 };
    a.bpf_fd = object.as_raw_fd() as u32;
    a.pathname = path.as_ptr() as u64;
    bpf_unit(Call::BpfObjPin, bpf_cmd::BPF_OBJ_PIN, &mut attr)
}

pub(crate) fn bpf_obj_get(path: &CStr) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_fd(Call::BpfObjGet, bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// # Safety
///
/// `T` must be the kernel's structure for the kind of object that `object` is.
unsafe fn info<T>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut attr = empty();
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info = value.as_mut_ptr() as u64;
    attr.info.info_len = size_of::<T>() as u32;
    bpf_unit(Call::BpfObjGetInfoByFd, bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: zeroed, then filled by the kernel with the plain structure it is.
    Ok(unsafe { value.assume_init() })
}

pub(crate) fn bpf_prog_info_by_fd(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: callers pass programs; for another kind of object the kernel writes at most
    // `info_len` bytes.
    unsafe { info(program) }
}

pub(crate) fn bpf_map_info_by_fd(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    // SAFETY: as for programs.
    unsafe { info(map) }
}

/// The ids of the maps that a program uses, at most `most` of them, and how many there are.
pub(crate) fn bpf_prog_map_ids(program: BorrowedFd<'_>, most: u32) -> io::Result<(Vec<u32>, u32)> {
    let mut ids = vec![0u32; most as usize];
    // SAFETY: bpf_prog_info is a plain structure, for which zero is a value.
    let mut value: bpf_prog_info = unsafe { mem::zeroed() };
    value.nr_map_ids = most;
    value.map_ids = ids.as_mut_ptr() as u64;
    let mut attr = empty();
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info = (&raw mut value) as u64;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    bpf_unit(Call::BpfObjGetInfoByFd, bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    ids.truncate(value.nr_map_ids.min(most) as usize);
    Ok((ids, value.nr_map_ids))
}

/// Lets a program keep a map that its code does not use. Linux 5.10.
pub(crate) fn bpf_prog_bind_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.prog_bind_map.prog_fd = program.as_raw_fd() as u32;
    attr.prog_bind_map.map_fd = map.as_raw_fd() as u32;
    bpf_unit(Call::BpfProgBindMap, bpf_cmd::BPF_PROG_BIND_MAP, &mut attr)
}

fn fd_by_id(call: Call, cmd: bpf_cmd, id: u32) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
    bpf_fd(call, cmd, &mut attr)
}

/// Needs CAP_SYS_ADMIN.
pub(crate) fn bpf_prog_get_fd_by_id(id: u32) -> io::Result<OwnedFd> {
    fd_by_id(Call::BpfProgGetFdById, bpf_cmd::BPF_PROG_GET_FD_BY_ID, id)
}

/// Needs CAP_SYS_ADMIN.
pub(crate) fn bpf_map_get_fd_by_id(id: u32) -> io::Result<OwnedFd> {
    fd_by_id(Call::BpfMapGetFdById, bpf_cmd::BPF_MAP_GET_FD_BY_ID, id)
}

/// Attaches a program to the target that it was loaded for (a `tp_btf` program). Linux 5.5.
pub(crate) fn bpf_raw_tracepoint_open(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.raw_tracepoint.prog_fd = program.as_raw_fd() as u32;
    bpf_fd(Call::BpfRawTracepointOpen, bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// What an iterator goes through.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Over<'a> {
    /// All objects of its kind.
    All,
    /// The elements of a map.
    Map(BorrowedFd<'a>),
    /// What belongs to a process. Linux 6.1.
    Process(NonZeroU32),
}

/// Attaches an iterator. Linux 5.8.
pub(crate) fn bpf_link_create_iter(program: BorrowedFd<'_>, over: Over<'_>) -> io::Result<OwnedFd> {
    // union bpf_iter_link_info: a map's descriptor; or a thread, a process and a pidfd.
    let link_info = match over {
        Over::All => None,
        Over::Map(map) => Some([map.as_raw_fd() as u32, 0, 0, 0]),
        Over::Process(pid) => Some([0, pid.get(), 0, 0]),
    };
    let mut attr = empty();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    if let Some(link_info) = &link_info {
        attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = pointer(link_info);
        attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info_len =
            size_of_val(link_info) as u32;
    }
    bpf_fd(Call::BpfLinkCreate, bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Attaches a program to a cgroup, next to others. Linux 5.7.
pub(crate) fn bpf_link_create_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd() as u32;
    attr.link_create.attach_type = attach_type as u32;
    bpf_fd(Call::BpfLinkCreate, bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Opens a file with the output of an attached iterator.
pub(crate) fn bpf_iter_create(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.iter_create.link_fd = link.as_raw_fd() as u32;
    bpf_fd(Call::BpfIterCreate, bpf_cmd::BPF_ITER_CREATE, &mut attr)
}
