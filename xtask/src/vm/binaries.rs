//! Builds the test binaries of packages and reads their paths from cargo's messages.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shell;

/// A binary that runs tests.
#[derive(Debug, PartialEq)]
pub(super) struct TestBinary {
    /// Shown to the user: `sk-reuseport tests/steer`, `reuseport lib`.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The package's directory, where tests are started.
    pub(super) directory: PathBuf,
}

/// What cargo built.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Built {
    pub(super) tests: Vec<TestBinary>,
    /// Programs that tests start.
    pub(super) commands: Vec<PathBuf>,
}

/// What to build.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    /// The packages whose tests run.
    Packages,
    /// Everything, which `cargo xtask test` has just built. For some packages alone cargo would select
    /// other features of their dependencies and build these again.
    Workspace,
}

/// Builds the tests of these packages, with every feature, as `cargo xtask test` does.
pub(super) fn build(root: &Path, packages: &[String], scope: Scope) -> Result<Built> {
    let mut cargo = shell::cargo(root);
    cargo.args(["test", "--no-run", "--all-features"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    match scope {
        Scope::Workspace => _ = cargo.arg("--workspace"),
        Scope::Packages => {
            cargo.args(packages.iter().flat_map(|package| ["--package", package]));
        }
    }
    let shown = shell::show(&cargo);
    // Cargo's messages for people go to stderr.
    let output = cargo.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", output.status);
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    let built = parse(&messages, packages)?;
    if built.tests.is_empty() {
        bail!("`{shown}` built no tests");
    }
    Ok(built)
}

/// The part of cargo's messages that this reads (The Cargo Book, "External tools").
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact {
        manifest_path: PathBuf,
        target: Target,
        profile: Profile,
        executable: Option<PathBuf>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn parse(messages: &str, packages: &[String]) -> Result<Built> {
    let mut built = Built::default();
    for line in messages.lines().filter(|line| !line.is_empty()) {
        let message: Message = serde_json::from_str(line)
            .with_context(|| format!("cannot understand cargo's message {line}"))?;
        let Message::CompilerArtifact { manifest_path, target, profile, executable: Some(path) } =
            message
        else {
            continue;
        };
        let kind = target.kind.first().map_or("", String::as_str);
        let directory = manifest_path.parent().context("a manifest without a directory")?;
        // The packages of the workspace are named like their directories.
        let package = directory.file_name().unwrap_or_default().to_string_lossy();
        if !packages.iter().any(|wanted| *wanted == package) {
            continue;
        }
        // A program's unit tests do not depend on the kernel.
        if profile.test && kind != "bin" {
            let name = match kind {
                "test" => format!("{package} tests/{}", target.name),
                kind => format!("{package} {kind}"),
            };
            built.tests.push(TestBinary { name, path, directory: directory.to_owned() });
        } else if !profile.test && kind == "bin" {
            built.commands.push(path);
        }
    }
    // Cargo reports them in the order in which they were finished.
    built.tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_told_apart() {
        let artifact = |kind: &str, name: &str, test: bool, executable: &str| {
            let package = if name == "other" { "other" } else { "p" };
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"x","manifest_path":"/w/crates/{package}/Cargo.toml",
                "target":{{"kind":["{kind}"],"name":"{name}","edition":"2024"}},
                "profile":{{"opt_level":"0","test":{test}}},"executable":{executable},"fresh":true}}"#
            )
            .replace('\n', "")
        };
        let messages = [
            artifact("test", "steer", true, r#""/t/steer-1""#),
            artifact("lib", "p", true, r#""/t/p-1""#),
            artifact("lib", "p", false, "null"),
            artifact("test", "other", true, r#""/t/other-1""#),
            artifact("bin", "p", false, r#""/t/p""#),
            artifact("bin", "p", true, r#""/t/p-2""#),
            artifact("example", "e", false, r#""/t/e""#),
            r#"{"reason":"build-script-executed","package_id":"x"}"#.to_owned(),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let built = parse(&messages.join("\n"), &["p".to_owned()]).unwrap();
        let names: Vec<_> = built.tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["p lib", "p tests/steer"]);
        assert_eq!(built.tests[0].path, Path::new("/t/p-1"));
        assert_eq!(built.tests[0].directory, Path::new("/w/crates/p"));
        assert_eq!(built.commands, [Path::new("/t/p")]);
    }
}
