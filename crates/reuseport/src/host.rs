//! The whole host: every group, and everything that this tool knows of it.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::borrow::cookie_of;
use crate::kernel::observe::Observer;
use crate::look::view;
use crate::model::group::{Group, GroupKey};
use crate::model::id::Netns;
use crate::model::spec::GroupSpec;
use crate::model::status::GroupStatus;

/// A view of the whole host. Looking changes nothing.
///
/// # Example
///
/// ```no_run
/// let host = reuseport::Host::open()?;
/// for status in host.statuses()? {
///     println!("{} {:?}", status.group.key, status.steering);
/// }
/// # Ok::<(), reuseport::Error>(())
/// ```
#[derive(Debug)]
pub struct Host {
    observer: Arc<Observer>,
}

impl Host {
    /// Prepares to look. Needs CAP_BPF and CAP_PERFMON.
    ///
    /// # Errors
    ///
    /// As [`Observer::new`].
    pub fn open() -> Result<Self> {
        Ok(Self { observer: Arc::new(Observer::new()?) })
    }

    /// Every group on the host, as the kernel has it.
    ///
    /// # Errors
    ///
    /// As [`Observer::groups`].
    pub fn groups(&self) -> Result<Vec<Group>> {
        self.observer.groups()
    }

    /// For operations that look again.
    pub(crate) fn observer(&self) -> Arc<Observer> {
        Arc::clone(&self.observer)
    }

    /// The calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// As [`Observer::own_netns`].
    pub fn own_netns(&self) -> Result<Netns> {
        self.observer.own_netns()
    }

    /// The group that `spec` names. If it names several: the one in the caller's own network namespace.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::Ambiguous`], and as [`groups`](Self::groups).
    pub fn find(&self, spec: &GroupSpec) -> Result<Group> {
        let groups = self.groups()?;
        let own = self.own_netns()?;
        spec.choose(&groups, Some(own.cookie)).cloned()
    }

    /// The group of a socket of the calling process.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is in none: `SO_REUSEPORT` has to be set before bind(2), and a TCP
    /// socket has to listen. [`ErrorKind::Invalid`] if it is no socket. And as
    /// [`groups`](Self::groups).
    ///
    /// # Example
    ///
    /// ```no_run
    /// use reuseport::Host;
    /// use reuseport::net::Bind;
    ///
    /// let sockets = Bind::new("127.0.0.1:0".parse()?).udp_sockets(4)?;
    /// let group = Host::open()?.group_of(&sockets[0])?;
    /// assert_eq!(group.members.len(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn group_of(&self, socket: impl AsFd) -> Result<Group> {
        let cookie = cookie_of(socket)?;
        let group = self.groups()?.into_iter().find(|group| group.member(cookie).is_some());
        group.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("socket {cookie} is in no group")).with_hint(
                "set SO_REUSEPORT before bind, and listen, as `net::Bind` does; a UDP socket must \
                 not be connected",
            )
        })
    }

    /// A group as it is now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is gone, and as [`groups`](Self::groups).
    pub fn refresh(&self, key: &GroupKey) -> Result<Group> {
        view::group(&self.observer, key)
    }

    /// Everything about every group, except the members' owners.
    ///
    /// # Errors
    ///
    /// As [`groups`](Self::groups). A group whose pinned state cannot be read is shown as one for which
    /// another owner's program decides.
    pub fn statuses(&self) -> Result<Vec<GroupStatus>> {
        view::statuses(&self.observer)
    }

    /// Everything about one group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is gone, and as [`statuses`](Self::statuses).
    pub fn status(&self, key: &GroupKey) -> Result<GroupStatus> {
        view::status(&self.observer, key)
    }
}
