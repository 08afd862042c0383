//! Features of the kernel, found by asking it: what a program needs is loaded, and let go of.

use sk_reuseport::programs::Program;
use sk_reuseport::{Ebpf, EbpfLoader};

use crate::error::{Error, Result};
use crate::follow::source;
use crate::host::Host;
use crate::kernel::types::types;
use crate::kernel::{barrier, caps, cgroup, program};
use crate::model::check::Check;
use crate::model::degraded::Degraded;
use crate::model::finding::Severity::{self, Advice, Problem};
use crate::model::group::Protocol;
use crate::pins::{host_layer, recount};

type AnyError = Box<dyn std::error::Error + Send + Sync>;
type Needed = &'static [(rustix::thread::CapabilitySet, &'static str)];

const UPGRADE: &str = "a newer kernel; docs/operating.md has the versions";

pub(super) fn checks(host: std::result::Result<&Host, &Error>) -> Vec<Check> {
    let mut all = vec![kernel_types(), list_descriptors(host), list_tables(host)];
    all.extend(select_programs());
    all.extend([
        trace_connections(),
        recount(),
        ring_buffer(),
        udp_binds(),
        list_udp(),
        copy_descriptors(),
    ]);
    all
}

/// `Ok`: as it should be, with what was seen.
fn check(check: Check, severity: Severity, mend: &str, tried: Result<&'static str>) -> Check {
    match tried {
        Ok(seen) => Check { seen: seen.to_owned(), ..check },
        Err(error) => check.failed(severity, &error, mend),
    }
}

/// Loads an object with its maps, and does something with its programs.
fn load(
    object: &[u8],
    needed: Needed,
    with: impl FnOnce(&mut Ebpf) -> std::result::Result<(), AnyError>,
) -> Result<()> {
    let load = || -> std::result::Result<(), AnyError> {
        let mut ebpf = EbpfLoader::new().kernel_btf(types()?).load(object)?;
        with(&mut ebpf)
    };
    load().map_err(|error| caps::failed("the kernel refuses it", error, needed))
}

/// Loads a program, of a tracepoint or iterator with this name.
fn load_one(ebpf: &mut Ebpf, name: &str, target: &str) -> std::result::Result<(), AnyError> {
    match ebpf.program_mut(name).ok_or("the built-in program is missing")? {
        Program::Iter(program) => program.load(target, types()?)?,
        Program::BtfTracePoint(program) => program.load(target, types()?)?,
        Program::CgroupSock(program) => program.load()?,
        _ => return Err("the built-in program is of another type".into()),
    }
    Ok(())
}

fn kernel_types() -> Check {
    let one = Check::fine(
        "kernel-types",
        "the kernel's types (BTF, /sys/kernel/btf/vmlinux): without, no group can be listed",
        "",
    );
    let tried = types().map(|_| "read").map_err(|error| {
        Error::new(crate::ErrorKind::Unsupported, "they cannot be read").because(error)
    });
    check(one, Problem, "a kernel with CONFIG_DEBUG_INFO_BTF", tried)
}

fn list_descriptors(host: std::result::Result<&Host, &Error>) -> Check {
    let one = Check::fine(
        "list-descriptors",
        "iterators over the descriptors of all processes (iter/task_file): without, no group can be listed",
        "loaded",
    );
    match host {
        Ok(_) => one,
        Err(error) => one.failed(Problem, error, UPGRADE),
    }
}

fn list_tables(host: std::result::Result<&Host, &Error>) -> Check {
    let one = Check::fine(
        "list-tables",
        "the kernel's tables of sockets (iter/bpf_map_elem): without, members that no visible process holds are not \
         seen, nor who waits for a member",
        "read",
    );
    match host.map(Host::reads_tables) {
        Ok(Ok(true)) => one,
        Ok(Ok(false)) => one.found(Advice, "they cannot be read", "Linux 5.19"),
        Ok(Err(error)) => one.failed(Advice, &error, "Linux 5.19"),
        Err(error) => one.failed(Advice, error, UPGRADE),
    }
}

