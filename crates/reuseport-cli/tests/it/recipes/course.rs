//! The course of every recipe: configure, attach, drain, restart under traffic, detach.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use test_support::recipe::{Page, Scene};
use test_support::wait;

use super::traffic::{Ask, Tally, during, requests};
use crate::common::{isolated, json, pinned_groups, run, stdout};

/// What the page does not say: what its clients ask, and what its server is to look like.
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) ask: Ask,
    pub(super) members: usize,
    pub(super) restarted: Restarted,
}

/// What the restart of a recipe replaces.
#[derive(PartialEq)]
pub(super) enum Restarted {
    /// The processes that serve.
    Workers,
    /// Nothing that is seen from outside: the process reads its configuration again.
    Nothing,
}

/// How many requests show who decides.
const REQUESTS: usize = 40;

pub(super) struct Course<'a> {
    recipe: &'a Recipe,
    page: Page,
    scene: Scene,
    group: String,
}

/// Follows a recipe from its beginning to its end.
pub(super) fn follow(recipe: &Recipe) {
    follow_with(recipe, |_| {});
}

/// Follows a recipe to its restart, with newcomers held until they accept: they get their share after it.
pub(super) fn follow_accepting(recipe: &Recipe) {
    on(
        recipe,
        |_| {},
        |course| {
            course.attach();
            course.run(&format!("reuseport attach {} --hold-new=accepting", course.group()));
            assert_eq!(course.shown().unwrap()["hold_new_until"], "accepting");
            course.restart();
            course.is_dealt();
            assert_eq!(course.shown().unwrap()["hold_new_until"], "accepting");
            course.detach();
        },
    );
}

/// The same, after `prepare`.
pub(super) fn follow_with(recipe: &Recipe, prepare: impl FnOnce(&Scene) + Send) {
    on(recipe, prepare, |course| {
        course.attach();
        course.is_dealt();
        course.drain();
        course.restart();
        course.is_dealt();
        course.detach();
    });
}

