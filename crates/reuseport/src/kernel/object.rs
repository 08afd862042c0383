//! A user's own eBPF object: its program, and the map that takes the group's sockets.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use sk_reuseport::maps::Map;
use sk_reuseport::programs::{Program, ProgramError, SkReuseport};
use sk_reuseport::{Ebpf, EbpfError, EbpfLoader};

use super::caps;
use super::sockets::Sockets;
use crate::error::{Error, ErrorKind, Result};
use crate::model::selection::ObjectSpec;

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

/// Loads the object and returns its program, its map for sockets, and what it pinned. The program keeps its
/// other maps. Maps that are pinned by name are in this directory.
pub(crate) fn load(spec: &ObjectSpec, directory: &Path) -> Result<(SkReuseport, Sockets, NewPins)> {
    let failed = format!("cannot use {}", spec.path.display());
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(directory)
        .load_file(&spec.path)
        .map_err(|error| match error {
            EbpfError::MapError(_) => caps::failed(&failed, error, caps::LOADING),
            EbpfError::NoBTF => Error::new(ErrorKind::Unsupported, &failed).because(error),
            _ => Error::new(ErrorKind::Invalid, &failed).because(error),
        })?;
    let pins = NewPins(ebpf.new_pins().map(Path::to_owned).collect());
    let program = program_name(&ebpf, spec, &failed)?;
    let map = map_name(&ebpf, spec, &failed)?;
    let sockets = ebpf.take_map(&map).ok_or_else(|| missing(&failed, "map", &map))?;
    let sockets = Sockets::from_map(sockets).map_err(|error| {
        Error::new(ErrorKind::Invalid, &failed)
            .because(error)
            .with_hint(format!("map `{map}` must be a socket array or a socket map with u32 keys"))
    })?;
    match ebpf.take_program(&program) {
        Some(Program::SkReuseport(mut program)) => {
            program.load().map_err(|error| cannot_load(&failed, error))?;
            Ok((program, sockets, pins))
        }
        _ => Err(missing(&failed, "program", &program)),
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

fn program_name(ebpf: &Ebpf, spec: &ObjectSpec, failed: &str) -> Result<String> {
    let all = ebpf.programs().map(|(name, _)| name);
    let mut selecting: Vec<&str> = ebpf
        .programs()
        .filter(|(_, program)| matches!(program, Program::SkReuseport(_)))
        .map(|(name, _)| name)
        .collect();
    selecting.sort_unstable();
    match (&spec.program, selecting.as_slice()) {
        (Some(name), names) if names.contains(&name.as_str()) => Ok(name.clone()),
        (Some(name), names) => Err(Error::new(ErrorKind::Invalid, failed)
            .because(format!("it has no program `{name}` that selects sockets"))
            .with_hint(format!("it has: {}", listed(names)))),
        (None, [name]) => Ok((*name).to_owned()),
        (None, []) => Err(Error::new(ErrorKind::Invalid, failed)
            .because("it has no program that selects sockets (SEC(\"sk_reuseport\"))")
            .with_hint(format!("its programs: {}", listed(&all.collect::<Vec<_>>())))),
        (None, names) => Err(Error::new(ErrorKind::Invalid, failed)
            .because(format!("it has {} programs that select sockets", names.len()))
            .with_hint(format!("choose one with --program: {}", listed(names)))),
    }
}

fn map_name(ebpf: &Ebpf, spec: &ObjectSpec, failed: &str) -> Result<String> {
    if let Some(name) = &spec.map {
        return match ebpf.map(name) {
            Some(_) => Ok(name.clone()),
            None => Err(missing(failed, "map", name)),
        };
    }
    let of = |wanted: fn(&Map) -> bool| {
        let mut names: Vec<&str> =
            ebpf.maps().filter(|(_, map)| wanted(map)).map(|(name, _)| name).collect();
        names.sort_unstable();
        names
    };
    let arrays = of(|map| matches!(map, Map::ReusePortSockArray(_)));
    let maps = of(|map| matches!(map, Map::SockMap(_)));
    match (arrays.as_slice(), maps.as_slice()) {
        ([name], _) | ([], [name]) => Ok((*name).to_owned()),
        ([], []) => {
            let mut all: Vec<&str> = ebpf.maps().map(|(name, _)| name).collect();
            all.sort_unstable();
            Err(Error::new(ErrorKind::Invalid, failed)
                .because("it has no map for sockets (BPF_MAP_TYPE_REUSEPORT_SOCKARRAY)")
                .with_hint(format!("its maps, all of other types: {}", listed(&all))))
        }
        ([], names) | (names, _) => Err(Error::new(ErrorKind::Invalid, failed)
            .because(format!("it has {} maps for sockets", names.len()))
            .with_hint(format!("choose one with --map: {}", listed(names)))),
    }
}

fn missing(failed: &str, what: &str, name: &str) -> Error {
    Error::new(ErrorKind::Invalid, failed).because(format!("it has no {what} `{name}`"))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
