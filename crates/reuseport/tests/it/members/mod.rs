//! Who is a member, and what becomes of members that cannot be borrowed.

mod accepting;
mod connected;
mod hidden;
mod io_uring;
mod letting_go;
mod missed;
mod owner;
mod threads;
mod waiting;

use std::collections::BTreeMap;

use reuseport::group::{Group, Unborrowable};
use reuseport::id::Cookie;

/// Why each member cannot be borrowed.
pub(super) fn reasons(group: &Group) -> BTreeMap<Option<Cookie>, Option<Unborrowable>> {
    group.members.iter().map(|member| (member.cookie, member.unborrowable())).collect()
}
