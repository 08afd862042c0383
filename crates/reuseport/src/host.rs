//! The whole host: every group, and its status.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::change::batch;
use crate::change::locked::Locked;
use crate::change::request::{Attach, Attached};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::borrow::cookie_of;
use crate::kernel::observe::{Extent, Observer};
use crate::kernel::server::server_of;
use crate::look::examine::{self, Examined};
use crate::look::view;
use crate::model::group::{Group, GroupKey};
use crate::model::held::HeldSocket;
use crate::model::id::{Cookie, Netns};
use crate::model::spec::GroupSpec;
use crate::model::status::GroupStatus;
use crate::model::ungrouped::instead;
use crate::pins::place::Place;
use crate::stop::Stop;

/// Finds the groups of the host. Changes nothing.
///
/// Opening loads the iterators that list sockets, which takes longer than listing. Clones share them.
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
#[derive(Debug, Clone)]
pub struct Host {
    observer: Arc<Observer>,
    /// Where state is pinned.
    place: Place,
}

impl Host {
    /// Loads the iterators that list sockets.
    ///
    /// # Minimum kernel version
    ///
    /// Linux 5.12 with `CONFIG_DEBUG_INFO_BTF`. Needs CAP_BPF and CAP_PERFMON in the initial user namespace, and
    /// neither CAP_SYS_PTRACE nor CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] names the capability that is missing; [`ErrorKind::Unsupported`]: a kernel without
    /// BTF or older than 5.12, or one that is locked down for confidentiality.
    pub fn open() -> Result<Self> {
        Ok(Self { observer: Arc::new(Observer::new()?), place: Place::default() })
    }

    /// Like [`open`](Self::open), for groups whose steering ends with this process. Where the BPF filesystem
    /// of the host is out of reach, as in most containers, state is pinned on one that only this process
    /// has. Detach before the process ends: other processes cannot change such a group, only detach it.
    ///
    /// # Minimum kernel version
    ///
    /// Linux 5.2 for a filesystem of its own, which takes CAP_SYS_ADMIN.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); [`ErrorKind::Denied`] if the host's BPF filesystem is out of reach and the
    /// process may not mount one.
    pub fn open_temporary() -> Result<Self> {
        Ok(Self { observer: Arc::new(Observer::new()?), place: Place::of_host_or_process()? })
    }

    /// Every group on the host, in all network namespaces, without pinned state; sorted by protocol, port,
    /// address and namespace, members by cookie.
    ///
    /// It is a walk, not a snapshot: it may miss changes during the walk. Between fork and exec, a child holds
    /// all descriptors of its parent and is listed as a holder.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), if the process has given up its rights since.
    pub fn groups(&self) -> Result<Vec<Group>> {
        self.observer.groups()
    }

    /// As [`groups`](Self::groups), perhaps of a part of the host. Returns also whether it is the whole one.
    pub(crate) fn groups_near(&self, extent: &Extent) -> Result<(Vec<Group>, bool)> {
        self.observer.groups_near(extent)
    }

    /// Those of these sockets for which a thread waits now.
    pub(crate) fn awaited(&self, sockets: &[HeldSocket]) -> Result<Vec<Cookie>> {
        self.observer.awaited(sockets)
    }

    /// Takes the lock, for operations that change groups.
    pub(crate) fn lock(&self, stop: &Stop) -> Result<Locked> {
        self.lock_near(stop, &Extent::Whole)
    }

    /// The same with such a listing.
    pub(crate) fn lock_near(&self, stop: &Stop, extent: &Extent) -> Result<Locked> {
        Locked::new(Arc::clone(&self.observer), &self.place, stop, extent)
    }

    /// Attaches to the first of these groups, and to some after it, under one lock.
    pub(crate) fn attach_some(&self, requests: &[(GroupKey, Attach)]) -> Vec<Result<Attached>> {
        batch::attach_some(&self.observer, &self.place, requests)
    }

    /// Whether the kernel's tables of sockets can be read.
    pub(crate) fn reads_tables(&self) -> Result<bool> {
        self.observer.reads_tables()
    }

    /// Where operations find and pin state.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// As [`groups`](Self::groups).
    pub fn own_netns(&self) -> Result<Netns> {
        self.observer.own_netns()
    }

