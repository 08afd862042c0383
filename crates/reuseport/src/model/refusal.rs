//! Errors about a group that several operations share.

use super::group::{AttachedProgram, Group, GroupKey, Reach};
use super::id::{Cookie, Slot};
use super::name::listed;
use super::selection::{Program, Steering};
use crate::error::{Error, ErrorKind};

/// The group does not exist.
pub(crate) fn no_group(key: &GroupKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no group {key}"))
        .with_hint("`reuseport ls` shows every group")
}

/// No program of this tool is attached.
pub(crate) fn not_attached(key: &GroupKey) -> Error {
    Error::new(ErrorKind::NotAttached, format!("no program of this tool is attached to {key}"))
}

/// Another owner's program decides; `what` names the operation: "attach to".
pub(crate) fn foreign_program(key: &GroupKey, program: &AttachedProgram, what: &str) -> Error {
    let which = match program.id {
        Some(id) => format!("program {} (id {id})", program.name),
        None => "a classic BPF program".to_owned(),
    };
    Error::new(ErrorKind::Foreign, format!("will not {what} {key}"))
        .because(format!("{which} of another owner decides there"))
        .with_hint("`attach --force` replaces it, for good: it cannot be put back")
}

/// What decides has changed since the operation began.
pub(crate) fn changed_meanwhile(key: &GroupKey) -> Error {
    Error::new(ErrorKind::Foreign, format!("will not change what decides for {key}"))
        .because("another process attached or detached a program meanwhile")
        .with_hint("try again")
}

/// Another program than this state's decides, as `steering` says.
pub(crate) fn another_program(
    key: &GroupKey,
    steering: &Steering,
    program: &AttachedProgram,
    what: &str,
) -> Error {
    let by = match steering.program() {
        Some(Program::Selection(selection)) => format!("reuseport {}", selection.policy.name()),
        Some(Program::Object(())) => "a user's object".to_owned(),
        None => "a newer version of reuseport".to_owned(),
    };
    let id = program.id.map_or_else(String::new, |id| format!(" (id {id})"));
    let (state, hint) = match steering {
        Steering::Emptied(_) => (
            "is attached there without members, as `detach` leaves it where no socket can be borrowed",
            "`detach` removes it once a socket can be borrowed, and `attach --force` replaces it; it ends \
             with the group",
        ),
        Steering::Elsewhere(_) => (
            "decides there, and its state is pinned elsewhere or not at all",
            "`detach` removes it, and `attach --force` replaces it; or set REUSEPORT_BPFFS as it was \
             when it was attached",
        ),
        _ => return foreign_program(key, program, what),
    };
    Error::new(ErrorKind::Foreign, format!("will not {what} {key}"))
        .because(format!("{by}{id} {state}"))
        .with_hint(hint)
}

/// The state belongs to a user who may open it, too; `what` names the operation: "change the policy of".
pub(crate) fn another_users_state(key: &GroupKey, owner: u32, what: &str) -> Error {
    Error::new(ErrorKind::Denied, format!("will not {what} {key}"))
        .because(format!("its program and maps belong to uid {owner}, who may change them, too"))
        .with_hint("run it as that user; `attach` as root builds the group again, as root's")
}

/// What to do where a user's own map is in use by others.
pub(crate) const OWN_MAP: &str = "the map is pinned by name (LIBBPF_PIN_BY_NAME): give each group an object with a map of its own; \
     `reuseport show` lists the cookies of a group";

/// The user's own map, pinned by name, has sockets of other groups, by index: another process or the program
/// of another group uses it.
pub(crate) fn map_in_use(key: &GroupKey, strangers: &[(Slot, Cookie)]) -> Error {
    const NAMED: usize = 4;

    let name = |(slot, cookie): &(Slot, Cookie)| format!("cookie:{cookie} at index {slot}");
    Error::new(ErrorKind::Invalid, format!("cannot put the members of {key} into the object's map"))
        .because(format!(
            "it has sockets of other groups: {}",
            listed(strangers.iter().map(name), NAMED)
        ))
        .with_hint(OWN_MAP)
}

/// No member of the group is left.
pub(crate) fn vanished(key: &GroupKey) -> Error {
    Error::new(ErrorKind::Vanished, format!("cannot reach any member of {key}"))
        .because("all of them have closed")
        .with_hint("`reuseport ls` shows what is there now")
}

/// The most groups that an error lists where several match.
const CANDIDATES: usize = 16;

/// The columns of a line with its `hint: `.
const COLUMNS: usize = 80 - "hint: ".len();

/// What to do where a name means several groups: each as it is written, in one line if they fit, with what tells
/// the user which is which.
pub(crate) fn name_one(groups: &[&Group]) -> String {
    const NAME_ONE: &str = "name one of them:";

    let name = |group: &Group| match (group.key.of, group.members.first()) {
        // The listing knew no other group of its name.
        (None, Some(member)) if groups.iter().filter(|g| g.key == group.key).count() > 1 => {
            GroupKey { of: member.cookie, ..group.key.clone() }.to_string()
        }
        _ => group.key.to_string(),
    };
    let names: Vec<String> = groups.iter().map(|group| name(group)).collect();
    let plain = groups.iter().all(|group| !group.reach.is_split());
    let line = format!("{NAME_ONE} {}", enumerate(names.clone(), CANDIDATES, "or"));
    if plain && line.chars().count() <= COLUMNS {
        return line;
    }
    let shown = names.iter().zip(groups).take(CANDIDATES);
    let widest = shown.clone().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut lines = NAME_ONE.to_owned();
    for (name, group) in shown {
        lines += &format!("\n  {name:widest$}  {}", describe(group));
    }
    if let more @ 1.. = names.len().saturating_sub(CANDIDATES) {
        lines += &format!("\nand {more} more, which `reuseport ls` shows");
    }
    lines
}

/// "2 members, gets the traffic".
fn describe(group: &Group) -> String {
    let members = group.members.len();
    let mut text = format!("{members} member{}", if members == 1 { "" } else { "s" });
    match group.reach {
        Reach::First => text += ", gets the traffic",
        Reach::Behind => text += ", gets nothing new",
        Reach::Alone | Reach::Unknown => {}
    }
    text
}

/// "a, b and c"; beyond `most`, "a, b and 7 more".
pub(crate) fn enumerate(mut items: Vec<String>, most: usize, last: &str) -> String {
    let more = items.len().saturating_sub(most);
    items.truncate(most);
    if more > 0 {
        items.push(format!("{more} more"));
    }
    match items.pop() {
        Some(only) if items.is_empty() => only,
        Some(end) => format!("{} {last} {end}", items.join(", ")),
        None => String::new(),
    }
}
