//! The pin of another owner's program while this tool's takes its place: what an interrupted takeover needs to
//! go on.

use std::fs;

use rustix::io::Errno;
use sk_reuseport::programs::{ProgramFd, ProgramInfo};

use super::group::GroupState;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;

const REPLACED_PROGRAM: &str = "replaced";

impl GroupState {
    /// Pins another owner's program that this state's program is about to replace. Its arrays live as long,
    /// so that an interrupted takeover can be completed.
    pub(crate) fn pin_replaced(&self, program: &ProgramFd) -> Result<()> {
        match program.pin(self.pin(REPLACED_PROGRAM)) {
            // An interrupted takeover of the same program.
            Err(error) if caps::os_error(&error) == Some(Errno::EXIST) => Ok(()),
            result => result.map_err(|error| {
                Error::new(ErrorKind::System, "cannot pin the program to replace").because(error)
            }),
        }
    }

    /// Whether the replacement of another owner's program is under way, or was interrupted.
    pub(crate) fn has_replaced(&self) -> bool {
        self.pin(REPLACED_PROGRAM).exists()
    }

    /// The other owner's program whose replacement was interrupted.
    pub(crate) fn replaced(&self) -> Result<Option<ProgramInfo>> {
        match ProgramInfo::from_pin(self.pin(REPLACED_PROGRAM)) {
            Ok(program) => Ok(Some(program)),
            Err(error) if caps::os_error(&error) == Some(Errno::NOENT) => Ok(None),
            Err(error) => {
                Err(Error::new(ErrorKind::System, "cannot open the replaced program")
                    .because(error))
            }
        }
    }

    /// Removes the pin of the other owner's program, if there is one.
    pub(crate) fn forget_replaced(&self) {
        // After a failure, the next command removes it.
        let _ = fs::remove_file(self.pin(REPLACED_PROGRAM));
    }
}
