//! What tells of other processes' operations on what is pinned: events of the filesystem.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::pins::bpffs::Root;
use crate::pins::place::Place;

/// A directory appears in another one, or goes.
const APPEARS_OR_GOES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR);

/// What was touched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Touched {
    /// The directory of this name, of a group.
    Group(String),
    /// What concerns all groups, or something that is not told.
    All,
}

/// The root directory, and that of the groups.
pub(super) struct Pins {
    events: OwnedFd,
    groups: Option<i32>,
    /// The name of the host-wide layer's directory.
    host: Option<String>,
}

impl Pins {
    pub(super) fn open() -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { events, groups: None, host: None })
    }

    /// Collects events of the directories as they are now. They are the same ones if they were followed before.
    pub(super) fn follow(&mut self, place: &Place) -> io::Result<()> {
        let root = Root::existing(place).map_err(io::Error::other)?.ok_or(Errno::NOENT)?;
        let host = root.host();
        let directory = host.parent().ok_or(Errno::NOENT)?;
        inotify::add_watch(&self.events, directory, APPEARS_OR_GOES)?;
        self.host = host.file_name().and_then(|name| Some(name.to_str()?.to_owned()));
        self.groups = Some(inotify::add_watch(&self.events, root.groups(), APPEARS_OR_GOES)?);
        Ok(())
    }

    /// All events that are ready.
    pub(super) fn take(&self) -> io::Result<Vec<Touched>> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let mut touched = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(touched),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let flags = event.events();
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let is_end = flags.intersects(ReadFlags::IGNORED | ReadFlags::QUEUE_OVERFLOW);
            touched.extend(match name {
                _ if is_end => Some(Touched::All),
                Some(name) if Some(event.wd()) == self.groups => {
                    Some(Touched::Group(name.to_owned()))
                }
                // Others are steps of operations.
                name if name == self.host.as_deref() => Some(Touched::All),
                _ => None,
            });
        }
    }
}

impl AsFd for Pins {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
