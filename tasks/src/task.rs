//! One task: what was asked for, by whom, and where it stands.

mod note;

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::note::{MAX_NOTES, Note};
use crate::{
    Timestamp,
    chat::ChatThread,
    evidence::Anchor,
    gpu::GpuRequest,
    ledger::{Overdrawn, Reservation, Usage},
    repo::{BranchName, CommitSha, NameError, RepoName, string_newtype},
    state::TaskState,
};

/// The id of a task: a UUIDv7, so that ids sort by creation. Written without hyphens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct TaskId(Uuid);

impl TaskId {
    /// A new id for a task created at `now`.
    pub fn new(now: Timestamp) -> Self {
        let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        let time = uuid::Timestamp::from_unix_time(millis / 1000, (millis % 1000) as u32 * 1_000_000, 0, 0);
        Self(Uuid::new_v7(time))
    }

    /// The sixteen bytes, big-endian: sorts as the id does.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id that these bytes spell.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The last eight digits: random, so short and still telling; for branch names and people.
    pub fn short(&self) -> String {
        self.to_string()[24..].to_owned()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        Uuid::try_parse(value).map(Self).map_err(|_| NameError {
            value: value.chars().take(120).collect(),
            expected: "a task id of 32 hexadecimal digits",
        })
    }
}

impl Serialize for TaskId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

string_newtype!(
    /// The name of an agent, as in `templates/agents/<name>.toml`.
    AgentName,
    "an agent name (lower-case letters, digits and hyphens)",
    |value| !value.is_empty()
        && value.len() <= 40
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

string_newtype!(
    /// What makes two deliveries the same: the delivery id of the sender, prefixed with the kind of sender
    /// (`github:72d3162e-…`). A second delivery with the same key is answered with the first one's task.
    DedupeKey,
    "a dedupe key of 1 to 200 printable ASCII characters",
    |value| !value.is_empty() && value.len() <= 200 && value.bytes().all(|b| b.is_ascii_graphic())
);

/// How branches are named where nobody says otherwise. Every pattern ends in `{id}`, which tells our branches apart.
pub const BRANCH_PATTERN: &str = "onramp/{issue}-{slug}-{id}";

/// Who asked. Only what the forge's API says counts, never what a commit or a text claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Actor {
    /// The login, for people.
    pub login: String,
    /// The numeric id on the forge: the identity. `None` for the person at the command line.
    pub id: Option<u64>,
}

/// Where a request came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// An issue got the configured label.
    IssueLabelled {
        /// The number of the issue.
        issue: u64,
        /// The label that was set.
        label: String,
    },
    /// An issue was assigned to the account that Onramp works as.
    IssueAssigned {
        /// The number of the issue.
        issue: u64,
    },
    /// Somebody asked in a comment, on an issue or on a pull request of ours.
    Comment {
        /// The number of the issue or of the pull request.
        number: u64,
        /// The id of the comment.
        comment: u64,
    },
    /// Somebody reviewed a pull request of ours and wants changes: one task for the whole review.
    Review {
        /// The number of the pull request.
        pull_request: u64,
        /// The id of the review.
        review: u64,
    },
    /// The forge's own checks failed on a pull request of ours.
    ChecksFailed {
        /// The number of the pull request.
        pull_request: u64,
        /// The commit that they failed on.
        head: CommitSha,
    },
    /// It follows from what was done before: somebody asked for more meanwhile, or the base branch moved.
    FollowUp {
        /// The issue or pull request that it belongs to.
        number: u64,
    },
    /// Somebody asked in a chat.
    Chat {
        /// The conversation, in which it is answered.
        thread: ChatThread,
        /// The id of the person in the chat.
        by: String,
    },
    /// Another service asked, in the way that the operator configured for it.
    Hook {
        /// The name of the hook.
        name: String,
    },
    /// Somebody typed `onramp run`.
    CommandLine,
    /// Somebody who was given access asked through the API, the pages or a tool. That they may is settled by then.
    Api {
        /// The issue or pull request that it is about, if any.
        number: Option<u64>,
    },
}

