//! What to do about a failure.

use std::fmt;

/// What to do about a failure, or what it means. Its text is a clause that can follow the error's.
///
/// The errors of this crate return it from their `hint` method, and [`hint_of`](crate::hint_of)
/// finds it in a chain of errors. An error's own text does not contain it.
///
/// # Examples
///
/// ```
/// use sk_reuseport::{Hint, maps::MapData};
///
/// let error = MapData::from_pin("/sys/fs/bpf/no/such/pin").unwrap_err();
/// assert_eq!(error.hint(), Some(Hint::NothingPinned));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// The capability CAP_BPF is missing.
    CapBpf,
    /// CAP_BPF is missing, or CAP_NET_ADMIN for a socket map.
    CapBpfOrNetAdmin,
    /// CAP_BPF is missing, or CAP_PERFMON for a tracing program, or CAP_NET_ADMIN for a cgroup's program, or the
    /// kernel is locked down.
    CapBpfOrPerfmon,
    /// CAP_BPF or CAP_PERFMON is missing.
    CapPerfmon,
    /// The capability CAP_SYS_ADMIN is missing.
    CapSysAdmin,
    /// The kernel was built without bpf(2).
    NoBpf,
    /// The kernel was built without types for BPF.
    NoKernelTypes,
    /// The kernel cannot detach programs of this type.
    NoDetach,
    /// The socket is in no group, or the descriptor is no program of this type.
    NotInGroup,
    /// The socket has no `SO_REUSEPORT`.
    NoReuseport,
    /// The socket has `SO_LOCK_FILTER`.
    FilterLocked,
    /// The kernel steers no sockets of this kind.
    NotSteered,
    /// The group has no program.
    NothingAttached,
    /// The socket is in a socket array or a socket map already.
    SocketTaken,
    /// The socket is not bound, not listening, or has no `SO_REUSEPORT`.
    NotBound,
    /// Programs select no sockets of this kind.
    NotSelected,
    /// The path is not on a bpffs, or has a dot in its name.
    NotBpffs,
    /// A pin has that path.
    PinExists,
    /// The directory of the path does not exist.
    NoDirectory,
    /// Nothing is pinned at the path.
    NothingPinned,
    /// The file's owner and mode keep this user out.
    PinForbidden,
    /// A map of another type is pinned at the path.
    OtherPin,
    /// The map's type does not take these sizes or flags.
    MapShape,
    /// The map's elements are too large or too many.
    MapTooLarge,
    /// The object's maps take more memory than the loader allows by default.
    ChooseMaxEntries,
    /// The kernel is out of memory for the map.
    NoMemory,
    /// The map is read-only for user space.
    ReadOnly,
    /// The map is frozen.
    Frozen,
    /// The map was not created for mapping.
    NotMmapable,
    /// The map's values are too narrow to be read.
    NarrowValues,
    /// The object does not describe its types, which its maps need.
    NoTypes,
    /// The verifier refused the program, for the reason at the end of its output.
    Verifier {
        /// The end of the verifier's output; empty where it has none.
        output: String,
    },
    /// The program is too large, or has too many paths to verify.
    TooComplex {
        /// The end of the verifier's output; empty where it has none.
        output: String,
    },
    /// The kernel refused the object's types, for the reason at the end of its output.
    Types {
        /// The end of the output.
        output: String,
    },
    /// The data is no BPF object.
    NotAnObject,
    /// The object must be compiled on a machine of this byte order.
    ByteOrder,
    /// The definition of a map in the section `maps` is wrong.
    MapDefinition,
    /// The object has no global variable of that name.
    NoGlobal,
    /// The object has a program in a section of a type that is not known.
    Section,
    /// A program reads the kernel's configuration.
    Configuration,
    /// A program calls a function of the kernel.
    KernelFunction,
    /// A program reads a variable of the kernel.
    KernelVariable,
    /// A program refers to what the object does not define.
    Undefined,
    /// A map has programs as initial values.
    ProgramsAsValues,
    /// A map of maps has static maps as initial values.
    StaticMapsAsValues,
    /// A map of maps has initial values whose places are not known.
    UnclearValues,
    /// A pinned map of maps has initial values.
    ValuesOfPinned,
    /// Two maps have one name.
    SameName,
}

impl Hint {
    /// Whether it names capabilities, and nothing else.
    pub fn is_right(&self) -> bool {
        matches!(
            self,
            Self::CapBpf
                | Self::CapBpfOrNetAdmin
                | Self::CapBpfOrPerfmon
                | Self::CapPerfmon
                | Self::CapSysAdmin
        )
    }

