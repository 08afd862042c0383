//! What clients lose while servers restart.
//!
//! Real servers with the configuration of their recipes ([`servers`]) are restarted again and again while clients ask
//! them ([`clients`]), in one of several ways ([`rollover::Way`]); [`run`] does so some times, [`soak`] thousands of
//! times in parts. Each request without an answer is a loss, and [`account`] says whose.

pub mod account;
pub mod clients;
pub mod exchange;
mod instance;
pub mod protocol;
pub mod record;
pub mod rollover;
pub mod run;
pub mod servers;
pub mod soak;
pub mod tally;
