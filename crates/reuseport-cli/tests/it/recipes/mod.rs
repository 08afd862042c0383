//! The recipes in `docs/recipes/` are true: each is followed to the letter, with the real server, under
//! traffic. Nothing is substituted; a recipe's files and commands are those of the page.
//!
//! Servers that `cargo xtask test` installs anyway run always, the others in `cargo xtask interop`.

mod course;
mod postgres;
mod rollout;
mod traffic;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use test_support::recipe::{POSTGRES, POSTGRES_ADDRESS, Page, SECTIONS, Scene, directory};
use test_support::wait;

use crate::common::{isolated, pinned_groups};
use course::{Recipe, Restarted};
use postgres::{Session, cancel};
use traffic::Ask;

const NGINX: Recipe =
    Recipe { name: "nginx", ask: Ask::Http, members: 2, restarted: Restarted::Workers };
const HAPROXY: Recipe =
    Recipe { name: "haproxy", ask: Ask::Http, members: 2, restarted: Restarted::Workers };
const UNBOUND: Recipe =
    Recipe { name: "unbound", ask: Ask::Dns, members: 2, restarted: Restarted::Nothing };
const ENVOY: Recipe =
    Recipe { name: "envoy", ask: Ask::Http, members: 2, restarted: Restarted::Workers };
const GUNICORN: Recipe =
    Recipe { name: "gunicorn", ask: Ask::Http, members: 2, restarted: Restarted::Workers };
const GRANIAN: Recipe =
    Recipe { name: "granian", ask: Ask::Http, members: 2, restarted: Restarted::Workers };
const UVICORN: Recipe =
    Recipe { name: "uvicorn", ask: Ask::Http, members: 2, restarted: Restarted::Workers };
const NODE: Recipe =
    Recipe { name: "node", ask: Ask::Http, members: 2, restarted: Restarted::Workers };
const PGBOUNCER: Recipe =
    Recipe { name: "pgbouncer", ask: Ask::Postgres, members: 2, restarted: Restarted::Workers };
const HITCH: Recipe =
    Recipe { name: "hitch", ask: Ask::Tls, members: 2, restarted: Restarted::Workers };
const DNSDIST: Recipe =
    Recipe { name: "dnsdist", ask: Ask::Dns, members: 2, restarted: Restarted::Workers };
const KNOT: Recipe =
    Recipe { name: "knot", ask: Ask::Dns, members: 2, restarted: Restarted::Workers };

/// Every page has a test below.
const RECIPES: [Recipe; 12] = [
    NGINX, HAPROXY, ENVOY, GUNICORN, GRANIAN, UVICORN, NODE, PGBOUNCER, HITCH, UNBOUND, DNSDIST,
    KNOT,
];

#[test]
fn slow_the_recipe_for_nginx_holds() {
    course::follow(&NGINX);
}

#[test]
fn slow_the_recipe_for_haproxy_holds() {
    course::follow(&HAPROXY);
}

