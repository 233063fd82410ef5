//! The bare mirror on the host, and what is read from it.
//!
//! Whoever opens a git directory obeys its configuration: `insteadOf` moves a push (and its token) to another host, a
//! `.git` file moves a commit into another repository. So the host works on one bare mirror per repository that nobody
//! but this program writes to, with every outer configuration file of libgit2 switched off, and sandboxes get plain files
//! without any git directory. A checkout of the person at the command line is only ever fetched from, never worked in.
//!
//! libgit2 blocks, so each public function is one [`blocking`] call.

pub(crate) mod delta;
pub(crate) mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod seed;
pub(crate) mod transport;
pub(crate) mod tree;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use git2::{ConfigLevel, Oid, Repository};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tasks::{CommitSha, Failure, RepoName, TreeSha};

use crate::sandbox::{FileKind, TreeFile, Update};
use transport::Call;

/// One fetch may take so long, all of it together.
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// Where a repository is fetched from and pushed to. The token never becomes part of the URL.
#[derive(Debug, Clone)]
pub struct Remote {
    /// `https://…`, `http://…` or an absolute path.
    pub url: String,
    /// Sent as HTTP basic authentication of the user `x-access-token`.
    pub token: Option<SecretString>,
}

impl Remote {
    /// True for a path on this machine: the person's own checkout, or a repository of the local forge.
    pub(crate) fn is_local(&self) -> bool {
        !self.url.contains("://")
    }

    /// The path of a local remote.
    pub(crate) fn local_path(&self) -> &Path {
        Path::new(&self.url)
    }

    /// Its name for people.
    pub(crate) fn shown(&self) -> String {
        transport::shown_url(&self.url)
    }
}

/// Our own bare mirror of one repository. Nothing but this program ever writes to it.
#[derive(Debug, Clone)]
pub struct Mirror {
    path: PathBuf,
    /// Open already, for whoever reads next: opening one looks at many small files.
    idle: Arc<Idle>,
}

/// An opened mirror that nobody reads from at the moment.
#[derive(Default)]
struct Idle(Mutex<Option<Repository>>);

impl Idle {
    fn take(&self) -> Option<Repository> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, repo: Repository) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(repo);
    }
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Idle")
    }
}

/// A resolved starting point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The branch a pull request goes against; `None` for a bare revision of a local run.
    pub branch: Option<tasks::BranchName>,
    /// The commit.
    pub commit: CommitSha,
}

impl Mirror {
    /// Opens the mirror of `repo` under `root`, made when it is not there, and brings it up to date with `remote`.
    /// `base`: branch or (local paths only) any revision; `None`: the default branch of the remote (HEAD).
    ///
    /// # Errors
    /// E002 for a path that is no repository, E003 for a remote that is not there or not for us, E004 for a base that does
    /// not exist, E018 for a repository that cannot be carried, E050 for refused credentials, E054 for a network that fails
    /// or a fetch of more than ten minutes.
    pub async fn checkout(
        root: &Path,
        repo: &RepoName,
        remote: &Remote,
        base: Option<&str>,
    ) -> Result<(Self, Base), Failure> {
        let path = mirror_path(root, repo, &remote.url);
        let (remote, base) = (remote.clone(), base.map(str::to_owned));
        let call = Call::new(remote.token.clone(), FETCH_TIMEOUT);
        let _cancel = call.cancel_on_drop();
        blocking(move || {
            let base = fetch::bring_up_to_date(&path, &remote, base.as_deref(), &call)?;
            Ok((Self { path, idle: Arc::default() }, base))
        })
        .await
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every file of a commit's tree, in git's order. Submodules are left out.
    ///
    /// # Errors
    /// E018 when the tree has more files, bytes or levels than a workspace may have, or a name that no workspace may hold.
    pub async fn files(&self, commit: &CommitSha) -> Result<Vec<TreeFile>, Failure> {
        let commit = commit.clone();
        self.read(move |repo| tree::files(repo, &commit_tree(repo, &commit)?)).await
    }

    /// Every file of a tree, in git's order. Submodules are left out.
    ///
    /// # Errors
    /// As [`Mirror::files`].
    pub async fn tree_files(&self, tree: &TreeSha) -> Result<Vec<TreeFile>, Failure> {
        let tree = tree.clone();
        self.read(move |repo| tree::files(repo, &find_tree(repo, &tree)?)).await
    }

    /// The tree of a commit.
    ///
    /// # Errors
    /// When the commit is not in the mirror.
    pub async fn tree_of(&self, commit: &CommitSha) -> Result<TreeSha, Failure> {
        let commit = commit.clone();
        let id = self.read(move |repo| Ok(commit_tree(repo, &commit)?.id())).await?;
        id.to_string().parse().map_err(Failure::internal)
    }

    /// The way from one tree to another.
    ///
    /// # Errors
    /// When a tree is not in the mirror; E018 for a name that no workspace may hold.
    pub async fn delta(&self, from: &TreeSha, to: &TreeSha) -> Result<Update, Failure> {
        let (from, to) = (from.clone(), to.clone());
        self.read(move |repo| delta::delta(repo, &find_tree(repo, &from)?, &find_tree(repo, &to)?)).await
    }

    /// Every file of a tree by its name, and the bytes of those at its top only.
    pub(crate) async fn outline(&self, tree: &TreeSha) -> Result<Vec<TreeFile>, Failure> {
        let tree = tree.clone();
        self.read(move |repo| tree::outline(repo, &find_tree(repo, &tree)?)).await
    }

    /// Those of the paths that are files of a tree, with their bytes.
    pub(crate) async fn pick(&self, tree: &TreeSha, paths: Vec<Vec<u8>>) -> Result<Vec<TreeFile>, Failure> {
        let tree = tree.clone();
        self.read(move |repo| tree::pick(repo, &find_tree(repo, &tree)?, paths)).await
    }

    /// One file of a commit, if it is there.
    ///
    /// # Errors
    /// When the commit is not in the mirror, or the file is larger than a workspace may be.
    pub async fn file(&self, commit: &CommitSha, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let (commit, path) = (commit.clone(), path.to_owned());
        self.read(move |repo| tree::file(repo, &commit_tree(repo, &commit)?, &path)).await
    }

    /// Runs `work` on the opened mirror, off the async threads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Repository) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        blocking(move || {
            let repo = idle.take().map_or_else(|| open(&path), Ok)?;
            let done = work(&repo);
            idle.put(repo);
            done
        })
        .await
    }
}

