//! GitHub, and GitHub Enterprise Server: the only place that talks to its API.
//!
//! GitHub repeats nothing by itself and forgives no repetition but one (a second pull request for the same branch), so
//! everything written here follows one pattern: look for our own work first, write once, and after an unclear answer look
//! again before anything is sent again.

mod account;
mod api;
mod auth;
mod branches;
mod checks;
mod comments;
mod commits;
mod decorate;
mod discussion;
mod errors;
mod key;
mod missed;
mod news;
mod pulls;
mod setup;
mod talk;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use reqwest::Url;
use serde::Deserialize;
use tasks::{Actor, BranchName, Code, CommitSha, Failure, PullRequest, RepoName, Timestamp};
use tokio::sync::OnceCell;

use self::{
    api::{Api, Line},
    auth::{Access, Own, Pass, Purse, Role},
};
pub use self::{
    auth::Credentials,
    setup::{AppItself, AppManifest, Installed, NewApp, app_of_manifest, web_url},
};
use super::{
    CheckRun, FailedCheck, Forge, LineComment, Missed, NewCommit, NewPullRequest, News, Permission, PullRequestNow,
    ReactTo, Reaction, Reply, Said, Wanted,
};
use crate::{checkout::Remote, fence::Fence};

/// Where the API of github.com is.
const PUBLIC_API: &str = "https://api.github.com";
/// One request to the API takes no longer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// So long a repository is taken for what it was. A rename in between is followed by redirects.
const KNOWN_FOR: Duration = Duration::from_secs(300);
/// After an unclear answer, how long to wait before looking what became of the request.
const SETTLE: Duration = Duration::from_secs(1);
/// What GitHub asks for between two writes.
const WRITE_PAUSE: Duration = Duration::from_secs(1);
/// How often in all something is looked for and, when it is not there, written.
const WRITES: usize = 3;

/// Where GitHub is, and who Onramp is there.
#[derive(Debug, Clone)]
pub struct GitHubConfig {
    /// The root of the API: `https://api.github.com`, or `https://HOST/api/v3` of an Enterprise Server.
    pub api_url: String,
    /// What `/<owner>/<name>.git` is added to. `None`: follows from `api_url`.
    pub git_url: Option<String>,
    /// Who Onramp is.
    pub credentials: Credentials,
    /// From the end of one write to the start of the next. GitHub asks for a second.
    pub write_pause: Duration,
}

impl GitHubConfig {
    /// github.com.
    pub fn new(credentials: Credentials) -> Self {
        Self { api_url: PUBLIC_API.into(), git_url: None, credentials, write_pause: WRITE_PAUSE }
    }
}

/// GitHub.
pub struct GitHubForge {
    line: Line,
    git_url: String,
    /// [`SETTLE`].
    settle: Duration,
    /// Tokens that were made for this one: those of a task end with it.
    purse: Purse,
    shared: Arc<Shared>,
}

/// What the standing forge and those of tasks know in common.
struct Shared {
    access: Access,
    known: Mutex<HashMap<RepoName, (Instant, Repository)>>,
    own: OnceCell<Own>,
    /// Held while a status comment is looked for and written, so that two writers of one make one.
    commenting: tokio::sync::Mutex<()>,
}

/// What is asked of a repository.
#[derive(Debug, Clone, Deserialize)]
struct Repository {
    id: u64,
    /// As it is called now: an old name leads here too, but only when read.
    full_name: RepoName,
    default_branch: BranchName,
    /// What the owner of these credentials may do; apps are not told.
    #[serde(default)]
    permissions: Option<Rights>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Rights {
    admin: bool,
    push: bool,
    pull: bool,
}

/// A repository and what it may be reached with.
struct Reach {
    api: Arc<Api>,
    repository: Repository,
    settle: Duration,
}

impl GitHubForge {
    /// Looks at the configuration; asks GitHub nothing yet.
    ///
    /// # Errors
    /// E006 for an address that is none; E008 or E050 for a secret that is missing or cannot be what it should be.
    pub fn new(config: GitHubConfig) -> Result<Self, Failure> {
        let GitHubConfig { api_url, git_url, credentials, write_pause } = config;
        let api_url = web_address(&api_url, "the API")?;
        let git_url = match git_url {
            Some(url) => web_address(&url, "git")?,
            None => git_url_of(&api_url),
        };
        let line = Line { api_url, timeout: TIMEOUT, write_pause };
        let shared = Shared {
            access: Access::new(credentials, &line)?,
            known: Mutex::default(),
            own: OnceCell::new(),
            commenting: tokio::sync::Mutex::default(),
        };
        Ok(Self { line, git_url, settle: SETTLE, purse: Purse::new(Role::Standing), shared: Arc::new(shared) })
    }

