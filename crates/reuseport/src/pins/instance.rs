//! One instance of a group's program, pinned: the program, its setup, its table with the roster. Another policy is
//! another instance over the same sockets.
//!
//! | pin | what |
//! |---|---|
//! | `setup` | what the program decides by |
//! | `tables` | the array in which the program finds its table |
//! | `select` | the program |
//! | `table` | the table in force. Pinned last: without it, the instance is incomplete |
//! | `table_next` | a table that is to take its place: `tables` tells whether it has |

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use sk_reuseport::maps::{Array, Map, MapData, MapError};
use sk_reuseport::programs::{ProgramError, ProgramInfo, SkReuseport, SkReuseportAttachType};

use super::bpffs;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::recognise::SETUP;
use crate::kernel::tables::{Length, TableMap, Tables};
use crate::model::roster::Roster;
use crate::model::selection::Program;
use crate::model::table::Table;
use crate::wire::header::Header;
use crate::wire::setup::Setup;
use crate::wire::slot::SlotRecord;

const PREFIX: &str = "program-";
const TABLES: &str = "tables";
const PROGRAM: &str = "select";
const TABLE: &str = "table";
const NEXT_TABLE: &str = "table_next";

/// Where the previous schema has the roster, in the group's directory.
const PREVIOUS_SLOTS: &str = "slots";

/// And the program that is to replace the present one.
const PREVIOUS_NEXT: &str = "select_next";

/// What the previous schema pins of a program, in the group's directory.
const PREVIOUS: [&str; 4] = [PROGRAM, PREVIOUS_NEXT, TABLES, PREVIOUS_SLOTS];

/// A program with its setup and its table.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Its directory has this number; 0: of the previous schema, whose pins are in the group's directory.
    number: u32,
    program: Option<u32>,
    pub(crate) setup: Setup,
    /// The roster in force.
    pub(crate) roster: Roster,
    maps: Option<Maps>,
    next: Option<(TableMap, Roster)>,
    /// The table in force still has the name of the next one.
    misnamed: bool,
}

/// The maps of an instance of this schema.
#[derive(Debug)]
struct Maps {
    setup: Array<MapData, Setup>,
    tables: Tables,
    table: TableMap,
}

impl Instance {
    /// An instance that is not pinned yet.
    pub(crate) fn create(
        number: u32,
        setup: Setup,
        tables: Tables,
        table: TableMap,
        roster: Roster,
    ) -> Result<Self, MapError> {
        let mut setup_map = Array::create_named(SETUP, 1, 0)?;
        setup_map.set(0, setup, 0)?;
        let maps = Some(Maps { setup: setup_map, tables, table });
        Ok(Self { number, program: None, setup, roster, maps, next: None, misnamed: false })
    }

    /// The instances in a group's directory that are complete, the first one first.
    pub(crate) fn all(
        base: &Path,
        slots: usize,
        unreadable: impl Fn(MapError) -> Error + Copy,
    ) -> Result<Vec<Self>> {
        directories(base)
            .filter(|(_, directory)| directory.join(TABLE).exists())
            .map(|(number, directory)| {
                let program = program_id(&directory.join(PROGRAM))?;
                Self::open(&directory, number, program, slots).map_err(unreadable)
            })
            .collect()
    }

    fn open(
        directory: &Path,
        number: u32,
        program: Option<u32>,
        slots: usize,
    ) -> Result<Self, MapError> {
        let setup_map: Array<_, Setup> =
            Map::from_map_data(MapData::from_pin(directory.join(SETUP))?)?.try_into()?;
        let setup = setup_map.get(&0, 0)?;
        let tables = Tables::from_pin(directory.join(TABLES))?;
        let table = TableMap::from_pin(directory.join(TABLE))?;
        let roster = table.roster(slots)?;
        let next = match TableMap::from_pin(directory.join(NEXT_TABLE)) {
            Err(error) if caps::os_error(&error) == Some(Errno::NOENT) => None,
            result => Some(result?),
        };
        let next = next.map(|next| Ok::<_, MapError>((next.roster(slots)?, next))).transpose()?;
        Ok(Self {
            number,
            program,
            setup,
            roster,
            maps: Some(Maps { setup: setup_map, tables, table }),
            next: next.map(|(roster, next)| (next, roster)),
            misnamed: false,
        })
    }

