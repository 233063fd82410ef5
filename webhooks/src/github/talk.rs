//! What people, checks and branches tell about a repository: comments, reviews, failed checks, pushes.
//!
//! None of these is a request by itself. Whether the person may ask, and whether the pull request is one of ours, is for
//! whoever acts on it to find out: the door only stores what was told.

use serde::Deserialize;
use tasks::{Asked, BranchName, Change, Command, CommitSha, Timestamp};

use super::{
    commands,
    events::{Issue, MAX_BODY_BYTES, MAX_TITLE_BYTES, Repository, Sender, cut, is_configured},
};
use crate::DoorConfig;

/// The event `issue_comment`.
#[derive(Debug, Deserialize)]
pub(super) struct CommentEvent {
    action: String,
    issue: Issue,
    comment: Comment,
    repository: Repository,
    sender: Sender,
}

#[derive(Debug, Deserialize)]
struct Comment {
    id: u64,
    body: Option<String>,
    user: Option<Sender>,
    created_at: Option<Timestamp>,
}

impl CommentEvent {
    /// # Errors
    /// Why it asks for nothing.
    pub(super) fn read(self, config: &DoorConfig) -> Result<Change, &'static str> {
        // An edit asks for nothing: what was agreed to could be changed afterwards.
        if self.action != "created" {
            return Err("only a new comment asks for something");
        }
        is_configured(&self.repository.full_name, config)?;
        if !self.sender.may_ask(config) {
            return Err("a bot that is not allowed to ask did it");
        }
        if self.comment.user.as_ref().is_none_or(|user| user.id != self.sender.id) {
            return Err("the comment is not by the one who sent it");
        }
        let text = self.comment.body.as_deref().unwrap_or_default();
        let Some(command) = commands::read(cut(text, MAX_BODY_BYTES).as_str(), &config.names) else {
            let is_noticed = self.issue.pull_request.is_some() && !is_own(text);
            let noticed = Change::Noticed { repo: self.repository.full_name, number: self.issue.number };
            return if is_noticed { Ok(noticed) } else { Err("it is not for us") };
        };
        Ok(Change::Asked(Box::new(Asked {
            repo: self.repository.full_name,
            number: self.issue.number,
            on_pull_request: self.issue.pull_request.is_some(),
            is_open: self.issue.state == "open",
            title: cut(&self.issue.title, MAX_TITLE_BYTES),
            body: cut(self.issue.body.as_deref().unwrap_or_default(), MAX_BODY_BYTES),
            comment: Some(self.comment.id),
            discussed_until: self.comment.created_at.filter(|_| self.issue.comments != Some(0)),
            by: self.sender.actor(),
            command,
        })))
    }
}

/// The event `pull_request_review`.
#[derive(Debug, Deserialize)]
pub(super) struct ReviewEvent {
    action: String,
    review: Review,
    pull_request: Numbered,
    repository: Repository,
    sender: Sender,
}

#[derive(Debug, Deserialize)]
struct Review {
    id: u64,
    body: Option<String>,
    #[serde(default)]
    state: String,
}

#[derive(Debug, Deserialize)]
struct Numbered {
    number: u64,
}

impl ReviewEvent {
    /// # Errors
    /// Why it asks for nothing.
    pub(super) fn read(self, config: &DoorConfig) -> Result<Change, &'static str> {
        if self.action != "submitted" {
            return Err("only a submitted review asks for something");
        }
        is_configured(&self.repository.full_name, config)?;
        if !self.sender.may_ask(config) {
            return Err("a bot that is not allowed to ask did it");
        }
        let body = cut(self.review.body.as_deref().unwrap_or_default(), MAX_BODY_BYTES);
        let state = self.review.state.to_ascii_lowercase();
        let wants_changes = state == "changes_requested" || commands::mentions(&body, &config.names);
        if state == "approved" && !wants_changes {
            return Ok(Change::Noticed { repo: self.repository.full_name, number: self.pull_request.number });
        }
        Ok(Change::Reviewed {
            repo: self.repository.full_name,
            number: self.pull_request.number,
            review: self.review.id,
            by: self.sender.actor(),
            wants_changes,
            body,
        })
    }
}

/// The event `pull_request_review_comment`: what it asks for comes with the review that it belongs to.
#[derive(Debug, Deserialize)]
pub(super) struct LineCommentEvent {
    action: String,
    comment: Comment,
    pull_request: Numbered,
    repository: Repository,
    sender: Sender,
}

