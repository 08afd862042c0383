//! `docs/rollouts.md` to the letter, with two instances of nginx, under traffic.

use std::net::SocketAddr;

use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use test_support::client::http_get;
use test_support::recipe::{Page, Scene};
use test_support::wait;

use super::traffic::{Ask, during};
use crate::common::{error, isolated, json};

fn states(group: &str) -> Value {
    let shown = json(&["show", group, "--json"]);
    let members = shown["members"].as_array().unwrap();
    members.iter().map(|member| json!([member["generation"], member["state"]])).collect()
}

#[test]
fn slow_the_page_on_roll_outs_holds() {
    isolated(|| {
        let page = Page::read("../rollouts");
        let scene = Scene::new(&page, cargo_bin!("reuseport"));
        let group = page.group();
        let at: SocketAddr = group.split_once(':').unwrap().1.parse().unwrap();
        let answers = |version: &str| {
            for _ in 0..8 {
                assert_eq!(http_get(at), format!("version {version}\n"));
            }
        };
        scene.run(page.script("Configure"));
        wait::until("it listens", wait::BOUND, || std::net::TcpStream::connect(at).is_ok());
        scene.start(page.script("Attach"), "Watching");
        let tally = during(Ask::Http, at, || {
            scene.run(page.script("Start the new one"));
            answers("1");
            scene.run(page.script("Promote"));
            answers("2");
            let [back, again] = page.scripts("Roll back")[..] else { panic!("two scripts") };
            scene.run(back);
            answers("1");
            scene.run(again);
            answers("2");
            let all = [[json!(1), json!("draining")], [json!(2), json!("active")]];
            let all: Vec<_> = all.iter().flat_map(|one| [one.clone(), one.clone()]).collect();
            assert_eq!(states(group), json!(all));
            scene.run(page.script("End the old one"));
            wait::until("the old one is gone", wait::BOUND, || {
                states(group) == json!([[2, "active"], [2, "active"]])
            });
            answers("2");
        });
        assert!(tally.answered > 0 && tally.lost == 0, "{tally}");
        assert!(
            error(1, &["rollback", group]).contains("no member of an older generation is left")
        );
    });
}
