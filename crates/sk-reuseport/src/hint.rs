//! What to do about an error of the kernel's: the half of an error message that people need.

use std::io;

use aya_obj::ParseError;
use aya_obj::btf::BtfError;

use crate::programs::telling_end;

/// Storing a socket in a map is an update like any other, but fails for reasons of its own.
pub(crate) const SET_SOCKET: &str = "BPF_MAP_UPDATE_ELEM of a socket";

/// A clause that begins with "; ", or nothing where there is nothing useful to say.
///
/// `call` is the name as errors carry it: a command of bpf(2), in either spelling, or a socket
/// option.
pub(crate) fn of(call: &str, error: &io::Error) -> &'static str {
    let Some(errno) = error.raw_os_error() else { return "" };
    match (call.to_ascii_lowercase().trim_start_matches("bpf_"), errno) {
        ("so_attach_reuseport_ebpf", libc::EINVAL) => {
            "; the socket must have SO_REUSEPORT, set before bind, and the descriptor must be a \
             program of type sk_reuseport"
        }
        ("so_attach_reuseport_ebpf", libc::EPERM) => {
            "; the socket has SO_LOCK_FILTER set: its process has forbidden such changes"
        }
        ("so_attach_reuseport_ebpf", ENOTSUPP | libc::EOPNOTSUPP) => {
            "; the kernel steers only TCP and UDP sockets, and no MPTCP ones"
        }
        ("map_update_elem of a socket", libc::EBUSY) => {
            "; a socket can be in one socket array, once, or in any number of socket maps, but not in \
             both: if another program's socket map has it, put it into a socket map (SockMap) too"
        }
        ("map_update_elem of a socket", libc::EINVAL) => {
            "; the socket must have SO_REUSEPORT and be bound (UDP) or listening (TCP)"
        }
        ("map_update_elem of a socket", ENOTSUPP | libc::EOPNOTSUPP) => {
            "; only TCP and UDP sockets can be selected"
        }
        ("so_detach_reuseport_bpf", libc::ENOENT) => "; no program is attached to its group",
        ("so_detach_reuseport_bpf", libc::ENOPROTOOPT) => "; detaching needs Linux 5.3",
        ("so_detach_reuseport_bpf", libc::EINVAL) => "; the socket has no SO_REUSEPORT",
        ("obj_pin", libc::EPERM) => {
            "; the path must be on a bpffs (mount -t bpf bpf /sys/fs/bpf), without dots in its name"
        }
        ("obj_pin", libc::EEXIST) => "; something is pinned there already",
        ("obj_pin", libc::ENOENT) => "; the directory must exist",
        ("obj_get", libc::ENOENT) => "; nothing is pinned there",
        ("obj_pin" | "obj_get", libc::EACCES) => {
            "; the owner and the mode of the file and of its directories do not let this user (to \
             open what is pinned takes the right to read and to write it)"
        }
        ("iter_create" | "link_create" | "raw_tracepoint_open", libc::EPERM) => {
            "; needs CAP_BPF and CAP_PERFMON"
        }
        ("map_create", libc::EPERM) => {
            "; needs CAP_BPF, and for socket maps CAP_NET_ADMIN (before Linux 5.8: CAP_SYS_ADMIN)"
        }
        ("map_create", libc::EINVAL) => {
            "; its type takes no keys or values of this size, not this number of elements, or not \
             these flags, or the kernel is too old for it"
        }
        ("map_create", libc::E2BIG) => "; its elements are too large, or too many",
        ("map_create", libc::ENOMEM) => {
            "; the kernel has no room for it: give it fewer or smaller elements"
        }
        ("map_update_elem" | "map_delete_elem", libc::EPERM) => {
            "; the map is frozen, or only for reading"
        }
        ("mmap", libc::EPERM) => "; the map is frozen",
        ("mmap", libc::EINVAL) => "; the map must be created with BPF_F_MMAPABLE",
        ("prog_get_fd_by_id" | "map_get_fd_by_id", libc::EPERM) => "; needs CAP_SYS_ADMIN",
        (_, libc::EPERM) => "; needs CAP_BPF (before Linux 5.8: CAP_SYS_ADMIN)",
        (_, libc::ENOSYS) => "; this kernel has no bpf(2)",
        _ => "",
    }
}

/// `ENOTSUPP`: an error number that the kernel keeps to itself but returns here all the same.
pub(crate) const ENOTSUPP: i32 = 524;

/// What an object is, for people who gave us something else.
pub(crate) const OBJECT: &str =
    "; expected is an ELF file as `clang -target bpf -g -O2 -c` or aya-ebpf makes it";

/// What to do when an object cannot be read.
pub(crate) fn of_parse(error: &ParseError) -> &'static str {
    match error {
        ParseError::ElfError(_) => OBJECT,
        ParseError::InvalidMapDefinition { .. } => {
            "; its definition is too short, or its pinning neither 0 (none) nor 1 (by name)"
        }
        ParseError::SymbolNotFound { .. } => "; the object has no such global variable",
        _ => "",
    }
}

/// What is wrong with types, and what to do. The kernel's word on them is longer than a line, and
/// empty where it did not look at them at all.
pub(crate) fn of_btf(error: &BtfError) -> String {
    match error {
        BtfError::LoadError { io_error, verifier_log } => {
            let (hint, end) = (of("btf_load", io_error), telling_end(verifier_log));
            format!("BPF_BTF_LOAD failed: {io_error}{hint}{end}")
        }
        other => other.to_string(),
    }
}

/// What to do when a program does not load.
pub(crate) fn of_load(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; needs CAP_BPF, and CAP_PERFMON for tracing programs and iterators (a kernel in \
             lockdown refuses some tracing programs to everybody)"
        }
        Some(libc::EINVAL) => {
            "; the kernel may be too old for this program or section (sk_reuseport: Linux 4.19, \
             sk_reuseport/migrate: 5.14, iter: 5.8, tp_btf: 5.5)"
        }
        Some(libc::EACCES) => "; the verifier refused the program",
        Some(libc::E2BIG) => "; the program is too large or too complex for the verifier",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_call_give_the_same_advice() {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        assert_eq!(of("BPF_OBJ_PIN", &error), of("bpf_obj_pin", &error));
        assert!(of("BPF_MAP_CREATE", &error).contains("CAP_BPF"));
    }

    #[test]
    fn types_that_the_kernel_did_not_look_at_leave_no_empty_log_in_the_message() {
        let io_error = io::Error::from_raw_os_error(libc::EPERM);
        let error = BtfError::LoadError {
            io_error,
            verifier_log: aya_obj::VerifierLog::new(String::new()),
        };
        let said = of_btf(&error);
        assert!(said.contains("CAP_BPF") && !said.contains("output"), "{said}");
    }

    #[test]
    fn an_error_without_a_number_gets_no_advice() {
        assert_eq!(of("BPF_OBJ_PIN", &io::Error::other("made up")), "");
    }
}
