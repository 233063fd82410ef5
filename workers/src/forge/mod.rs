//! Where repositories, issues and pull requests live. The rest of the hands never sees which forge it is.

pub mod github;
pub mod local;
pub mod none;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use tasks::{Actor, BranchName, Code, CommitSha, Failure, PullRequest, RepoName, Timestamp, TreeSha};

use crate::{checkout::Remote, fence::Fence};

/// What a person may do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write code.
    Write,
    /// Everything.
    Admin,
}

/// A pull request to be found or opened.
#[derive(Debug, Clone)]
pub struct NewPullRequest<'a> {
    /// Where.
    pub repo: &'a RepoName,
    /// Asked before each write.
    pub fence: &'a Fence,
    /// The branch that carries the change; already pushed.
    pub branch: &'a BranchName,
    /// The published commit.
    pub head: &'a CommitSha,
    /// The branch it goes against.
    pub base: &'a BranchName,
    /// Title.
    pub title: &'a str,
    /// Body, Markdown.
    pub body: &'a str,
    /// As a draft.
    pub draft: bool,
    /// Labels to set.
    pub labels: &'a [String],
    /// Logins to ask for review.
    pub reviewers: &'a [String],
}

/// A commit that the forge is to make itself, so that it signs it.
#[derive(Debug)]
pub struct NewCommit<'a> {
    /// Where.
    pub repo: &'a RepoName,
    /// Asked before the branch is set.
    pub fence: &'a Fence,
    /// The branch.
    pub branch: &'a BranchName,
    /// What the commit follows.
    pub parents: &'a [CommitSha],
    /// What has to be on the branch before, where it is a pull request that gets one commit more.
    pub follows: Option<&'a CommitSha>,
    /// The verified tree.
    pub tree: &'a TreeSha,
    /// The tree that `changes` start from.
    pub changes_from: &'a TreeSha,
    /// The way to `tree`.
    pub changes: &'a [TreeChange],
    /// Whole, with its trailers.
    pub message: &'a str,
    /// The task's id.
    pub task: &'a str,
}

/// One file that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeChange {
    /// The path.
    pub path: Vec<u8>,
    /// `100644`, `100755` or `120000`.
    pub mode: &'static str,
    /// Its blob's id and bytes; `None`: it is gone.
    pub now: Option<(String, Vec<u8>)>,
}

/// What people see at once of what becomes of their wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// It was seen, and is taken up.
    Eyes,
    /// It came to a pull request.
    Rocket,
    /// It came to nothing.
    Confused,
}

/// What is reacted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReactTo {
    /// An issue or pull request.
    Thread(u64),
    /// A comment in the conversation of one.
    Comment(u64),
}

/// A pull request as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequestNow {
    /// It; its head is the branch's commit of now.
    pub pull_request: PullRequest,
    /// The branch it goes against.
    pub base: BranchName,
    /// Neither closed nor merged.
    pub is_open: bool,
    /// Its branch lies in the repository itself, not in a fork.
    pub is_ours_to_push: bool,
    /// When somebody last did something with it, ourselves included. `None`: the forge does not say.
    pub touched_at: Option<Timestamp>,
}

/// One comment on a line of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineComment {
    /// Its id.
    pub id: u64,
    /// The file.
    pub path: String,
    /// The line, where it still has one.
    pub line: Option<u64>,
    /// The lines of the diff that it stands under.
    pub hunk: String,
    /// What it says.
    pub body: String,
}

/// Something that a person said on an issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Who.
    pub by: Actor,
    /// What; as hostile as any text from outside.
    pub text: String,
    /// Whoever said it may write to the repository anyway.
    pub trusted: bool,
}

/// A check of the forge's own that failed on a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCheck {
    /// Its id, by which it can be run again.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// How often it ran on the commit.
    pub n_runs: usize,
    /// It fails on the base branch too.
    pub fails_on_base: bool,
    /// What it says: its title, summary and annotations, cut.
    pub said: String,
}