impl Source {
    /// The comment that asked.
    pub fn comment(&self) -> Option<u64> {
        match self {
            Self::Comment { comment, .. } => Some(*comment),
            Self::IssueLabelled { .. }
            | Self::IssueAssigned { .. }
            | Self::Review { .. }
            | Self::ChecksFailed { .. }
            | Self::FollowUp { .. }
            | Self::Chat { .. }
            | Self::Hook { .. }
            | Self::CommandLine
            | Self::Api { .. } => None,
        }
    }

    /// The word that every surface uses.
    pub fn word(&self) -> &'static str {
        match self {
            Self::IssueLabelled { .. } => "issue_labelled",
            Self::IssueAssigned { .. } => "issue_assigned",
            Self::Comment { .. } => "comment",
            Self::Review { .. } => "review",
            Self::ChecksFailed { .. } => "checks_failed",
            Self::FollowUp { .. } => "follow_up",
            Self::Chat { .. } => "chat",
            Self::Hook { .. } => "hook",
            Self::CommandLine => "command_line",
            Self::Api { .. } => "api",
        }
    }

    /// The issue or pull request where it was asked, and where it is answered.
    pub fn thread(&self) -> Option<u64> {
        match self {
            Self::IssueLabelled { issue, .. } | Self::IssueAssigned { issue } => Some(*issue),
            Self::Comment { number, .. } | Self::FollowUp { number, .. } => Some(*number),
            Self::Review { pull_request, .. } | Self::ChecksFailed { pull_request, .. } => Some(*pull_request),
            Self::Api { number } => *number,
            Self::Chat { .. } | Self::Hook { .. } | Self::CommandLine => None,
        }
    }

    /// Where it was asked, as one word: whatever is asked there again while a task is unfinished is a note on that task.
    pub fn place(&self) -> Option<String> {
        match self {
            Self::Chat { thread: ChatThread { channel, first }, .. } => Some(format!("chat:{channel}:{first}")),
            other => other.thread().map(place_of_number),
        }
    }
}

/// The [`Source::place`] of an issue or pull request.
pub fn place_of_number(number: u64) -> String {
    format!("#{number}")
}

/// What the agent is asked to do. The text is data: it is fenced and cleaned before an agent reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instruction {
    /// One line: the title of the issue, or the first line of what was typed.
    pub title: String,
    /// The rest; may be empty.
    pub body: String,
    /// True when the person who asked wrote it, and may change the code anyway. The text of an issue is never trusted,
    /// since anybody may write one.
    pub trusted: bool,
    /// The issue or pull request that it is about, as it was when this was asked. Never trusted; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
}

/// What a task ends in when all goes well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deliver {
    /// A commit, a branch and a pull request.
    PullRequest,
    /// The verified diff as an artifact, published nowhere.
    Diff,
}

/// What the request wants beyond the repository's own configuration. `None`: what the repository says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// A GPU, for the agent and for the checks that name none of their own.
    #[serde(default, deserialize_with = "crate::gpu::stored")]
    pub gpu: Option<GpuRequest>,
}

/// One typed request, made at the door and never changed after it was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskRequest {
    /// Two requests with the same key are one request.
    pub dedupe_key: DedupeKey,
    /// Where it came from.
    pub source: Source,
    /// Who asked.
    pub actor: Actor,
    /// The repository to change.
    pub repo: RepoName,
    /// The branch to start from and to open the pull request against; `None`: the default branch.
    pub base: Option<BranchName>,
    /// The agent to use; `None`: the configured default.
    pub agent: Option<AgentName>,
    /// What to do.
    pub instruction: Instruction,
    /// How it ends.
    pub deliver: Deliver,
    /// What it needs to run.
    pub resources: Resources,
    /// The number of the pull request that this request wants changed further. `None`: it wants one of its own.
    pub revises: Option<u64>,
    /// What is to be done.
    #[serde(default)]
    pub work: Work,
    /// Comments from before this moment, in the forge's time, belong to the request. `None`: there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discussed_until: Option<Timestamp>,
}

impl TaskRequest {
    /// Whether it ends in one pull request more.
    pub fn opens_pull_request(&self) -> bool {
        self.deliver == Deliver::PullRequest && self.revises.is_none()
    }

    /// The issue that the request is about, if any. A pull request is none.
    pub fn issue(&self) -> Option<u64> {
        self.source.thread().filter(|_| self.revises.is_none())
    }
}

