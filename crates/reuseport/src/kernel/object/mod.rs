//! A user's own eBPF object: its program, and the map that takes the group's sockets.

mod choose;
pub(crate) mod notes;
mod settings;

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use sk_reuseport::programs::{Program, ProgramError, SkReuseport};
use sk_reuseport::{Contents, EbpfError, EbpfLoader};

use super::caps;
use super::followed::Followed;
use super::sockets::Sockets;
use crate::error::{Error, ErrorKind, Result};
use crate::model::selection::ObjectSpec;
use choose::Refused;

/// Pins that an object asked for (`LIBBPF_PIN_BY_NAME`) and that were not there before. Dropping it removes
/// them, unless they are [kept](Self::keep): an object that is not attached leaves none.
#[derive(Debug, Default)]
pub(crate) struct NewPins(Vec<PathBuf>);

impl NewPins {
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for NewPins {
    fn drop(&mut self) {
        for path in &self.0 {
            // An error is being reported already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A user's object that is loaded. The program keeps its other maps.
#[derive(Debug)]
pub(crate) struct LoadedObject {
    pub(crate) program: SkReuseport,
    /// Its map for sockets.
    pub(crate) sockets: Sockets,
    /// What it pinned.
    pub(crate) pins: NewPins,
    /// Its values that follow the members.
    pub(crate) followed: Vec<Followed>,
}

/// Loads one program of the object, with the maps that it uses. Maps that are pinned by name are in this directory.
pub(crate) fn load(spec: &ObjectSpec, directory: &Path) -> Result<LoadedObject> {
    let failed = failed(spec);
    let data = read(spec, &failed)?;
    let contents = Contents::parse(&data).map_err(|error| cannot_use(&failed, error))?;
    let refused = |refused: Refused| refused.error(&failed);
    let name = choose::program(&contents, spec).map_err(refused)?;
    let uses = contents.uses(&name);
    choose::check(&contents, &name, &uses).map_err(refused)?;
    let map = choose::map(&contents, spec, &name, &uses).map_err(refused)?;
    choose::check_keys(&contents, &map).map_err(refused)?;
    choose::check_pins(&contents, &uses, directory).map_err(refused)?;
    let settings = settings::resolve(&contents, &name, &uses, &spec.settings).map_err(refused)?;

    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(directory).only(&name);
    for (variable, element, value) in &settings.variables {
        loader.variable(variable, *element, value);
    }
    let mut ebpf = loader.load(&data).map_err(|error| match error {
        EbpfError::MapError(_) => caps::failed(&failed, error, choose::needed(&contents, &map)),
        error => cannot_use(&failed, error),
    })?;
    let pins = NewPins(ebpf.new_pins().map(Path::to_owned).collect());
    let followed = settings.followed.into_iter().map(|value| {
        let map = ebpf.map(&value.map).ok_or_else(|| missing(&failed, "map", &value.map))?;
        Ok(Followed { map: map.data().share(), value })
    });
    let followed = followed.collect::<Result<_>>()?;
    let sockets = ebpf.take_map(&map).ok_or_else(|| missing(&failed, "map", &map))?;
    let sockets = Sockets::from_map(sockets)
        .map_err(|error| Error::new(ErrorKind::Invalid, &failed).because(error))?;
    let Some(Program::SkReuseport(mut program)) = ebpf.take_program(&name) else {
        return Err(missing(&failed, "program", &name));
    };
    program.load().map_err(|error| cannot_load(&failed, error))?;
    // A map that is pinned by name may be another program's, too: nothing is written there before this.
    for (map, index, value) in &settings.elements {
        let map = ebpf.map(map).ok_or_else(|| missing(&failed, "map", map))?;
        map.data()
            .set_bytes(&index.to_ne_bytes(), value)
            .map_err(|error| caps::failed(&failed, error, caps::LOADING))?;
    }
    Ok(LoadedObject { program, sockets, pins, followed })
}

fn failed(spec: &ObjectSpec) -> String {
    format!("cannot use {}", spec.path.display())
}

fn read(spec: &ObjectSpec, failed: &str) -> Result<Vec<u8>> {
    std::fs::read(&spec.path).map_err(|error| Error::new(ErrorKind::Invalid, failed).because(error))
}

fn cannot_use(failed: &str, error: EbpfError) -> Error {
    match error {
        EbpfError::NoBTF => Error::new(ErrorKind::Unsupported, failed).because(error),
        _ => Error::new(ErrorKind::Invalid, failed).because(error),
    }
}

/// A program that the verifier refuses is invalid input.
fn cannot_load(failed: &str, error: ProgramError) -> Error {
    log_verdict(&error);
    let verdict =
        matches!(caps::os_error(&error), Some(Errno::ACCESS | Errno::INVAL | Errno::TOOBIG));
    match verdict && caps::has(caps::LOADING) {
        true => Error::new(ErrorKind::Invalid, failed).because(error),
        false => caps::failed(failed, error, caps::LOADING),
    }
}

/// Logs what the verifier wrote. Messages have its last line.
pub(super) fn log_verdict(error: &ProgramError) {
    if let ProgramError::LoadError { verifier_log, .. } = error {
        tracing::debug!("the verifier's log:\n{verifier_log}");
    }
}

fn missing(failed: &str, what: &str, name: &str) -> Error {
    Error::new(ErrorKind::Invalid, failed).because(format!("it has no {what} `{name}`"))
}
