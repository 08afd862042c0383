//! A map's descriptor and its shape.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use aya_obj::EbpfSectionKind;
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};
use aya_obj::maps::{LegacyMap, PinningType, bpf_map_def};

use super::info::MapInfo;
use crate::error::{MapError, PinError};
use crate::pin::{self, NewPins, ObjectKind};
use crate::sys::{self, MapCreate, Operation, Pod, SyscallError};
use crate::util::page_size;

/// A map's descriptor.
///
/// Programs of the same object share it until they are loaded: they refer to their maps by its
/// number, so it must stay open even if the map was taken out and dropped.
#[derive(Debug)]
pub struct MapFd(Arc<OwnedFd>);

impl MapFd {
    fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    pub(crate) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl AsFd for MapFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A map of any type.
///
/// The kernel keeps a map as long as a descriptor of it is open, a loaded program uses it, or it is
/// pinned. To read or write its elements, convert it into the Rust type of its map type:
///
/// ```no_run
/// use sk_reuseport::maps::{Array, Map, MapData};
///
/// # fn main() -> Result<(), sk_reuseport::maps::MapError> {
/// let map = Map::from_map_data(MapData::from_pin("/sys/fs/bpf/hits")?)?;
/// let hits: Array<_, u64> = map.try_into()?;
/// println!("{}", hits.get(&0, 0)?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MapData {
    definition: aya_obj::Map,
    fd: MapFd,
}

impl MapData {
    /// Creates a map without an object, with keys and values of the size of these types.
    pub(super) fn create_of<K, V>(
        map_type: bpf_map_type,
        name: &str,
        max_entries: u32,
        flags: u32,
    ) -> Result<Self, MapError> {
        let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
        let map_type = map_type as u32;
        let definition = aya_obj::Map::new_from_params(map_type, key, value, max_entries, flags);
        Self::create(definition, name, None)
    }

    /// Creates a map that an object defines.
    pub(crate) fn create(
        definition: aya_obj::Map,
        name: &str,
        btf: Option<BorrowedFd<'_>>,
    ) -> Result<Self, MapError> {
        let inner = match bpf_map_type::try_from(definition.map_type()) {
            Ok(
                bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS | bpf_map_type::BPF_MAP_TYPE_HASH_OF_MAPS,
            ) => {
                let inner = definition.inner().ok_or_else(|| {
                    MapError::MissingInnerMapDefinition { outer_name: name.to_owned() }
                })?;
                // The kernel uses it as a template, against which it checks later ones.
                Some(Self::create_with(inner, &format!("{name}.inner"), btf, None)?)
            }
            _ => None,
        };
        Self::create_with(definition, name, btf, inner.as_ref().map(|inner| inner.fd.as_fd()))
    }

    /// Creates a map of maps whose inner maps have the shape of `inner`, or any other map.
    pub(crate) fn create_with(
        definition: aya_obj::Map,
        name: &str,
        btf: Option<BorrowedFd<'_>>,
        inner: Option<BorrowedFd<'_>>,
    ) -> Result<Self, MapError> {
        let c_name =
            CString::new(name).map_err(|_| MapError::InvalidName { name: name.to_owned() })?;
        let mut request = MapCreate {
            name: &c_name,
            map_type: definition.map_type(),
            key_size: definition.key_size(),
            value_size: definition.value_size(),
            max_entries: definition.max_entries(),
            flags: definition.map_flags(),
            extra: definition.map_extra(),
            inner,
            btf: types_of(&definition, btf),
        };
        let mut result = if has_variables(&definition) {
            // So that one variable can be written while programs write others.
            let mapped = MapCreate { flags: request.flags | BPF_F_MMAPABLE, ..request };
            sys::bpf_map_create(&mapped).or_else(|_| sys::bpf_map_create(&request))
        } else {
            sys::bpf_map_create(&request)
        };
        // The description of keys and values is optional. The kernel refuses it if it describes
        // only the values, and for some types of maps (map_check_btf in the kernel).
        let refused = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
        if request.btf.take().is_some() && result.as_ref().is_err_and(refused) {
            result = sys::bpf_map_create(&request);
        }
        let fd = result.map_err(|error| not_created(error, name, definition.map_type()))?;
        Ok(Self { definition, fd: MapFd::new(fd) })
    }