/// A tar archive of files, as an image is built from.
///
/// # Errors
/// When a path is too long for the format.
pub fn archive(files: &[TreeFile]) -> std::io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let path = Path::new(OsStr::from_bytes(&file.path));
        let mut header = tar::Header::new_gnu();
        header.set_mode(if file.kind == FileKind::Executable { 0o755 } else { 0o644 });
        if file.kind == FileKind::Symlink {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, path, OsStr::from_bytes(&file.bytes))?;
        } else {
            header.set_size(file.bytes.len() as u64);
            archive.append_data(&mut header, path, file.bytes.as_slice())?;
        }
    }
    Ok(archive.into_inner()?.into())
}

/// The mirror's place. Two remotes never share one, so that no base is ever found in a stranger's objects; `@` cannot
/// stand in a repository's name.
fn mirror_path(root: &Path, repo: &RepoName, url: &str) -> PathBuf {
    let digest = hex::encode(Sha256::digest(url.as_bytes()));
    root.join(repo.owner()).join(format!("{}@{}.git", repo.name(), &digest[..12]))
}

/// Opens one of our own bare repositories.
pub(crate) fn open(path: &Path) -> Result<Repository, Failure> {
    init_libgit2()?;
    Repository::open_bare(path).map_err(|error| {
        Failure::internal("the mirror of the repository cannot be opened").detail(error.message().to_owned())
    })
}

/// The tree of a commit in the mirror.
pub(crate) fn commit_tree<'a>(repo: &'a Repository, commit: &CommitSha) -> Result<git2::Tree<'a>, Failure> {
    repo.find_commit(oid(commit.as_str())?).and_then(|commit| commit.tree()).map_err(|error| {
        Failure::internal(format!("the commit {commit} is not in the mirror")).detail(error.message().to_owned())
    })
}

fn find_tree<'a>(repo: &'a Repository, tree: &TreeSha) -> Result<git2::Tree<'a>, Failure> {
    repo.find_tree(oid(tree.as_str())?).map_err(|error| {
        Failure::internal(format!("the tree {tree} is not in the mirror")).detail(error.message().to_owned())
    })
}

/// The id that these digits spell.
pub(crate) fn oid(text: &str) -> Result<Oid, Failure> {
    Oid::from_str(text).map_err(Failure::internal)
}

/// The commit id of an object id.
pub(crate) fn commit_sha(oid: Oid) -> CommitSha {
    oid.to_string().parse().expect("an object id is written as 40 lower-case hexadecimal digits")
}