    /// The program of a state of the previous schema; `None` if nothing of it is there.
    pub(crate) fn of_previous_schema(
        base: &Path,
        header: &Header,
        attached: Option<u32>,
        unreadable: impl Fn(MapError) -> Error + Copy,
    ) -> Result<Option<Self>> {
        let slots = match MapData::from_pin(base.join(PREVIOUS_SLOTS)) {
            Err(error) if caps::os_error(&error) == Some(Errno::NOENT) => return Ok(None),
            result => result.map_err(unreadable)?,
        };
        let roster = || -> Result<Roster, MapError> {
            let slots: Array<_, SlotRecord> = Map::from_map_data(slots)?.try_into()?;
            let records = slots.iter().map(|record| Ok((&record?).into()));
            Ok(Roster::from_records(records.collect::<Result<_, MapError>>()?))
        };
        let roster = roster().map_err(unreadable)?;
        let mut program = program_id(&base.join(PROGRAM))?;
        if attached.is_some() && program != attached {
            program = program_id(&base.join(PREVIOUS_NEXT))?
                .filter(|next| Some(*next) == attached)
                .or(program);
        }
        let setup = header.previous_setup(attached);
        Ok(Some(Self {
            number: 0,
            program,
            setup,
            roster,
            maps: None,
            next: None,
            misnamed: false,
        }))
    }

    /// Whether an earlier version pinned it, so that another instance has to take its place before a table is written
    /// that this one would misread.
    pub(crate) fn is_of_earlier_version(&self) -> bool {
        self.is_of_previous_schema() || self.setup.misreads_standby()
    }

