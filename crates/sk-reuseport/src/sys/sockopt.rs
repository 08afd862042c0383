//! Socket options that rustix does not have.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::funnel::{Call, funnel};

// include/uapi/asm-generic/socket.h. The same on every architecture that Rust knows except sparc
// and parisc, for which libc has its own numbers and we refuse to build rather than guess.
#[cfg(any(target_arch = "sparc", target_arch = "sparc64"))]
compile_error!("SO_ATTACH_REUSEPORT_EBPF has another number on sparc");
const SO_ATTACH_REUSEPORT_EBPF: libc::c_int = 52;
const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;

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
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(0) }
    })
    .map(|_| ())
}
