//! One repository with many starting points, boxes that are brought to them, and git beside it as the judge.

use std::{
    collections::HashMap,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command as Program, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tasks::{CommitSha, Failure, TreeSha};
use workers::{
    checkout::{Mirror, Remote},
    patch::{ExtractLimits, Patch},
    sandbox::{
        Command, HostTools, Limits, Output, Sandbox, SandboxBackend, SandboxSpec, docker::DockerBackend,
        namespace::NamespaceBackend,
    },
};

pub(crate) const LIMITS: ExtractLimits = ExtractLimits { max_files: 1000, max_bytes: 8 << 20 };
/// Above every attribute of a repository: no filter, no line ends, no encoding, no keywords.
const BYTES_AS_THEY_ARE: &str = "* -text -filter -ident -working-tree-encoding\n";

/// Whether git converts what it takes in, as the repository's attributes say, or takes the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conversions {
    AsAttributesSay,
    Off,
}

/// The repository, its mirror, and where boxes come from.
pub(crate) struct Rig {
    dir: tempfile::TempDir,
    pub(crate) mirror: Mirror,
    bases: HashMap<String, CommitSha>,
    backend: Arc<dyn SandboxBackend>,
    n_clones: AtomicU32,
}

impl Rig {
    /// With a commit for each of these scripts. What stands after `#index` runs when everything is staged.
    pub(crate) async fn new(scripts: &[&str], docker: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        let (places, all): (_, Vec<String>) = (work.clone(), scripts.iter().map(|&script| script.to_owned()).collect());
        let bases = tokio::task::spawn_blocking(move || commits(&places, &all)).await.unwrap();
        let remote = Remote { url: work.to_str().unwrap().to_owned(), token: None };
        let (mirror, _) =
            Mirror::checkout(&dir.path().join("mirrors"), &"acme/web".parse().unwrap(), &remote, None).await.unwrap();
        let backend = if docker { engine().await } else { namespaces(dir.path()) };
        Self { mirror, bases, backend, n_clones: AtomicU32::new(0), dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn base(&self, script: &str) -> &CommitSha {
        &self.bases[script]
    }

    /// A fresh box at a starting point.
    pub(crate) async fn open(&self, base: &CommitSha) -> Room<'_> {
        static N: AtomicU32 = AtomicU32::new(0);
        let name = format!("onramp-extract-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
        let limits = Limits { memory_bytes: 512 << 20, disk_bytes: 1 << 30, pids: 256, ..Limits::default() };
        let spec = SandboxSpec { limits, ..SandboxSpec::new(name) };
        let sandbox = Sandbox::start(self.backend.clone(), &spec).await.expect("starts");
        sandbox.put(self.mirror.files(base).await.unwrap()).await.expect("takes the files");
        sandbox.mark().await.expect("marks");
        Room { rig: self, base: base.clone(), sandbox }
    }

    /// What git makes of the script in a clean clone: the tree's id, then everything in it. The error is what it said.
    pub(crate) async fn by_git(
        &self,
        base: &CommitSha,
        script: &str,
        conversions: Conversions,
    ) -> Result<String, String> {
        let clone = self.dir.path().join(format!("clone-{}", self.n_clones.fetch_add(1, Ordering::Relaxed)));
        let (mirror, base, script) = (self.mirror.path().to_owned(), base.to_string(), script.to_owned());
        let judge = move || {
            let git = clone.join(".git");
            std::fs::create_dir_all(git.join("objects/info")).unwrap();
            std::fs::create_dir_all(git.join("refs/heads")).unwrap();
            std::fs::create_dir_all(git.join("info")).unwrap();
            // What a clone that shares its objects is, without the processes that it takes.
            std::fs::write(git.join("objects/info/alternates"), format!("{}/objects\n", mirror.display())).unwrap();
            std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
            if conversions == Conversions::Off {
                std::fs::write(git.join("info/attributes"), BYTES_AS_THEY_ARE).unwrap();
            }
            let line = format!(
                "git checkout -q --detach {base} && {{ ( {script}\n) || {{ echo the script fails >&2; exit 97; }}; }} &&
                 git add -A && git write-tree && git ls-tree -rt $(git write-tree)"
            );
            let tree = sh(&clone, &line);
            assert!(!tree.as_ref().is_err_and(|error| error.ends_with("the script fails\n")), "outside: {tree:?}");
            if std::fs::remove_dir_all(&clone).is_err() {
                sh(&clone, "chmod -R u+rwX .").unwrap();
                std::fs::remove_dir_all(&clone).unwrap();
            }
            tree
        };
        tokio::task::spawn_blocking(judge).await.unwrap()
    }

    /// The tree of a commit.
    pub(crate) fn tree_of(&self, base: &CommitSha) -> String {
        sh(self.mirror.path(), &format!("git rev-parse '{base}^{{tree}}'")).unwrap()
    }

    /// Everything in a tree of ours, for a person who reads a failure.
    pub(crate) fn listing(&self, tree: &str) -> String {
        sh(self.mirror.path(), &format!("git ls-tree -rt {tree}")).unwrap_or_else(|error| error)
    }
}

/// A box with its starting point.
pub(crate) struct Room<'a> {
    rig: &'a Rig,
    base: CommitSha,
    pub(crate) sandbox: Sandbox,
}

impl Room<'_> {
    pub(crate) async fn sh(&self, line: &str) {
        self.sh_within(line, Duration::from_secs(60)).await;
    }

