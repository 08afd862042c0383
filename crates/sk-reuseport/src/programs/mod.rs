//! Programs: loading, attaching and pinning them.

pub mod cgroup_sock;
mod data;
mod fd;
pub mod info;
pub mod iter;
pub mod links;
mod program;
pub mod select;
pub mod tp_btf;

pub use cgroup_sock::{CgroupSock, CgroupSockAttachType};
pub(crate) use data::{Code, ProgramData};
pub use fd::ProgramFd;
pub use info::{ProgramInfo, ProgramType};
pub use iter::Iter;
pub use links::{FdLink, PinnedLink};
pub use program::{Program, UnsupportedProgram};
pub use select::{SkReuseport, SkReuseportAttachType};
pub use tp_btf::BtfTracePoint;

pub use crate::error::{LinkError, ProgramError, SkReuseportError};
