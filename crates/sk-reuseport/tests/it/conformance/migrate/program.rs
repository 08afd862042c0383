//! The object `conformance_migrate.bpf.c`: its programs and counters.

use std::net::TcpListener;
use std::os::fd::AsFd;

use sk_reuseport::maps::{Array, MapData, ReusePortSockArray};
use sk_reuseport::programs::SkReuseport;
use sk_reuseport::{Ebpf, EbpfLoader};

const OBJECT: &[u8] = include_bytes!("../../../bpf/conformance_migrate.bpf.o");

/// The index of the member that receives the connections of closed listeners.
pub(crate) const TARGET: u32 = 4;

/// The counters of the programs: `enum event`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Dealt,
    EstablishedAtClose,
    SynRecvAtClose,
    NewSynRecvAtTimer,
    NewSynRecvAtAck,
    LeftToKernel = 6,
}

const EVENTS: usize = 8;

/// The object with all programs loaded, for a group at one port.
pub(crate) struct Programs(Ebpf);

impl Programs {
    pub(crate) fn load(port: u16) -> Self {
        let port = u32::from(port);
        let mut loader = EbpfLoader::new();
        let mut ebpf = loader.override_global("PORT", &port, true).load(OBJECT).unwrap();
        for (_, program) in ebpf.programs_mut() {
            let program: &mut SkReuseport = program.try_into().unwrap();
            program.load().unwrap();
        }
        Self(ebpf)
    }

    pub(crate) fn attach(&self, name: &str, socket: impl AsFd) {
        let program: &SkReuseport = self.0.program(name).unwrap().try_into().unwrap();
        program.attach(socket).unwrap();
    }

    fn sockets(&mut self) -> ReusePortSockArray<&mut MapData> {
        self.0.map_mut("sockets").unwrap().try_into().unwrap()
    }

    pub(crate) fn store(&mut self, index: u32, listener: &TcpListener) {
        self.sockets().set(index, listener, 0).unwrap();
    }

    pub(crate) fn clear(&mut self, index: u32) {
        self.sockets().clear_index(&index).unwrap();
    }

    /// The indices that hold a socket.
    pub(crate) fn occupied(&mut self) -> Vec<u32> {
        self.sockets().indices().collect::<Result<_, _>>().unwrap()
    }

    pub(crate) fn count(&self, event: Event) -> u64 {
        self.counts()[event as usize]
    }

    /// Asserts that these events happened this many times, and no others.
    #[track_caller]
    pub(crate) fn assert_only(&self, events: &[(Event, u64)]) {
        let mut expected = vec![0; EVENTS];
        for (event, times) in events {
            expected[*event as usize] = *times;
        }
        assert_eq!(self.counts(), expected, "{events:?}");
    }

    fn counts(&self) -> Vec<u64> {
        let events: Array<_, u64> = self.0.map("events").unwrap().try_into().unwrap();
        events.iter().collect::<Result<_, _>>().unwrap()
    }
}