    /// Opens the map that is pinned at `path`, or creates it, fills it and pins it there. A new pin
    /// is added to `new`.
    pub(crate) fn create_pinned_by_name(
        path: &Path,
        definition: aya_obj::Map,
        name: &str,
        btf: Option<BorrowedFd<'_>>,
        new: &mut NewPins,
    ) -> Result<Self, MapError> {
        match Self::from_pin(path) {
            Ok(pinned) => return pinned.reopened(name, &definition),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let map = Self::create_filled(definition.clone(), name, btf)?;
        match map.pin(path) {
            Ok(()) => {
                new.add(path);
                Ok(map)
            }
            // Another process pinned one meanwhile: use that one.
            Err(PinError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::AlreadyExists =>
            {
                Self::from_pin(path)?.reopened(name, &definition)
            }
            Err(error) => Err(MapError::PinError { name: Some(name.to_owned()), error }),
        }
    }

    /// Creates a map that an object defines, with its initial content.
    pub(crate) fn create_filled(
        definition: aya_obj::Map,
        name: &str,
        btf: Option<BorrowedFd<'_>>,
    ) -> Result<Self, MapError> {
        let map = Self::create(definition, name, btf)?;
        map.fill_section()?;
        Ok(map)
    }

    /// This pinned map in place of one that an object defines. Unlike a map that the caller passes,
    /// it must be of the same type.
    fn reopened(&self, name: &str, definition: &aya_obj::Map) -> Result<Self, MapError> {
        let (wanted, given) = (definition.map_type(), self.definition.map_type());
        if wanted != given {
            return Err(MapError::IncompatibleType { name: name.to_owned(), wanted, given });
        }
        self.stand_in(name, definition)
    }

    /// This map in place of one that an object defines.
    pub(crate) fn stand_in(&self, name: &str, definition: &aya_obj::Map) -> Result<Self, MapError> {
        let sizes = |map: &aya_obj::Map| (map.key_size(), map.value_size());
        let (wanted, given) = (sizes(definition), sizes(&self.definition));
        // A ring buffer has no keys and values, but an object may declare sizes.
        let ring = self.is(bpf_map_type::BPF_MAP_TYPE_RINGBUF);
        if wanted != given && !ring {
            return Err(MapError::Incompatible { name: name.to_owned(), wanted, given });
        }
        Ok(Self { definition: self.in_place_of(definition), fd: self.fd.share() })
    }

    /// A definition with the shape of this map, which determines how much the kernel writes on a
    /// lookup, and the place of `replaced` in the object.
    fn in_place_of(&self, replaced: &aya_obj::Map) -> aya_obj::Map {
        let own = &self.definition;
        aya_obj::Map::Legacy(LegacyMap {
            def: bpf_map_def {
                map_type: own.map_type(),
                key_size: own.key_size(),
                value_size: own.value_size(),
                max_entries: own.max_entries(),
                map_flags: own.map_flags(),
                ..bpf_map_def::default()
            },
            inner_def: None,
            section_index: replaced.section_index(),
            section_kind: replaced.section_kind(),
            symbol_index: replaced.symbol_index(),
            // Not the map's content: whether it is empty determines how programs address the map.
            data: replaced.data().to_vec(),
        })
    }

    /// Fills the map of a section (`.rodata`, `.data`) with the section's content.
    fn fill_section(&self) -> Result<(), MapError> {
        let data = self.definition.data();
        if !data.is_empty() {
            let key = 0u32.to_ne_bytes();
            sys::bpf_map_update_elem_bytes(self.fd.as_fd(), &key, data, 0)
                .map_err(SyscallError::of(Operation::Update))?;
        }
        // The verifier treats the content of a frozen map as constants.
        if self.definition.section_kind() == EbpfSectionKind::Rodata {
            self.freeze()?;
        }
        Ok(())
    }

    /// Opens a pinned map.
    ///
    /// # Errors
    ///
    /// If nothing is pinned there, or not a map.
    pub fn from_pin<P: AsRef<Path>>(path: P) -> Result<Self, MapError> {
        match pin::open(path.as_ref()) {
            Ok(fd) => Self::opened(fd, || format!("`{}`", path.as_ref().display())),
            Err(PinError::SyscallError(error)) => Err(error.into()),
            Err(error) => Err(MapError::PinError { name: None, error }),
        }
    }

    /// Bytes of a key.
    pub fn key_size(&self) -> u32 {
        self.definition.key_size()
    }

    /// The same map, by the same descriptor.
    pub fn share(&self) -> Self {
        Self { definition: self.definition.clone(), fd: self.fd.share() }
    }

    /// Opens a map by its id.
    ///
    /// # Errors
    ///
    /// If no map has the id, or CAP_SYS_ADMIN is missing.
    pub fn from_id(id: u32) -> Result<Self, MapError> {
        let fd = sys::bpf_map_get_fd_by_id(id).map_err(SyscallError::of(Operation::OpenMap))?;
        Self::from_fd(fd)
    }

    /// A map from a descriptor, which another library may have opened.
    ///
    /// # Errors
    ///
    /// If it is no descriptor of a map.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, MapError> {
        Self::opened(fd, || "the descriptor".to_owned())
    }

    fn opened(fd: OwnedFd, what: impl FnOnce() -> String) -> Result<Self, MapError> {
        if !matches!(pin::kind_of(fd.as_fd()), ObjectKind::Map | ObjectKind::Unknown) {
            return Err(MapError::NotAMap { what: what() });
        }
        let info = MapInfo::new_from_fd(fd.as_fd())?;
        let definition = aya_obj::parse_map_info(info.0, PinningType::None);
        Ok(Self { definition, fd: MapFd::new(fd) })
    }

    /// Pins the map: it outlives this process, until the pin is removed.
    ///
    /// # Errors
    ///
    /// If the path exists or is not on a bpffs.
    pub fn pin<P: AsRef<Path>>(&self, path: P) -> Result<(), PinError> {
        pin::pin(self.fd.as_fd(), path.as_ref())
    }

    /// Makes the map read-only for user space, for good. Programs can still write to it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    ///
    /// # Minimum kernel version
    ///
    /// Linux 5.2.
    #[doc(alias = "BPF_MAP_FREEZE")]
    pub fn freeze(&self) -> Result<(), MapError> {
        Ok(sys::bpf_map_freeze(self.fd.as_fd()).map_err(SyscallError::of(Operation::Freeze))?)
    }

    /// The map's descriptor.
    pub fn fd(&self) -> &MapFd {
        &self.fd
    }

    /// The maximum number of elements.
    pub fn max_entries(&self) -> u32 {
        self.definition.max_entries()
    }

    /// The kernel's description of the map: its id and name.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn info(&self) -> Result<MapInfo, MapError> {
        MapInfo::new_from_fd(self.fd.as_fd())
    }

