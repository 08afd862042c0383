//! The running kernel's types.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya_obj::btf::{Btf, BtfError, BtfKind};

use super::raw::Raw;
use super::required_types;
use super::subset::subset;
use crate::error::EbpfError;
use crate::sys::Mapping;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The kernel's types, to look up the target of a program: parsed ([`Btf`]), or raw
/// ([`KernelBtf`]), which is much faster.
pub trait KernelTypes {
    /// The id of the kernel's type with this name and kind.
    ///
    /// # Errors
    ///
    /// If there is none.
    fn id_by_type_name_kind(&self, name: &str, kind: BtfKind) -> Result<u32, BtfError>;
}

impl KernelTypes for Btf {
    fn id_by_type_name_kind(&self, name: &str, kind: BtfKind) -> Result<u32, BtfError> {
        Btf::id_by_type_name_kind(self, name, kind)
    }
}

/// The kernel's types, raw.
///
/// Loading programs with it takes a fraction of the time that parsing all types into a [`Btf`]
/// takes.
///
/// # Minimum kernel version
///
/// Linux 5.4, built with `CONFIG_DEBUG_INFO_BTF`.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::{EbpfLoader, KernelBtf, programs::Iter};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kernel = KernelBtf::from_sys_fs()?;
/// let mut ebpf = EbpfLoader::new().kernel_btf(&kernel).load_file("list.o")?;
/// let program: &mut Iter = ebpf.program_mut("each_file").ok_or("no program")?.try_into()?;
/// program.load("task_file", &kernel)?;
/// # Ok(())
/// # }
/// ```
///
/// What was looked up is kept: loading several programs with the same value takes less time again.
#[derive(Debug)]
pub struct KernelBtf {
    bytes: Bytes,
    found: Mutex<Found>,
}

/// What was looked up, by what was asked for.
#[derive(Debug, Default)]
struct Found {
    ids: HashMap<(String, u32), u32>,
    excerpts: Vec<(HashSet<Vec<u8>>, Arc<Btf>)>,
}

/// The most excerpts that are kept, each for the objects that need the same types: the oldest one goes first.
const MAX_EXCERPTS: usize = 8;

/// About five megabytes.
#[derive(Debug)]
enum Bytes {
    /// The kernel's memory, mapped (Linux 6.16): copying it with read(2) takes milliseconds.
    Mapped(Mapping, usize),
    Copied(Vec<u8>),
}