/// Runs blocking work off the async threads. A panic in it becomes a failure of this task alone.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::internal("the work on the git repository ended in a panic")),
    }
}

/// Makes libgit2 ours, once per process and before its first use: no configuration file of the machine or of a user is
/// read, and https and http go through [`transport`].
pub(crate) fn init_libgit2() -> Result<(), Failure> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        for level in [ConfigLevel::ProgramData, ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global] {
            // SAFETY: the search path is global state of libgit2 without a lock; this closure runs once, and every use
            // of libgit2 in this program comes after it.
            unsafe { git2::opts::set_search_path(level, "") }.map_err(|error| error.message().to_owned())?;
        }
        transport::register().map_err(|error| error.message().to_owned())
    });
    done.clone().map_err(|error| Failure::internal("git cannot be set up").detail(error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::{
        fixture::{Scratch, git, git_with, raw},
        *,
    };
    use crate::sandbox::FileKind;

    #[tokio::test]
    async fn a_mirror_follows_its_remote_even_where_names_trade_places() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        scratch.git(&["branch", "topic"]);
        scratch.git(&["branch", "gone"]);
        let (mirror, base) = scratch.checkout(None).await.unwrap();
        assert_eq!(base.branch.unwrap().as_str(), "main");
        scratch.git(&["branch", "-D", "gone"]);
        scratch.git(&["branch", "-m", "topic", "topic/deeper"]);
        scratch.write("a.txt", b"2");
        let second = scratch.commit("Second");
        let (_, base) = scratch.checkout(None).await.unwrap();
        assert_eq!(base.commit.as_str(), second);
        let heads = git(mirror.path(), &["for-each-ref", "--format=%(refname)", "refs/heads"]);
        assert_eq!(heads, "refs/heads/main\nrefs/heads/topic/deeper");
        assert_eq!(mirror.file(&base.commit, "a.txt").await.unwrap().unwrap(), b"2");
        assert_eq!(mirror.file(&base.commit, "b.txt").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_local_base_may_be_any_revision() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let first = scratch.git(&["rev-parse", "HEAD"]);
        scratch.git(&["tag", "-a", "-m", "x", "v1"]);
        scratch.git(&["update-ref", "refs/remotes/origin/dev", "HEAD"]);
        scratch.write("a.txt", b"2");
        let second = scratch.commit("Second");
        for (base, commit, branch) in [
            (None, &second, Some("main")),
            (Some("HEAD"), &second, Some("main")),
            (Some("main"), &second, Some("main")),
            (Some("HEAD~1"), &first, None),
            (Some("main^"), &first, None),
            (Some("v1"), &first, None),
            (Some("origin/dev"), &first, None),
            (Some(&first[..10]), &first, None),
        ] {
            let (_, found) = scratch.checkout(base).await.unwrap();
            assert_eq!(
                (found.commit.as_str(), found.branch.as_ref().map(|b| b.as_str())),
                (commit.as_str(), branch),
                "{base:?}"
            );
        }
        scratch.git(&["checkout", "-q", "--detach", &first]);
        let (_, found) = scratch.checkout(None).await.unwrap();
        assert_eq!((found.commit.as_str(), found.branch), (first.as_str(), None));
    }

    #[tokio::test]
    async fn a_linked_worktree_is_a_repository() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        scratch.git(&["worktree", "add", "-q", "-b", "side", "../linked"]);
        let linked = Remote { url: scratch.dir.path().join("linked").to_str().unwrap().into(), token: None };
        let (_, base) =
            Mirror::checkout(&scratch.dir.path().join("m"), &"a/b".parse().unwrap(), &linked, None).await.unwrap();
        assert_eq!(base.branch.unwrap().as_str(), "side");
    }

    #[tokio::test]
    async fn a_base_that_is_not_there_is_refused_with_the_nearest_name() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let failure = scratch.checkout(Some("mian")).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E004");
        assert!(failure.message.starts_with("There is no branch or revision \"mian\" in "), "{}", failure.message);
        assert_eq!(failure.next_step, "Did you mean main? Name a branch that exists with --base.");
        let failure = Scratch::empty().checkout(None).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E004");
        assert!(failure.message.ends_with("has no commit yet"), "{}", failure.message);
        assert_eq!(Scratch::empty().checkout(Some("main")).await.unwrap_err().code.as_str(), "E004");
    }

    #[tokio::test]
    async fn a_path_that_is_no_repository_is_refused() {
        let scratch = Scratch::with(&[("sub/a.txt", "1")]);
        let at = |path: &str| {
            let url = scratch.dir.path().join(path).to_str().unwrap().to_owned();
            let (root, remote) = (scratch.dir.path().join("m"), Remote { url, token: None });
            async move { Mirror::checkout(&root, &"a/b".parse().unwrap(), &remote, None).await.unwrap_err() }
        };
        for (path, message) in [("nowhere", "There is nothing at "), ("work/sub", ""), ("work/sub/a.txt", ""), ("", "")]
        {
            let failure = at(path).await;
            assert_eq!(failure.code.as_str(), "E002", "{path}: {failure:?}");
            assert!(failure.message.starts_with(message), "{}", failure.message);
        }
        let top = format!("Use --repo {}", scratch.path().display());
        assert_eq!(at("work/sub").await.next_step, top);
        let odd = Remote { url: "ext::sh -c touch% /tmp/x".into(), token: None };
        assert!(Mirror::checkout(scratch.dir.path(), &"a/b".parse().unwrap(), &odd, None).await.is_err());
        let odd = Remote { url: "ssh://git@example.org/a/b".into(), token: None };
        let failure = Mirror::checkout(scratch.dir.path(), &"a/b".parse().unwrap(), &odd, None).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E003");
    }

    #[tokio::test]
    async fn a_shallow_checkout_is_followed() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        scratch.write("a.txt", b"2");
        scratch.commit("Second");
        let url = format!("file://{}", scratch.path().display());
        git(scratch.dir.path(), &["clone", "-q", "--depth", "1", &url, "shallow"]);
        let shallow = scratch.dir.path().join("shallow");
        let remote = Remote { url: shallow.to_str().unwrap().to_owned(), token: None };
        let root = scratch.dir.path().join("m");
        for n in 0..3 {
            std::fs::write(shallow.join("a.txt"), format!("new {n}")).unwrap();
            git(&shallow, &["commit", "-q", "-a", "-m", "More"]);
            let (mirror, base) = Mirror::checkout(&root, &"a/b".parse().unwrap(), &remote, None).await.unwrap();
            assert_eq!(base.commit.as_str(), git(&shallow, &["rev-parse", "HEAD"]));
            assert_eq!(mirror.file(&base.commit, "a.txt").await.unwrap().unwrap(), format!("new {n}").as_bytes());
        }
    }

    #[tokio::test]
    async fn what_cannot_be_carried_is_refused_by_name() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let refused = |name: &str| {
            let url = scratch.dir.path().join(name).to_str().unwrap().to_owned();
            let (root, remote) = (scratch.dir.path().join("m"), Remote { url, token: None });
            async move { Mirror::checkout(&root, &"a/b".parse().unwrap(), &remote, None).await.unwrap_err() }
        };
        git(scratch.dir.path(), &["init", "-q", "--object-format=sha256", "sha256"]);
        let failure = refused("sha256").await;
        assert_eq!((failure.code.as_str(), failure.message.contains("SHA-256")), ("E018", true), "{failure:?}");
    }

    #[tokio::test]
    async fn files_come_with_their_exact_names_kinds_and_bytes() {
        let scratch = Scratch::with(&[("run.sh", "#!/bin/sh\n"), (".gitattributes", "* text=auto eol=lf\n")]);
        scratch.make_executable("run.sh");
        scratch.write("crlf.bin", b"a\r\nb\0");
        scratch.write(raw(b"odd/\xff\xfe \n\x1b"), b"");
        scratch.write("lfs.bin", b"version https://git-lfs.github.com/spec/v1\n");
        symlink("/etc/passwd", scratch.path().join("link")).unwrap();
        let first = scratch.git(&["rev-parse", "HEAD"]);
        scratch.git(&["add", "-A"]);
        scratch.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{first},module")]);
        scratch.git(&["commit", "-q", "-m", "Odd"]);
        let (mirror, base) = scratch.checkout(None).await.unwrap();
        let files = mirror.files(&base.commit).await.unwrap();
        let seen: Vec<(&[u8], FileKind, &[u8])> =
            files.iter().map(|file| (file.path.as_slice(), file.kind, file.bytes.as_slice())).collect();
        let expected: [(&[u8], FileKind, &[u8]); 6] = [
            (b".gitattributes", FileKind::Regular, b"* text=auto eol=lf\n"),
            (b"crlf.bin", FileKind::Regular, b"a\r\nb\0"),
            (b"lfs.bin", FileKind::Regular, b"version https://git-lfs.github.com/spec/v1\n"),
            (b"link", FileKind::Symlink, b"/etc/passwd"),
            (b"odd/\xff\xfe \n\x1b", FileKind::Regular, b""),
            (b"run.sh", FileKind::Executable, b"#!/bin/sh\n"),
        ];
        assert_eq!(seen, expected);
        let tree = scratch.git(&["rev-parse", "HEAD^{tree}"]).parse().unwrap();
        assert_eq!(mirror.tree_files(&tree).await.unwrap(), files);
        assert_eq!(mirror.file(&base.commit, "module").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_tree_that_unfolds_beyond_all_limits_is_refused_early() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let dir = scratch.path();
        let blob = scratch.git(&["rev-parse", "HEAD:a.txt"]);
        let lines = |mode: &str, kind: &str, id: &str| -> String {
            (0..20).map(|n| format!("{mode} {kind} {id}\tn{n:02}\n")).collect()
        };
        let mktree =
            |input: &str| String::from_utf8(git_with(&dir, &["mktree"], input.as_bytes())).unwrap().trim().to_owned();
        let mut tree = mktree(&lines("100644", "blob", &blob));
        for _ in 0..7 {
            tree = mktree(&lines("040000", "tree", &tree));
        }
        let bomb = scratch.git(&["commit-tree", "-m", "bomb", &tree]);
        scratch.git(&["update-ref", "refs/heads/bomb", &bomb]);
        let mut deep = mktree(&lines("100644", "blob", &blob));
        for _ in 0..250 {
            deep = mktree(&format!("040000 tree {deep}\td\n"));
        }
        let deep = scratch.git(&["commit-tree", "-m", "deep", &deep]);
        scratch.git(&["update-ref", "refs/heads/deep", &deep]);
        for (branch, words) in [("bomb", "more than 500000 files"), ("deep", "more than 200 levels")] {
            let (mirror, base) = scratch.checkout(Some(branch)).await.unwrap();
            let failure = mirror.files(&base.commit).await.unwrap_err();
            assert_eq!(failure.code.as_str(), "E018");
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }

    #[tokio::test]
    async fn an_evil_name_in_the_base_is_refused() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let blob = scratch.git(&["rev-parse", "HEAD:a.txt"]);
        let tree = git_with(&scratch.path(), &["mktree"], format!("100644 blob {blob}\tgit~1\n").as_bytes());
        let tree = String::from_utf8(tree).unwrap();
        let commit = scratch.git(&["commit-tree", "-m", "evil", tree.trim()]);
        scratch.git(&["update-ref", "refs/heads/evil", &commit]);
        let (mirror, base) = scratch.checkout(Some("evil")).await.unwrap();
        let failure = mirror.files(&base.commit).await.unwrap_err();
        assert_eq!(
            failure.message,
            "The repository holds `git~1`, a name that some systems take for git's own directory"
        );
    }

    #[tokio::test]
    async fn tasks_of_one_repository_take_turns_at_its_mirror() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let found = futures_util::future::join_all((0..8).map(|_| scratch.checkout(None))).await;
        let commits: Vec<CommitSha> = found.into_iter().map(|found| found.unwrap().1.commit).collect();
        assert!(commits.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[tokio::test]
    async fn nothing_that_a_repository_configures_runs_on_the_host() {
        let scratch = Scratch::with(&[("a.txt", "1"), (".gitattributes", "* filter=evil diff=evil\n")]);
        let canary = scratch.dir.path().join("canary");
        let touch = format!("touch {}", canary.display());
        for key in [
            "core.fsmonitor",
            "core.sshCommand",
            "filter.evil.clean",
            "filter.evil.smudge",
            "filter.evil.process",
            "diff.evil.textconv",
            "diff.external",
            "credential.helper",
            "gpg.program",
            "core.pager",
            "uploadpack.packObjectsHook",
        ] {
            scratch.git(&["config", key, &touch]);
        }
        scratch.git(&["config", "core.hooksPath", scratch.dir.path().to_str().unwrap()]);
        for hook in ["post-checkout", "reference-transaction", "pre-commit", "post-merge"] {
            let path = scratch.dir.path().join(hook);
            std::fs::write(&path, format!("#!/bin/sh\n{touch}\n")).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let (mirror, base) = scratch.checkout(None).await.unwrap();
        assert_eq!(mirror.files(&base.commit).await.unwrap().len(), 2);
        assert!(!canary.exists());
    }
}
