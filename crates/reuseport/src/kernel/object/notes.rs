//! What is worth knowing about a user's object that works.

use std::fmt;

use sk_reuseport::{Contents, MapType};

use super::choose::{self, listed, takes_sockets};
use super::{failed, read};
use crate::error::Result;
use crate::model::selection::ObjectSpec;

/// Something about a user's object that its author may not expect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectNote {
    /// The program's section has a suffix that has no meaning.
    Suffix {
        /// The section.
        section: String,
    },
    /// Programs of other types are not loaded.
    NotLoaded {
        /// Their names and sections.
        programs: Vec<(String, String)>,
    },
    /// The program selects from other maps too, which stay empty.
    NotFilled {
        /// Their names.
        maps: Vec<String>,
    },
    /// The program calls others through a pinned array, which this tool does not fill.
    Calls {
        /// The array.
        map: String,
    },
}

impl fmt::Display for ObjectNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suffix { section } => write!(
                f,
                "section `{section}` counts as `sk_reuseport`: the program is not asked for connections \
                 whose listener closes (`sk_reuseport/migrate`)"
            ),
            Self::NotLoaded { programs } => {
                let of = |(name, section): &(String, String)| format!("{name} ({section})");
                let programs: Vec<String> = programs.iter().map(of).collect();
                write!(f, "not loaded, because they select no sockets: {}", listed(&programs))
            }
            Self::NotFilled { maps } => {
                write!(f, "the program also selects from these, which stay empty: {}", listed(maps))
            }
            Self::Calls { map } => write!(
                f,
                "the program calls others through `{map}`, which is yours to fill; an empty entry is \
                 passed over"
            ),
        }
    }
}

impl ObjectSpec {
    /// What is worth knowing about the object, if it can be used. Nothing is loaded.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an object that cannot be used.
    pub fn notes(&self) -> Result<Vec<ObjectNote>> {
        let failed = failed(self);
        let contents = Contents::parse(&read(self, &failed)?)
            .map_err(|error| super::cannot_use(&failed, error))?;
        let refused = |refused: choose::Refused| refused.error(&failed);
        let program = choose::program(&contents, self).map_err(refused)?;
        let uses = contents.uses(&program);
        let map = choose::map(&contents, self, &program, &uses).map_err(refused)?;

        let mut notes = Vec::new();
        let section = contents.programs().find(|p| p.name() == program).map(|p| p.section());
        if let Some(suffix) = section.and_then(|s| s.strip_prefix("sk_reuseport/"))
            && suffix.split('/').next() != Some("migrate")
        {
            notes.push(ObjectNote::Suffix { section: section.unwrap_or_default().to_owned() });
        }
        let others = contents.programs().filter(|program| program.attach_type().is_none());
        let programs: Vec<_> =
            others.map(|other| (other.name().to_owned(), other.section().to_owned())).collect();
        if !programs.is_empty() {
            notes.push(ObjectNote::NotLoaded { programs });
        }
        let used = choose::used(&contents, &uses);
        let unfilled = used.iter().filter(|one| takes_sockets(one.map_type) && one.name != map);
        let maps: Vec<String> = unfilled.map(|map| map.name.to_owned()).collect();
        if !maps.is_empty() {
            notes.push(ObjectNote::NotFilled { maps });
        }
        let calls =
            used.iter().filter(|one| one.map_type == Some(MapType::BPF_MAP_TYPE_PROG_ARRAY));
        notes.extend(calls.map(|map| ObjectNote::Calls { map: map.name.to_owned() }));
        Ok(notes)
    }
}