impl KernelBtf {
    /// Reads the running kernel's types.
    ///
    /// # Errors
    ///
    /// [`EbpfError::NoBTF`] if the kernel was built without types; [`EbpfError::FileError`] if they
    /// cannot be read.
    pub fn from_sys_fs() -> Result<Self, EbpfError> {
        match read() {
            Ok(bytes) => Ok(Self { bytes, found: Mutex::default() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(EbpfError::NoBTF),
            Err(error) => Err(EbpfError::FileError { path: Path::new(VMLINUX).to_owned(), error }),
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapping, len) => mapping.bytes(0, *len),
            Bytes::Copied(bytes) => bytes,
        }
    }

    /// The ids of several types, found in one pass over all of them.
    ///
    /// # Errors
    ///
    /// [`BtfError::UnknownBtfTypeName`] with the first type that is missing.
    pub fn ids<const N: usize>(&self, types: [(&str, BtfKind); N]) -> Result<[u32; N], BtfError> {
        let key = |(name, kind): (&str, BtfKind)| (name.to_owned(), kind as u32);
        let known = |found: &Found| {
            let known = types.map(|of| found.ids.get(&key(of)).copied());
            known.iter().all(Option::is_some).then(|| known.map(Option::unwrap_or_default))
        };
        if let Some(ids) = known(&self.found()) {
            return Ok(ids);
        }
        let ids = self.look_up(types)?;
        self.found().ids.extend(types.map(key).into_iter().zip(ids));
        Ok(ids)
    }

    fn look_up<const N: usize>(&self, types: [(&str, BtfKind); N]) -> Result<[u32; N], BtfError> {
        let mut ids = [0; N];
        let mut missing = N;
        // Invalid BTF has no types.
        let all = Raw::new(self.bytes()).unwrap_or_default();
        for (id, entry) in all.types() {
            for ((name, kind), found) in types.iter().zip(&mut ids) {
                let is_it = || *kind as u32 == entry.kind && all.is_named(&entry, name.as_bytes());
                if *found == 0 && is_it() {
                    *found = id;
                    missing -= 1;
                }
            }
            if missing == 0 {
                return Ok(ids);
            }
        }
        let first = types.iter().zip(ids).find(|(_, id)| *id == 0);
        let name = first.map_or_else(String::new, |((name, _), _)| (*name).to_owned());
        Err(BtfError::UnknownBtfTypeName { type_name: name })
    }

    /// The types that the programs of an object need, parsed.
    pub(crate) fn for_object(&self, object: &[u8]) -> Result<Arc<Btf>, BtfError> {
        let parse = |bytes: &[u8]| Btf::parse(bytes, object::Endianness::default()).map(Arc::new);
        // The object may need something that a subset lacks, such as the ids of types.
        let Some(names) = required_types::names(object) else { return parse(self.bytes()) };
        let known = |found: &Found| {
            let mut all = found.excerpts.iter();
            all.find(|(known, _)| *known == names).map(|(_, excerpt)| Arc::clone(excerpt))
        };
        if let Some(excerpt) = known(&self.found()) {
            return Ok(excerpt);
        }
        let Some(bytes) = Raw::new(self.bytes()).and_then(|all| subset(&all, &names)) else {
            return parse(self.bytes());
        };
        let excerpt = parse(&bytes)?;
        let mut found = self.found();
        // Another thread may have parsed the same meanwhile.
        if let Some(excerpt) = known(&found) {
            return Ok(excerpt);
        }
        if found.excerpts.len() >= MAX_EXCERPTS {
            found.excerpts.remove(0);
        }
        found.excerpts.push((names, Arc::clone(&excerpt)));
        Ok(excerpt)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maps the kernel's types, or reads them where the kernel cannot map them.
fn read() -> io::Result<Bytes> {
    let mut file = File::open(VMLINUX)?;
    let len = file.metadata()?.len() as usize;
    if let Ok(mapping) = Mapping::constant(file.as_fd(), len) {
        return Ok(Bytes::Mapped(mapping, len));
    }
    let mut bytes = Vec::with_capacity(len);
    file.read_to_end(&mut bytes)?;
    Ok(Bytes::Copied(bytes))
}

impl KernelTypes for KernelBtf {
    fn id_by_type_name_kind(&self, name: &str, kind: BtfKind) -> Result<u32, BtfError> {
        self.ids([(name, kind)]).map(|[id]| id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_excerpt_of_the_running_kernels_types_parses_and_has_what_was_asked_for() {
        let Ok(kernel) = KernelBtf::from_sys_fs() else { panic!("this kernel has no BTF") };
        let raw = Raw::new(kernel.bytes()).unwrap();
        let names = ["sock", "sock_common", "task_struct"].map(|name| name.as_bytes().to_vec());
        let bytes = subset(&raw, &HashSet::from(names)).unwrap();
        assert!(bytes.len() * 10 < kernel.bytes().len(), "{} bytes", bytes.len());
        let excerpt = Btf::parse(&bytes, Default::default()).unwrap();
        for name in ["sock", "sock_common", "task_struct"] {
            assert!(excerpt.id_by_type_name_kind(name, BtfKind::Struct).is_ok(), "{name}");
        }
        // The type of a member, not asked for by name.
        assert!(excerpt.id_by_type_name_kind("refcount_struct", BtfKind::Struct).is_ok());
        assert!(excerpt.id_by_type_name_kind("inode", BtfKind::Struct).is_err());
    }

    #[test]
    fn ids_by_name_are_those_of_the_parsed_whole() {
        let Ok(kernel) = KernelBtf::from_sys_fs() else { panic!("this kernel has no BTF") };
        let whole = Btf::from_sys_fs().unwrap();
        for (name, kind) in [
            ("bpf_iter_task_file", BtfKind::Func),
            ("btf_trace_inet_sock_set_state", BtfKind::Typedef),
            ("sock", BtfKind::Struct),
        ] {
            let expected = whole.id_by_type_name_kind(name, kind).unwrap();
            assert_eq!(kernel.id_by_type_name_kind(name, kind).unwrap(), expected, "{name}");
        }
        assert!(kernel.id_by_type_name_kind("no_such_type", BtfKind::Func).is_err());

        let pair = [("sock", BtfKind::Struct), ("bpf_iter_task_file", BtfKind::Func)];
        let one_by_one = pair.map(|(name, kind)| whole.id_by_type_name_kind(name, kind).unwrap());
        assert_eq!(kernel.ids(pair).unwrap(), one_by_one);
        let missing = kernel.ids([("sock", BtfKind::Struct), ("no_such_type", BtfKind::Struct)]);
        assert!(missing.unwrap_err().to_string().contains("no_such_type"));
    }
    #[test]
    fn what_was_looked_up_is_kept() {
        let Ok(kernel) = KernelBtf::from_sys_fs() else { panic!("this kernel has no BTF") };
        let object = include_bytes!("../../tests/bpf/tracing.bpf.o");
        let (first, again) =
            (kernel.for_object(object).unwrap(), kernel.for_object(object).unwrap());
        assert!(Arc::ptr_eq(&first, &again));
        let types = [("sock", BtfKind::Struct), ("bpf_iter_task_file", BtfKind::Func)];
        let ids = kernel.ids(types).unwrap();
        assert_eq!(kernel.found().ids.len(), 2);
        assert_eq!(kernel.ids(types).unwrap(), ids);
        // What is missing is not.
        assert!(kernel.ids([("no_such_type", BtfKind::Struct)]).is_err());
        assert_eq!(kernel.found().ids.len(), 2);
    }

    #[test]
    fn the_oldest_excerpt_goes_first() {
        let Ok(kernel) = KernelBtf::from_sys_fs() else { panic!("this kernel has no BTF") };
        let object = include_bytes!("../../tests/bpf/tracing.bpf.o");
        let of_object = || kernel.for_object(object).unwrap();
        let first = of_object();
        let other = |n| (HashSet::from([vec![n]]), Arc::clone(&first));
        kernel.found().excerpts = (0..MAX_EXCERPTS as u8).map(other).collect();
        let again = of_object();
        assert!(!Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&again, &of_object()));
        let found = kernel.found();
        assert_eq!(found.excerpts.len(), MAX_EXCERPTS);
        assert_eq!(found.excerpts[0].0, HashSet::from([vec![1]]));
    }
}
