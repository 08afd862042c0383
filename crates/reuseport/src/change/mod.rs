//! Changes groups: one transaction for each operation, from the lock to the last step.

mod attach;
mod build;
mod check;
mod counting;
mod detach;
mod enrol;
mod members;
mod policy;
mod prepare;
mod present;
mod promote;
mod reach;
mod refill;
pub(crate) mod request;
mod settle;
mod table;
mod takeover;
pub(crate) mod transaction;