    /// Whether it is of the previous schema, and has to be converted before it is changed.
    pub(crate) fn is_of_previous_schema(&self) -> bool {
        self.number == 0
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The id of the pinned program; `None` if there is none.
    pub(crate) fn program_id(&self) -> Option<u32> {
        self.program
    }

    /// The map of the setup, for the program to be bound to.
    pub(crate) fn setup_map(&self) -> Option<&Array<MapData, Setup>> {
        Some(&self.maps.as_ref()?.setup)
    }

    /// Every roster of it, in force or not.
    pub(crate) fn rosters(&self) -> impl Iterator<Item = &Roster> {
        [&self.roster].into_iter().chain(self.next.as_ref().map(|(_, roster)| roster))
    }

    /// The roster of the table that is announced.
    pub(crate) fn next_roster(&self) -> Option<&Roster> {
        self.next.as_ref().map(|(_, roster)| roster)
    }

    /// The directory of its pins.
    fn directory(&self, base: &Path) -> PathBuf {
        match self.number {
            0 => base.to_owned(),
            number => base.join(format!("{PREFIX}{number}")),
        }
    }

    /// Pins it. It counts from the last pin on.
    pub(crate) fn pin(&mut self, base: &Path, program: &mut SkReuseport) -> Result<()> {
        let failed = |error| {
            Error::new(ErrorKind::System, "cannot pin the program of the group").because(error)
        };
        let Some(maps) = &self.maps else { return Ok(()) };
        let directory = self.directory(base);
        bpffs::remove_directory(&directory)?;
        bpffs::make_directory(&directory)?;
        maps.setup.map_data().pin(directory.join(SETUP)).map_err(failed)?;
        maps.tables.data().pin(directory.join(TABLES)).map_err(failed)?;
        program.pin(directory.join(PROGRAM)).map_err(failed)?;
        maps.table.pin(directory.join(TABLE)).map_err(failed)?;
        let info = program.info().map_err(cannot_open)?;
        self.program = Some(info.id());
        Ok(())
    }

    /// Removes its pins.
    pub(crate) fn unpin(&self, base: &Path) -> Result<()> {
        match self.number {
            0 => {
                for pin in PREVIOUS {
                    // The roster goes last: without it the rest is nothing.
                    bpffs::remove_pin(&base.join(pin))?;
                }
                Ok(())
            }
            _ => bpffs::remove_directory(&self.directory(base)),
        }
    }

    /// Pins a table that is to take the place of the present one: its members may enter the socket array from now
    /// on. Replaces one that was announced before.
    pub(crate) fn announce(
        &mut self,
        base: &Path,
        capacity: u32,
        roster: Roster,
        table: &Table,
    ) -> Result<()> {
        const FAILED: &str = "cannot prepare the table";

        let next = TableMap::create(length(&self.setup, capacity, &roster), table, &roster)
            .map_err(|error| caps::failed(FAILED, error, caps::LOADING))?;
        self.adopt_shown(base)?;
        let pin = self.directory(base).join(NEXT_TABLE);
        bpffs::remove_pin(&pin)?;
        next.pin(&pin).map_err(|error| Error::new(ErrorKind::System, FAILED).because(error))?;
        self.next = Some((next, roster));
        Ok(())
    }

    /// Puts the announced table into force, if there is one: programs read it. It can still be
    /// [taken back](Self::take_back).
    pub(crate) fn swap(&mut self) -> Result<(), MapError> {
        match (&mut self.maps, &self.next) {
            (Some(maps), Some((next, _))) => maps.tables.set(next),
            _ => Ok(()),
        }
    }

    /// Makes the announced table that was put into force the present one.
    pub(crate) fn adopt(&mut self, base: &Path) -> Result<()> {
        self.show_next();
        self.adopt_shown(base)
    }

    /// Shows the announced table if programs read it. Its pin keeps its name.
    pub(crate) fn show_in_force(&mut self) -> Result<(), MapError> {
        if self.has_swapped()? {
            self.show_next();
        }
        Ok(())
    }

    fn show_next(&mut self) {
        if let (Some(maps), Some((table, roster))) = (&mut self.maps, self.next.take()) {
            maps.table = table;
            self.roster = roster;
            self.misnamed = true;
        }
    }

    /// Names the table in force.
    pub(crate) fn adopt_shown(&mut self, base: &Path) -> Result<()> {
        if self.misnamed {
            let directory = self.directory(base);
            fs::rename(directory.join(NEXT_TABLE), directory.join(TABLE))
                .map_err(|error| bpffs::denied("cannot pin the table".to_owned(), error))?;
            self.misnamed = false;
        }
        Ok(())
    }

    /// Drops the announced table, and puts the present one into force again.
    pub(crate) fn take_back(&mut self, base: &Path) -> Result<()> {
        if self.next.is_none() {
            return Ok(());
        }
        let swapped = self.has_swapped();
        if let (Some(maps), false) = (&mut self.maps, matches!(swapped, Ok(false))) {
            maps.tables
                .set(&maps.table)
                .map_err(|error| caps::failed("cannot put the table back", error, caps::LOADING))?;
        }
        self.next = None;
        bpffs::remove_pin(&self.directory(base).join(NEXT_TABLE))
    }

    /// Whether programs read the announced table.
    fn has_swapped(&self) -> Result<bool, MapError> {
        match (&self.maps, &self.next) {
            (Some(maps), Some((next, _))) => maps.tables.has(next),
            _ => Ok(false),
        }
    }

    /// Opens the program; `None` if the instance is incomplete: there is no such pin, or it is no program.
    pub(crate) fn open_program(&self, base: &Path) -> Result<Option<SkReuseport>> {
        let directory = self.directory(base);
        let names: &[&str] = if self.number == 0 { &[PROGRAM, PREVIOUS_NEXT] } else { &[PROGRAM] };
        for name in names {
            let opened =
                SkReuseport::from_pin(directory.join(name), SkReuseportAttachType::SelectOrMigrate);
            let Some(program) = unless_missing(opened)? else { continue };
            if self.program == Some(program.info().map_err(cannot_open)?.id()) {
                return Ok(Some(program));
            }
        }
        Ok(None)
    }
}

/// The rosters that are pinned in a group's directory, of instances complete or not.
pub(crate) fn pinned_rosters(base: &Path, slots: usize) -> Vec<Roster> {
    let tables = directories(base)
        .flat_map(|(_, directory)| [TABLE, NEXT_TABLE].map(|name| directory.join(name)));
    tables.filter_map(|pin| TableMap::from_pin(pin).ok()?.roster(slots).ok()).collect()
}

/// Removes what interrupted commands pinned of instances that are not complete.
pub(crate) fn remove_incomplete(base: &Path) -> Result<()> {
    directories(base)
        .filter(|(_, directory)| !directory.join(TABLE).exists())
        .try_for_each(|(_, directory)| bpffs::remove_directory(&directory))
}

/// Whether the connections of a group are counted for one of its programs; `None` if that is not told.
pub(crate) fn is_counted(base: &Path) -> Option<bool> {
    let mut setups = directories(base).map(|(_, directory)| {
        let setup = Map::from_map_data(MapData::from_pin(directory.join(SETUP)).ok()?).ok()?;
        let setup: Array<_, Setup> = setup.try_into().ok()?;
        setup.get(&0, 0).ok()
    });
    let first = setups.next()??;
    setups.try_fold(first.is_counted(), |counted, setup| Some(counted || setup?.is_counted()))
}

fn directories(base: &Path) -> impl Iterator<Item = (u32, PathBuf)> + use<> {
    let mut numbers: Vec<u32> = bpffs::names(base)
        .unwrap_or_default()
        .iter()
        .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok())
        .filter(|number| *number != 0)
        .collect();
    numbers.sort_unstable();
    let base = base.to_owned();
    numbers.into_iter().map(move |number| (number, base.join(format!("{PREFIX}{number}"))))
}

fn length(setup: &Setup, capacity: u32, roster: &Roster) -> Length {
    match setup.program() {
        Some(Program::Selection(_)) => Length::of_policy(capacity),
        _ => Length::of_object(roster.records().len()),
    }
}

fn program_id(pin: &Path) -> Result<Option<u32>> {
    Ok(unless_missing(ProgramInfo::from_pin(pin))?.map(|info| info.id()))
}

/// `None` if there is no such pin, or if it is not a program.
fn unless_missing<T>(opened: Result<T, ProgramError>) -> Result<Option<T>> {
    match opened {
        Ok(program) => Ok(Some(program)),
        Err(error) if matches!(caps::os_error(&error), Some(Errno::NOENT) | None) => Ok(None),
        Err(error) => Err(cannot_open(error)),
    }
}

fn cannot_open(error: ProgramError) -> Error {
    Error::new(ErrorKind::System, "cannot open the pinned program").because(error)
}