/// What a task does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// An agent changes something.
    #[default]
    Change,
    /// The base branch moved: its commits are merged into the pull request, and everything is verified again.
    Rebase,
}

/// Which tasks go first. Within one priority, repositories and then requesters take turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After the others.
    Low,
    /// What nobody configured.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// A stored request and where it stands. Only [`Task::apply`] assigns `state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// What was asked.
    pub request: TaskRequest,
    /// Where it stands.
    pub state: TaskState,
    /// How often it was leased. Only grows; the fencing token of its lease.
    pub attempt: u32,
    /// How often an attempt failed; the retry budget. A graceful release costs none.
    pub failures: u32,
    /// How often the worker vanished while it held the task. Apart from `failures`: a task that kills its workers must
    /// be set aside soon, and one whose forge is down must not be taken for such a one.
    #[serde(default)]
    pub crashes: u32,
    /// Which tasks go before it and after it.
    #[serde(default)]
    pub priority: Priority,
    /// What later triggers for the same issue said, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// How many of the notes the last attempt was shown.
    #[serde(default)]
    pub n_notes_seen: usize,
    /// The end of the journal when the task was leased; set on the copy that a worker gets, and never stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
    /// Set when somebody asked for it to stop; turns every road back to `Queued` into `Cancelled`.
    pub cancel_requested: Option<Actor>,
    /// Set when somebody asked for it to end with what is there: no further round of the agent begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_requested: Option<Actor>,
    /// When somebody last did something with its open pull request, or said something there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noticed_at: Option<Timestamp>,
    /// When it was said on its pull request that nobody does anything with it; until somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_at: Option<Timestamp>,
    /// What its attempts used that have ended.
    #[serde(default, skip_serializing_if = "Usage::is_nothing")]
    pub used: Usage,
    /// What of it was used before it was last put back by a person: then its limits begin anew.
    #[serde(default, skip_serializing_if = "Usage::is_nothing")]
    pub used_before: Usage,
    /// What the attempt that runs may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Box<Reservation>>,
    /// Why it waits though it is its turn: a limit of this month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Box<Overdrawn>>,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
}

