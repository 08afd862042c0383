//! What a process runs, by its arguments: its program, or what an interpreter runs.

/// What a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Runs<'a> {
    /// A program, by its file or by the title that the process has given itself.
    Program(&'a str),
    /// A file that an interpreter runs.
    Script(&'a str),
    /// A module or class that an interpreter runs: `uvicorn`, `org.apache.kafka.Kafka`.
    Module(&'a str),
}

/// The programs that run what an argument names.
const INTERPRETERS: [&str; 17] = [
    "python", "pypy", "node", "nodejs", "java", "ruby", "perl", "php", "bun", "deno", "dotnet",
    "sh", "bash", "dash", "lua", "luajit", "beam.smp",
];

impl<'a> Runs<'a> {
    /// What a process with these arguments runs; the first one is its program. `None` if they do not tell.
    pub fn of(arguments: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut arguments = arguments.into_iter().filter(|argument| !argument.is_empty());
        let program = arguments.next()?;
        // A title: `gunicorn: worker [app]`.
        if let Some((title, _)) = program.split_once(": ") {
            return Some(Self::Program(title));
        }
        let program = file_name(program);
        if !is_interpreter(program) {
            return Some(Self::Program(program));
        }
        let is_java = program.starts_with("java");
        while let Some(argument) = arguments.next() {
            match argument {
                // A program in the command line itself.
                "-c" | "-e" | "--eval" | "-p" | "--print" | "-" => return None,
                "-m" | "--module" => return arguments.next().map(Self::Module),
                "-jar" => return arguments.next().map(Self::Script),
                "-W" | "-X" | "-r" | "--require" | "--import" | "-cp" | "-classpath"
                | "--class-path" | "--module-path" | "-I" => drop(arguments.next()),
                option if option.starts_with('-') => {}
                // Subcommands of bun and deno.
                "run" => {}
                class if is_java => return Some(Self::Module(class)),
                script => return Some(Self::Script(script)),
            }
        }
        None
    }
}

/// Whether a program with this name is an interpreter: `python3`, `python3.11`, `node22`.
pub fn is_interpreter(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    INTERPRETERS.contains(&stem)
}

/// The last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::Runs::{Module, Program, Script};
    use super::*;

    fn of(line: &str) -> Option<Runs<'_>> {
        Runs::of(line.split(' '))
    }

    #[test]
    fn an_interpreter_runs_what_its_first_argument_names() {
        for (line, expected) in [
            ("/usr/sbin/nginx -g x", Program("nginx")),
            ("/usr/bin/python3 /usr/bin/gunicorn app:app -w 4", Script("/usr/bin/gunicorn")),
            ("python3 -u -W ignore app.py --port 80", Script("app.py")),
            ("python3.11 -m uvicorn main:app", Module("uvicorn")),
            ("node --max-old-space-size=512 -r dotenv/config /srv/a.js", Script("/srv/a.js")),
            (
                "java -Xmx1g -cp a.jar:b.jar org.apache.kafka.Kafka x",
                Module("org.apache.kafka.Kafka"),
            ),
            ("java -jar /opt/app.jar", Script("/opt/app.jar")),
            ("bun run server.ts", Script("server.ts")),
        ] {
            assert_eq!(of(line), Some(expected), "{line}");
        }
        assert_eq!(Runs::of(["gunicorn: worker [app]"]), Some(Program("gunicorn")));
        for line in ["", "python3", "python3 -c import_x", "node -e 1", "python3 -"] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
