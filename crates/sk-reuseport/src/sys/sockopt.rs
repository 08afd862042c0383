//! Socket options that rustix does not have.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::funnel::{Call, funnel};

// libc lacks them on some architectures. The numbers are those of
// include/uapi/asm-generic/socket.h, and for sparc of arch/sparc/include/uapi/asm/socket.h. Rust
// does not support parisc, the other exception.
const SPARC: bool = cfg!(any(target_arch = "sparc", target_arch = "sparc64"));
const SO_ATTACH_REUSEPORT_EBPF: libc::c_int = if SPARC { 0x36 } else { 52 };
const SO_DETACH_REUSEPORT_BPF: libc::c_int = if SPARC { 0x47 } else { 68 };

/// `setsockopt(SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF)`: Linux 4.19 for this program type.
pub(crate) fn attach_reuseport_ebpf(
    socket: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let option = SO_ATTACH_REUSEPORT_EBPF;
    set_int(Call::AttachReuseportEbpf, socket, option, program.as_raw_fd())
}

/// `setsockopt(SOL_SOCKET, SO_DETACH_REUSEPORT_BPF)`: Linux 5.3.
///
/// The kernel ignores the value, but reads an `int` before it looks at the option.
pub(crate) fn detach_reuseport_bpf(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_int(Call::DetachReuseportBpf, socket, SO_DETACH_REUSEPORT_BPF, 0)
}

/// `setsockopt(SOL_SOCKET, SO_BINDTODEVICE)`, by the device's name.
pub(crate) fn bind_to_device(socket: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // The kernel truncates a longer name, which may name another device then, and an empty one
    // removes the binding (sock_setbindtodevice in net/core/sock.c).
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    set(Call::BindToDevice, socket, libc::SO_BINDTODEVICE, name.as_bytes())
}

fn set_int(
    call: Call,
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set(call, socket, option, &value.to_ne_bytes())
}

fn set(call: Call, socket: BorrowedFd<'_>, option: libc::c_int, value: &[u8]) -> io::Result<()> {
    funnel(call, || {
        // SAFETY: the value outlives the call, and its length is given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                value.as_ptr().cast(),
                value.len() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    })
}
