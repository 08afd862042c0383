//! Which program of an object is attached, and which of its maps takes the sockets. What cannot work is refused here,
//! by its name in the object, before anything is loaded.

use std::path::Path;

use rustix::thread::CapabilitySet;
use sk_reuseport::maps::MapData;
use sk_reuseport::{Contents, Extern, MapContents, MapType, Uses};

use crate::error::{Error, ErrorKind};
use crate::kernel::caps;
use crate::model::selection::ObjectSpec;

/// The reason for a refusal, and what to do.
pub(super) struct Refused {
    why: String,
    hint: String,
}

impl Refused {
    pub(super) fn new(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { why: why.into(), hint: hint.into() }
    }

    pub(super) fn error(self, failed: &str) -> Error {
        Error::new(ErrorKind::Invalid, failed).because(self.why).with_hint(self.hint)
    }
}

/// The program's name.
pub(super) fn program(contents: &Contents, spec: &ObjectSpec) -> Result<String, Refused> {
    let selecting = || contents.programs().filter(|program| program.attach_type().is_some());
    let names: Vec<&str> = selecting().map(|program| program.name()).collect();
    let all = || {
        let of = |program: sk_reuseport::ProgramContents<'_>| {
            format!("{} ({})", program.name(), program.section())
        };
        listed(&contents.programs().map(of).collect::<Vec<_>>())
    };
    match (&spec.program, names.as_slice()) {
        (Some(name), names) if names.contains(&name.as_str()) => Ok(name.clone()),
        (Some(name), _) => Err(Refused::new(
            format!("it has no program `{name}` that selects sockets"),
            format!("it has: {}", all()),
        )),
        (None, [name]) => Ok((*name).to_owned()),
        (None, []) => Err(Refused::new(
            "it has no program that selects sockets (SEC(\"sk_reuseport\"))",
            format!("its programs: {}", all()),
        )),
        (None, names) => Err(Refused::new(
            format!("it has {} programs that select sockets", names.len()),
            format!("choose one with --program: {}", listed(names)),
        )),
    }
}

/// Refuses what the program uses and would not get.
pub(super) fn check(contents: &Contents, program: &str, uses: &Uses) -> Result<(), Refused> {
    if let Some((name, Extern::Configuration)) = &uses.external {
        return Err(Refused::new(
            format!(
                "program `{program}` reads `{name}` of the kernel's configuration (`__kconfig`)"
            ),
            format!("declare it `const volatile`, and give its value with --set {name}=VALUE"),
        ));
    }
    let is_unfilled = |map: &MapContents<'_>| {
        map.map_type == Some(MapType::BPF_MAP_TYPE_PROG_ARRAY) && !map.is_pinned
    };
    match used(contents, uses).into_iter().find(is_unfilled) {
        Some(MapContents { name, .. }) => Err(Refused::new(
            format!(
                "program `{program}` calls other programs through `{name}` (BPF_MAP_TYPE_PROG_ARRAY), \
                 which the kernel empties when this command ends"
            ),
            "call functions instead (`static __noinline`), or pin the map by name \
             (LIBBPF_PIN_BY_NAME) and fill it yourself",
        )),
        None => Ok(()),
    }
}

/// The name of the map that takes the sockets.
pub(super) fn map(
    contents: &Contents,
    spec: &ObjectSpec,
    program: &str,
    uses: &Uses,
) -> Result<String, Refused> {
    let used = used(contents, uses);
    let of_sockets: Vec<&str> =
        used.iter().filter(|map| takes_sockets(map.map_type)).map(|map| map.name).collect();
    if let Some(name) = &spec.map {
        return named(contents, program, name, &of_sockets);
    }
    let arrays: Vec<&str> =
        used.iter().filter(|map| map.map_type == ARRAY).map(|map| map.name).collect();
    match (arrays.as_slice(), of_sockets.as_slice()) {
        ([name], _) | ([], [name]) => Ok((*name).to_owned()),
        ([], []) => Err(without_map(contents, program, uses, &used)),
        ([], names) | (names, _) => Err(Refused::new(
            format!("program `{program}` selects from {} maps for sockets", names.len()),
            format!("choose one with --map: {}", listed(names)),
        )),
    }
}

fn named(
    contents: &Contents,
    program: &str,
    name: &str,
    of_sockets: &[&str],
) -> Result<String, Refused> {
    let Some(map) = contents.maps().find(|map| map.name == name) else {
        return Err(Refused::new(format!("it has no map `{name}`"), all_maps(contents)));
    };
    if !takes_sockets(map.map_type) {
        return Err(Refused::new(
            format!("its map `{name}` takes no sockets: it is {}", type_name(map.map_type)),
            format!(
                "map `{name}` must be a socket array, a socket map or a socket hash \
                 (BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, _SOCKMAP, _SOCKHASH)"
            ),
        ));
    }
    if !of_sockets.contains(&name) {
        return Err(Refused::new(
            format!("program `{program}` does not use the map `{name}`"),
            format!("it selects from: {}", listed(of_sockets)),
        ));
    }
    Ok(name.to_owned())
}

