//! A forge that is a directory: bare repositories, and issues and pull requests as files beside them.
//!
//! For the demo, for `onramp run` without any service, and for tests: the whole road without a network. Layout:
//!
//! ```text
//! <root>/<owner>/<name>.git                the bare repository
//! <root>/<owner>/<name>/issues/7.json      an issue with its comments; 7.md for people
//! <root>/<owner>/<name>/pulls/8.json       a pull request; 8.md for people
//! <root>/<owner>/<name>/collaborators.json {"ada": "write"}; without it everybody may write: whoever can write into the
//!                                          directory could do anything anyway
//! ```
//!
//! Every file is replaced as a whole, under a lock of its repository.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tasks::{Actor, BranchName, Code, CommitSha, Failure, PullRequest, RepoName};

use super::{Forge, NewPullRequest, Permission};
use crate::{
    checkout::{Remote, blocking, seed},
    sandbox::TreeFile,
};

/// A directory of repositories with their issues and pull requests.
#[derive(Debug, Clone)]
pub struct LocalForge {
    root: PathBuf,
}

/// `issues/<number>.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct IssueFile {
    number: u64,
    title: String,
    body: String,
    author: String,
    comments: Vec<Comment>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Comment {
    marker: String,
    body: String,
}

/// `pulls/<number>.json`.
#[derive(Debug, Serialize, Deserialize)]
struct PullFile {
    number: u64,
    state: PullState,
    title: String,
    body: String,
    branch: BranchName,
    base: BranchName,
    head: CommitSha,
    draft: bool,
    labels: Vec<String>,
    reviewers: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PullState {
    Open,
    Closed,
    Merged,
}

impl LocalForge {
    /// The forge in this directory, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a repository lies.
    pub fn repository_path(&self, repo: &RepoName) -> PathBuf {
        self.root.join(repo.owner()).join(format!("{}.git", repo.name()))
    }

    /// Makes a repository whose branch `main` has one commit with these files.
    ///
    /// # Errors
    /// When it is there already or cannot be written.
    pub async fn create_repository(
        &self,
        repo: &RepoName,
        files: &[TreeFile],
        message: &str,
    ) -> Result<CommitSha, Failure> {
        let (path, files, message) = (self.repository_path(repo), files.to_vec(), message.to_owned());
        blocking(move || {
            fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(unwritable)?;
            seed::create(&path, &files, &message)
        })
        .await
    }

    /// Opens an issue and returns its number.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn create_issue(&self, repo: &RepoName, title: &str, body: &str, author: &str) -> Result<u64, Failure> {
        let mut issue =
            IssueFile { title: title.into(), body: body.into(), author: author.into(), ..IssueFile::default() };
        self.locked(repo, move |place| {
            issue.number = place.next_number()?;
            place.write_issue(&issue)?;
            Ok(issue.number)
        })
        .await
    }

    /// The pull request as people read it, Markdown.
    ///
    /// # Errors
    /// When there is none of that number.
    pub async fn pull_request_text(&self, repo: &RepoName, number: u64) -> Result<String, Failure> {
        let path = self.place(repo).pull(number, "md");
        blocking(move || fs::read_to_string(path).map_err(unwritable)).await
    }

    fn place(&self, repo: &RepoName) -> Place {
        Place { repo: repo.clone(), dir: self.root.join(repo.owner()).join(repo.name()) }
    }

    /// Runs `work` on a repository's files while nobody else does, off the async threads.
    async fn locked<T: Send + 'static>(
        &self,
        repo: &RepoName,
        work: impl FnOnce(&Place) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let place = self.place(repo);
        blocking(move || {
            let run = || {
                for kind in ["issues", "pulls"] {
                    fs::create_dir_all(place.dir.join(kind))?;
                }
                let lock = File::create(place.dir.join(".lock"))?;
                lock.lock()?;
                work(&place)
            };
            run().map_err(unwritable)
        })
        .await
    }

    fn exists(&self, repo: &RepoName) -> Result<PathBuf, Failure> {
        let path = self.repository_path(repo);
        if path.join("HEAD").is_file() {
            return Ok(path);
        }
        let message = format!("There is no repository {repo} in {}", self.root.display());
        Err(Failure::new(Code::RepositoryNotFound, message))
    }
}

