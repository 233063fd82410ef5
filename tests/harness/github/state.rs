//! What the fake remembers.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Instant,
};

use axum::http::Method;
use bytes::Bytes;

use super::{apps::App, bare::Bare, checks::Checks, faults::Faults, history::History, setup::Setup, talk::Talk};

/// What a person may do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Nothing.
    None,
    /// Look.
    Read,
    /// Push, label, comment.
    Write,
    /// Everything.
    Admin,
}

impl Permission {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// A request that arrived, and the status of its answer.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The method.
    pub method: Method,
    /// The path, as it was asked for.
    pub path: String,
    /// The body.
    pub body: Bytes,
    /// The status of the answer, also of one that was lost on its way.
    pub status: u16,
    /// When it arrived.
    pub at: Instant,
}

impl Recorded {
    /// Whether it was to change something through the API.
    pub fn is_write(&self) -> bool {
        !self.path.contains(".git/") && self.method != Method::GET && !self.path.ends_with("/access_tokens")
    }
}

/// An issue.
#[derive(Debug, Clone)]
pub struct Issue {
    /// Its number, from the same sequence as pull requests.
    pub number: u64,
    /// Its title.
    pub title: String,
    /// Its text.
    pub body: String,
    /// Who wrote it.
    pub author: String,
    /// Whether it is open.
    pub open: bool,
    /// Names of its labels.
    pub labels: Vec<String>,
    pub(super) updated_at: String,
    /// When its text was last changed.
    pub(super) edited_at: Option<String>,
}

impl Issue {
    pub(super) fn add_label(&mut self, label: &str) {
        self.updated_at = now();
        if !self.labels.iter().any(|set| set == label) {
            self.labels.push(label.to_owned());
        }
    }
}

/// A comment on an issue or a pull request.
#[derive(Debug, Clone)]
pub struct Comment {
    /// Its id, unique in the whole fake.
    pub id: u64,
    /// The issue or pull request.
    pub issue: u64,
    /// Who wrote it.
    pub author: String,
    /// Its text.
    pub body: String,
    /// Every text that it had, in order, the present one last.
    pub history: Vec<String>,
    pub(super) repository: u64,
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

/// A pull request.
#[derive(Debug, Clone)]
pub struct Pull {
    /// Its number, from the same sequence as issues.
    pub number: u64,
    /// The branch that carries the change.
    pub head: String,
    /// The branch that it goes against.
    pub base: String,
    /// Its title.
    pub title: String,
    /// Its text.
    pub body: String,
    /// Whether it is a draft.
    pub draft: bool,
    /// Whether it is open.
    pub open: bool,
    /// Whether it was merged.
    pub merged: bool,
    /// Who opened it.
    pub author: String,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// Logins of those who were asked for a review.
    pub reviewers: Vec<String>,
    pub(super) id: u64,
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

pub(super) struct Repository {
    pub(super) id: u64,
    pub(super) owner: String,
    pub(super) name: String,
    /// What it was called before: that leads here, by a redirect.
    pub(super) old_names: Vec<String>,
    pub(super) default_branch: String,
    pub(super) permissions: HashMap<String, Permission>,
    pub(super) issues: BTreeMap<u64, Issue>,
    pub(super) pulls: BTreeMap<u64, Pull>,
    path: PathBuf,
    last_number: u64,
}

impl Repository {
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    pub(super) fn bare(&self) -> Bare {
        Bare::at(self.path.clone())
    }

    /// Its folder below the one that holds them all; a rename does not move it.
    pub(super) fn folder(&self, root: &Path) -> String {
        self.path.strip_prefix(root).expect("all repositories lie below it").display().to_string()
    }

    pub(super) fn fresh_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// Who a token speaks for, and where.
#[derive(Debug, Clone)]
pub(super) enum Token {
    Personal { login: String },
    Installation { repositories: Vec<u64>, permissions: BTreeMap<String, String> },
}

pub(super) struct State {
    pub(super) web_url: String,
    pub(super) prefix: String,
    pub(super) root: PathBuf,
    pub(super) users: BTreeMap<String, u64>,
    pub(super) repositories: Vec<Repository>,
    pub(super) comments: Vec<Comment>,
    pub(super) talk: Talk,
    pub(super) history: History,
    pub(super) checks: Checks,
    pub(super) tokens: HashMap<String, Token>,
    pub(super) app: Option<App>,
    pub(super) setup: Setup,
    pub(super) mangles_trees: bool,
    pub(super) faults: Faults,
    pub(super) requests: Vec<Recorded>,
    /// What GitHub's own description of its API has against them.
    pub(super) objections: Vec<String>,
    last_id: u64,
}

/// What a test asks for by a name that it never made: the test is wrong.
const UNKNOWN: &str = "the test made this repository, issue or pull request";

impl State {
    pub(super) fn new(web_url: String, prefix: String, root: PathBuf) -> Self {
        Self {
            web_url,
            prefix,
            root,
            users: BTreeMap::new(),
            repositories: Vec::new(),
            comments: Vec::new(),
            talk: Talk::default(),
            history: History::default(),
            checks: Checks::default(),
            tokens: HashMap::new(),
            app: None,
            setup: Setup::default(),
            mangles_trees: false,
            faults: Faults::default(),
            requests: Vec::new(),
            objections: Vec::new(),
            last_id: 1000,
        }
    }

