//! Memory shared with the kernel.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::funnel::{Call, Outcome, funnel};
use super::pod::{Pod, bytes_of};

/// A mapping of a map's memory or of a kernel file, unmapped on drop.
///
/// The kernel, its programs and other processes write to this memory at any time, so it is only
/// read and written by atomic words. The exception is [`bytes`](Self::bytes).
#[derive(Debug)]
pub(crate) struct Mapping {
    start: Start,
    len: usize,
}

#[derive(Debug)]
struct Start(NonNull<u8>);

impl Outcome for Start {
    #[cfg(any(test, feature = "fault-injection"))]
    fn answered(_: i64) -> io::Result<Self> {
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }
}

// SAFETY: all access goes through atomics on shared memory, and a mapping belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Elements are read and written in words of this size.
const WORD: usize = size_of::<u64>();

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset` on, for reading and, if `write`, for writing.
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        offset: usize,
        len: usize,
        write: bool,
    ) -> io::Result<Self> {
        let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        Self::map(fd, offset, len, protection, libc::MAP_SHARED)
    }

    /// Maps the first `len` bytes of a file that never changes, for reading.
    pub(crate) fn constant(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Self::map(fd, 0, len, libc::PROT_READ, libc::MAP_PRIVATE)
    }

    fn map(
        fd: BorrowedFd<'_>,
        offset: usize,
        len: usize,
        protection: libc::c_int,
        flags: libc::c_int,
    ) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let start = funnel(Call::Mmap, || {
            let fd = fd.as_raw_fd();
            // SAFETY: a new mapping at an address that the kernel chooses overlaps no existing one.
            let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd, offset) };
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let start = NonNull::new(start.cast());
            start.map(Start).ok_or_else(|| io::Error::other("mmap returned address 0"))
        })?;
        Ok(Self { start, len })
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.len), "beyond the end of a mapping");
        assert!(offset.is_multiple_of(align_of::<T>()), "misaligned access to a mapping");
        // SAFETY: the range was just checked to lie inside the mapping, which starts on a page.
        unsafe { self.start.0.as_ptr().add(offset).cast() }
    }

    /// Reads the value at `offset`, and the rest of its last word. Values of more than a word may
    /// be torn by a concurrent writer.
    pub(crate) fn read<T: Pod>(&self, offset: usize) -> T {
        let mut value = MaybeUninit::<T>::zeroed();
        let to: *mut u8 = value.as_mut_ptr().cast();
        for done in (0..size_of::<T>()).step_by(WORD) {
            let word = self.atomic_u64(offset + done).load(Ordering::Relaxed).to_ne_bytes();
            let rest = WORD.min(size_of::<T>() - done);
            // SAFETY: `rest` bytes are left in both, and the two are different objects.
            unsafe { ptr::copy_nonoverlapping(word.as_ptr(), to.add(done), rest) };
        }
        // SAFETY: any bytes are a valid `Pod`.
        unsafe { value.assume_init() }
    }

    /// Writes the value at `offset`, and zeros in the rest of its last word.
    ///
    /// The mapping must have been made for writing.
    pub(crate) fn write<T: Pod>(&self, offset: usize, value: T) {
        for (index, bytes) in bytes_of(slice::from_ref(&value)).chunks(WORD).enumerate() {
            let mut word = [0; WORD];
            word[..bytes.len()].copy_from_slice(bytes);
            let to = self.atomic_u64(offset + index * WORD);
            to.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
    }

    /// The 64-bit word at `offset`, for atomic access.
    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: in range and aligned; lives as long as the mapping; atomics may be shared.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// The 32-bit word at `offset`, for atomic access.
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for `atomic_u64`.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    /// The machine word at `offset`, for atomic access.
    pub(crate) fn atomic_usize(&self, offset: usize) -> &AtomicUsize {
        // SAFETY: as for `atomic_u64`.
        unsafe { AtomicUsize::from_ptr(self.at(offset)) }
    }

    /// The bytes from `offset` on, for data that never changes, or that by its protocol has no
    /// writer at this time.
    pub(crate) fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len), "beyond the end of a mapping");
        // SAFETY: in range; the ring buffer's protocol gives a committed record to its consumer
        // until the consumer's position moves past it, which needs `&mut RingBuf`. The kernel's
        // types never change.
        unsafe { slice::from_raw_parts(self.start.0.as_ptr().add(offset), len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.0.as_ptr().cast(), self.len) };
    }
}