#[test]
fn slow_the_recipe_for_unbound_holds() {
    course::follow(&UNBOUND);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_envoy_holds() {
    course::follow(&ENVOY);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_gunicorn_holds() {
    course::follow(&GUNICORN);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_granian_holds() {
    course::follow(&GRANIAN);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_uvicorn_holds() {
    course::follow(&UVICORN);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_node_holds() {
    course::follow(&NODE);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_hitch_holds() {
    course::follow(&HITCH);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_dnsdist_holds() {
    course::follow(&DNSDIST);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_knot_holds() {
    course::follow(&KNOT);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_envoy_holds_if_newcomers_are_held_until_they_accept() {
    course::follow_accepting(&ENVOY);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_gunicorn_holds_if_newcomers_are_held_until_they_accept() {
    course::follow_accepting(&GUNICORN);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_granian_holds_if_newcomers_are_held_until_they_accept() {
    course::follow_accepting(&GRANIAN);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_uvicorn_holds_if_newcomers_are_held_until_they_accept() {
    course::follow_accepting(&UVICORN);
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_node_holds_if_newcomers_are_held_until_they_accept() {
    course::follow_accepting(&NODE);
}

fn with_postgres(scene: &Scene) {
    scene.run(POSTGRES);
    wait::until("PostgreSQL takes sessions", wait::BOUND, || {
        TcpStream::connect(POSTGRES_ADDRESS)
            .is_ok_and(|mut stream| Session::begin(&mut stream).is_ok())
    });
}

#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_pgbouncer_holds() {
    course::follow_with(&PGBOUNCER, with_postgres);
}

/// "Which policy" of that page.
#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_pgbouncer_cancels_queries() {
    const QUERIES: usize = 6;

    course::on(&PGBOUNCER, with_postgres, |course| {
        course.attach();
        let cancelled = || (0..QUERIES).filter(|_| is_cancelled(course.server())).count();
        assert_eq!(cancelled(), QUERIES);
        // The next connection always reaches the other process.
        course.run(&format!("reuseport policy {} round-robin", course.group()));
        assert_eq!(cancelled(), 0);
    });
}

/// Whether a query through pgbouncer ends when the client asks to cancel it.
fn is_cancelled(pgbouncer: SocketAddr) -> bool {
    const QUERY_CANCELED: &str = "57014";

    let mut stream = TcpStream::connect(pgbouncer).unwrap();
    stream.set_read_timeout(Some(wait::scaled(Duration::from_secs(1)))).unwrap();
    let mut session = Session::begin(&mut stream).unwrap();
    let before = sleeping();
    session.query("SELECT pg_sleep(60)").unwrap();
    wait::until("the query runs", wait::BOUND, || sleeping() > before);
    cancel(&mut TcpStream::connect(pgbouncer).unwrap(), &session.key).unwrap();
    let mut answers = std::iter::from_fn(|| session.read().ok());
    let error = answers.find(|(kind, _)| *kind == b'E');
    error.is_some_and(|(_, text)| String::from_utf8_lossy(&text).contains(QUERY_CANCELED))
}

/// How many queries sleep, as PostgreSQL itself says.
fn sleeping() -> u32 {
    const COUNT: &str = "SELECT count(*) FROM pg_stat_activity \
                         WHERE wait_event = 'PgSleep' AND state = 'active'";

    let mut stream = TcpStream::connect(POSTGRES_ADDRESS).unwrap();
    stream.set_read_timeout(Some(wait::scaled(wait::BOUND))).unwrap();
    let mut session = Session::begin(&mut stream).unwrap();
    session.query(COUNT).unwrap();
    let mut answers = std::iter::from_fn(|| session.read().ok());
    let (_, row) = answers.find(|(kind, _)| *kind == b'D').expect("a row");
    // The number of columns, the length of the first one, and its text.
    String::from_utf8_lossy(&row[6..]).parse().unwrap()
}

#[test]
fn slow_the_first_hour_holds() {
    isolated(|| {
        let page = Page::read("../start");
        let scene = Scene::new(&page, cargo_bin!("reuseport"));
        for script in page.sections.iter().flat_map(|section| page.scripts(&section.title)) {
            match script.contains("--watch") {
                true => scene.start(script, "Watching"),
                false => scene.run(script),
            }
        }
        assert_eq!(pinned_groups(), 0);
    });
}

#[test]
fn all_recipes_have_one_form_and_a_test() {
    let index = std::fs::read_to_string(directory().join("README.md")).unwrap();
    let pages = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let stem = |path: std::path::PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let pages: BTreeSet<String> = pages.filter_map(stem).filter(|name| name != "README").collect();
    let tested = RECIPES.iter().map(|recipe| recipe.name.to_owned()).collect();
    assert_eq!(pages, tested);
    for name in pages {
        let page = Page::read(&name);
        assert_eq!(page.title.to_lowercase().replace(".js", ""), name);
        let titles: Vec<&str> =
            page.sections.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, SECTIONS, "{name}");
        assert!(index.contains(&format!("({name}.md)")), "docs/recipes/README.md links {name}");
    }
}

/// An application that takes a while to import, as large ones do.
const SLOW_IMPORT: &str = "import time\ntime.sleep(5)\n";

/// gunicorn listens before it imports the application.
#[test]
#[ignore = "interop"]
fn interop_the_recipe_for_gunicorn_lets_no_answer_wait_for_an_import() {
    let held_up = ["off", "accepting"].map(|hold_new| {
        let mut held_up = 0;
        course::on(
            &GUNICORN,
            |scene| scene.prepend("app.py", SLOW_IMPORT),
            |course| {
                course.attach();
                course.run(&format!("reuseport attach {} --hold-new={hold_new}", course.group()));
                held_up = course.restart().slow;
            },
        );
        held_up
    });
    println!("answers that took over a second: {held_up:?}");
    assert!(held_up[0] > 0, "without it, some wait for the import");
    assert_eq!(held_up[1], 0);
}
