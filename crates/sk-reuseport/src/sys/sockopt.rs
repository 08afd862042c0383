//! Socket options that rustix does not have.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::funnel::{Call, funnel};

// Not all of libc's architectures have both. include/uapi/asm-generic/socket.h has the numbers of
// all that Rust knows but sparc's, which are in arch/sparc/include/uapi/asm/socket.h (parisc, the
// other exception, has no Rust).
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
/// The value is not looked at, but the generic path reads an `int` before it knows the option.
pub(crate) fn detach_reuseport_bpf(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_int(Call::DetachReuseportBpf, socket, SO_DETACH_REUSEPORT_BPF, 0)
}

/// `setsockopt(SOL_SOCKET, SO_BINDTODEVICE)`, by the device's name.
pub(crate) fn bind_to_device(socket: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // The kernel cuts a longer name off, which may make it another device's, and takes an empty
    // one for none (sock_setbindtodevice in net/core/sock.c).
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
