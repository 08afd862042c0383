//! Prepares an attachment without changing the group: loads the program, creates the maps. What was prepared
//! [ahead](super::ahead) is taken.

use super::ahead::Guess;
use super::prepared::{Prepared, capacity, prepare_object, prepare_selection};
use super::transaction::Transaction;
use crate::error::Result;
use crate::kernel::sockets::SocketsKind;
use crate::model::plan::Build;
use crate::model::selection::{Program, Selection};

impl Transaction<'_> {
    /// `kind` is the type of the map for sockets; a user's object has its own.
    pub(super) fn prepare(&mut self, build: &Build, kind: SocketsKind) -> Result<Prepared> {
        match &build.program {
            Program::Selection(selection) => {
                let slots = capacity(&self.group, build.slots)?;
                self.prepare_selection(*selection, kind, slots)
            }
            Program::Object(spec) => {
                prepare_object(&self.group.key, spec, self.locked.root.bpffs())
            }
        }
    }

    fn prepare_selection(
        &mut self,
        selection: Selection,
        kind: SocketsKind,
        slots: u32,
    ) -> Result<Prepared> {
        let wanted = Guess { key: self.group.key.clone(), selection, slots };
        let layer = match wanted.is_counted() {
            true => Some(self.locked.layer()?.shared()?),
            false => None,
        };
        let ahead = self.locked.ahead.take().filter(|_| kind == SocketsKind::Array);
        let prepared = ahead.and_then(|ahead| ahead.take(&wanted, layer.as_ref()));
        self.locked.look_ahead();
        match prepared {
            Some(prepared) => Ok(prepared),
            None => prepare_selection(&wanted.key, selection, kind, slots, layer.as_ref()),
        }
    }
}
