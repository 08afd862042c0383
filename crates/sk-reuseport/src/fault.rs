//! Makes system calls fail, for tests, behind the feature `fault-injection`.
//!
//! ```
//! use sk_reuseport::fault::{Call, Verdict, intercept};
//! use sk_reuseport::maps::{Array, MapError};
//!
//! let result = intercept(
//!     |call| match call {
//!         Call::BpfMapCreate => Verdict::Fail(12), // ENOMEM
//!         _ => Verdict::Allow,
//!     },
//!     || Array::<_, u64>::create(1, 0),
//! );
//! assert!(matches!(result, Err(MapError::CreateError { .. })));
//! ```

pub use crate::sys::{Call, Verdict, intercept};
