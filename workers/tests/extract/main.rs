//! Changes leave a real sandbox: the same script edits a workspace inside and a clean clone outside, and the tree that
//! Onramp takes out must be the one that git makes there.

#![expect(clippy::unwrap_used, reason = "all of this is tests, helpers included")]

mod cases;
mod corpus;
mod random;
mod rig;

use std::{panic::AssertUnwindSafe, path::Path, process::Stdio, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tasks::{CommitSha, Failure, RepoName};
use workers::{
    checkout::Mirror,
    forge::{Forge, local::LocalForge},
    patch::{ExtractLimits, Patch},
    sandbox::{
        Command, FileKind, HostTools, Limits, Sandbox, SandboxBackend, SandboxSpec, TreeFile, docker::DockerBackend,
        namespace::NamespaceBackend,
    },
};

const LIMITS: ExtractLimits = ExtractLimits { max_files: 1000, max_bytes: 8 << 20 };

/// The namespace sandbox where the system allows it, else Docker.
async fn backend(dir: &Path) -> Arc<dyn SandboxBackend> {
    let namespaces =
        NamespaceBackend::new(dir.join("boxes"), HostTools::detect(None, "/usr/local/bin:/usr/bin:/bin"), true);
    match namespaces.probe().await {
        Ok(_) => Arc::new(namespaces),
        Err(_) => {
            let image = Some("onramp-test/busybox:1".into());
            Arc::new(DockerBackend::connect(None, image, "onramp-tests").await.expect("run tests/bring-up.sh first"))
        }
    }
}

/// A repository, its mirror, and a sandbox that has been brought to its one commit.
struct Box {
    dir: tempfile::TempDir,
    mirror: Mirror,
    base: CommitSha,
    sandbox: Sandbox,
}

async fn in_a_box(purpose: &str, test: impl AsyncFnOnce(&Box)) {
    let dir = tempfile::tempdir().unwrap();
    let forge = LocalForge::new(dir.path().join("forge"));
    let repo: RepoName = "acme/web".parse().unwrap();
    let file = |path: &str, kind, bytes: &str| TreeFile { path: path.into(), kind, bytes: bytes.into() };
    let files = [
        file("src/pager.rs", FileKind::Regular, "fn last() {}\n"),
        file("src/old.rs", FileKind::Regular, "gone\n"),
        file("run.sh", FileKind::Regular, "#!/bin/sh\n"),
        file("link", FileKind::Symlink, "src"),
        file("becomes/a/directory", FileKind::Regular, "x"),
        file(".gitignore", FileKind::Regular, "target/\n*.log\n"),
        file("kept.log", FileKind::Regular, "tracked\n"),
    ];
    forge.create_repository(&repo, &files, "First").await.unwrap();
    let remote = forge.remote(&repo).await.unwrap();
    let (mirror, base) = Mirror::checkout(&dir.path().join("mirrors"), &repo, &remote, None).await.unwrap();
    let backend = backend(dir.path()).await;
    let name = format!("onramp-extract-{}-{purpose}", std::process::id());
    let limits = Limits { memory_bytes: 512 << 20, disk_bytes: 1 << 30, pids: 256, ..Limits::default() };
    let spec = SandboxSpec { limits, ..SandboxSpec::new(name) };
    let sandbox = Sandbox::start(backend, &spec).await.expect("starts");
    let its = Box { dir, mirror, base: base.commit, sandbox };
    its.sandbox.put(its.mirror.files(&its.base).await.unwrap()).await.expect("takes the files");
    its.sandbox.mark().await.expect("marks");
    let outcome = AssertUnwindSafe(test(&its)).catch_unwind().await;
    its.sandbox.stop().await.expect("stops");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Box {
    async fn sh(&self, line: &str) {
        let mut output = Vec::new();
        let command = Command::shell(line, Duration::from_secs(60));
        let exit = self.sandbox.run(&command, &mut |piece| output.push(format!("{piece:?}"))).await.expect("runs");
        assert!(exit.success(), "{line}: {exit:?} {output:?}");
    }

    async fn extract(&self) -> Result<Patch, Failure> {
        Patch::extract(&self.sandbox, &self.mirror, &self.base, LIMITS).await
    }

    /// What git makes of the script in a clean clone.
    fn by_git(&self, script: &str) -> String {
        let outside = self.dir.path().join("outside");
        let run = |line: &str, dir: &Path| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", line]).current_dir(dir).stdin(Stdio::null()).env("GIT_CONFIG_GLOBAL", "/dev/null");
            let output = command.env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        run(&format!("git clone -q '{}' outside", self.mirror.path().display()), self.dir.path());
        run(&format!("git checkout -q {}", self.base), &outside);
        run(script, &outside);
        run("git add -A && git write-tree", &outside)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_leaves_the_sandbox_as_the_tree_that_git_makes() {
    const SCRIPT: &str = r#"
        printf 'fn last() { 1 }\n' >src/pager.rs; rm src/old.rs; chmod +x run.sh; rm link; ln -s ../../etc link
        rm -r becomes; echo file >becomes; mkdir -p target/debug; echo x >target/debug/out; echo x >new.log
        echo changed >kept.log; mkdir -p 'a b/c'; : >'a b/c/empty'; printf 'n\r\n' >"$(printf 'odd\nn\303\244me')"
        mkdir sub; printf '*\n!in\n!.gitignore\n' >sub/.gitignore; echo in >sub/in; echo out >sub/out
        ln run.sh hard; touch src/pager.rs .gitignore; mkfifo target/pipe; mkdir empty
    "#;
    in_a_box("tree", async |its| {
        its.sh(SCRIPT).await;
        // What no git outside is told of: the agent's own repository, with everything that could run on a host.
        let canary = its.dir.path().join("canary");
        let config = format!("[core]\\n\\tfsmonitor = touch {0}\\n\\thooksPath = .\\n", canary.display());
        its.sh(&format!("mkdir -p .git/hooks; printf '{config}' >.git/config; echo x >.git/hooks/pre-commit")).await;
        let patched = its.extract().await.unwrap().onto(&its.mirror).await.unwrap();
        assert_eq!(patched.tree().as_str(), its.by_git(SCRIPT));
        assert!(!canary.exists());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn touching_files_is_no_change_and_nothing_moves_after_the_freeze() {
    in_a_box("touch", async |its| {
        its.sh("touch src/pager.rs run.sh; cp src/old.rs x; rm src/old.rs; mv x src/old.rs").await;
        assert!(its.extract().await.unwrap().is_empty());
        // A daemon that changes its file for ever: frozen before the first look, so that what is read is what is there.
        its.sh("(while :; do echo $((n += 1)) >moving; done) >/dev/null 2>&1 & while [ ! -s moving ]; do :; done")
            .await;
        let first = its.extract().await.unwrap();
        let second = its.extract().await.unwrap();
        assert_eq!(first.sha256(), second.sha256());
        assert_eq!(first.entries().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_carried_is_refused_with_its_path_and_never_hangs() {
    in_a_box("refused", async |its| {
        for (make, path, unmake) in [
            ("mkfifo pipe", "`pipe`", "rm pipe"),
            ("mkdir -p deep/inner/.git", "`deep/inner`", "rm -r deep"),
            ("mkdir .GIT; echo x >.GIT/config", "`.GIT/config`", "rm -r .GIT"),
            ("mkdir sub; echo x >sub/git~1", "`sub/git~1`", "rm -r sub"),
            ("truncate -s 512M sparse", "536870912 bytes", "rm sparse"),
            ("i=0; while [ $i -lt 1001 ]; do : >f$i; i=$((i+1)); done", "1001 files", "rm f*"),
        ] {
            its.sh(make).await;
            let failure =
                tokio::time::timeout(Duration::from_secs(60), its.extract()).await.expect("no hang").unwrap_err();
            assert_eq!(failure.code.as_str(), "E031");
            assert!(failure.message.contains(path), "{make}: {}", failure.message);
            its.sh(unmake).await;
        }
        assert!(its.extract().await.unwrap().is_empty());
    })
    .await;
}
