//! Memory shared with the kernel.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::Pod;
use super::funnel::{Call, funnel};

/// A shared mapping of a map's memory, unmapped on drop.
///
/// The kernel and its programs write to this memory at any time, so it is only ever read and
/// written as a whole value (volatile) or through atomics; no plain reference into it is given out.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    _not_auto_send: PhantomData<*mut u8>,
}

// SAFETY: all access goes through volatile operations or atomics on memory that is shared with
// the kernel anyway; nothing is tied to the thread that mapped it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset` on, for reading and, if `write`, for writing.
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        offset: usize,
        len: usize,
        write: bool,
    ) -> io::Result<Self> {
        let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        let start = funnel(Call::Mmap, || {
            // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
            let start = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    len,
                    protection,
                    libc::MAP_SHARED,
                    fd.as_raw_fd(),
                    offset as libc::off_t,
                )
            };
            if start == libc::MAP_FAILED {
                Err(io::Error::last_os_error())
            } else {
                Ok(start as i64)
            }
        })?;
        let start = NonNull::new(start as *mut u8)
            .ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Self { start, len, _not_auto_send: PhantomData })
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.len), "beyond the end of a mapping");
        assert!(offset.is_multiple_of(align_of::<T>()), "misaligned access to a mapping");
        // SAFETY: the range was just checked to lie inside the mapping, which starts on a page.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }

    /// Reads the value at `offset`. Values wider than a word may be torn by a concurrent writer.
    pub(crate) fn read<T: Pod>(&self, offset: usize) -> T {
        // SAFETY: `at` checked range and alignment; any bytes are a valid `Pod`.
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// Writes the value at `offset`.
    pub(crate) fn write<T: Pod>(&self, offset: usize, value: T) {
        // SAFETY: `at` checked range and alignment. A mapping without write access is never
        // written: only `MappedArray`, which asks for it, calls this.
        unsafe { self.at::<T>(offset).write_volatile(value) }
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

    /// The bytes from `offset` on, for data that its protocol says nobody writes at this time.
    pub(crate) fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len), "beyond the end of a mapping");
        // SAFETY: in range; the ring buffer's protocol gives a committed record to its consumer
        // until the consumer's position moves past it, which needs `&mut RingBuf`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