#[async_trait]
impl Forge for LocalForge {
    async fn remote(&self, repo: &RepoName) -> Result<Remote, Failure> {
        let path = std::path::absolute(self.exists(repo)?).map_err(unwritable)?;
        Ok(Remote { url: path.to_string_lossy().into_owned(), token: None })
    }

    async fn default_branch(&self, repo: &RepoName) -> Result<BranchName, Failure> {
        let path = self.exists(repo)?;
        blocking(move || seed::head_branch(&path)).await
    }

    async fn permission(&self, repo: &RepoName, actor: &Actor) -> Result<Permission, Failure> {
        self.exists(repo)?;
        let login = actor.login.clone();
        let collaborators = self
            .locked(repo, |place| read_json::<BTreeMap<String, String>>(&place.dir.join("collaborators.json")))
            .await?;
        let Some(collaborators) = collaborators else { return Ok(Permission::Write) };
        Ok(match collaborators.get(&login).map(String::as_str) {
            Some("admin") => Permission::Admin,
            Some("write") => Permission::Write,
            Some("read") => Permission::Read,
            Some(_) | None => Permission::None,
        })
    }

    async fn pull_request(&self, new: NewPullRequest<'_>) -> Result<PullRequest, Failure> {
        let path = self.exists(new.repo)?;
        let (branch, head) = (new.branch.clone(), new.head.clone());
        let is_pushed = blocking(move || seed::branch_is_at(&path, &branch, &head)).await?;
        if !is_pushed {
            let message = format!("The branch {} does not hold the commit {}", new.branch, new.head.short());
            return Err(Failure::new(Code::PullRequestRefused, message));
        }
        let mut pull = PullFile {
            number: 0,
            state: PullState::Open,
            title: new.title.into(),
            body: new.body.into(),
            branch: new.branch.clone(),
            base: new.base.clone(),
            head: new.head.clone(),
            draft: new.draft,
            labels: new.labels.to_vec(),
            reviewers: new.reviewers.to_vec(),
        };
        self.locked(new.repo, move |place| {
            pull.number = match place.open_pull(&pull.branch)? {
                Some(number) => number,
                None => place.next_number()?,
            };
            place.write_pull(&pull)?;
            Ok(PullRequest {
                repo: place.repo.clone(),
                number: pull.number,
                url: file_url(&place.pull(pull.number, "md"))?,
                branch: pull.branch,
                head: pull.head,
            })
        })
        .await
    }

    async fn status_comment(&self, repo: &RepoName, issue: u64, marker: &str, body: &str) -> Result<String, Failure> {
        let (marker, body) = (marker.to_owned(), body.to_owned());
        self.locked(repo, move |place| {
            let path = place.issue(issue, "json");
            // An issue that only a delivery knows of still gets its comment.
            let mut file = read_json(&path)?.unwrap_or(IssueFile { number: issue, ..IssueFile::default() });
            match file.comments.iter_mut().find(|comment| comment.marker == marker) {
                Some(comment) => comment.body = body,
                None => file.comments.push(Comment { marker, body }),
            }
            place.write_issue(&file)?;
            file_url(&place.issue(issue, "md"))
        })
        .await
    }
}

/// The files of one repository.
struct Place {
    repo: RepoName,
    dir: PathBuf,
}

impl Place {
    fn issue(&self, number: u64, extension: &str) -> PathBuf {
        self.dir.join("issues").join(format!("{number}.{extension}"))
    }

