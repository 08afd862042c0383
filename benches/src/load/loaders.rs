//! Loading with either library. Ours has the names of aya, so one text does for both.

use std::net::TcpListener;
use std::time::Instant;

use anyhow::Result;

/// Microseconds until the object is parsed and adapted and its maps are there, then until the listeners are
/// in the socket array, the programs in the kernel, and the program attached.
pub(super) type Parts = [f64; 4];

/// An object with tracing programs: iterators with what they are over, and programs with their
/// tracepoint.
pub(super) struct Tracing {
    pub(super) object: &'static [u8],
    pub(super) iterators: &'static [(&'static str, &'static str)],
    pub(super) tracepoints: &'static [(&'static str, &'static str)],
}

/// Microseconds since `last`, which becomes now.
fn lap(last: &mut Instant) -> f64 {
    let now = Instant::now();
    (now - std::mem::replace(last, now)).as_secs_f64() * 1e6
}

/// `select` and `trace`, in a module that defines `Ebpf`, `Btf` and `load_for_kernel`.
macro_rules! loader {
    ($library:ident) => {
        use anyhow::Context as _;
        use $library::EbpfLoader;
        use $library::maps::ReusePortSockArray;
        use $library::programs::{BtfTracePoint, Iter, SkReuseport};

        use super::*;

        pub(in super::super) fn load(object: &[u8]) -> Result<Ebpf> {
            Ok(EbpfLoader::new().map_max_entries("sockets", 2).load(object)?)
        }

        /// From the object's bytes until its program decides for the group of `listeners`.
        pub(in super::super) fn select(
            object: &[u8],
            program: &str,
            listeners: &[TcpListener],
            load: fn(&[u8]) -> Result<Ebpf>,
        ) -> Result<Parts> {
            let mut start = Instant::now();
            let mut ebpf = load(object)?;
            let object = lap(&mut start);
            let mut array: ReusePortSockArray<_> =
                ebpf.take_map("sockets").context("no sockets")?.try_into()?;
            for (index, listener) in (0..).zip(listeners) {
                array.set(index, listener, 0)?;
            }
            let sockets = lap(&mut start);
            let program = ebpf.program_mut(program).context("no program")?;
            let program: &mut SkReuseport = program.try_into()?;
            program.load()?;
            let programs = lap(&mut start);
            program.attach(&listeners[0])?;
            let attach = lap(&mut start);
            SkReuseport::detach(&listeners[0])?;
            // The kernel frees the array later; a socket that is still in it can go into no other.
            for (index, _) in (0..).zip(listeners) {
                array.clear_index(&index)?;
            }
            Ok([object, sockets, programs, attach])
        }

        /// From the object's bytes until its tracing programs are in the kernel.
        pub(in super::super) fn trace(tracing: &Tracing) -> Result<Parts> {
            let mut start = Instant::now();
            let (mut ebpf, btf) = load_for_kernel(tracing.object)?;
            let object = lap(&mut start);
            for (name, over) in tracing.iterators {
                let program = ebpf.program_mut(name).context("no program")?;
                <&mut Iter>::try_from(program)?.load(over, &btf)?;
            }
            for (name, at) in tracing.tracepoints {
                let program = ebpf.program_mut(name).context("no program")?;
                <&mut BtfTracePoint>::try_from(program)?.load(at, &btf)?;
            }
            Ok([object, 0.0, lap(&mut start), 0.0])
        }
    };
}

pub(super) mod ours {
    use sk_reuseport::{Ebpf, KernelBtf as Btf};

    loader!(sk_reuseport);

    fn load_for_kernel(object: &[u8]) -> Result<(Ebpf, Btf)> {
        let btf = Btf::from_sys_fs()?;
        Ok((EbpfLoader::new().kernel_btf(&btf).load(object)?, btf))
    }
}

pub(super) mod theirs {
    use aya::{Btf, Ebpf};

    loader!(aya);

    /// As aya's documentation has it: `EbpfLoader::new` and `load` parse the kernel's types twice.
    pub(in super::super) fn load_simply(object: &[u8]) -> Result<Ebpf> {
        Ok(Ebpf::load(object)?)
    }

    fn load_for_kernel(object: &[u8]) -> Result<(Ebpf, Btf)> {
        // `new` parses the kernel's types, too, and does not give them away.
        Ok((EbpfLoader::new().load(object)?, Btf::from_sys_fs()?))
    }
}
