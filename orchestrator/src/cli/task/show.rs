//! A task in words for a terminal.

use super::super::{
    budget::used_words,
    out::{plain, print, when},
    show::Show,
};
use crate::front::view::{TaskDetail, TaskView};
use workers::text;

/// A line of a list.
pub(super) fn line(task: &TaskView) -> String {
    let number = task.number.map_or_else(String::new, |number| format!("#{number}"));
    let (title, when) = (plain(&task.title), when(task.created_at));
    let state = if task.stopping { "stopping" } else { &task.state };
    let mut line = format!("{}  {state:<11} {when}  {}{number}  {title:.80}", task.short, task.repo);
    if let Some(pull) = &task.pull_request {
        line.push_str(&format!("  → #{}", pull.number));
    }
    if let Some(cost) = task.usage.and_then(|usage| usage.cost_microusd) {
        line.push_str(&format!("  {}", dollars(cost)));
    }
    if let Some(why) = &task.waits {
        line.push_str(&format!("\n          waits: {}", plain(why)));
    }
    line
}

/// Everything that there is to say. Returns the exit code.
pub(super) fn describe(detail: &TaskDetail) -> u8 {
    let task = &detail.task;
    let number = task.number.map_or_else(String::new, |number| format!("#{number}"));
    let mut lines = vec![
        format!("task      {}", task.id),
        format!("asked     {} ({}{number})", plain(&task.title), task.repo),
        format!("by        {}, {}", task.requester, when(task.created_at)),
        format!("state     {}, since {}", task.state, when(task.updated_at)),
        format!("attempts  {}, of which {} failed and {} lost their worker", task.attempt, task.failures, task.crashes),
    ];
    if let Some(why) = &task.waits {
        lines.push(format!("waits     {}", plain(why)));
    }
    if let (Some(worker), Some(until)) = (&detail.worker, detail.lease_until) {
        lines.push(format!("worker    {worker}, lease until {}", when(until)));
    }
    if task.stopping {
        lines.push("asked to  stop".to_owned());
    } else if task.finishing {
        lines.push("asked to  finish".to_owned());
    }
    if let Some(pull) = &task.pull_request {
        lines.push(format!("result    {}", pull.url));
    }
    lines.extend(detail.violations.iter().map(|violation| format!("reason    {}", plain(&violation.message))));
    if let Some(failure) = &task.failure {
        lines.push(format!("reason    {} ({})", plain(&failure.message), failure.code));
        lines.push(format!("next      {}", plain(&failure.next_step)));
    }
    if !detail.used.is_nothing() {
        lines.push(format!("used      {}", used_words(&detail.used)));
    }
    for note in &detail.notes {
        lines.push(format!("note      {}, {}", note.actor.login, when(note.at)));
        let text = text::clean(note.text.as_bytes());
        lines.extend(text.lines().map(|line| format!("            {line}")));
    }
    for artifact in &detail.artifacts {
        lines.push(format!("kept      {}/{}, {} bytes", artifact.attempt, artifact.name, artifact.bytes));
    }
    print(&lines);
    if let Some(evidence) = &detail.evidence {
        Show::new(std::io::stdout(), false).evidence(evidence);
    }
    0
}

/// Millionths of a dollar, in dollars.
fn dollars(microusd: u64) -> String {
    let cents = microusd.div_ceil(10_000);
    format!("${}.{:02}", cents / 100, cents % 100)
}
