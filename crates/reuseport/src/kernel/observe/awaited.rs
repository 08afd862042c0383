//! Which sockets are waited for now: a few that are asked for by their addresses, which costs the same on a host with
//! any number of others.

use std::collections::HashSet;

use sk_reuseport::maps::{Array, MapData};

use super::{Observer, Programs, TABLES, failed, iterator, read_records};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::types::types;
use crate::model::group::KernelAddress;
use crate::model::held::HeldSocket;
use crate::model::id::Cookie;
use crate::wire::cursor::{Asked, MAX_ASKED};
use crate::wire::records::Record;

impl Observer {
    /// Those of these sockets for which a thread waits now, or a request of io_uring.
    ///
    /// # Errors
    ///
    /// As [`can_see_waiters`](Self::can_see_waiters).
    pub(crate) fn awaited(&self, sockets: &[HeldSocket]) -> Result<Vec<Cookie>> {
        let mut awaited = HashSet::new();
        for part in sockets.chunks(MAX_ASKED as usize) {
            let asked: Vec<Asked> =
                part.iter().map(|(cookie, address)| Asked::new(*cookie, *address)).collect();
            awaited.extend(self.lock().awaited(&asked)?);
        }
        let of = |(cookie, address): &HeldSocket| awaited.contains(address).then_some(*cookie);
        Ok(sockets.iter().filter_map(of).collect())
    }

    /// Checks that the kernel shows who waits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if it does not, [`ErrorKind::Denied`] if the caller lacks the rights.
    pub(crate) fn can_see_waiters(&self) -> Result<()> {
        self.lock().loaded().map(drop)
    }
}

impl Programs {
    fn loaded(&mut self) -> Result<&Array<MapData, Asked>> {
        let program = iterator(&mut self.ebpf, "awaited")?;
        if program.fd().is_err() {
            let btf = types().map_err(failed)?;
            program.load(TABLES, btf).map_err(|error| {
                let error = failed(error);
                match error.kind() {
                    ErrorKind::Denied => error,
                    _ => Error::new(
                        ErrorKind::Unsupported,
                        "cannot hold newcomers until they accept: it cannot be seen who waits for sockets",
                    )
                    .because(error)
                    .with_hint("`--hold-new=on` holds them until they are promoted"),
                }
            })?;
        }
        if self.asked.is_none() {
            let map = self.ebpf.take_map("asked");
            let map = map.ok_or_else(|| failed("the embedded object has no map \"asked\""))?;
            self.asked = Some(map.try_into().map_err(failed)?);
        }
        self.asked.as_ref().ok_or_else(|| failed("the embedded object has no map \"asked\""))
    }

    /// At most [`MAX_ASKED`] sockets.
    fn awaited(&mut self, sockets: &[Asked]) -> Result<Vec<KernelAddress>> {
        self.loaded()?;
        let Some(asked) = &mut self.asked else { return Ok(Vec::new()) };
        // What was asked for before is still there, and its answer is passed over.
        for (index, socket) in (0..).zip(sockets) {
            asked.set(index, *socket, 0).map_err(failed)?;
        }
        let program = iterator(&mut self.ebpf, "awaited")?;
        let link = program.attach_to_map(asked.map_data()).map_err(failed)?;
        let link = program.take_link(link).map_err(failed)?;
        let records = read_records(link.into_file().map_err(failed)?)?;
        let of = |record: &Record| match record {
            Record::Awaited { sock_address } => Some(KernelAddress(*sock_address)),
            _ => None,
        };
        Ok(records.iter().filter_map(of).collect())
    }
}
