//! A loaded object: its maps and its programs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::maps::Map;
use crate::programs::Program;
use crate::sys::{Pod, bytes_of};

/// The bytes of a value for a global variable of an object.
#[derive(Debug)]
pub struct GlobalData<'a> {
    pub(crate) bytes: &'a [u8],
}

impl<'a, T: Pod> From<&'a [T]> for GlobalData<'a> {
    fn from(values: &'a [T]) -> Self {
        Self { bytes: bytes_of(values) }
    }
}

impl<'a, T: Pod> From<&'a T> for GlobalData<'a> {
    fn from(value: &'a T) -> Self {
        Self { bytes: bytes_of(std::slice::from_ref(value)) }
    }
}

/// A loaded object: its maps, and its programs ready to be loaded.
///
/// Dropping it closes this process's descriptors of both. The kernel keeps programs that are
/// attached to a group of sockets, whatever is pinned, and the maps that these programs use.
///
/// # Examples
///
/// ```no_run
/// use sk_reuseport::{Ebpf, maps::Array};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut ebpf = Ebpf::load_file("select.o")?;
/// for (name, program) in ebpf.programs() {
///     println!("{name}: {:?}", program.prog_type());
/// }
/// let mut limits: Array<_, u32> = ebpf.map_mut("limits").ok_or("no map")?.try_into()?;
/// limits.set(0, 100, 0)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ebpf {
    pub(crate) maps: HashMap<String, Map>,
    pub(crate) programs: HashMap<String, Program>,
    pub(crate) new_pins: Vec<PathBuf>,
}

impl Ebpf {
    /// A map by its name in the object.
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.maps.get(name)
    }

    /// A map by its name in the object, mutably.
    pub fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        self.maps.get_mut(name)
    }

    /// Takes a map out of the object.
    pub fn take_map(&mut self, name: &str) -> Option<Map> {
        self.maps.remove(name)
    }

    /// All maps with their names.
    pub fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.maps.iter().map(|(name, map)| (name.as_str(), map))
    }

    /// All maps with their names, mutably.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = (&str, &mut Map)> {
        self.maps.iter_mut().map(|(name, map)| (name.as_str(), map))
    }

    /// Several maps by their names, mutably and at the same time.
    ///
    /// # Panics
    ///
    /// If two of the names are the same.
    pub fn maps_disjoint_mut<const N: usize>(&mut self, names: [&str; N]) -> [Option<&mut Map>; N] {
        self.maps.get_disjoint_mut(names)
    }

    /// Where loading pinned maps, because the object or the caller asked for it. Maps that were pinned
    /// there before are not among them.
    pub fn new_pins(&self) -> impl Iterator<Item = &Path> {
        self.new_pins.iter().map(PathBuf::as_path)
    }

    /// A program by the name of its function.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.get(name)
    }

    /// A program by the name of its function, to be loaded and attached.
    pub fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        self.programs.get_mut(name)
    }

    /// Takes a program out of the object.
    pub fn take_program(&mut self, name: &str) -> Option<Program> {
        self.programs.remove(name)
    }

    /// All programs with their names.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Program)> {
        self.programs.iter().map(|(name, program)| (name.as_str(), program))
    }

    /// All programs with their names, to be loaded and attached.
    pub fn programs_mut(&mut self) -> impl Iterator<Item = (&str, &mut Program)> {
        self.programs.iter_mut().map(|(name, program)| (name.as_str(), program))
    }
}