fn without_map(
    contents: &Contents,
    program: &str,
    uses: &Uses,
    used: &[MapContents<'_>],
) -> Refused {
    if let Some(outer) = used.iter().find(|map| map.has_static_values) {
        return Refused::new(
            format!("the initial values of its map of maps `{}` are static maps", outer.name),
            "declare the inner maps without `static`",
        );
    }
    if let Some(outer) = used.iter().find(|map| takes_sockets(map.inner)) {
        return Refused::new(
            format!(
                "program `{program}` selects from arrays inside the map of maps `{}`, which has none",
                outer.name
            ),
            "declare an array as its initial value (`.values = { [0] = &sockets }`), or select from a \
             socket array itself",
        );
    }
    let unused: Vec<&str> =
        contents.maps().filter(|map| takes_sockets(map.map_type)).map(|map| map.name).collect();
    if unused.is_empty() {
        return Refused::new(
            "it has no map for sockets (BPF_MAP_TYPE_REUSEPORT_SOCKARRAY)",
            all_maps(contents),
        );
    }
    let why = match uses.selects {
        true => format!("program `{program}` selects from none of its maps for sockets"),
        false => {
            format!("program `{program}` selects nothing: it never calls bpf_sk_select_reuseport")
        }
    };
    Refused::new(why, format!("its maps for sockets: {}", listed(&unused)))
}

/// The capabilities that creating the map for sockets takes.
pub(super) fn needed(contents: &Contents, name: &str) -> &'static [(CapabilitySet, &'static str)] {
    match contents.maps().find(|map| map.name == name) {
        Some(map) if map.map_type != ARRAY => caps::SOCKET_MAPS,
        _ => caps::LOADING,
    }
}

/// Refuses a map whose keys cannot be the numbers of slots.
pub(super) fn check_keys(contents: &Contents, name: &str) -> Result<(), Refused> {
    let Some(map) = contents.maps().find(|map| map.name == name) else { return Ok(()) };
    let wanted: &[u32] = match map.map_type {
        Some(MapType::BPF_MAP_TYPE_SOCKHASH) => &[4, 8],
        _ => &[4],
    };
    match wanted.contains(&map.key_size) {
        true => Ok(()),
        false => Err(Refused::new(
            format!("the keys of its map `{name}` have {} bytes", map.key_size),
            "its keys are the members' indices: declare them as `__u32` (in a socket hash, `__u64` will \
             do too)",
        )),
    }
}

/// Refuses a map that is pinned already with other parameters: its own, and not the object's, would hold.
pub(super) fn check_pins(
    contents: &Contents,
    uses: &Uses,
    directory: &Path,
) -> Result<(), Refused> {
    for map in used(contents, uses).into_iter().filter(|map| map.is_pinned) {
        let pin = directory.join(map.name);
        let Ok(info) = MapData::from_pin(&pin).and_then(|pinned| pinned.info()) else { continue };
        let of_pin = MapType::try_from(info.map_type()).ok();
        // The loader rounds the size of a ring buffer, and sets the number of a perf buffer's elements.
        let adjusted = match map.map_type {
            Some(MapType::BPF_MAP_TYPE_RINGBUF) => true,
            Some(MapType::BPF_MAP_TYPE_PERF_EVENT_ARRAY) => map.max_entries == 0,
            _ => false,
        };
        let exact = |number: u32, declared: u32| if adjusted { number } else { declared };
        let numbers = [
            ("keys of {} bytes", info.key_size(), map.key_size),
            ("values of {} bytes", info.value_size(), exact(info.value_size(), map.value_size)),
            ("{} elements", info.max_entries(), exact(info.max_entries(), map.max_entries)),
            ("flags {}", info.map_flags(), map.map_flags),
        ];
        let mut differences: Vec<String> = numbers
            .into_iter()
            .filter(|(_, pinned, declared)| pinned != declared)
            .map(|(what, pinned, declared)| {
                format!("{}, not {declared}", what.replace("{}", &pinned.to_string()))
            })
            .collect();
        if of_pin != map.map_type {
            let types = [type_name(of_pin), type_name(map.map_type)];
            differences = vec![format!("type {}, not {}", types[0], types[1])];
        }
        if !differences.is_empty() {
            return Err(Refused::new(
                format!(
                    "its map `{}` is pinned as {} with other parameters: {}",
                    map.name,
                    pin.display(),
                    differences.join(", ")
                ),
                "if no other program needs it, remove the pin; else declare the map as it is pinned",
            ));
        }
    }
    Ok(())
}

const ARRAY: Option<MapType> = Some(MapType::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);

pub(super) fn takes_sockets(map: Option<MapType>) -> bool {
    use MapType as Type;

    let others = [Type::BPF_MAP_TYPE_SOCKMAP, Type::BPF_MAP_TYPE_SOCKHASH];
    map == ARRAY || map.is_some_and(|map| others.contains(&map))
}

/// The maps that the program uses, without those of variables.
pub(super) fn used<'a>(contents: &'a Contents, uses: &Uses) -> Vec<MapContents<'a>> {
    contents.maps().filter(|map| uses.maps.iter().any(|used| used == map.name)).collect()
}

pub(super) fn type_name(of: Option<MapType>) -> String {
    of.map_or_else(|| "of an unknown type".to_owned(), |of| format!("{of:?}"))
}

fn all_maps(contents: &Contents) -> String {
    let names: Vec<&str> = contents.maps().map(|map| map.name).collect();
    format!("its maps: {}", listed(&names))
}

pub(super) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "),
    }
}
