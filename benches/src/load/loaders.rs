//! Loading with either library. Ours has the names of aya, so one text does for both.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How long the parts of a load took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timed {
    /// Until the object is parsed and adapted and its maps are there.
    object: Duration,
    /// Until the listeners are in the socket array.
    sockets: Duration,
    /// Until the programs are in the kernel.
    programs: Duration,
    /// Until the program decides for the group.
    attach: Duration,
}

impl Timed {
    /// In microseconds.
    pub(super) fn parts(&self) -> [f64; 4] {
        [self.object, self.sockets, self.programs, self.attach].map(|part| part.as_secs_f64() * 1e6)
    }

    pub(super) fn total(&self) -> f64 {
        self.parts().iter().sum()
    }
}

/// An object with tracing programs.
pub(super) struct Tracing {
    pub(super) object: &'static [u8],
    /// Iterators, and what they are over.
    pub(super) iterators: &'static [(&'static str, &'static str)],
    /// Programs at a tracepoint, and which.
    pub(super) tracepoints: &'static [(&'static str, &'static str)],
}

/// Gives the time since it was asked last.
struct Laps(Instant);

impl Laps {
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
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
        ) -> Result<Timed> {
            let mut laps = Laps(Instant::now());
            let mut ebpf = load(object)?;
            let object = laps.lap();
            let mut array: ReusePortSockArray<_> =
                ebpf.take_map("sockets").context("no sockets")?.try_into()?;
            for (index, listener) in (0..).zip(listeners) {
                array.set(index, listener, 0)?;
            }
            let sockets = laps.lap();
            let program = ebpf.program_mut(program).context("no program")?;
            let program: &mut SkReuseport = program.try_into()?;
            program.load()?;
            let programs = laps.lap();
            program.attach(&listeners[0])?;
            let attach = laps.lap();
            SkReuseport::detach(&listeners[0])?;
            // The kernel frees the array later; a socket that is still in it can go into no other.
            for (index, _) in (0..).zip(listeners) {
                array.clear_index(&index)?;
            }
            Ok(Timed { object, sockets, programs, attach })
        }

        /// From the object's bytes until its tracing programs are in the kernel.
        pub(in super::super) fn trace(tracing: &Tracing) -> Result<Timed> {
            let mut laps = Laps(Instant::now());
            let (mut ebpf, btf) = load_for_kernel(tracing.object)?;
            let object = laps.lap();
            for (name, over) in tracing.iterators {
                let program = ebpf.program_mut(name).context("no program")?;
                <&mut Iter>::try_from(program)?.load(over, &btf)?;
            }
            for (name, at) in tracing.tracepoints {
                let program = ebpf.program_mut(name).context("no program")?;
                <&mut BtfTracePoint>::try_from(program)?.load(at, &btf)?;
            }
            Ok(Timed { object, programs: laps.lap(), ..Timed::default() })
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