    fn is(&self, map_type: bpf_map_type) -> bool {
        self.definition.map_type() == map_type as u32
    }

    pub(crate) fn must_be(&self, map_type: bpf_map_type) -> Result<(), MapError> {
        if self.is(map_type) {
            return Ok(());
        }
        Err(MapError::InvalidMapType { map_type: self.definition.map_type() })
    }

    pub(crate) fn definition(&self) -> &aya_obj::Map {
        &self.definition
    }

    pub(super) fn lookup<K: Pod, V: Pod>(&self, key: &K, flags: u64) -> Result<V, MapError> {
        sys::bpf_map_lookup_elem(self.fd.as_fd(), key, flags)
            .map_err(SyscallError::of(Operation::LookUp))?
            .ok_or(MapError::KeyNotFound)
    }

    pub(super) fn update<K: Pod, V: Pod>(
        &self,
        key: &K,
        value: &V,
        flags: u64,
    ) -> Result<(), MapError> {
        Ok(sys::bpf_map_update_elem(self.fd.as_fd(), key, value, flags)
            .map_err(SyscallError::of(Operation::Update))?)
    }

    /// Stores a map in this map of maps.
    pub(crate) fn insert_map(&self, index: u32, map: &Self) -> Result<(), MapError> {
        self.update(&index, &map.fd.as_fd().as_raw_fd(), 0)
    }