impl Task {
    /// A new task, ready to be leased at once.
    pub fn new(id: TaskId, request: TaskRequest, now: Timestamp) -> Self {
        let state = TaskState::Queued { not_before: now, waits: None };
        Self {
            id,
            request,
            state,
            attempt: 0,
            failures: 0,
            crashes: 0,
            priority: Priority::default(),
            notes: Vec::new(),
            n_notes_seen: 0,
            anchor: None,
            cancel_requested: None,
            finish_requested: None,
            noticed_at: None,
            stale_at: None,
            used: Usage::default(),
            used_before: Usage::default(),
            reservation: None,
            held: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// The note that a second request leaves on this task.
    pub fn note_of(&self, request: &TaskRequest, at: Timestamp) -> Note {
        let words = |instruction: &Instruction| match instruction.body.trim() {
            "" => instruction.title.clone(),
            body => format!("{}\n\n{body}", instruction.title),
        };
        let text = words(&request.instruction);
        let is_news = text != words(&self.request.instruction) && self.notes.iter().all(|note| note.text != text);
        Note { actor: request.actor.clone(), at, text: if is_news { text } else { String::new() } }
    }

    /// The body of the request, and below it what later triggers said.
    pub fn body_with_notes(&self) -> String {
        let mut body = self.request.instruction.body.clone();
        for note in self.notes.iter().filter(|note| !note.text.is_empty()) {
            let said = format!("Later, {} asked again:", note.actor.login);
            body = format!("{}\n\n{said}\n\n{}", body.trim_end(), note.text);
        }
        body
    }

    /// What was said after the last attempt had begun.
    pub fn unseen_notes(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().skip(self.n_notes_seen).filter(|note| !note.text.is_empty())
    }

    /// Takes a note, as long as there are not too many.
    pub fn add_note(&mut self, note: Note) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }

    /// Books what the attempt used that has ended, in the place of what was reserved for it. `None`: it never said so,
    /// which counts as all that it might have used.
    ///
    /// Returns where it counts, and how much.
    pub fn settle(&mut self, used: Option<Usage>) -> Option<(Reservation, Usage)> {
        let reservation = *self.reservation.take()?;
        let used = used.unwrap_or_else(|| reservation.forfeited());
        self.used = self.used.plus(&used);
        Some((reservation, used))
    }

    /// The branch that carries the change: the same at every attempt, so that a repeated publish finds its own work.
    ///
    /// In the pattern, `{issue}`, `{slug}` (the title) and `{id}` stand for what they say; what there is nothing to say for is
    /// left out with its hyphen. A pattern that makes no name of a branch counts as [`BRANCH_PATTERN`].
    pub fn branch(&self, pattern: &str) -> BranchName {
        let mut slug = String::new();
        for c in self.request.instruction.title.chars() {
            match c.to_ascii_lowercase() {
                c if c.is_ascii_alphanumeric() => slug.push(c),
                _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
                _ => {}
            }
            if slug.len() >= 40 {
                break;
            }
        }
        let issue = self.request.issue().map_or_else(String::new, |n| n.to_string());
        let named = |pattern: &str| {
            let mut name = String::new();
            let filled = pattern
                .replace("{issue}", &issue)
                .replace("{slug}", slug.trim_matches('-'))
                .replace("{id}", &self.id.short());
            for c in filled.chars() {
                if !(c == '-' && name.ends_with(['-', '/'])) {
                    name.push(c);
                }
            }
            name.parse::<BranchName>()
        };
        named(pattern)
            .or_else(|_| named(BRANCH_PATTERN))
            .unwrap_or_else(|_| unreachable!("letters, digits, hyphens and one slash are a branch name"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn now() -> Timestamp {
        Timestamp::from_timestamp(1_790_000_000, 0).unwrap()
    }

    pub(crate) fn request(title: &str) -> TaskRequest {
        TaskRequest {
            dedupe_key: "github:1".parse().unwrap(),
            source: Source::IssueLabelled { issue: 12, label: "onramp".into() },
            actor: Actor { login: "ada".into(), id: Some(7) },
            repo: "acme/web".parse().unwrap(),
            base: None,
            agent: None,
            instruction: Instruction { title: title.into(), body: String::new(), trusted: false, about: String::new() },
            deliver: Deliver::PullRequest,
            resources: Resources::default(),
            revises: None,
            work: Work::default(),
            discussed_until: None,
        }
    }

    #[test]
    fn a_branch_is_ascii_short_and_the_same_every_time() {
        let id: TaskId = "0190a0b0c0d0700080009000a1b2c3d4".parse().unwrap();
        let branch = |title| Task::new(id, request(title), now()).branch(BRANCH_PATTERN).to_string();
        assert_eq!(branch("Fix: the pager drops the LAST row!"), "onramp/12-fix-the-pager-drops-the-last-row-a1b2c3d4");
        assert_eq!(branch("修复分页"), "onramp/12-a1b2c3d4");
        assert_eq!(branch("  --  "), "onramp/12-a1b2c3d4");
        assert!(branch(&"x".repeat(500)).len() < 80);
    }

    #[test]
    fn a_branch_is_named_as_its_repository_wants_it() {
        let id: TaskId = "0190a0b0c0d0700080009000a1b2c3d4".parse().unwrap();
        let branch = |pattern, title| Task::new(id, request(title), now()).branch(pattern).to_string();
        assert_eq!(branch("bot/{slug}-{id}", "Fix it"), "bot/fix-it-a1b2c3d4");
        assert_eq!(branch("bot/{slug}-{id}", "修复分页"), "bot/a1b2c3d4");
        assert_eq!(branch("{issue}/{id}", "Fix it"), "12/a1b2c3d4");
        assert_eq!(branch("a..b-{id}", "Fix it"), "onramp/12-fix-it-a1b2c3d4", "that is no name of a branch");
    }

    #[test]
    fn ids_sort_by_creation_and_survive_text_and_bytes() {
        let early = TaskId::new(now());
        let late = TaskId::new(now() + chrono::Duration::seconds(1));
        assert!(early < late);
        assert_eq!(early.to_string().parse::<TaskId>().unwrap(), early);
        assert_eq!(TaskId::from_bytes(*early.as_bytes()), early);
    }
}
