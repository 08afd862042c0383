//! The pins of the program of a group's state, and of one that is about to replace it.

use std::fs;
use std::io;

use rustix::io::Errno;
use sk_reuseport::programs::{ProgramError, ProgramInfo, SkReuseport, SkReuseportAttachType};

use super::group::{GroupState, PROGRAM};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;

/// The pin of a program that is about to replace the present one.
const NEXT_PROGRAM: &str = "select_next";

impl GroupState {
    /// Pins the program that is about to replace the present one, as [`NEXT_PROGRAM`].
    pub(crate) fn pin_next(&self, program: &mut SkReuseport) -> Result<()> {
        let next = self.pin(NEXT_PROGRAM);
        // Maps that the state lacked are the program's from here on.
        let maps = self.policy_maps.as_ref().map_or(Ok(()), |maps| maps.pin(&self.pins()));
        maps.and_then(|()| program.pin(&next)).map_err(|error| {
            Error::new(ErrorKind::System, "cannot pin the new program").because(error)
        })
    }

    /// The next program is attached: its pin replaces the old one. Without a pin, an interrupted command
    /// has done so already.
    pub(crate) fn adopt_next(&self) -> Result<()> {
        let (next, current) = (self.pin(NEXT_PROGRAM), self.pin(PROGRAM));
        match fs::rename(next, current) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::System, "cannot pin the new program").because(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the pin of a next program that was not attached, if there is one.
    pub(crate) fn forget_next(&self) {
        // After a failure, the next change removes it.
        let _ = fs::remove_file(self.pin(NEXT_PROGRAM));
    }

    /// The pinned program.
    pub(crate) fn program(&self) -> Result<SkReuseport> {
        self.open_program(PROGRAM).map_err(cannot_open)
    }

    /// The pinned program; `None` if the state is incomplete: there is no such pin, or it is no program.
    pub(crate) fn program_if_pinned(&self) -> Result<Option<SkReuseport>> {
        unless_missing(self.open_program(PROGRAM))
    }

    /// The pinned program with this id, the present one or the next; `None` if neither has it. Another user who
    /// owns the pins may exchange them.
    pub(crate) fn program_with_id(&self, id: u32) -> Result<Option<SkReuseport>> {
        for name in [PROGRAM, NEXT_PROGRAM] {
            let Some(program) = unless_missing(self.open_program(name))? else { continue };
            if program.info().map_err(cannot_open)?.id() == id {
                return Ok(Some(program));
            }
        }
        Ok(None)
    }

    fn open_program(&self, name: &str) -> Result<SkReuseport, ProgramError> {
        SkReuseport::from_pin(self.pin(name), SkReuseportAttachType::SelectOrMigrate)
    }

    /// Whether the program with this id is pinned here, as the present program or the next one.
    pub(crate) fn is_ours(&self, id: u32) -> Result<bool> {
        for name in [PROGRAM, NEXT_PROGRAM] {
            let pinned = unless_missing(ProgramInfo::from_pin(self.pin(name)))?;
            if pinned.is_some_and(|info| info.id() == id) {
                return Ok(true);
            }
        }
        Ok(false)
    }
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