    pub(super) fn api_url(&self) -> String {
        format!("{}{}", self.web_url, self.prefix)
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The numeric id of a login; bots and people whom no test named have one too, always the same.
    pub(super) fn user_id(&self, login: &str) -> u64 {
        let made_up = || 900_000 + login.bytes().fold(0, |sum, byte| (sum * 31 + u64::from(byte)) % 90_000);
        self.users.get(login).copied().unwrap_or_else(made_up)
    }

    pub(super) fn add_repository(&mut self, full_name: &str, files: &[(&str, &str)]) {
        let (owner, name) = full_name.split_once('/').expect("a repository is named owner/name");
        let path = self.root.join(owner).join(format!("{name}.git"));
        Bare::init(path.clone()).commit("main", files, "Start");
        let id = self.fresh_id();
        self.repositories.push(Repository {
            id,
            owner: owner.to_owned(),
            name: name.to_owned(),
            old_names: Vec::new(),
            default_branch: "main".to_owned(),
            permissions: HashMap::new(),
            issues: BTreeMap::new(),
            pulls: BTreeMap::new(),
            path,
            last_number: 11,
        });
    }

    pub(super) fn find(&self, full_name: &str) -> Option<&Repository> {
        self.repositories.iter().find(|repo| repo.full_name().eq_ignore_ascii_case(full_name))
    }

    /// The repository that had this name before.
    pub(super) fn find_renamed(&self, full_name: &str) -> Option<&Repository> {
        self.repositories.iter().find(|repo| repo.old_names.iter().any(|old| old.eq_ignore_ascii_case(full_name)))
    }

    pub(super) fn repository(&self, full_name: &str) -> &Repository {
        self.find(full_name).expect(UNKNOWN)
    }

    pub(super) fn repository_mut(&mut self, full_name: &str) -> &mut Repository {
        self.repositories.iter_mut().find(|repo| repo.full_name().eq_ignore_ascii_case(full_name)).expect(UNKNOWN)
    }

    pub(super) fn issue_mut(&mut self, repo: &str, number: u64) -> &mut Issue {
        self.repository_mut(repo).issues.get_mut(&number).expect(UNKNOWN)
    }

    pub(super) fn pull_mut(&mut self, repo: &str, number: u64) -> &mut Pull {
        self.repository_mut(repo).pulls.get_mut(&number).expect(UNKNOWN)
    }

    pub(super) fn add_issue(&mut self, repo: &str, title: &str, body: &str, author: &str) -> u64 {
        let repo = self.repository_mut(repo);
        let number = repo.fresh_number();
        let (title, body, author) = (title.to_owned(), body.to_owned(), author.to_owned());
        let (updated_at, edited_at) = (now(), None);
        let issue = Issue { number, title, body, author, open: true, labels: Vec::new(), updated_at, edited_at };
        repo.issues.insert(number, issue);
        number
    }

    pub(super) fn add_comment(&mut self, repo: &str, issue: u64, author: &str, body: &str) -> &Comment {
        let now = now();
        if let Some(pull) = self.repository_mut(repo).pulls.get_mut(&issue) {
            pull.updated_at.clone_from(&now);
        }
        let comment = Comment {
            id: self.fresh_id(),
            issue,
            author: author.to_owned(),
            body: body.to_owned(),
            history: vec![body.to_owned()],
            repository: self.repository(repo).id,
            created_at: now.clone(),
            updated_at: now,
        };
        self.comments.push(comment);
        self.comments.last().expect("it was just pushed")
    }

    pub(super) fn comments_of(&self, repo: &str, issue: u64) -> impl Iterator<Item = &Comment> {
        let repository = self.repository(repo).id;
        self.comments.iter().filter(move |comment| comment.repository == repository && comment.issue == issue)
    }
}

/// The time, as GitHub writes it.
#[expect(clippy::disallowed_methods, reason = "the fake is an edge of its own: its clock is GitHub's")]
pub(super) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
