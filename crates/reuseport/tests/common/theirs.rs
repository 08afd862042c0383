//! A program of another owner that selects from an array of its own.

use sk_reuseport::maps::{MapData, ReusePortSockArray};
use sk_reuseport::programs::{Program, SkReuseport};

use super::world::object;

/// The program `first` of `tests/bpf`, loaded without the library: everything goes to index 0 of its array.
pub(crate) struct Theirs {
    pub(crate) program: SkReuseport,
    pub(crate) array: ReusePortSockArray<MapData>,
}

impl Theirs {
    pub(crate) fn load() -> Self {
        Self::of("first", "first", "sockets")
    }

    pub(crate) fn of(file: &str, program: &str, map: &str) -> Self {
        let mut ebpf = sk_reuseport::Ebpf::load_file(object(file).path).unwrap();
        let array = ebpf.take_map(map).unwrap().try_into().unwrap();
        let Some(Program::SkReuseport(mut program)) = ebpf.take_program(program) else {
            panic!("no such program");
        };
        program.load().unwrap();
        Self { program, array }
    }

    /// Puts the sockets into the array, from index 0 on, and attaches.
    pub(crate) fn steer(&mut self, members: &[std::net::TcpListener]) {
        for (index, member) in (0..).zip(members) {
            self.array.set(index, member, 0).unwrap();
        }
        self.program.attach(&members[0]).unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.program.info().unwrap().id()
    }

    /// The cookies in the array, by index.
    pub(crate) fn cookies(&self) -> Vec<u64> {
        self.cookies_at(0..4)
    }

    /// The same for an array that is shorter.
    pub(crate) fn cookies_at(&self, indices: std::ops::Range<u32>) -> Vec<u64> {
        indices.map(|index| self.array.get(&index).unwrap().unwrap_or(0)).collect()
    }
}
