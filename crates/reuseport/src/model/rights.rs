//! The capabilities that each step takes, and the steps that each verb takes: docs/rights.md and README.md have the same
//! tables, and tests try each step with exactly these capabilities. No I/O.

/// A step of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// What it is.
    pub what: &'static str,
    /// The capabilities that it takes.
    pub needs: &'static [&'static str],
    /// Those of earlier steps, without which this one is never reached.
    pub given: &'static [&'static str],
    /// What it takes in addition to capabilities.
    pub besides: &'static str,
}

const BPF: &str = "CAP_BPF";
const PERFMON: &str = "CAP_PERFMON";
const NET_ADMIN: &str = "CAP_NET_ADMIN";
const SYS_PTRACE: &str = "CAP_SYS_PTRACE";
const SYS_ADMIN: &str = "CAP_SYS_ADMIN";
const DAC_OVERRIDE: &str = "CAP_DAC_OVERRIDE";

const fn step(
    what: &'static str,
    needs: &'static [&'static str],
    given: &'static [&'static str],
    besides: &'static str,
) -> Step {
    Step { what, needs, given, besides }
}

const LIST: &str = "list the groups of the host (`ls`, `show`)";
pub(crate) const OPEN_OTHERS: &str = "open what another user pinned";
const OWN: &str = "attach a policy to your own servers, change it, detach it";
pub(crate) const OWN_IN_OTHERS: &str = "the same where another user owns /sys/fs/bpf/reuseport";
pub(crate) const NO_BPFFS: &str = "the same where no bpffs is mounted yet";
const OTHERS: &str = "attach a policy to another user's servers";
const SOCKET_MAP: &str = "make a socket map and put sockets into it";
const BINDS: &str = "be told of UDP sockets that are bound (`--watch`)";
const BY_ID: &str = "open programs and maps by their ids";
const DIRECTORY: &str = "owning /sys/fs/bpf/reuseport";

/// All steps.
pub const STEPS: &[Step] = &[
    step("make maps and socket arrays", &[BPF], &[], ""),
    step("load a program that selects or migrates", &[BPF], &[], ""),
    step(
        "attach a loaded program to your own sockets, detach it",
        &[],
        &[],
        "a descriptor of the program",
    ),
    step("put your own sockets into a socket array", &[], &[], "a descriptor of the array"),
    step("open what is pinned", &[], &[], "read and write permission for the file"),
    step(OPEN_OTHERS, &[DAC_OVERRIDE], &[], ""),
    step(SOCKET_MAP, &[BPF, NET_ADMIN], &[], ""),
    step(LIST, &[BPF, PERFMON], &[], ""),
    step("count open connections", &[BPF, PERFMON], &[], ""),
    step(BINDS, &[BPF, NET_ADMIN], &[PERFMON], "the root of cgroup2 mounted"),
    step(
        "borrow a socket from a process of the same user",
        &[],
        &[],
        "`kernel.yama.ptrace_scope` 0",
    ),
    step("borrow a socket from another user's process", &[SYS_PTRACE], &[], ""),
    step(OWN, &[BPF, PERFMON], &[], DIRECTORY),
    step(OWN_IN_OTHERS, &[DAC_OVERRIDE], &[BPF, PERFMON], ""),
    step(NO_BPFFS, &[SYS_ADMIN], &[BPF, PERFMON], ""),
    step(OTHERS, &[SYS_PTRACE], &[BPF, PERFMON], DIRECTORY),
    step(BY_ID, &[SYS_ADMIN], &[], ""),
];

/// What verbs do, and the steps that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verb {
    /// What is done, by which verbs.
    pub what: &'static str,
    /// Its steps, by [`Step::what`].
    pub steps: &'static [&'static str],
}

const fn verb(what: &'static str, steps: &'static [&'static str]) -> Verb {
    Verb { what, steps }
}

/// What there is to do with groups.
pub const VERBS: &[Verb] = &[
    verb("`ls`, `show`, `doctor`, `metrics`: finding groups", &[LIST]),
    verb("`ls`, `show`, `doctor`, `metrics`: policies, slots, picks", &[OPEN_OTHERS]),
    verb(
        "`attach`, `detach`, `policy`, `weight`, `drain`, `promote`, `--watch`: your own servers",
        &[OWN, OWN_IN_OTHERS],
    ),
    verb("the same for other users' servers, and those of root", &[OTHERS]),
    verb("sockets that are in another program's socket map", &[SOCKET_MAP]),
    verb("`--watch`: events of UDP sockets; without, it lists them again and again", &[BINDS]),
    verb(
        "`attach --force`, if the sockets are in the array of the program that it replaces",
        &[BY_ID],
    ),
    verb("mounting `/sys/fs/bpf`, where nothing is mounted", &[NO_BPFFS]),
];

impl Verb {
    /// The capabilities that it takes, each once.
    pub fn needs(&self) -> Vec<&'static str> {
        self.needs_where(|_| true)
    }

    /// Those of the steps that apply.
    pub(crate) fn needs_where(&self, applies: impl Fn(&'static str) -> bool) -> Vec<&'static str> {
        let is_taken = |step: &&Step| self.steps.contains(&step.what) && applies(step.what);
        let steps = STEPS.iter().filter(is_taken);
        let mut needs: Vec<_> =
            steps.flat_map(|step| step.given.iter().chain(step.needs)).copied().collect();
        needs.sort_unstable();
        needs.dedup();
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_takes_steps_that_there_are() {
        let known = |what: &&&str| STEPS.iter().any(|step| step.what == **what);
        for verb in VERBS {
            assert_eq!(verb.steps.iter().filter(known).count(), verb.steps.len(), "{verb:?}");
        }
        let sockets = VERBS.iter().find(|verb| verb.steps == [OTHERS]).unwrap();
        assert_eq!(sockets.needs(), [BPF, PERFMON, SYS_PTRACE]);
    }
}