fn select_programs() -> [Check; 3] {
    let select = Check::fine(
        "select-programs",
        "programs that select a socket and move connections of one that closes (sk_reuseport/migrate), socket arrays \
         and maps of maps: without, nothing can be attached",
        "loaded",
    );
    let read = Check::fine(
        "read-queues",
        "programs that read the members' queues: without, full members are not passed over, and `least-loaded` compares \
         open connections alone",
        "read",
    );
    let direct = Check::fine(
        "direct-reads",
        "direct reads of the kernel's memory (bpf_rdonly_cast): without, each field of a queue takes a helper call",
        "",
    );
    let direct = match types() {
        Ok(types) if program::reads_directly(types) => Check { seen: "known".to_owned(), ..direct },
        Ok(_) => direct.found(Advice, "the kernel has no such function", "Linux 6.2"),
        Err(error) => direct.unseen(error.to_string()),
    };
    match program::try_to_load(Protocol::Tcp) {
        Ok(loaded) => {
            let read = match loaded.degraded {
                Some(Degraded::QueuesUnread(error)) => {
                    read.failed(Advice, &error, "boot without lockdown=confidentiality")
                }
                _ => read,
            };
            [select, read, direct]
        }
        Err(error) => {
            let select = select.failed(Problem, &error, "Linux 5.14");
            let why = select.seen.clone();
            [select, read.unseen(why), direct]
        }
    }
}

fn trace_connections() -> Check {
    let one = Check::fine(
        "trace-connections",
        "a program at each change of a TCP socket's state (tp_btf/inet_sock_set_state) and marks on sockets \
         (sk_storage): without, open connections are not counted, and watchers do not see listeners come",
        "",
    );
    let tried = load(host_layer::OBJECT, caps::TRACING, |ebpf| {
        load_one(ebpf, "count_open", host_layer::TRACEPOINT)
    });
    check(one, Advice, UPGRADE, tried.map(|()| "loaded"))
}

fn recount() -> Check {
    let one = Check::fine(
        "recount",
        "an iterator over the marks of sockets (iter/bpf_sk_storage_map): without, connections whose end was missed \
         stay counted",
        "",
    );
    let tried = load(recount::OBJECT, caps::TRACING, |ebpf| {
        load_one(ebpf, recount::WALK, "bpf_sk_storage_map")
    });
    check(one, Advice, UPGRADE, tried.map(|()| "loaded"))
}

fn ring_buffer() -> Check {
    let one = Check::fine(
        "ring-buffer",
        "ring buffers between kernel and user space: without, `--watch` does not work",
        "",
    );
    let tried = load(source::OBJECT, caps::TRACING, |ebpf| {
        load_one(ebpf, "on_state", host_layer::TRACEPOINT)
    });
    check(one, Problem, "Linux 5.8", tried.map(|()| "made"))
}

fn udp_binds() -> Check {
    let one = Check::fine(
        "udp-binds",
        "programs of the root cgroup at each bind (cgroup/post_bind4): without, watchers list UDP sockets again and \
         again",
        "",
    );
    let tried = load(source::OBJECT, caps::CGROUPS, |ebpf| {
        source::BINDS.iter().try_for_each(|name| load_one(ebpf, name, ""))
    });
    let rooted = tried.and_then(|()| {
        let failed = "the root of cgroup2 cannot be opened";
        cgroup::root().map_err(|e| Error::new(crate::ErrorKind::System, failed).because(e))
    });
    check(one, Advice, "mount cgroup2, or run it on the host", rooted.map(|_| "loaded"))
}

fn list_udp() -> Check {
    let one = Check::fine(
        "list-udp",
        "an iterator over UDP sockets (iter/udp): without, watchers do not see UDP sockets connect or close soon",
        "",
    );
    let tried = load(source::OBJECT, caps::TRACING, |ebpf| load_one(ebpf, "udp_members", "udp"));
    check(one, Advice, UPGRADE, tried.map(|()| "loaded"))
}

fn copy_descriptors() -> Check {
    let one = Check::fine(
        "copy-descriptors",
        "copies of another process's descriptor (pidfd_getfd): without, nothing can be attached to its sockets",
        "allowed",
    );
    match barrier::copies_its_own() {
        true => one,
        false => one.found(
            Problem,
            "the kernel, or a seccomp filter, refuses it to this process, for its own descriptors too",
            "let the container's seccomp profile allow pidfd_open and pidfd_getfd, or run it on the host",
        ),
    }
}
