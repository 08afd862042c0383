//! SHARE and skew after changes.

use serde_json::{Value, json};

use super::changes::{connect, each, show};
use crate::common::{group, isolated, stdout};

#[test]
fn shares_and_skew_are_of_the_picks_since_the_last_change() {
    isolated(|| {
        let (listeners, group) = group(2);
        stdout(&["attach", &group, "--policy", "round-robin"]);
        let mut clients = connect(&listeners, 10);
        assert_eq!(show(&group)["skew"], 0.0);
        let changes: [(&[&str], usize, Value); 5] = [
            (&["weight", &group, "slot:0=3"], 4, json!([0.75, 0.25])),
            (&["drain", &group, "slot:0"], 3, json!([0.0, 1.0])),
            (&["undrain", &group, "slot:0"], 4, json!([0.75, 0.25])),
            (&["policy", &group, "random"], 0, json!([null, null])),
            (&["policy", &group, "round-robin"], 8, json!([0.75, 0.25])),
        ];
        let mut all = 10;
        for (change, picks, shares) in changes {
            stdout(change);
            let shown = show(&group);
            assert_eq!(shown["skew"], Value::Null, "{change:?}: {shown}");
            assert_eq!(each(&group, "recent_picks"), json!([0, 0]));
            clients.extend(connect(&listeners, picks));
            all += picks;
            assert_eq!(each(&group, "share"), shares, "{change:?}");
            assert_eq!(show(&group)["counters"]["picks"], all, "all count");
            if picks > 0 {
                assert_eq!(show(&group)["skew"], 0.0, "{change:?}");
            }
        }
    });
}