    async fn pass(&self, repo: &RepoName) -> Result<Pass, Failure> {
        self.shared.access.pass(&self.line, &self.purse, repo).await
    }

    /// The repository under the name that it has now, asked at most every few minutes.
    async fn reach(&self, repo: &RepoName) -> Result<Reach, Failure> {
        let api = self.pass(repo).await?.api;
        let known = self.known().get(repo).filter(|(at, _)| at.elapsed() < KNOWN_FOR).map(|(_, known)| known.clone());
        let repository = match known {
            Some(known) => known,
            None => self.fetch(&api, repo).await?,
        };
        Ok(Reach { api, repository, settle: self.settle })
    }

    async fn fetch(&self, api: &Api, repo: &RepoName) -> Result<Repository, Failure> {
        let repository = Repository::fetch(api, repo).await?;
        self.known().insert(repo.clone(), (Instant::now(), repository.clone()));
        Ok(repository)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<RepoName, (Instant, Repository)>> {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn own(&self) -> Result<&Own, Failure> {
        self.shared.own.get_or_try_init(|| self.shared.access.own(&self.line)).await
    }
}

impl Repository {
    /// # Errors
    /// E003 when it is not there or not shown; E050 and E054 as ever.
    async fn fetch(api: &Api, repo: &RepoName) -> Result<Self, Failure> {
        match api.get(&format!("/repos/{repo}")).await {
            Ok(answer) => Ok(answer.value),
            Err(trouble) if trouble.is_missing() => Err(Failure::new(
                Code::RepositoryNotFound,
                format!("GitHub knows no repository {repo}, or does not show it to these credentials"),
            )),
            Err(trouble) => Err(trouble.failure(&format!("look at {repo}"), Code::RepositoryNotFound)),
        }
    }
}

#[async_trait]
impl Forge for GitHubForge {
    fn for_task(&self) -> Option<Arc<dyn Forge>> {
        let Self { line, git_url, settle, shared, .. } = self;
        shared.access.mints().then(|| {
            let purse = Purse::new(Role::Task);
            Arc::new(Self {
                line: line.clone(),
                git_url: git_url.clone(),
                settle: *settle,
                purse,
                shared: shared.clone(),
            }) as Arc<dyn Forge>
        })
    }

    async fn close(&self) {
        self.purse.revoke().await;
    }

    async fn remote(&self, repo: &RepoName) -> Result<Remote, Failure> {
        let token = self.pass(repo).await?.token;
        let name = self.reach(repo).await?.repository.full_name;
        Ok(Remote { url: format!("{}/{name}.git", self.git_url), token: Some(token) })
    }

    async fn default_branch(&self, repo: &RepoName) -> Result<BranchName, Failure> {
        let api = self.pass(repo).await?.api;
        Ok(self.fetch(&api, repo).await?.default_branch)
    }

    async fn permission(&self, repo: &RepoName, actor: &Actor) -> Result<Permission, Failure> {
        let Reach { api, repository, .. } = self.reach(repo).await?;
        match actor.id {
            Some(id) => permission_of(&api, &repository.full_name, &actor.login, id).await,
            // The person at the command line brought these credentials, and may do what they may.
            None => own_permission(&self.fetch(&api, repo).await?),
        }
    }

    async fn collaborator(&self, repo: &RepoName, login: &str) -> Result<Option<(Actor, Permission)>, Failure> {
        let Reach { api, repository, .. } = self.reach(repo).await?;
        let found = collaborator(&api, &repository.full_name, login).await?;
        Ok(found.map(|(id, permission)| (Actor { login: login.to_owned(), id: Some(id) }, permission)))
    }

    async fn commit(&self, new: NewCommit<'_>) -> Result<Option<CommitSha>, Failure> {
        commits::commit(&self.reach(new.repo).await?, self.own().await?, &new).await.map(Some)
    }

    async fn pull_request(&self, new: NewPullRequest<'_>) -> Result<PullRequest, Failure> {
        pulls::find_or_open(&self.reach(new.repo).await?, &new).await
    }

    async fn status_comment(&self, repo: &RepoName, issue: u64, marker: &str, body: &str) -> Result<String, Failure> {
        let reach = self.reach(repo).await?;
        let own = self.own().await?;
        let _one_at_a_time = self.shared.commenting.lock().await;
        comments::find_or_write(&reach, own, issue, marker, body).await
    }

    async fn discussion(
        &self,
        repo: &RepoName,
        issue: u64,
        until: Timestamp,
        but: Option<u64>,
    ) -> Result<Vec<Said>, Failure> {
        discussion::before(&self.reach(repo).await?, issue, until, but).await
    }

    async fn labels(&self, repo: &RepoName, number: u64) -> Result<Vec<String>, Failure> {
        decorate::labels(&self.reach(repo).await?, number).await
    }

    async fn react(&self, repo: &RepoName, to: ReactTo, reaction: Reaction) -> Result<(), Failure> {
        talk::react(&self.reach(repo).await?, to, reaction).await
    }

    async fn pull_request_now(&self, repo: &RepoName, number: u64) -> Result<PullRequestNow, Failure> {
        talk::pull_request_now(&self.reach(repo).await?, number).await
    }

    async fn close_pull_request(&self, repo: &RepoName, number: u64) -> Result<(), Failure> {
        talk::close(&self.reach(repo).await?, number).await
    }

    async fn line_comments(&self, repo: &RepoName, number: u64, review: u64) -> Result<Vec<LineComment>, Failure> {
        talk::line_comments(&self.reach(repo).await?, number, review).await
    }

    async fn reply(&self, fence: &Fence, reply: Reply<'_>) -> Result<(), Failure> {
        talk::reply(&self.reach(reply.repo).await?, self.own().await?, fence, &reply).await
    }

    async fn failed_checks(
        &self,
        repo: &RepoName,
        head: &CommitSha,
        base: &BranchName,
    ) -> Result<Vec<FailedCheck>, Failure> {
        checks::failed(&self.reach(repo).await?, head, base).await
    }

    async fn run_checks_again(&self, repo: &RepoName, checks: &[u64]) -> Result<bool, Failure> {
        checks::run_again(&self.reach(repo).await?, checks).await
    }

    async fn check_run(&self, fence: &Fence, run: CheckRun<'_>) -> Result<(), Failure> {
        checks::write(&self.reach(run.repo).await?, self.own().await?, fence, &run).await
    }

    async fn delete_branch(&self, repo: &RepoName, branch: &BranchName, tip: &CommitSha) -> Result<bool, Failure> {
        branches::delete(&self.reach(repo).await?, branch, tip).await
    }

    async fn repositories(&self) -> Result<Option<Vec<RepoName>>, Failure> {
        let installed = self.shared.access.installed(&self.line).await?;
        Ok(installed.map(|installed| installed.into_iter().flat_map(|one| one.repositories).collect()))
    }

    async fn news(&self, repo: &RepoName, wanted: Wanted<'_>) -> Result<News, Failure> {
        news::news(&self.reach(repo).await?, wanted).await
    }

    async fn ask_again_for_missed(&self, since: Timestamp) -> Result<Missed, Failure> {
        match self.shared.access.mints() {
            true => missed::ask_again(&*self.shared.access.itself(&self.line)?, since).await,
            false => Ok(Missed::default()),
        }
    }
}

/// Asks GitHub what `login` may do, and takes the answer only when it is about the account `id`: a login may be given up
/// and taken by somebody else.
async fn permission_of(api: &Api, repo: &RepoName, login: &str, id: u64) -> Result<Permission, Failure> {
    match collaborator(api, repo, login).await? {
        None => Ok(Permission::None),
        Some((found, permission)) if found == id => Ok(permission),
        Some(_) => Err(another(login)),
    }
}

fn another(login: &str) -> Failure {
    let message = format!("The account that asked is not the one that is called {login} on GitHub now");
    Failure::new(Code::PermissionDenied, message)
}

/// The id of the account that is called so now, and what it may do.
async fn collaborator(api: &Api, repo: &RepoName, login: &str) -> Result<Option<(u64, Permission)>, Failure> {
    #[derive(Deserialize)]
    struct Collaborator {
        permission: String,
        user: Option<User>,
    }
    #[derive(Deserialize)]
    struct User {
        id: u64,
    }
    let name = login.strip_suffix("[bot]").unwrap_or(login);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(Failure::new(Code::PermissionDenied, format!("{login:?} is not the name of an account on GitHub")));
    }
    let route = format!("/repos/{repo}/collaborators/{}/permission", login.replace('[', "%5B").replace(']', "%5D"));
    let answer = match api.get::<Collaborator>(&route).await {
        Ok(answer) => answer.value,
        Err(trouble) if trouble.is_missing() => return Ok(None),
        Err(trouble) => {
            return Err(trouble.failure(&format!("tell what {login} may do in {repo}"), Code::PermissionDenied));
        }
    };
    let permission = match answer.permission.as_str() {
        "admin" => Permission::Admin,
        "write" | "maintain" => Permission::Write,
        "read" | "triage" => Permission::Read,
        _ => Permission::None,
    };
    // An answer about nobody is no answer about this account.
    let user = answer.user.ok_or_else(|| another(login))?;
    Ok(Some((user.id, permission)))
}

/// What the owner of the credentials may do.
fn own_permission(repository: &Repository) -> Result<Permission, Failure> {
    let rights = repository.permissions.as_ref().ok_or_else(|| {
        Failure::new(
            Code::PermissionDenied,
            format!("GitHub does not say what these credentials may do in {}", repository.full_name),
        )
        .next("Use a personal access token for work from the command line.")
    })?;
    Ok(match rights {
        Rights { admin: true, .. } => Permission::Admin,
        Rights { push: true, .. } => Permission::Write,
        Rights { pull: true, .. } => Permission::Read,
        Rights { .. } => Permission::None,
    })
}

/// An address without its trailing slash.
fn web_address(text: &str, what: &str) -> Result<String, Failure> {
    let url = Url::parse(text.trim()).ok().filter(|url| {
        matches!(url.scheme(), "https" | "http")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    });
    match url {
        Some(url) if url.query().is_none() && url.fragment().is_none() => Ok(url.as_str().trim_end_matches('/').to_owned()),
        _ => Err(Failure::new(Code::BadConfig, format!("The address of {what} of GitHub is not a plain https:// URL"))
            .next("Write https://api.github.com, or https://HOST/api/v3 for an Enterprise Server, without a name or token.")),
    }
}

/// Where git is, given the API: `api.` in front or `/api/v3` behind is what GitHub adds.
fn git_url_of(api_url: &str) -> String {
    let root = api_url.strip_suffix("/api/v3").unwrap_or(api_url);
    match root.split_once("://api.") {
        Some((scheme, host)) if !host.contains('/') => format!("{scheme}://{host}"),
        _ => root.to_owned(),
    }
}

/// A text that GitHub takes: at most `limit` characters, the end given up, but never `keep`.
fn fitting(text: &str, limit: usize, keep: &str) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let end = format!("\n\n… (cut)\n{keep}");
    let kept: String = text.chars().take(limit - end.chars().count()).collect();
    if !keep.is_empty() && kept.contains(keep) { format!("{kept}\n\n… (cut)\n") } else { format!("{kept}{end}") }
}

/// Whether GitHub shows the text that would be written: it changes line ends and trims.
fn same_text(shown: &str, wanted: &str) -> bool {
    let lines = |text: &str| text.trim().lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    lines(shown) == lines(wanted)
}

impl fmt::Debug for GitHubForge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHubForge").field("api_url", &self.line.api_url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
