//! What the verifier writes about a program.

use aya_obj::VerifierLog;

/// The end of the verifier's log, which has the reason; empty if the log is.
pub(crate) fn end_of(log: &VerifierLog) -> String {
    /// The lines that matter are the last instructions and the complaint about them.
    const LINES: usize = 12;
    /// The statistics that follow the complaint are not part of it.
    const STATISTICS: [&str; 3] = ["processed ", "verification time", "stack depth"];

    let text = log.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start)))
        .collect();
    let first = lines.len().saturating_sub(LINES);
    let cut = if first > 0 { "[...]\n" } else { "" };
    format!("{cut}{}", lines[first..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_telling_end_of_a_long_log_is_shown() {
        let mut log: String = (0..100).map(|n| format!("{n}: (b7) r0 = 0\n")).collect();
        log.push_str("R1 invalid mem access 'scalar'\nprocessed 100 insns (limit 1000000)\n");
        let end = end_of(&VerifierLog::new(log));
        assert!(end.ends_with("R1 invalid mem access 'scalar'"), "{end}");
        assert!(end.lines().count() < 16, "{end}");
        assert!(end.contains("[...]"));
        assert_eq!(end_of(&VerifierLog::new(String::new())), "");
    }
}
