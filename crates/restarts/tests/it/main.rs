//! The account itself: whose loss a connection is.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

mod account;
