//! What all types of programs share: the code before loading, the descriptor after it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya_obj::VerifierLog;
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

use super::fd::ProgramFd;
use super::info::{ProgramInfo, ProgramType};
use super::links::Links;
use crate::error::{PinError, ProgramError};
use crate::maps::MapFd;
use crate::pin::{self, ObjectKind};
use crate::sys::{self, ProgDebug, ProgLoad};
use crate::verifier::{VerifierLogLevel, with_log};

/// A program of an object, ready to be loaded.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) license: CString,
    pub(crate) function: aya_obj::Function,
    pub(crate) flags: u32,
    /// The object's own BTF, loaded into the kernel.
    pub(crate) btf: Option<Arc<OwnedFd>>,
    /// Instructions refer to maps by the numbers of these descriptors, which must stay open.
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
    /// Empty for programs that select sockets.
    pub(crate) links: Links,
}

impl ProgramData {
    pub(crate) fn new(name: String, code: Code) -> Self {
        Self { name, code: Some(code), fd: None, pin: None, links: Links::default() }
    }

    /// Opens a pinned program.
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

    /// Loads the program. The verifier writes a log only if the first try fails: the log costs more
    /// than verifying.
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
            Err(io_error) => match missing(&io_error, program_type, attach_type) {
                Some((program_type, since)) => {
                    Err(ProgramError::Unsupported { program_type, since, io_error })
                }
                None => {
                    Err(ProgramError::LoadError { io_error, verifier_log: VerifierLog::new(log) })
                }
            },
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

/// The type of program that the kernel lacks, with the version that introduced it, if that is why
/// it refused one. EINVAL has many reasons, so this tries to load a program that does nothing.
fn missing(
    error: &io::Error,
    program_type: bpf_prog_type,
    attach_type: Option<bpf_attach_type>,
) -> Option<(&'static str, &'static str)> {
    use bpf_attach_type::BPF_SK_REUSEPORT_SELECT_OR_MIGRATE;
    use bpf_prog_type::BPF_PROG_TYPE_SK_REUSEPORT;

    let of_this_type = program_type as u32 == BPF_PROG_TYPE_SK_REUSEPORT as u32;
    if error.raw_os_error() != Some(libc::EINVAL) || !of_this_type {
        return None;
    }
    if !is_refused(program_type, attach_type) {
        return None;
    }
    let migrates =
        attach_type.map(|it| it as u32) == Some(BPF_SK_REUSEPORT_SELECT_OR_MIGRATE as u32);
    if migrates && !is_refused(program_type, None) {
        return Some(("sk_reuseport/migrate", "5.14"));
    }
    Some(("sk_reuseport", "4.19"))
}

/// Whether the kernel refuses a program of this type that does nothing.
fn is_refused(program_type: bpf_prog_type, attach_type: Option<bpf_attach_type>) -> bool {
    sys::bpf_prog_probe(program_type, attach_type)
        .is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}