    pub(crate) async fn sh_within(&self, line: &str, limit: Duration) {
        let mut said = Vec::new();
        let mut collect = |output: Output<'_>| {
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = output;
            said.extend_from_slice(bytes);
        };
        let exit = self.sandbox.run(&Command::shell(line, limit), &mut collect).await.expect("runs");
        assert!(exit.success(), "the script itself fails inside: {line}: {exit:?} {}", String::from_utf8_lossy(&said));
    }

    /// What leaves the box, as a tree on its base.
    pub(crate) async fn extract(&self) -> Result<TreeSha, Failure> {
        let patch = Patch::extract(&self.sandbox, &self.rig.mirror, &self.base, LIMITS).await?;
        Ok(patch.onto(&self.rig.mirror).await?.tree().clone())
    }

    pub(crate) async fn close(self) {
        self.sandbox.stop().await.expect("stops");
    }
}

/// A commit for each script, one after the other in one repository.
fn commits(work: &Path, scripts: &[String]) -> HashMap<String, CommitSha> {
    std::fs::create_dir_all(work).unwrap();
    sh(work, "git init -q --template= -b main . && git config user.name Ada && git config user.email ada@example.org")
        .unwrap();
    let commit = |script: &String| {
        let (files, index) = script.split_once("#index").unwrap_or((script, ":"));
        let clear =
            "git rm -rqf --cached --ignore-unmatch . && find . -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {} +";
        let line = format!(
            "{clear} && {{ {files}\n}} && git add -A -f && {{ {index}\n}} && git commit -q --allow-empty -m Base"
        );
        sh(work, &line).unwrap_or_else(|error| panic!("{script}: {error}"));
        (script.clone(), sh(work, "git rev-parse HEAD").unwrap().parse().unwrap())
    };
    scripts.iter().map(commit).collect()
}

/// The embedded sandbox, and nothing else: a machine where it does not work fails these tests loudly.
fn namespaces(dir: &Path) -> Arc<dyn SandboxBackend> {
    let tools = HostTools::detect(None, "/usr/local/bin:/usr/bin:/bin");
    Arc::new(NamespaceBackend::new(dir.join("boxes"), tools, true))
}

async fn engine() -> Arc<dyn SandboxBackend> {
    let image = Some("onramp-test/busybox:1".into());
    Arc::new(DockerBackend::connect(None, image, "onramp-tests").await.expect("run tests/bring-up.sh first"))
}

/// Runs a line outside, where no configuration of the person or the system reaches git.
pub(crate) fn sh(dir: &Path, line: &str) -> Result<String, String> {
    let mut program = Program::new("sh");
    program.args(["-c", line]).current_dir(dir).stdin(Stdio::null()).env("HOME", "/nonexistent");
    program.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").arg0("sh");
    let output = program.output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What a sandbox's own git would run if anybody on the host opened it: the file that must never appear.
pub(crate) fn canary(rig: &Rig) -> (PathBuf, String) {
    let canary = rig.dir().join("canary");
    let touch = format!("touch {}", canary.display());
    let config = format!(
        "[core]\\n\\tfsmonitor = {touch}\\n\\thooksPath = .hooks\\n\\tsshCommand = {touch}\\n\\teditor = {touch}\\n\
         [filter \"evil\"]\\n\\tclean = {touch}\\n\\tsmudge = {touch}\\n\\trequired\\n[diff \"evil\"]\\n\\ttextconv = {touch}\\n\
         [diff]\\n\\texternal = {touch}\\n[alias]\\n\\tadd = !{touch}\\n"
    );
    let hooks = ["pre-commit", "post-checkout", "post-index-change", "reference-transaction"]
        .map(|hook| format!("printf '#!/bin/sh\\n{touch}\\n' >.git/hooks/{hook}; chmod +x .git/hooks/{hook}"));
    let plant = format!("mkdir -p .git/hooks && printf '{config}' >.git/config && {}", hooks.join(" && "));
    (canary, plant)
}