/// What Onramp verified, as a check of the forge.
#[derive(Debug, Clone)]
pub struct CheckRun<'a> {
    /// Where.
    pub repo: &'a RepoName,
    /// The commit that was verified.
    pub head: &'a CommitSha,
    /// The task's id. With the commit it is the key.
    pub task: &'a str,
    /// Nobody can have written it before.
    pub is_first: bool,
    /// One line.
    pub title: &'a str,
    /// Markdown.
    pub summary: &'a str,
    /// Nothing failed, not even what may.
    pub is_clean: bool,
    /// What was said about single lines.
    pub annotations: &'a [Annotation],
}

/// Something said about a line of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// The file.
    pub path: String,
    /// The line, from 1.
    pub line: u64,
    /// What.
    pub message: String,
}

/// An answer to a comment on a line of code.
#[derive(Debug, Clone)]
pub struct Reply<'a> {
    /// Where.
    pub repo: &'a RepoName,
    /// The number of the pull request.
    pub number: u64,
    /// The comment that is answered.
    pub to: u64,
    /// A hidden HTML comment that the body contains. The key.
    pub marker: &'a str,
    /// Markdown.
    pub body: &'a str,
}

/// What somebody who asks for news wants to hear of.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Nothing from before.
    pub since: Timestamp,
    /// Our open pull requests, whose reviews and checks count.
    pub pull_requests: &'a [PullRequest],
    /// Whether the default branch moved.
    pub base: bool,
    /// What was known after the last time.
    pub known: &'a Known,
}

/// How far somebody has heard, in the forge's own terms: what did not change since costs nothing to ask for again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known(pub(crate) BTreeMap<String, String>);

/// What happened in a repository.
#[derive(Debug, Default)]
pub struct News {
    /// Oldest first.
    pub told: Vec<Told>,
    /// For the next time, when all of it was taken up.
    pub known: Known,
    /// When the newest of it happened.
    pub newest: Option<Timestamp>,
}

/// Something that happened, told as the delivery that the forge would send about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The name of the event.
    pub event: &'static str,
    /// The same whenever it is told.
    pub id: String,
    /// What such a delivery holds, as far as it is used.
    pub payload: serde_json::Value,
}

/// Deliveries that did not arrive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// How many will come again.
    pub n_asked_for: usize,
    /// When the newest delivery was sent, arrived or not.
    pub newest: Option<Timestamp>,
}