    fn pull(&self, number: u64, extension: &str) -> PathBuf {
        self.dir.join("pulls").join(format!("{number}.{extension}"))
    }

    /// Issues and pull requests share their numbers, as on other forges.
    fn next_number(&self) -> io::Result<u64> {
        Ok(self.numbers("issues")?.into_iter().chain(self.numbers("pulls")?).max().unwrap_or(0) + 1)
    }

    fn numbers(&self, kind: &str) -> io::Result<Vec<u64>> {
        let names =
            fs::read_dir(self.dir.join(kind))?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        let json = names.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        Ok(json.filter_map(|path| path.file_stem()?.to_str()?.parse().ok()).collect())
    }

    fn open_pull(&self, branch: &BranchName) -> io::Result<Option<u64>> {
        for number in self.numbers("pulls")? {
            let pull: Option<PullFile> = read_json(&self.pull(number, "json"))?;
            if pull.is_some_and(|pull| pull.state == PullState::Open && pull.branch == *branch) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn write_issue(&self, issue: &IssueFile) -> io::Result<()> {
        let mut text =
            format!("# {} (#{})\n\nopened by {}\n\n{}\n", issue.title, issue.number, issue.author, issue.body);
        for comment in &issue.comments {
            // Writing into a string does not fail.
            let _ = write!(text, "\n---\n\n{}\n", comment.body);
        }
        write_json(&self.issue(issue.number, "json"), issue)?;
        replace(&self.issue(issue.number, "md"), text.as_bytes())
    }

    fn write_pull(&self, pull: &PullFile) -> io::Result<()> {
        let draft = if pull.draft { "draft, " } else { "" };
        let text = format!(
            "# {} (#{})\n\n{draft}`{}` into `{}` at {}\n\n{}\n",
            pull.title,
            pull.number,
            pull.branch,
            pull.base,
            pull.head.short(),
            pull.body
        );
        write_json(&self.pull(pull.number, "json"), pull)?;
        replace(&self.pull(pull.number, "md"), text.as_bytes())
    }
}

/// `None`: there is no such file.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace(path, &serde_json::to_vec_pretty(value)?)
}

/// Writes beside the place and moves it there, so that nobody ever reads half a file.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut file, bytes)?;
    file.persist(path)?;
    Ok(())
}

fn file_url(path: &Path) -> io::Result<String> {
    let path = std::path::absolute(path)?;
    reqwest::Url::from_file_path(&path).map(String::from).map_err(|()| io::ErrorKind::InvalidFilename.into())
}

