//! How people name a task: by its id or a part of it, by an issue or pull request, or by an address that they copied.

use std::str::FromStr;

use tasks::{Code, Failure, Intake as _, RepoName, Task, TaskFilter, TaskId};

use super::{Caller, refusal};
use crate::queue::Queue;

/// Digits that name a task when an id begins or ends with them; fewer would name too many.
const MIN_DIGITS: usize = 4;

/// What somebody typed, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// The whole id.
    Id(TaskId),
    /// The beginning or the end of an id.
    Part(String),
    /// An issue or pull request; without a repository, of any.
    Thread(Option<RepoName>, u64),
    /// The newest one.
    Last,
}

impl FromStr for Address {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        if text == "last" {
            return Ok(Self::Last);
        }
        if let Some(address) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) {
            return of_url(address).ok_or_else(|| not_an_address(text));
        }
        if let Some((repo, number)) = text.split_once('#') {
            let repo = if repo.is_empty() { None } else { Some(repo.parse().map_err(|_| not_an_address(text))?) };
            return Ok(Self::Thread(repo, number.parse().map_err(|_| not_an_address(text))?));
        }
        let digits = text.to_ascii_lowercase();
        if digits.len() >= MIN_DIGITS && digits.len() < 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self::Part(digits));
        }
        Err(unknown(text))
    }
}

impl Address {
    /// The task, as long as exactly one is meant: of an issue or pull request, the newest.
    pub(super) async fn find(&self, queue: &Queue, caller: &Caller) -> Result<Task, Failure> {
        if let Self::Id(id) = self {
            return queue.get(*id).await.map_err(refusal)?.ok_or_else(|| unknown(&id.to_string()));
        }
        let filter = TaskFilter { repo: caller.repo.clone(), ..TaskFilter::default() };
        let mut fitting = queue.list(filter).await.map_err(refusal)?.into_iter().filter(|task| self.means(task));
        let found = fitting.next().ok_or_else(|| unknown(&self.to_string()))?;
        match self {
            Self::Part(digits) if fitting.next().is_some() => {
                let message = format!("More than one task has an id that begins or ends with {digits}");
                Err(Failure::new(Code::Usage, message).next("Give more digits of the id."))
            }
            Self::Thread(None, number) if fitting.any(|other| other.request.repo != found.request.repo) => {
                let message = format!("#{number} is known in more than one repository");
                Err(Failure::new(Code::Usage, message).next(format!("Name it: owner/name#{number}.")))
            }
            Self::Id(_) | Self::Part(_) | Self::Thread(..) | Self::Last => Ok(found),
        }
    }

    fn means(&self, task: &Task) -> bool {
        match self {
            Self::Id(id) => task.id == *id,
            Self::Part(digits) => {
                let id = task.id.to_string();
                id.ends_with(digits) || id.starts_with(digits)
            }
            Self::Thread(repo, number) => {
                let in_repo = repo.as_ref().is_none_or(|repo| *repo == task.request.repo);
                let pull_request = task.state.pull_request().is_some_and(|pull| pull.number == *number);
                in_repo && (pull_request || task.request.source.thread() == Some(*number))
            }
            Self::Last => true,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Part(digits) => f.write_str(digits),
            Self::Thread(Some(repo), number) => write!(f, "{repo}#{number}"),
            Self::Thread(None, number) => write!(f, "#{number}"),
            Self::Last => f.write_str("at all"),
        }
    }
}

/// `host/owner/name/pull/12`, `host/owner/name/issues/12`, or a page of ours, `host/tasks/ID`; what follows is passed over.
fn of_url(address: &str) -> Option<Address> {
    let path = address.split(['?', '#']).next()?.split_once('/')?.1;
    let parts: Vec<_> = path.split('/').collect();
    match parts.as_slice() {
        ["tasks", id, ..] => id.parse().ok().map(Address::Id),
        [owner, name, "pull" | "issues", number, ..] => {
            Some(Address::Thread(Some(format!("{owner}/{name}").parse().ok()?), number.parse().ok()?))
        }
        _ => None,
    }
}

/// The place in a list that `next` names.
pub(super) fn cursor(text: &str) -> Result<TaskId, Failure> {
    let bad = |_| Failure::new(Code::Usage, "This cursor does not come from a list of tasks");
    text.parse().map_err(bad).map_err(|failure| failure.next("Give the `next` of the page before, or none."))
}

pub(super) fn unknown(text: &str) -> Failure {
    Failure::new(Code::UnknownTask, format!("There is no task {}", text.chars().take(64).collect::<String>()))
}

fn not_an_address(text: &str) -> Failure {
    let text: String = text.chars().take(120).collect();
    Failure::new(Code::Usage, format!("{text:?} names no task")).next(
        "Give the beginning or end of an id (at least 4 digits), #12, owner/name#12, or the address of an issue or pull request.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_by_id_part_number_or_address() {
        let thread = |repo: &str, n| Address::Thread(Some(repo.parse().unwrap()), n);
        let id: TaskId = "07070707070707070707070707070707".parse().unwrap();
        for (text, meant) in [
            ("07070707070707070707070707070707", Address::Id(id)),
            ("07070707-0707-0707-0707-070707070707", Address::Id(id)),
            ("4F2A", Address::Part("4f2a".into())),
            ("#12", Address::Thread(None, 12)),
            ("acme/web#12", thread("acme/web", 12)),
            ("https://github.com/acme/web/pull/12/files", thread("acme/web", 12)),
            ("http://ghe.example:8443/acme/web/issues/7#issuecomment-1", thread("acme/web", 7)),
            ("https://onramp.example/tasks/07070707070707070707070707070707?tab=log", Address::Id(id)),
            ("last", Address::Last),
        ] {
            assert_eq!(text.parse::<Address>().unwrap(), meant, "{text}");
        }
    }

    #[test]
    fn what_names_no_task_is_refused_with_what_would() {
        for (text, code) in
            [("xyz", Code::UnknownTask), ("4f2", Code::UnknownTask), ("#x", Code::Usage), ("https://x/y", Code::Usage)]
        {
            assert_eq!(text.parse::<Address>().unwrap_err().code, code, "{text}");
        }
    }
}