/// A forge. Every method that writes may be repeated without a second effect; each names its key.
#[async_trait]
pub trait Forge: Send + Sync + std::fmt::Debug {
    /// The same forge with rights of its own for one task, which end with [`Forge::close`]. `None`: it has no such rights.
    fn for_task(&self) -> Option<Arc<dyn Forge>> {
        None
    }
    /// Ends the rights that were made. What cannot be ended is logged.
    async fn close(&self) {}
    /// Where to fetch from and push to, with a fresh token for this repository.
    async fn remote(&self, repo: &RepoName) -> Result<Remote, Failure>;
    /// The default branch.
    async fn default_branch(&self, repo: &RepoName) -> Result<BranchName, Failure>;
    /// What `actor` may do, asked live. Errors never mean yes.
    async fn permission(&self, repo: &RepoName, actor: &Actor) -> Result<Permission, Failure>;
    /// Who is called `login` now and what they may do, asked live: for people that another program names. `None`: they
    /// have nothing to do with the repository, or the forge has no accounts.
    async fn collaborator(&self, _repo: &RepoName, _login: &str) -> Result<Option<(Actor, Permission)>, Failure> {
        Ok(None)
    }
    /// Makes a commit of its own on the branch, signed by the forge. `None`: this forge makes none, and commits are pushed.
    /// Key: the branch and the task's id.
    async fn commit(&self, _new: NewCommit<'_>) -> Result<Option<CommitSha>, Failure> {
        Ok(None)
    }
    /// Finds the open pull request of the branch, else opens it; title and body of a found one are brought up to date.
    /// Key: the branch, which is deterministic.
    async fn pull_request(&self, new: NewPullRequest<'_>) -> Result<PullRequest, Failure>;
    /// Writes the one status comment of a task on an issue: edits the one that carries `marker`, else creates it.
    /// Key: `marker`, a hidden HTML comment that the body must contain. Returns the URL.
    async fn status_comment(&self, repo: &RepoName, issue: u64, marker: &str, body: &str) -> Result<String, Failure>;
    /// The labels of an issue or pull request, asked live.
    async fn labels(&self, _repo: &RepoName, _number: u64) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }
    /// What people said on an issue before a moment, oldest first, without what was written or changed later, without
    /// Onramp's own words, and without the comment `but`.
    async fn discussion(
        &self,
        _repo: &RepoName,
        _issue: u64,
        _until: Timestamp,
        _but: Option<u64>,
    ) -> Result<Vec<Said>, Failure> {
        Ok(Vec::new())
    }
    /// Puts a reaction of ours there. Key: the kind of reaction; a second one of the same kind is the first one.
    async fn react(&self, _repo: &RepoName, _to: ReactTo, _reaction: Reaction) -> Result<(), Failure> {
        Ok(())
    }
    /// A pull request as it is now.
    async fn pull_request_now(&self, repo: &RepoName, number: u64) -> Result<PullRequestNow, Failure> {
        Err(no_such(repo, number, "pull request"))
    }
    /// Closes a pull request without merging it. Closing twice is closing once.
    async fn close_pull_request(&self, repo: &RepoName, number: u64) -> Result<(), Failure> {
        Err(no_such(repo, number, "pull request"))
    }
    /// The comments on lines that belong to a review, but those that were changed after it was submitted.
    async fn line_comments(&self, repo: &RepoName, number: u64, _review: u64) -> Result<Vec<LineComment>, Failure> {
        Err(no_such(repo, number, "review"))
    }
    /// Answers a comment on a line, once. Key: the marker.
    async fn reply(&self, _fence: &Fence, reply: Reply<'_>) -> Result<(), Failure> {
        Err(no_such(reply.repo, reply.number, "comment"))
    }
    /// The forge's own checks whose last run on a commit failed, held against the branch that it goes against.
    async fn failed_checks(
        &self,
        _repo: &RepoName,
        _head: &CommitSha,
        _base: &BranchName,
    ) -> Result<Vec<FailedCheck>, Failure> {
        Ok(Vec::new())
    }
    /// Has checks run once more, by their ids. False: that cannot be asked for.
    async fn run_checks_again(&self, _repo: &RepoName, _checks: &[u64]) -> Result<bool, Failure> {
        Ok(false)
    }
    /// Writes our own check. Key: commit and task.
    async fn check_run(&self, _fence: &Fence, _run: CheckRun<'_>) -> Result<(), Failure> {
        Ok(())
    }
    /// Deletes a branch that still ends in `tip`. Returns whether it did.
    async fn delete_branch(&self, _repo: &RepoName, _branch: &BranchName, _tip: &CommitSha) -> Result<bool, Failure> {
        Ok(false)
    }
    /// The repositories that were opened to Onramp; `None` when that cannot be asked.
    async fn repositories(&self) -> Result<Option<Vec<RepoName>>, Failure> {
        Ok(None)
    }
    /// What happened in a repository, for who is not told.
    async fn news(&self, _repo: &RepoName, _wanted: Wanted<'_>) -> Result<News, Failure> {
        Ok(News::default())
    }
    /// Has those deliveries sent again that did not arrive since. Key: the id of a delivery, which stays the same.
    async fn ask_again_for_missed(&self, _since: Timestamp) -> Result<Missed, Failure> {
        Ok(Missed::default())
    }
}

fn no_such(repo: &RepoName, number: u64, what: &str) -> Failure {
    Failure::new(Code::PullRequestRefused, format!("{repo}#{number} is no {what} that this forge knows"))
}