fn unwritable(error: io::Error) -> Failure {
    Failure::new(Code::ForgeUnavailable, "The files of the local forge cannot be read or written")
        .next("Check that its directory exists, is writable and has space.")
        .detail(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkout::Mirror, fence::Fence, sandbox::FileKind};

    fn repo() -> RepoName {
        "acme/web".parse().unwrap()
    }

    async fn forge(dir: &Path) -> (LocalForge, CommitSha) {
        let forge = LocalForge::new(dir);
        let file = |path: &str, kind| TreeFile { path: path.into(), kind, bytes: b"x\n".to_vec() };
        let files = [file("src/b.sh", FileKind::Executable), file("a.txt", FileKind::Regular)];
        let head = forge.create_repository(&repo(), &files, "First").await.unwrap();
        (forge, head)
    }

    fn new<'a>(
        branch: &'a BranchName,
        base: &'a BranchName,
        head: &'a CommitSha,
        repo: &'a RepoName,
    ) -> NewPullRequest<'a> {
        static OPEN: Fence = Fence::open();
        NewPullRequest {
            repo,
            fence: &OPEN,
            branch,
            head,
            base,
            title: "Fix",
            body: "Body",
            draft: false,
            labels: &[],
            reviewers: &[],
        }
    }

    #[tokio::test]
    async fn a_repository_can_be_made_and_checked_out() {
        let dir = tempfile::tempdir().unwrap();
        let (forge, head) = forge(dir.path()).await;
        assert_eq!(forge.default_branch(&repo()).await.unwrap().as_str(), "main");
        let remote = forge.remote(&repo()).await.unwrap();
        let (mirror, base) = Mirror::checkout(&dir.path().join("m"), &repo(), &remote, None).await.unwrap();
        assert_eq!(base.commit, head);
        let files = mirror.files(&head).await.unwrap();
        assert_eq!(files.iter().map(|file| file.path.as_slice()).collect::<Vec<_>>(), [&b"a.txt"[..], b"src/b.sh"]);
        assert!(forge.create_repository(&repo(), &[], "Again").await.is_err());
        let failure = forge.remote(&"acme/nothing".parse().unwrap()).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E003");
    }

    #[tokio::test]
    async fn a_pull_request_is_opened_once_and_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let (forge, head) = forge(dir.path()).await;
        let (main, other, repo) = ("main".parse().unwrap(), "onramp/x".parse().unwrap(), repo());
        let issue = forge.create_issue(&repo, "It fails", "See below", "ada").await.unwrap();
        let failure = forge.pull_request(new(&other, &main, &head, &repo)).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E053", "the branch is not pushed");
        let first = forge.pull_request(new(&main, &main, &head, &repo)).await.unwrap();
        let again =
            forge.pull_request(NewPullRequest { body: "Better", ..new(&main, &main, &head, &repo) }).await.unwrap();
        assert_eq!((issue, first.number, again.number), (1, 2, 2));
        assert!(first.url.starts_with("file:///") && first.url.ends_with("/acme/web/pulls/2.md"), "{}", first.url);
        let text = forge.pull_request_text(&repo, 2).await.unwrap();
        assert_eq!(text, format!("# Fix (#2)\n\n`main` into `main` at {}\n\nBetter\n", head.short()));
    }

    #[tokio::test]
    async fn a_status_comment_is_edited_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let (forge, _) = forge(dir.path()).await;
        for body in ["running <!-- t1 -->", "done <!-- t1 -->"] {
            forge.status_comment(&repo(), 7, "<!-- t1 -->", body).await.unwrap();
        }
        forge.status_comment(&repo(), 7, "<!-- t2 -->", "other <!-- t2 -->").await.unwrap();
        let text = fs::read_to_string(dir.path().join("acme/web/issues/7.md")).unwrap();
        assert_eq!(text.matches("<!-- t1 -->").count(), 1);
        assert!(text.contains("done") && text.contains("other") && !text.contains("running"), "{text}");
    }

    #[tokio::test]
    async fn permissions_come_from_the_file_and_default_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let (forge, _) = forge(dir.path()).await;
        let asked = |login: &str| {
            let (forge, actor) = (forge.clone(), Actor { login: login.into(), id: None });
            async move { forge.permission(&repo(), &actor).await.unwrap() }
        };
        assert_eq!(asked("ada").await, Permission::Write);
        fs::write(dir.path().join("acme/web/collaborators.json"), r#"{"ada": "admin", "bob": "read"}"#).unwrap();
        assert_eq!(
            (asked("ada").await, asked("bob").await, asked("eve").await),
            (Permission::Admin, Permission::Read, Permission::None)
        );
        fs::write(dir.path().join("acme/web/collaborators.json"), "nonsense").unwrap();
        assert!(forge.permission(&repo(), &Actor { login: "ada".into(), id: None }).await.is_err());
    }

    #[tokio::test]
    async fn numbers_are_given_once_however_many_ask() {
        let dir = tempfile::tempdir().unwrap();
        let (forge, _) = forge(dir.path()).await;
        let repo = repo();
        let numbers = futures_util::future::join_all((0..20).map(|_| forge.create_issue(&repo, "t", "b", "ada"))).await;
        let mut numbers: Vec<u64> = numbers.into_iter().map(Result::unwrap).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    }
}
