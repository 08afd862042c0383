use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn problem(text: &str) -> String {
    Config::parse(text).unwrap_err().in_file(text)
}

#[test]
fn a_file_says_which_groups_are_followed_and_how() {
    let config = Config::parse(
        "retake = true\n\
         silence = [\"drops@udp::53\"]\n\
         [metrics]\n\
         listen = \":9719\"\n\
         [server.web]\n\
         groups = [\"tcp:*:80\", \"tcp:*:443\"]\n\
         policy = \"least-loaded\"\n\
         load = \"queue\"\n\
         max-share = 1.5\n\
         slots = 256\n\
         hold-new = true\n\
         [server.dns]\n\
         groups = [\"udp::53\"]\n\
         weights = { \"slot:0\" = 3 }\n",
    );
    let Config { servers, retake, silence, metrics } = config.unwrap();
    assert_eq!((silence.len(), metrics), (1, Some("127.0.0.1:9719".parse().unwrap())));
    let [web, dns] = &servers[..] else { panic!("{servers:?}") };
    assert!(retake);
    assert_eq!((web.name.as_str(), web.groups.len(), web.slots), ("web", 2, Some(256)));
    assert_eq!((web.hold_new, dns.hold_new), (Some(HoldNew::On), None));
    assert!(matches!(web.policy, Some(Policy::LeastLoaded(_))));
    assert!(web.options.load.is_some() && web.options.max_share.is_some());
    assert_eq!((dns.name.as_str(), dns.policy), ("dns", None));
    assert_eq!(dns.weights, [(Slot::new(0), Weight::new(3).unwrap())]);
    assert_eq!(Config::parse("").unwrap(), Config::default());
}

#[test]
fn the_first_server_of_the_file_that_has_a_group_decides() {
    let config = Config::parse("[server.b]\ngroups=[\":2\"]\n[server.a]\ngroups=[\":1\"]\n");
    let names = config.unwrap().servers.into_iter().map(|server| server.name);
    assert_eq!(names.collect::<Vec<_>>(), ["b", "a"]);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    const WEB: &str = "[server.web]\ngroups = [\":80\"]\n";
    for (text, expected) in [
        ("[server.web]\ngroups = [", "line 2: "),
        (
            &format!("{WEB}polcy = \"hash\""),
            "line 3: [server.web] has no key `polcy`; did you mean `policy`?",
        ),
        ("[servers.web]", "line 1: the file has no key `servers`; did you mean `server`?"),
        (&format!("{WEB}x = 1"), "line 3: [server.web] has no key `x`; known are groups, policy"),
        (
            &format!("{WEB}policy = \"leastloaded\""),
            "line 3: `policy`: unknown policy `leastloaded`: did you mean",
        ),
        (&format!("{WEB}policy = 1"), "line 3: `policy` is integer, not a string"),
        (
            &format!("{WEB}policy = \"hash\"\nload = \"queue\""),
            "line 3: [server.web]: load and max-share are for policy least-loaded, not for hash",
        ),
        (
            &format!("{WEB}load = \"queue\"\ncpus = \"0-3\""),
            "line 1: [server.web]: a list of CPUs is for policy cpu",
        ),
        (&format!("{WEB}max-share = 0.5"), "line 3: `max-share`: "),
        (&format!("{WEB}slots = 0"), "line 3: `slots` is a whole number from 1 to"),
        (&format!("{WEB}slots = -1"), "line 3: `slots`: invalid digit"),
        (&format!("{WEB}weights = {{ \"pid:1\" = 3 }}"), "line 3: a weight is for a slot"),
        (
            &format!("{WEB}weights = {{ \"slot:1\" = 1001 }}"),
            "line 3: a weight is a whole number from 0 to 1000",
        ),
        ("[server.web]\ngroups = [\"8080\"]", "line 2: `groups`: "),
        ("[server.web]\ngroups = \":80\"", "line 2: `groups` is string, not a list of strings"),
        (
            "[server.web]\ngroups = [\":80,of=pid:7\"]",
            "line 2: `:80,of=pid:7` names a group by a member",
        ),
        ("\n[server.web]", "line 2: [server.web] names no groups"),
        ("[server]\nweb = 1", "line 2: `web` is integer, not a table"),
        ("retake = \"yes\"", "line 1: `retake` is string, not true or false"),
        (
            "silence = [\"drop\"]",
            "line 1: `silence`: no finding is named `drop`: did you mean `drops`?",
        ),
        ("[metrics]\nlisten = \"localhost\"", "line 2: `listen`: `localhost` is no address"),
        ("retake = true\n[metrics]\n", "line 2: [metrics] names no address"),
        ("[metrics]\nport = 1", "line 2: [metrics] has no key `port`; known are listen"),
    ] {
        let problem = problem(text);
        assert!(problem.starts_with(expected), "{problem}\n{text}");
    }
}

#[test]
fn a_file_that_others_may_change_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("reuseport.toml");
    fs::write(&file, "").unwrap();
    let set =
        |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    set(&file, 0o644);
    assert!(Config::read(&file).is_ok());
    for (mode, of_directory) in [(0o664, 0o755), (0o646, 0o755), (0o644, 0o777)] {
        set(&file, mode);
        set(directory.path(), of_directory);
        let error = Config::read(&file).unwrap_err().to_string();
        assert!(error.starts_with("others may change "), "{error}");
    }
    // As in /tmp: others may not replace it there.
    set(directory.path(), 0o1777);
    assert!(Config::read(&file).is_ok());
    assert!(Config::read(&directory.path().join("none")).is_err());
    assert!(Config::read(directory.path()).is_err());
}

#[test]
fn the_file_in_the_documentation_is_right() {
    let page = include_str!("../../../../docs/agent.md");
    let mut files = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let config = Config::parse(files.next().unwrap()).unwrap();
    assert_eq!(config.servers.len(), 2);
    assert_eq!(files.next(), None);
}