/// Runs `body` when the server of the recipe listens.
pub(super) fn on(
    recipe: &Recipe,
    prepare: impl FnOnce(&Scene) + Send,
    body: impl FnOnce(&Course<'_>) + Send,
) {
    isolated(|| {
        let page = Page::read(recipe.name);
        let scene = Scene::new(&page, cargo_bin!("reuseport"));
        prepare(&scene);
        let group = page.group().to_owned();
        let course = Course { recipe, page, scene, group };
        for script in course.page.scripts("Configure") {
            course.run(script);
        }
        wait::until("its sockets are a group", 2 * wait::BOUND, || {
            course.shown().is_some_and(|shown| members(&shown).len() == recipe.members)
        });
        wait::until("it answers", 2 * wait::BOUND, || course.requests(1).answered == 1);
        body(&course);
    });
}

impl Course<'_> {
    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// The address that clients ask.
    pub(super) fn server(&self) -> SocketAddr {
        self.group.split_once(':').unwrap().1.parse().unwrap()
    }

    pub(super) fn run(&self, script: &str) {
        self.scene.run(script);
    }

    fn requests(&self, count: usize) -> Tally {
        requests(self.recipe.ask, self.server(), count)
    }

    /// What `show --json` prints, if there is such a group.
    fn shown(&self) -> Option<Value> {
        let output = run(&["show", &self.group, "--json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    pub(super) fn attach(&self) {
        self.scene.start(self.page.script("Attach"), "Watching");
        self.settles();
        // A worker that is just starting is in no wait yet.
        wait::until("`show` points out nothing", wait::BOUND, || {
            self.shown().is_some_and(|shown| shown["findings"] == serde_json::json!([]))
        });
    }

    /// Waits until the watcher steers as many members as the recipe has, and no others are there.
    fn settles(&self) {
        wait::until("the watcher steers all its members", 3 * wait::BOUND, || {
            self.shown().is_some_and(|shown| {
                let members = members(&shown);
                let active = members.iter().filter(|member| member["state"] == "active");
                members.len() == self.recipe.members
                    && active.count() == self.recipe.members
                    && shown["program"]["kind"] == "policy"
            })
        });
    }

    /// The program chooses for every request.
    fn is_dealt(&self) {
        let before = json(&["show", &self.group, "--json"]);
        let tally = self.requests(REQUESTS);
        assert_eq!((tally.answered, tally.lost), (REQUESTS, 0), "{tally}");
        let after = json(&["show", &self.group, "--json"]);
        let dealt = counter(&after, "picks") - counter(&before, "picks");
        assert_eq!(dealt, REQUESTS as u64, "{after}");
        let by_kernel = ["fallback_kernel", "migrations_kernel"].map(|name| counter(&after, name));
        assert_eq!(by_kernel, [0, 0], "{after}");
        // From one client, `source` reaches one member.
        if after["policy"] != "source" {
            assert!(gained(&before, &after).iter().all(|gain| *gain > 0), "{after}");
        }
    }

    pub(super) fn restart(&self) -> Tally {
        let before = servers(&json(&["show", &self.group, "--json"]));
        let tally = during(self.recipe.ask, self.server(), || {
            self.run(self.page.script("Restart"));
            if self.recipe.restarted == Restarted::Workers {
                wait::until("other processes serve", 3 * wait::BOUND, || {
                    self.shown().is_some_and(|shown| servers(&shown).is_disjoint(&before))
                });
            }
            self.settles();
        });
        println!("{}: restart under traffic: {tally}", self.recipe.name);
        assert!(tally.answered > 0 && tally.lost == 0, "{tally}");
        tally
    }

    /// The first script drains, and the members that drain get nothing. After the others, all serve again.
    fn drain(&self) {
        let scripts = self.page.scripts("Drain a worker");
        let (first, others) = scripts.split_first().expect("a script that drains");
        self.run(first);
        let before = json(&["show", &self.group, "--json"]);
        let drains: Vec<bool> =
            members(&before).iter().map(|member| member["state"] == "draining").collect();
        assert!(drains.contains(&true) && drains.contains(&false), "{before}");
        let tally = self.requests(REQUESTS);
        assert_eq!((tally.answered, tally.lost), (REQUESTS, 0), "{tally}");
        let after = json(&["show", &self.group, "--json"]);
        let gained = gained(&before, &after);
        assert!(drains.iter().zip(&gained).all(|(drains, gain)| !drains || *gain == 0), "{after}");
        assert_eq!(gained.iter().sum::<u64>(), REQUESTS as u64, "{after}");
        let tally = during(self.recipe.ask, self.server(), || {
            others.iter().for_each(|script| self.run(script));
            self.settles();
        });
        assert_eq!(tally.lost, 0, "{tally}");
    }

    fn detach(&self) {
        for group in std::iter::once(self.group.as_str()).chain(self.page.other_groups()) {
            stdout(&["detach", group]);
        }
        assert_eq!(pinned_groups(), 0);
        assert!(json(&["show", &self.group, "--json"])["program"].is_null());
        let tally = self.requests(REQUESTS);
        assert_eq!((tally.answered, tally.lost), (REQUESTS, 0), "{tally}");
    }
}

fn members(shown: &Value) -> &Vec<Value> {
    shown["members"].as_array().unwrap()
}

fn counter(shown: &Value, name: &str) -> u64 {
    shown["counters"][name].as_u64().unwrap()
}

/// The picks of each member since `before`.
fn gained(before: &Value, after: &Value) -> Vec<u64> {
    let picks = |shown: &Value| -> Vec<u64> {
        members(shown).iter().map(|member| member["picks"].as_u64().unwrap()).collect()
    };
    picks(after).into_iter().zip(picks(before)).map(|(after, before)| after - before).collect()
}

/// The processes that serve: the owners of the members, or their holders where an owner is not known.
fn servers(shown: &Value) -> BTreeSet<u64> {
    let of = |member: &Value| match member["owner"].as_u64() {
        Some(owner) => vec![owner],
        None => {
            let holders = member["holders"].as_array().unwrap().iter();
            holders.filter_map(|holder| holder["pid"].as_u64()).collect()
        }
    };
    members(shown).iter().flat_map(of).collect()
}
