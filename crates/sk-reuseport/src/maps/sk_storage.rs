//! Values that belong to sockets.

use std::borrow::{Borrow, BorrowMut};
use std::marker::PhantomData;
use std::os::fd::AsRawFd;

use super::check::check_sizes;
use super::data::MapData;
use crate::error::MapError;
use crate::sys::Pod;

/// Values that belong to sockets. The kernel frees a value together with its socket.
///
/// With `BPF_F_CLONE`, a connection inherits its listener's value. In user space the key is a
/// descriptor of the socket.
///
/// # Minimum kernel version
///
/// Linux 5.2. Creating one needs BTF for the value's type, so an object must define the map.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut ebpf = sk_reuseport::Ebpf::load(&[])?;
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// use sk_reuseport::maps::SkStorage;
///
/// let mut marks: SkStorage<_, u64> = ebpf.take_map("marks").ok_or("no map")?.try_into()?;
/// marks.insert(&listener, 7, 0)?;
/// assert_eq!(marks.get(&listener, 0)?, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias = "BPF_MAP_TYPE_SK_STORAGE")]
pub struct SkStorage<T, V: Pod> {
    pub(crate) inner: T,
    values: PhantomData<V>,
}

impl<T: Borrow<MapData>, V: Pod> SkStorage<T, V> {
    pub(crate) fn new(map: T) -> Result<Self, MapError> {
        check_sizes::<i32, V>(map.borrow())?;
        Ok(Self { inner: map, values: PhantomData })
    }

    /// A socket's value.
    ///
    /// # Errors
    ///
    /// [`MapError::KeyNotFound`] if the socket has none.
    pub fn get(&self, socket: &impl AsRawFd, flags: u64) -> Result<V, MapError> {
        self.inner.borrow().lookup(&socket.as_raw_fd(), flags)
    }
}

impl<T: BorrowMut<MapData>, V: Pod> SkStorage<T, V> {
    /// Sets a socket's value.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn insert(
        &mut self,
        socket: &impl AsRawFd,
        value: impl Borrow<V>,
        flags: u64,
    ) -> Result<(), MapError> {
        self.inner.borrow().update(&socket.as_raw_fd(), value.borrow(), flags)
    }

    /// Removes a socket's value.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the socket has none.
    pub fn remove(&mut self, socket: &impl AsRawFd) -> Result<(), MapError> {
        self.inner.borrow().delete(&socket.as_raw_fd())
    }
}
