//! One file per verb: its options and help, and what it does with them.

pub(crate) mod agent;
pub(crate) mod attach;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod detach;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod metrics;
pub(crate) mod policy;
pub(crate) mod promote;
pub(crate) mod reload;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod undrain;
pub(crate) mod weight;
