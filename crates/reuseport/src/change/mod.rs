//! Changes groups: one transaction for each operation, from the lock to the last step.

mod ahead;
mod attach;
pub(crate) mod batch;
mod build;
mod check;
mod counting;
mod detach;
mod enrol;
pub(crate) mod locked;
mod members;
mod policy;
mod prepare;
mod prepared;
mod present;
mod promote;
mod reach;
mod refill;
pub(crate) mod request;
mod settle;
mod table;
mod takeover;
pub(crate) mod transaction;
