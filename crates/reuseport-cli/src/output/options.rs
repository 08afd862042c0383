//! A policy's parameters in the output about a group.

use reuseport::policy::{LeastLoaded, Policy};
use serde::Serialize;

/// A policy's parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum PolicyOptionsView {
    LeastLoaded {
        /// The terms that count: `queue`, `open`.
        load: Vec<&'static str>,
        /// In fair shares.
        max_share: f64,
    },
    Payload {
        /// In bytes.
        offset: u16,
        length: u8,
    },
}

impl PolicyOptionsView {
    pub(super) fn new(policy: Policy) -> Option<Self> {
        match policy {
            Policy::LeastLoaded(LeastLoaded { load, max_share, .. }) => Some(Self::LeastLoaded {
                load: [("queue", load.queue()), ("open", load.open())]
                    .into_iter()
                    .filter_map(|(term, counts)| counts.then_some(term))
                    .collect(),
                max_share: f64::from(max_share.hundredths()) / 100.0,
            }),
            Policy::Payload(payload) => {
                Some(Self::Payload { offset: payload.offset(), length: payload.length() })
            }
            _ => None,
        }
    }

    /// As printed after the policy's name.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::LeastLoaded { load, max_share } => {
                format!("{}; max share {max_share}", load.join(","))
            }
            Self::Payload { offset, length } => format!("offset {offset}, length {length}"),
        }
    }
}
