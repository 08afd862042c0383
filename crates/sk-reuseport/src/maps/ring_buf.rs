//! A queue of records from programs to user space (a ring buffer).

use std::borrow::Borrow;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;

use aya_obj::generated::{BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT, BPF_RINGBUF_HDR_SZ};

use super::data::MapData;
use crate::error::MapError;
use crate::sys::{Mapping, Operation, SyscallError};
use crate::util::page_size;

/// The consumer's end of a queue of records.
///
/// Its descriptor is readable (poll, epoll) when a record is there. Only one consumer may exist at
/// a time.
///
/// # Minimum kernel version
///
/// Linux 5.8.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut ebpf = sk_reuseport::Ebpf::load(&[])?;
/// use sk_reuseport::maps::RingBuf;
///
/// let mut events = RingBuf::try_from(ebpf.take_map("events").ok_or("no map")?)?;
/// while let Some(event) = events.next() {
///     println!("{} bytes", event.len());
/// }
/// # Ok(())
/// # }
/// ```
#[doc(alias = "BPF_MAP_TYPE_RINGBUF")]
pub struct RingBuf<T> {
    map: T,
    /// One page: the consumer's position.
    consumer: Mapping,
    /// One page: the producers' position. Then the data, mapped twice in a row, so that a record
    /// that crosses the end is contiguous.
    producer: Mapping,
    /// The size of the data in bytes, a power of two.
    size: usize,
}

impl<T: Borrow<MapData>> RingBuf<T> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        let data: &MapData = map.borrow();
        let size = data.max_entries() as usize;
        let page = page_size();
        let fd = data.fd().as_fd();
        let consumer = Mapping::new(fd, 0, page, true).map_err(SyscallError::of(Operation::Map))?;
        // Some queues do not fit into the address space of a 32-bit machine.
        let twice = size.checked_mul(2).and_then(|twice| twice.checked_add(page));
        let twice = twice.ok_or(io::Error::from(io::ErrorKind::OutOfMemory))?;
        let producer =
            Mapping::new(fd, page, twice, false).map_err(SyscallError::of(Operation::Map))?;
        Ok(Self { map, consumer, producer, size })
    }

    /// The map itself: its descriptor, its sizes.
    pub fn map_data(&self) -> &MapData {
        self.map.borrow()
    }
}

impl<T> RingBuf<T> {
    /// The next record, or `None` if there is none at the moment.
    ///
    /// Dropping the returned item consumes the record.
    #[expect(clippy::should_implement_trait, reason = "a record borrows the queue")]
    pub fn next(&mut self) -> Option<RingBufItem<'_>> {
        // The protocol of kernel/bpf/ringbuf.c: positions are unsigned longs that only grow (and
        // wrap on 32-bit machines). A record's header has its length and two flags, and is written
        // last. Then the kernel reads the consumer's position, and wakes the consumer only if it
        // had read everything before. So the consumer's position must be visible before it looks
        // for more records, which takes SeqCst.
        loop {
            let consumed = self.consumer.atomic_usize(0).load(Ordering::Relaxed);
            let produced = self.producer.atomic_usize(0).load(Ordering::SeqCst);
            if consumed == produced {
                return None;
            }
            let at = page_size() + (consumed & (self.size - 1));
            let header = self.producer.atomic_u32(at).load(Ordering::SeqCst);
            if header & BPF_RINGBUF_BUSY_BIT != 0 {
                return None;
            }
            let length = (header & !BPF_RINGBUF_DISCARD_BIT) as usize;
            let header_size = BPF_RINGBUF_HDR_SZ as usize;
            let next = consumed.wrapping_add((header_size + length).next_multiple_of(8));
            if header & BPF_RINGBUF_DISCARD_BIT != 0 {
                self.consumer.atomic_usize(0).store(next, Ordering::SeqCst);
                continue;
            }
            return Some(RingBufItem {
                record: self.producer.bytes(at + header_size, length),
                consumer: &self.consumer,
                next,
            });
        }
    }
}

/// A record of a [`RingBuf`]. Dropping it frees its space.
pub struct RingBufItem<'a> {
    record: &'a [u8],
    consumer: &'a Mapping,
    next: usize,
}

impl Deref for RingBufItem<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.record
    }
}

impl Drop for RingBufItem<'_> {
    fn drop(&mut self) {
        self.consumer.atomic_usize(0).store(self.next, Ordering::SeqCst);
    }
}

impl fmt::Debug for RingBufItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RingBufItem").field(&self.record).finish()
    }
}

impl<T: Borrow<MapData>> AsFd for RingBuf<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map_data().fd().as_fd()
    }
}

impl<T: Borrow<MapData>> AsRawFd for RingBuf<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<T: Borrow<MapData>> fmt::Debug for RingBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingBuf").field("map", self.map_data()).field("size", &self.size).finish()
    }
}
