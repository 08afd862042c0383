//! Plain data, which is passed to the kernel as bytes.

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