impl LineCommentEvent {
    /// # Errors
    /// Why it tells nothing.
    pub(super) fn read(self, config: &DoorConfig) -> Result<Change, &'static str> {
        is_configured(&self.repository.full_name, config)?;
        let is_ours = is_own(self.comment.body.as_deref().unwrap_or_default());
        if self.action != "created" || is_ours || !self.sender.may_ask(config) {
            return Err("nobody said anything new");
        }
        Ok(Change::Noticed { repo: self.repository.full_name, number: self.pull_request.number })
    }
}

/// Whether a comment is one of Onramp's own: they all have such a mark, and a token makes them look like a person's.
fn is_own(text: &str) -> bool {
    text.contains("<!-- onramp:")
}

/// The event `check_suite`.
#[derive(Debug, Deserialize)]
pub(super) struct SuiteEvent {
    action: String,
    check_suite: Suite,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct Suite {
    head_sha: CommitSha,
    conclusion: Option<String>,
    #[serde(default)]
    pull_requests: Vec<Numbered>,
}

impl SuiteEvent {
    /// # Errors
    /// Why it asks for nothing.
    pub(super) fn read(self, config: &DoorConfig) -> Result<Change, &'static str> {
        is_configured(&self.repository.full_name, config)?;
        let failed = matches!(self.check_suite.conclusion.as_deref(), Some("failure" | "timed_out"));
        if self.action != "completed" || !failed {
            return Err("no checks failed");
        }
        if self.check_suite.pull_requests.is_empty() {
            return Err("the checks belong to no pull request of this repository");
        }
        Ok(Change::ChecksFailed {
            repo: self.repository.full_name,
            numbers: self.check_suite.pull_requests.into_iter().map(|pull| pull.number).take(10).collect(),
            head: self.check_suite.head_sha,
        })
    }
}

/// The event `check_run`: somebody pressed a button of our own check.
#[derive(Debug, Deserialize)]
pub(super) struct ButtonEvent {
    action: String,
    check_run: PressedRun,
    requested_action: Option<Pressed>,
    repository: Repository,
    sender: Sender,
}

#[derive(Debug, Deserialize)]
struct PressedRun {
    #[serde(default)]
    pull_requests: Vec<Numbered>,
}

#[derive(Debug, Deserialize)]
struct Pressed {
    identifier: String,
}

impl ButtonEvent {
    /// # Errors
    /// Why it asks for nothing.
    pub(super) fn read(self, config: &DoorConfig) -> Result<Change, &'static str> {
        is_configured(&self.repository.full_name, config)?;
        let pressed =
            self.requested_action.filter(|_| self.action == "requested_action").ok_or("no button was pressed")?;
        if !self.sender.may_ask(config) {
            return Err("a bot that is not allowed to ask did it");
        }
        let command = match pressed.identifier.as_str() {
            "rebase" => Command::Rebase,
            _ => return Err("the button is not one of ours"),
        };
        let number = self.check_run.pull_requests.first().ok_or("the check belongs to no pull request")?.number;
        Ok(Change::Asked(Box::new(Asked {
            repo: self.repository.full_name,
            number,
            on_pull_request: true,
            is_open: true,
            title: String::new(),
            body: String::new(),
            comment: None,
            discussed_until: None,
            by: self.sender.actor(),
            command,
        })))
    }
}

/// The event `push`.
#[derive(Debug, Deserialize)]
pub(super) struct PushEvent {
    #[serde(rename = "ref")]
    name: String,
    #[serde(default)]
    deleted: bool,
    repository: Repository,
}

impl PushEvent {
    /// # Errors
    /// Why it asks for nothing.
    pub(super) fn read(self, config: &DoorConfig) -> Result<Change, &'static str> {
        is_configured(&self.repository.full_name, config)?;
        let branch = self.name.strip_prefix("refs/heads/").filter(|_| !self.deleted).ok_or("no branch moved")?;
        if self.repository.default_branch.as_deref() != Some(branch) {
            return Err("another branch than the default one moved");
        }
        let branch: BranchName = branch.parse().map_err(|_| "the branch has a name that we do not take")?;
        Ok(Change::BranchMoved { repo: self.repository.full_name, branch })
    }
}
