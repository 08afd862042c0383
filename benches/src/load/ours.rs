//! Loading with our library.

use std::net::TcpListener;

use anyhow::{Context, Result};
use sk_reuseport::maps::ReusePortSockArray;
use sk_reuseport::programs::{BtfTracePoint, Iter, SkReuseport};
use sk_reuseport::{EbpfLoader, KernelBtf};

use super::{Laps, Target, Timed, Tracing};

pub(super) fn select(object: &[u8], program: &str, listeners: &[TcpListener]) -> Result<Timed> {
    let mut laps = Laps::start();
    let mut ebpf = EbpfLoader::new().map_max_entries("sockets", 2).load(object)?;
    let object = laps.lap();
    let mut sockets: ReusePortSockArray<_> =
        ebpf.take_map("sockets").context("no sockets")?.try_into()?;
    for (index, listener) in (0..).zip(listeners) {
        sockets.set(index, listener, 0)?;
    }
    let sockets_filled = laps.lap();
    let program: &mut SkReuseport = ebpf.program_mut(program).context("no program")?.try_into()?;
    program.load()?;
    let programs = laps.lap();
    program.attach(&listeners[0])?;
    let attach = laps.lap();
    SkReuseport::detach(&listeners[0])?;
    // The kernel frees the array later; a socket that is still in it can go into no other.
    for (index, _) in (0..).zip(listeners) {
        sockets.clear_index(&index)?;
    }
    Ok(Timed { object, sockets: sockets_filled, programs, attach })
}

pub(super) fn trace(tracing: &Tracing) -> Result<Timed> {
    let mut laps = Laps::start();
    let btf = KernelBtf::from_sys_fs()?;
    let mut ebpf = EbpfLoader::new().kernel_btf(&btf).load(tracing.object)?;
    let object = laps.lap();
    for (name, target) in tracing.programs {
        let program = ebpf.program_mut(name).context("no program")?;
        match target {
            Target::Iterator(over) => {
                <&mut Iter>::try_from(program)?.load(over, &btf)?;
            }
            Target::Tracepoint(at) => {
                <&mut BtfTracePoint>::try_from(program)?.load(at, &btf)?;
            }
        }
    }
    Ok(Timed { object, programs: laps.lap(), ..Timed::default() })
}
