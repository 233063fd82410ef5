//! What is answered to who asks what can be asked, and where things stand.

use tasks::Task;

/// The hidden marker of the one answer in a conversation.
pub(super) const MARKER: &str = "<!-- onramp:help -->";

/// The answer: where the tasks of this conversation stand, and what can be asked.
pub(super) fn answer(tasks: &[Task], is_pull_request: bool, names: &[String], first: Option<&str>) -> String {
    let mut lines = vec![MARKER.to_owned()];
    if let Some(first) = first {
        lines.extend([first.to_owned(), String::new()]);
    }
    for task in tasks.iter().take(5) {
        let pull =
            task.state.pull_request().map_or_else(String::new, |pull| format!(", [#{}]({})", pull.number, pull.url));
        lines.push(format!("- Task `{}`: {}{pull}", task.id.short(), task.state.word().replace('_', " ")));
    }
    if tasks.is_empty() {
        lines.push("There is no task here yet.".to_owned());
    }
    let mention = names.first().map_or_else(String::new, |name| format!(", or mention {name} with an at sign"));
    lines.extend([
        String::new(),
        format!("<details><summary>What can be asked</summary>\n\nBegin a comment with one of these{mention}:\n"),
        "| | |\n|---|---|".to_owned(),
    ]);
    let mut rows = vec![
        ("/onramp <what you want>", "change something"),
        ("/onramp retry", "try again what failed"),
        ("/onramp stop", "stop what waits or runs"),
        ("/onramp finish", "end with what is there: it is checked and published as it is"),
        ("/onramp status", "this"),
    ];
    if is_pull_request {
        rows.insert(1, ("/onramp rebase", "merge the base branch in and run the checks again"));
    }
    lines.extend(rows.iter().map(|(command, meaning)| format!("| `{command}` | {meaning} |")));
    lines.push("\n</details>".to_owned());
    lines.join("\n")
}