    /// The group that `spec` names. If it names several, the one in the caller's network namespace. Where
    /// several groups share their name, `spec` has to [name a member](GroupSpec); see also
    /// [`find_steered`](Self::find_steered).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], which [`explain`](Self::explain) can say more of; [`ErrorKind::Ambiguous`]; and as
    /// [`groups`](Self::groups).
    pub fn find(&self, spec: &GroupSpec) -> Result<Group> {
        let groups = self.groups()?;
        let own = self.own_netns()?;
        spec.choose(&groups, Some(own.cookie)).cloned()
    }

    /// Adds to the error that no group matches, [`ErrorKind::NotFound`], which sockets are there instead, in no
    /// group, who has them, and what that server has to do. Those in the caller's network namespace come before those
    /// in others. Returns other errors as they are, and this one if there is no such socket, or the kernel's tables
    /// cannot be read. It lists the host once more.
    #[must_use]
    pub fn explain(&self, error: Error, spec: &GroupSpec) -> Error {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        let mut there = self.observer.ungrouped(spec.port()).unwrap_or_default();
        there.retain(|one| spec.matches_name(&one.key));
        let own = self.own_netns().ok();
        if there.iter().any(|one| Some(one.key.netns) == own) {
            there.retain(|one| Some(one.key.netns) == own);
        }
        instead(error, &there, server_of)
    }

    /// Like [`find`](Self::find). Of several groups that share their name, the one that this tool steers.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub fn find_steered(&self, spec: &GroupSpec) -> Result<Group> {
        self.choose_steered(spec, &self.groups()?).cloned()
    }

    /// The same, among these groups of the host.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub fn choose_steered<'a>(&self, spec: &GroupSpec, groups: &'a [Group]) -> Result<&'a Group> {
        let own = self.own_netns()?;
        let claim = |group: &Group| view::claim_at(&self.place, group);
        spec.choose_with(groups, Some(own.cookie), claim)
    }

    /// The group of a socket of the calling process.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is in no group: `SO_REUSEPORT` must be set before bind(2), and a TCP
    /// socket must listen. [`ErrorKind::Invalid`] if it is not a socket. And as [`groups`](Self::groups).
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

    /// The present members and program of a group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is gone, [`ErrorKind::Ambiguous`] if several have the name and this tool
    /// steers none of them, and as [`groups`](Self::groups).
    pub fn refresh(&self, key: &GroupKey) -> Result<Group> {
        view::group(&self.observer, &self.place, key)
    }

    /// The status of every group, without the members' owners.
    ///
    /// # Errors
    ///
    /// As [`groups`](Self::groups). A group whose pinned state cannot be read is shown as one for which
    /// another owner's program decides.
    pub fn statuses(&self) -> Result<Vec<GroupStatus>> {
        view::statuses(&self.observer, &self.place)
    }

    /// The status of every group, with the processes that follow the groups, and with the members' owners, but without
    /// their CPUs. Where each member on the host is held by one process alone, there are no owners either. Elsewhere
    /// it walks over the descriptors of all processes twice, [`statuses`](Self::statuses) once.
    ///
    /// # Errors
    ///
    /// As [`statuses`](Self::statuses).
    pub fn statuses_in_full(&self) -> Result<Vec<GroupStatus>> {
        view::statuses_in_full(&self.observer, &self.place)
    }

    /// The status of one group, with the members' owners.
    ///
    /// # Errors
    ///
    /// As [`refresh`](Self::refresh) and [`statuses`](Self::statuses).
    pub fn status(&self, key: &GroupKey) -> Result<GroupStatus> {
        view::status(&self.observer, &self.place, key)
    }

    /// All that is worth knowing about these groups, or about all: also what [`status`](Self::status) tells by other
    /// means than findings, whether the group is followed, and what the settings of its network namespace mean for
    /// it. Changes nothing.
    ///
    /// Reading the settings of other network namespaces takes CAP_SYS_ADMIN: without it, [`Examined::unseen`] says
    /// so.
    ///
    /// # Errors
    ///
    /// As [`groups`](Self::groups); [`ErrorKind::NotFound`] if one of the groups is gone.
    pub fn examine(&self, groups: Option<&[GroupKey]>) -> Result<Vec<Examined>> {
        examine::examine(&self.observer, &self.place, groups)
    }
}
