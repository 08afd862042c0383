//! The object `conformance_select.bpf.c`: its programs, their orders and their records.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _};

use sk_reuseport::Ebpf;
use sk_reuseport::maps::{Array, ArrayOfMaps, MapData, MapError, ReusePortSockArray};
use sk_reuseport::maps::{SockHash, SockMap};
use sk_reuseport::programs::{ProgramError, SkReuseport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::conformance::group::Member;

const OBJECT: &[u8] = include_bytes!("../../bpf/conformance_select.bpf.o");

/// The type of map that a program selects from.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::enum_variant_names, reason = "the kernel's names")]
pub(crate) enum MapType {
    SockArray,
    SockMap,
    SockHash,
}

impl MapType {
    fn name(self) -> &'static str {
        match self {
            Self::SockArray => "sock_array",
            Self::SockMap => "sock_map",
            Self::SockHash => "sock_hash",
        }
    }
}

/// The outcome of a run: `enum outcome`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    NoOrder,
    NoMap,
    NotSelected,
    LeftToKernel,
    Selected,
}

/// A client's order to the program: `struct order`.
#[derive(Debug, Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Order {
    pub(crate) index: u32,
    pub(crate) index_for_ack: u32,
    pub(crate) leave_to_kernel: u32,
}

/// The program's record of its last run: `struct sight`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Sight {
    pub(crate) len: u32,
    pub(crate) direct: u32,
    pub(crate) eth_protocol: u32,
    pub(crate) ip_protocol: u32,
    pub(crate) bind_inany: u32,
    pub(crate) hash: u32,
    pub(crate) migrating: u32,
    pub(crate) sk_family: u32,
    pub(crate) sk_port: u32,
    pub(crate) header: u32,
    pub(crate) source_port: u32,
    pub(crate) destination_port: u32,
    source: [u8; 16],
    destination: [u8; 16],
    pub(crate) error: i32,
}

impl Sight {
    pub(crate) fn source(&self) -> IpAddr {
        self.ip(self.source)
    }

    pub(crate) fn destination(&self) -> IpAddr {
        self.ip(self.destination)
    }

    fn ip(&self, bytes: [u8; 16]) -> IpAddr {
        const ETH_P_IP: u16 = 0x0800;

        if self.eth_protocol == u32::from(ETH_P_IP.to_be()) {
            IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
        } else {
            IpAddr::from(bytes)
        }
    }
}

/// The map that the program selects from.
enum Sockets {
    Array(ReusePortSockArray<MapData>),
    Map(SockMap<MapData>),
    Hash(SockHash<MapData, u32>),
}

impl Sockets {
    fn take(ebpf: &mut Ebpf, map_type: MapType) -> Self {
        let map = ebpf.take_map(map_type.name()).unwrap();
        match map_type {
            MapType::SockArray => Self::Array(map.try_into().unwrap()),
            MapType::SockMap => Self::Map(map.try_into().unwrap()),
            MapType::SockHash => Self::Hash(map.try_into().unwrap()),
        }
    }

    fn data(&self) -> &MapData {
        match self {
            Self::Array(array) => array.map_data(),
            Self::Map(map) => map.map_data(),
            Self::Hash(hash) => hash.map_data(),
        }
    }
}

/// The loaded program for one type of map, with the map in its array of maps.
pub(crate) struct Program {
    ebpf: Ebpf,
    map_type: MapType,
    sockets: Sockets,
}

impl Program {
    pub(crate) fn load(map_type: MapType) -> Self {
        let mut ebpf = Ebpf::load(OBJECT).unwrap();
        let sockets = Sockets::take(&mut ebpf, map_type);
        let mut this = Self { ebpf, map_type, sockets };
        let name = format!("outer_{}", map_type.name());
        let map = this.ebpf.map_mut(&name).unwrap();
        let mut outer: ArrayOfMaps<_> = map.try_into().unwrap();
        outer.set(0, this.sockets.data(), 0).unwrap();
        this.program_mut().load().unwrap();
        this
    }

    fn program_mut(&mut self) -> &mut SkReuseport {
        let name = format!("from_{}", self.map_type.name());
        self.ebpf.program_mut(&name).unwrap().try_into().unwrap()
    }

    pub(crate) fn attach(&mut self, socket: impl AsFd) {
        self.try_attach(socket).unwrap();
    }

    pub(crate) fn try_attach(&mut self, socket: impl AsFd) -> Result<(), ProgramError> {
        self.program_mut().attach(socket)
    }

    /// Takes the map out of the array of maps.
    pub(crate) fn remove_map(&mut self) {
        let name = format!("outer_{}", self.map_type.name());
        let mut outer: ArrayOfMaps<_> = self.ebpf.map_mut(&name).unwrap().try_into().unwrap();
        outer.remove(0).unwrap();
    }

    pub(crate) fn store(&mut self, index: u32, member: &Member) {
        self.try_store(index, member).unwrap();
    }

    pub(crate) fn try_store(&mut self, index: u32, member: &Member) -> Result<(), MapError> {
        match &mut self.sockets {
            Sockets::Array(array) => array.set(index, member, 0),
            Sockets::Map(map) => map.set(index, member, 0),
            Sockets::Hash(hash) => hash.insert(index, member.as_raw_fd(), 0),
        }
    }

    pub(crate) fn clear(&mut self, index: u32) {
        match &mut self.sockets {
            Sockets::Array(array) => array.clear_index(&index).unwrap(),
            Sockets::Map(map) => map.clear_index(&index).unwrap(),
            Sockets::Hash(hash) => hash.remove(&index).unwrap(),
        }
    }

    /// The cookie of the socket at an index.
    pub(crate) fn cookie(&self, index: u32) -> Option<u64> {
        let cookie: Result<_, MapError> = match &self.sockets {
            Sockets::Array(array) => array.get(&index),
            Sockets::Map(map) => map.get(&index),
            Sockets::Hash(hash) => hash.cookie(&index),
        };
        cookie.unwrap()
    }

    /// The number of runs by outcome.
    pub(crate) fn outcomes(&self) -> Vec<u64> {
        let outcomes: Array<_, u64> = self.ebpf.map("outcomes").unwrap().try_into().unwrap();
        outcomes.iter().collect::<Result<_, _>>().unwrap()
    }

    /// Asserts that the program ran `times` times, each with this outcome.
    #[track_caller]
    pub(crate) fn assert_only(&self, outcome: Outcome, times: u64) {
        let mut expected = vec![0; self.outcomes().len()];
        expected[outcome as usize] = times;
        assert_eq!(self.outcomes(), expected, "{outcome:?} {times} times; last {:?}", self.sight());
    }

    /// The record of the last run.
    pub(crate) fn sight(&self) -> Sight {
        let last: Array<_, Sight> = self.ebpf.map("last").unwrap().try_into().unwrap();
        last.get(&0, 0).unwrap()
    }
}