    pub(super) fn delete<K: Pod>(&self, key: &K) -> Result<(), MapError> {
        Ok(sys::bpf_map_delete_elem(self.fd.as_fd(), key)
            .map_err(SyscallError::of(Operation::Delete))?)
    }
}

impl AsFd for MapData {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether it is the map of a section of variables that programs may change.
fn has_variables(definition: &aya_obj::Map) -> bool {
    matches!(definition.section_kind(), EbpfSectionKind::Data | EbpfSectionKind::Bss)
}

/// The type ids of a map's keys and values, for the types of maps that accept them.
fn types_of<'a>(
    definition: &aya_obj::Map,
    btf: Option<BorrowedFd<'a>>,
) -> Option<(BorrowedFd<'a>, u32, u32)> {
    use bpf_map_type::*;

    let aya_obj::Map::Btf(map) = definition else { return None };
    // Those with `map_check_no_btf` in the kernel, and those without keys.
    let refused = matches!(
        bpf_map_type::try_from(definition.map_type()),
        Ok(BPF_MAP_TYPE_PERF_EVENT_ARRAY
            | BPF_MAP_TYPE_CGROUP_ARRAY
            | BPF_MAP_TYPE_STACK_TRACE
            | BPF_MAP_TYPE_ARRAY_OF_MAPS
            | BPF_MAP_TYPE_HASH_OF_MAPS
            | BPF_MAP_TYPE_DEVMAP
            | BPF_MAP_TYPE_DEVMAP_HASH
            | BPF_MAP_TYPE_CPUMAP
            | BPF_MAP_TYPE_XSKMAP
            | BPF_MAP_TYPE_SOCKMAP
            | BPF_MAP_TYPE_SOCKHASH
            | BPF_MAP_TYPE_QUEUE
            | BPF_MAP_TYPE_STACK
            | BPF_MAP_TYPE_BLOOM_FILTER
            | BPF_MAP_TYPE_RINGBUF)
    );
    let btf = btf.filter(|_| !refused && map.def.btf_value_type_id != 0)?;
    Some((btf, map.def.btf_key_type_id, map.def.btf_value_type_id))
}

/// The error of a map that the kernel did not create. EINVAL means either an unknown type, or a
/// size or flag that the type does not accept, so this tries to create the smallest map of the
/// type.
fn not_created(io_error: io::Error, name: &str, map_type: u32) -> MapError {
    use bpf_map_type::*;

    let name = name.to_owned();
    let smallest = match bpf_map_type::try_from(map_type) {
        Ok(BPF_MAP_TYPE_RINGBUF) => Some((0, 0, page_size() as u32)),
        Ok(
            BPF_MAP_TYPE_ARRAY
            | BPF_MAP_TYPE_HASH
            | BPF_MAP_TYPE_LRU_HASH
            | BPF_MAP_TYPE_PERCPU_ARRAY
            | BPF_MAP_TYPE_REUSEPORT_SOCKARRAY
            | BPF_MAP_TYPE_SOCKMAP
            | BPF_MAP_TYPE_SOCKHASH,
        ) => Some((4, 4, 1)),
        // These need an inner map or a description of their values, or have no Rust type here.
        _ => None,
    };
    let is_refused = |(key_size, value_size, max_entries)| {
        let request = MapCreate {
            name: c"",
            map_type,
            key_size,
            value_size,
            max_entries,
            ..MapCreate::default()
        };
        sys::bpf_map_create(&request).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
    };
    if io_error.raw_os_error() == Some(libc::EINVAL) && smallest.is_some_and(is_refused) {
        return MapError::Unsupported { name, map_type, io_error };
    }
    MapError::CreateError { name, io_error }
}
