//! Loading with aya, step for step as in `ours`.

use std::net::TcpListener;

use anyhow::{Context, Result};
use aya::maps::ReusePortSockArray;
use aya::programs::{BtfTracePoint, Iter, SkReuseport};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};

use super::{Laps, Target, Timed, Tracing};

/// The kernel's types are parsed once, by `new`, for want of a way without.
pub(super) fn load(object: &[u8]) -> Result<Ebpf, EbpfError> {
    EbpfLoader::new().map_max_entries("sockets", 2).load(object)
}

/// As aya's documentation has it: the types are parsed twice.
pub(super) fn load_simply(object: &[u8]) -> Result<Ebpf, EbpfError> {
    Ebpf::load(object)
}

pub(super) fn select(
    object: &[u8],
    program: &str,
    listeners: &[TcpListener],
    load: fn(&[u8]) -> Result<Ebpf, EbpfError>,
) -> Result<Timed> {
    let mut laps = Laps::start();
    let mut ebpf = load(object)?;
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
    for (index, _) in (0..).zip(listeners) {
        sockets.clear_index(&index)?;
    }
    Ok(Timed { object, sockets: sockets_filled, programs, attach })
}

pub(super) fn trace(tracing: &Tracing) -> Result<Timed> {
    let mut laps = Laps::start();
    // `new` has parsed the same once more, out of reach.
    let mut loader = EbpfLoader::new();
    let mut ebpf = loader.load(tracing.object)?;
    let btf = Btf::from_sys_fs()?;
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
