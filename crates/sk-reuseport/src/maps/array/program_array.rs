//! An array of programs to jump to.

use std::borrow::{Borrow, BorrowMut};
use std::os::fd::{AsFd, AsRawFd as _};

use aya_obj::generated::bpf_map_type;

use crate::error::MapError;
use crate::maps::check::{check_index, check_sizes};
use crate::maps::data::MapData;
use crate::maps::iter::MapKeys;

/// An array of programs, which a program calls with `bpf_tail_call(context, &array, index)`.
///
/// A call does not return. An index without a program, and the 34th call in a row, are ignored: the
/// program goes on behind the call. All programs in the array are of one type, and agree on whether they
/// migrate connections (`sk_reuseport/migrate`).
///
/// The array is emptied when no process has it open and it is not pinned, although the programs that use it
/// are still attached: pin it, or keep it.
///
/// # Minimum kernel version
///
/// Linux 4.2.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::{Ebpf, maps::ProgramArray, programs::SkReuseport};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut ebpf = Ebpf::load_file("select.o")?;
/// let mut parsers = ProgramArray::try_from(ebpf.take_map("parsers").ok_or("no map")?)?;
/// let program: &mut SkReuseport = ebpf.program_mut("parse_quic").ok_or("no program")?.try_into()?;
/// program.load()?;
/// parsers.set(0, program.fd()?, 0)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_PROG_ARRAY")]
pub struct ProgramArray<T> {
    pub(crate) inner: T,
}

impl ProgramArray<MapData> {
    /// Creates an array without an object. `flags` are the kernel's `BPF_F_*`.
    ///
    /// # Errors
    ///
    /// The kernel's. Needs CAP_BPF.
    pub fn create(max_entries: u32, flags: u32) -> Result<Self, MapError> {
        let map_type = bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY;
        Self::new(MapData::create_of::<u32, u32>(map_type, "prog_array", max_entries, flags)?)
    }
}

impl<T: Borrow<MapData>> ProgramArray<T> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        check_sizes::<u32, u32>(map.borrow())?;
        Ok(Self { inner: map })
    }

    /// The indices that have a program.
    pub fn indices(&self) -> impl Iterator<Item = Result<u32, MapError>> + '_ {
        let map = self.inner.borrow();
        // The kernel counts all indices, and returns the program's id for those that have one.
        MapKeys::new(map).filter_map(move |index| match index {
            Ok(index) => match map.lookup::<u32, u32>(&index, 0) {
                Ok(_) => Some(Ok(index)),
                Err(MapError::KeyNotFound) => None,
                Err(error) => Some(Err(error)),
            },
            Err(error) => Some(Err(error)),
        })
    }
}

impl<T: BorrowMut<MapData>> ProgramArray<T> {
    /// Sets the program at an index, atomically. Any descriptor of a loaded program will do.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the program is of another type than those in the array or than the programs that use
    /// it; [`MapError::OutOfBounds`].
    pub fn set(&mut self, index: u32, program: impl AsFd, flags: u64) -> Result<(), MapError> {
        check_index(self.inner.borrow(), index)?;
        self.inner.borrow().update(&index, &program.as_fd().as_raw_fd(), flags)
    }

    /// Removes the program at an index.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the index has none; [`MapError::OutOfBounds`].
    pub fn clear_index(&mut self, index: &u32) -> Result<(), MapError> {
        check_index(self.inner.borrow(), *index)?;
        self.inner.borrow().delete(index)
    }
}
