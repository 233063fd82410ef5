//! Any program: every line is something that it does. Its exit code and the files that it changed are the verdict.

use super::events::AgentEvent;

/// The events of one line.
pub(super) fn parse_line(line: &str) -> Vec<AgentEvent> {
    let line = line.trim();
    if line.is_empty() { Vec::new() } else { vec![AgentEvent::Activity(line.to_owned())] }
}