    fn text(&self) -> &'static str {
        match self {
            Self::CapBpf => "needs CAP_BPF (before Linux 5.8: CAP_SYS_ADMIN)",
            Self::CapBpfOrNetAdmin => {
                "needs CAP_BPF, and for socket maps CAP_NET_ADMIN (before Linux 5.8: CAP_SYS_ADMIN)"
            }
            Self::CapBpfOrPerfmon => {
                "needs CAP_BPF, and CAP_PERFMON for tracing programs and iterators, CAP_NET_ADMIN for \
                 programs of cgroups (a kernel in lockdown refuses some tracing programs even to root)"
            }
            Self::CapPerfmon => "needs CAP_BPF and CAP_PERFMON",
            Self::CapSysAdmin => "needs CAP_SYS_ADMIN",
            Self::NoBpf => "this kernel has no bpf(2)",
            Self::NoKernelTypes => {
                "kernels built with CONFIG_DEBUG_INFO_BTF have it, in /sys/kernel/btf/vmlinux"
            }
            Self::NoDetach => "detaching needs Linux 5.3",
            Self::NotInGroup => {
                "the socket must have SO_REUSEPORT, set before bind, and the descriptor must be a \
                 program of type sk_reuseport"
            }
            Self::NoReuseport => "the socket has no SO_REUSEPORT",
            Self::FilterLocked => {
                "the socket has SO_LOCK_FILTER set: its process has forbidden such changes"
            }
            Self::NotSteered => "the kernel steers only TCP and UDP sockets, and no MPTCP ones",
            Self::NothingAttached => "no program is attached to its group",
            Self::SocketTaken => {
                "a socket can be in one socket array, once, or in any number of socket maps, but \
                 not in both: if another program's socket map has it, put it into a socket map \
                 (SockMap) too"
            }
            Self::NotBound => {
                "the socket must have SO_REUSEPORT and be bound (UDP) or listening (TCP)"
            }
            Self::NotSelected => "only TCP and UDP sockets can be selected",
            Self::NotBpffs => {
                "the path must be on a bpffs (mount -t bpf bpf /sys/fs/bpf), without dots in its \
                 name"
            }
            Self::PinExists => "something is pinned there already",
            Self::NoDirectory => "the directory must exist",
            Self::NothingPinned => "nothing is pinned there",
            Self::PinForbidden => {
                "the owner and the mode of the file or of its directories keep this user out \
                 (opening a pin needs permission to read and to write)"
            }
            Self::OtherPin => "remove that pin, or give another path",
            Self::MapShape => {
                "its type does not accept keys or values of this size, this number of elements, or \
                 these flags"
            }
            Self::MapTooLarge => "it has too many elements, or too large ones",
            Self::ChooseMaxEntries => "set its number of elements with `map_max_entries`",
            Self::NoMemory => "the kernel has no memory for it: use fewer or smaller elements",
            Self::ReadOnly => "the map is frozen or read-only",
            Self::Frozen => "the map is frozen",
            Self::NotMmapable => "the map must be created with BPF_F_MMAPABLE",
            Self::NarrowValues => "declare the map with `__type(value, __u64)`",
            Self::Verifier { .. } => "the verifier refused the program",
            Self::TooComplex { .. } => "the program is too large or too complex for the verifier",
            Self::Types { .. } => "the kernel refused the object's types",
            Self::NotAnObject => {
                "expected an ELF file as built by `clang -target bpf -g -O2 -c` or aya-ebpf"
            }
            Self::NoTypes => "compile it with -g, which describes its types (BTF)",
            Self::ByteOrder => "compile it with -target bpf on this machine",
            Self::MapDefinition => {
                "its definition is too short, or its pinning neither 0 (none) nor 1 (by name)"
            }
            Self::NoGlobal => "the object has no such global variable",
            Self::Section => {
                "a program that selects sockets is in a section `sk_reuseport` or `sk_reuseport/migrate`"
            }
            Self::Configuration => {
                "declare it `const volatile` instead of `extern`, and set its value before loading"
            }
            Self::KernelFunction => "build the program without it, or use a helper function",
            Self::KernelVariable => {
                "build the program without it; fields of the kernel's structures can be read (CO-RE)"
            }
            Self::Undefined => "link it with the object that does (`bpftool gen object`)",
            Self::ProgramsAsValues => {
                "call a function (`static __noinline`) instead of another program"
            }
            Self::StaticMapsAsValues => "declare the inner maps without `static`",
            Self::UnclearValues => "compile it with -g, and declare the map of maps as a structure",
            Self::ValuesOfPinned => {
                "another program may use the pinned map already: leave out `.values`, or do not pin it"
            }
            Self::SameName => "give each map a name of its own, also static ones",
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())?;
        match self {
            Self::Verifier { output } | Self::TooComplex { output } | Self::Types { output }
                if !output.is_empty() =>
            {
                write!(f, "\nVerifier output:\n{output}")
            }
            _ => Ok(()),
        }
    }
}
