//! Plain data, which is passed to the kernel as bytes.

use std::fmt;

/// Plain data: the types of a map's keys and values.
///
/// Implemented for every `Copy` type that zerocopy proves to be plain: integers, arrays of them,
/// and structures that derive `FromBytes`, `IntoBytes` and `Immutable`. So your own structures need
/// no `unsafe`:
///
/// ```
/// use zerocopy::{FromBytes, Immutable, IntoBytes};
///
/// #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
/// #[repr(C)]
/// struct Hits {
///     picked: u64,
///     missed: u64,
/// }
///
/// fn is_pod<T: sk_reuseport::Pod>() {}
/// is_pod::<Hits>();
/// ```
///
/// # Safety
///
/// Every pattern of bytes must be a valid value, and the type must have no padding and no
/// pointers.
pub unsafe trait Pod: Copy + 'static {}

// SAFETY: FromBytes says that every pattern of bytes is a value, IntoBytes that there is no
// padding, Immutable that there is no interior mutability; none of them holds for pointers.
unsafe impl<T> Pod for T where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy + 'static
{
}

/// A key of an [`LpmTrie`](crate::maps::LpmTrie): the first bits of some data, such as of an address in network
/// byte order.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Key<K> {
    prefix_len: u32,
    data: K,
}

impl<K: Pod> Key<K> {
    /// A key of the first `prefix_len` bits of `data`. To look up an address, all of its bits: 32 or 128.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::Ipv6Addr;
    /// use sk_reuseport::maps::lpm_trie::Key;
    ///
    /// let network: Ipv6Addr = "2001:db8::".parse()?;
    /// let key = Key::new(32, network.octets());
    /// assert_eq!(key.prefix_len(), 32);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub const fn new(prefix_len: u32, data: K) -> Self {
        Self { prefix_len, data }
    }

    /// The number of bits.
    pub const fn prefix_len(&self) -> u32 {
        self.prefix_len
    }

    /// The data, of which the bits behind the prefix mean nothing.
    pub const fn data(&self) -> K {
        self.data
    }
}

impl<K: Pod + fmt::Debug> fmt::Debug for Key<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix_len, data) = (self.prefix_len, self.data);
        f.debug_struct("Key").field("prefix_len", &prefix_len).field("data", &data).finish()
    }
}

// SAFETY: both fields are `Pod`, and `packed` leaves no padding between and behind them.
unsafe impl<K: Pod> Pod for Key<K> {}

/// The bytes of a plain value.
pub(crate) fn bytes_of<T: Pod>(value: &[T]) -> &[u8] {
    // SAFETY: `Pod` has no padding, so every byte is initialised; the length is that of the slice.
    unsafe { std::slice::from_raw_parts(value.as_ptr().cast(), size_of_val(value)) }
}

/// The value with these bytes, which must be as many as the type has.
pub(crate) fn from_bytes<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>());
    // SAFETY: the length was checked, and any bytes are a valid `Pod`.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
