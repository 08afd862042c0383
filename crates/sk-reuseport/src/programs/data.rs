//! What all types of programs have in common: the code before loading, the descriptor after.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya_obj::VerifierLog;
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

use super::links::Links;
use super::{ProgramError, ProgramFd, ProgramInfo, ProgramType};
use crate::VerifierLogLevel;
use crate::maps::MapFd;
use crate::pin::{self, ObjectKind, PinError};
use crate::sys::{self, ProgDebug, ProgLoad, SyscallError};

/// A program as an object has it, ready to be loaded.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) license: CString,
    pub(crate) function: aya_obj::Function,
    pub(crate) flags: u32,
    /// The object's own BTF, as the kernel has it.
    pub(crate) btf: Option<Arc<OwnedFd>>,
    /// Instructions name maps by the numbers of these descriptors: they must stay open.
    pub(crate) _maps: Arc<[MapFd]>,
    pub(crate) log_level: VerifierLogLevel,
}

#[derive(Debug)]
pub(crate) struct ProgramData {
    name: String,
    /// `None` for a program that was opened from a pin.
    code: Option<Code>,
    fd: Option<ProgramFd>,
    pin: Option<PathBuf>,
    /// None for programs that select sockets.
    pub(crate) links: Links,
}

impl ProgramData {
    pub(crate) fn new(name: String, code: Code) -> Self {
        Self { name, code: Some(code), fd: None, pin: None, links: Links::default() }
    }

    /// A program that is loaded already, from its pin.
    pub(crate) fn from_pin(path: &Path, wanted: ProgramType) -> Result<Self, ProgramError> {
        let fd = pin::open(path)?;
        if !matches!(pin::kind_of(fd.as_fd()), ObjectKind::Program | ObjectKind::Unknown) {
            return Err(ProgramError::UnexpectedProgramType);
        }
        let info = ProgramInfo::new_from_fd(fd.as_fd())?;
        if info.program_type() != wanted {
            return Err(ProgramError::UnexpectedProgramType);
        }
        let name = info.name_as_str().unwrap_or_default().to_owned();
        let (fd, pin) = (Some(ProgramFd(fd)), Some(path.to_owned()));
        Ok(Self { name, code: None, fd, pin, links: Links::default() })
    }

    pub(crate) fn fd(&self) -> Result<&ProgramFd, ProgramError> {
        self.fd.as_ref().ok_or(ProgramError::NotLoaded)
    }

    pub(crate) fn unload(&mut self) -> Result<(), ProgramError> {
        self.links.end_all();
        self.fd.take().map(drop).ok_or(ProgramError::NotLoaded)
    }

    pub(crate) fn pin(&mut self, path: &Path) -> Result<(), PinError> {
        let fd = self.fd.as_ref().ok_or_else(|| PinError::NoFd { name: self.name.clone() })?;
        pin::pin(fd.as_fd(), path)?;
        self.pin = Some(path.to_owned());
        Ok(())
    }

    pub(crate) fn unpin(&mut self) -> Result<(), io::Error> {
        if let Some(path) = &self.pin {
            std::fs::remove_file(path)?;
            self.pin = None;
        }
        Ok(())
    }

    /// Loads the program, with the verifier's log only if the first try fails: writing the log
    /// costs more than verifying.
    pub(crate) fn load(
        &mut self,
        program_type: bpf_prog_type,
        attach_type: Option<bpf_attach_type>,
        attach_btf_id: Option<u32>,
    ) -> Result<(), ProgramError> {
        if self.fd.is_some() {
            return Err(ProgramError::AlreadyLoaded);
        }
        let code = self.code.as_ref().ok_or(ProgramError::AlreadyLoaded)?;
        let name = CString::new(self.name.as_str())
            .map_err(|_| ProgramError::InvalidName { name: self.name.clone() })?;
        let request = code.request(&name, program_type, attach_type, attach_btf_id);
        let (result, log) =
            with_log(code.log_level, |log, level| sys::bpf_prog_load(&request, log, level));
        match result {
            Ok(fd) => {
                self.fd = Some(ProgramFd(fd));
                Ok(())
            }
            Err(io_error) => {
                Err(ProgramError::LoadError { io_error, verifier_log: VerifierLog::new(log) })
            }
        }
    }
}

impl Code {
    fn request<'a>(
        &'a self,
        name: &'a CStr,
        program_type: bpf_prog_type,
        expected_attach_type: Option<bpf_attach_type>,
        attach_btf_id: Option<u32>,
    ) -> ProgLoad<'a> {
        let function = &self.function;
        ProgLoad {
            name: Some(name),
            program_type,
            instructions: &function.instructions,
            license: &self.license,
            expected_attach_type,
            attach_btf_id,
            flags: self.flags,
            debug: self.btf.as_ref().map(|btf| ProgDebug {
                btf: btf.as_fd(),
                func_info: function.func_info.func_info_bytes(),
                func_info_size: function.func_info_rec_size as u32,
                line_info: function.line_info.line_info_bytes(),
                line_info_size: function.line_info_rec_size as u32,
            }),
        }
    }
}

/// Calls `load` without a log, and if it fails again with one, as large as it takes.
pub(crate) fn with_log(
    level: VerifierLogLevel,
    mut load: impl FnMut(&mut [u8], u32) -> io::Result<OwnedFd>,
) -> (io::Result<OwnedFd>, String) {
    const FIRST_SIZE: usize = 64 * 1024;
    // The kernel takes logs of up to 1 GiB, but nobody reads one of more than this.
    const LAST_SIZE: usize = 16 * 1024 * 1024;
    // The verifier gives up with EAGAIN when a signal is pending.
    const TRIES: usize = 10;

    let mut load = |log: &mut [u8]| {
        let mut result = load(log, level.bits());
        for _ in 1..TRIES {
            match &result {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    result = load(log, level.bits());
                }
                _ => break,
            }
        }
        result
    };
    let first = match load(&mut []) {
        Err(error) if !level.is_empty() => error,
        result => return (result, String::new()),
    };
    let mut log = vec![0; FIRST_SIZE];
    loop {
        let result = match load(&mut log) {
            // The log did not fit: what it would have said is at its end.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                if log.len() < LAST_SIZE {
                    log = vec![0; log.len() * 4];
                    continue;
                }
                Err(first)
            }
            result => result,
        };
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let text = String::from_utf8_lossy(&log[..end]).trim_end().to_owned();
        return (result, text);
    }
}

/// For the program types' own errors.
pub(crate) fn syscall(call: &'static str) -> impl FnOnce(io::Error) -> ProgramError {
    move |io_error| SyscallError::of(call)(io_error).into()
}
