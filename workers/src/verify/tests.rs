use std::{path::Path, sync::Mutex};

use tasks::TaskId;

use super::*;
use crate::{
    checkout::Remote,
    patch::{ExtractLimits, Patch},
    policy,
    sandbox::{HostTools, Limits, SandboxBackend as _, namespace::NamespaceBackend, pool::PoolOptions},
};

fn exit(code: Option<i32>, signal: Option<i32>, timed_out: bool) -> Exit {
    Exit { code, signal, timed_out, wall: Duration::ZERO, cpu: Duration::ZERO, max_rss_bytes: 0, limits: vec![] }
}

#[test]
fn only_exit_code_zero_within_the_limit_passes() {
    let outcome = |code, signal, timed_out| outcome(&exit(code, signal, timed_out), Duration::from_secs(7));
    assert_eq!(outcome(Some(0), None, false), CheckOutcome::Passed);
    assert_eq!(outcome(Some(0), None, true), CheckOutcome::TimedOut { limit_s: 7 });
    assert_eq!(outcome(Some(3), None, false), CheckOutcome::Failed { exit_code: 3 });
    assert_eq!(outcome(None, Some(9), false), CheckOutcome::Killed { signal: 9 });
    assert_eq!(outcome(None, None, false), CheckOutcome::Killed { signal: 0 });
}

#[test]
fn the_name_of_a_check_makes_no_path() {
    assert_eq!(file_name("a/../b c:d"), "a----b-c-d");
}

#[test]
fn a_tail_is_cut_between_characters() {
    assert_eq!(last_bytes("aéb", 2), "b");
    assert_eq!(last_bytes("aéb", 3), "éb");
    assert_eq!(last_bytes("ab", 8), "ab");
}

/// A repository with a bug, a change that mends it, and what verifies it.
pub(super) struct Room {
    pub(super) dir: tempfile::TempDir,
    pub(super) backend: Arc<NamespaceBackend>,
    pub(super) mirror: Mirror,
    pub(super) allowed: AllowedPatch,
    pub(super) artifacts: Artifacts,
    told: Arc<Mutex<Vec<String>>>,
}

fn git(dir: &Path, arguments: &[&str]) {
    let output = std::process::Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(super) fn spec(purpose: &str) -> SandboxSpec {
    let limits = Limits { memory_bytes: 256 << 20, pids: 64, disk_bytes: 64 << 20, ..Limits::default() };
    SandboxSpec { limits, ..SandboxSpec::new(format!("onramp-verify-test-{purpose}")) }
}

impl Room {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir(&work).unwrap();
        std::fs::write(work.join("calc.py"), "def add(a, b):\n    return a - b\n").unwrap();
        git(&work, &["init", "-q"]);
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-q", "-m", "base"]);
        let remote = Remote { url: work.display().to_string(), token: None };
        let repo = "acme/calc".parse().unwrap();
        let (mirror, base) = Mirror::checkout(&dir.path().join("mirrors"), &repo, &remote, None).await.unwrap();

        let backend = Arc::new(
            NamespaceBackend::new(dir.path().join("boxes"), HostTools::default(), false)
                .accept_without(tasks::Limit::ALL),
        );
        let sandbox = Sandbox::start(backend.clone(), &spec("agent")).await.unwrap();
        sandbox.put(mirror.files(&base.commit).await.unwrap()).await.unwrap();
        sandbox.mark().await.unwrap();
        let edit = Command::shell("sed -i 's/a - b/a + b/' calc.py", Duration::from_secs(30));
        assert!(sandbox.run(&edit, &mut |_| {}).await.unwrap().success());
        let limits = ExtractLimits { max_files: 100, max_bytes: 1 << 20 };
        let patch = Patch::extract(&sandbox, &mirror, &base.commit, limits).await.unwrap();
        sandbox.stop().await.unwrap();
        let patched = patch.onto(&mirror).await.unwrap();
        let allowed = policy::check(patched, &config("").policy).unwrap();
        let artifacts = Artifacts::open(&dir.path().join("artifacts"), TaskId::from_bytes([1; 16]), 1).unwrap();
        Self { dir, backend, mirror, allowed, artifacts, told: Arc::default() }
    }

    async fn verify(&self, checks: &str) -> Result<Verdict, Failure> {
        self.verify_with(checks, &self.progress(), &CancellationToken::new()).await
    }

    pub(super) fn progress(&self) -> Progress {
        let told = self.told.clone();
        Progress::new(move |event| {
            let line = match event {
                ProgressEvent::Check(check) => format!("{}: {}", check.name, text::result_words(&check)),
                ProgressEvent::Warning(text) => format!("warning: {text}"),
                other => format!("{other:?}"),
            };
            told.lock().unwrap().push(line);
        })
    }

    async fn verify_with(
        &self,
        checks: &str,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Verdict, Failure> {
        let config = config(checks);
        let sandboxes = Sandboxes::new(self.backend.clone(), PoolOptions::default());
        let with = Verification {
            sandboxes: &sandboxes,
            bases: None,
            repo: &"acme/calc".parse().unwrap(),
            spec: spec("verify"),
            config: &config,
            mirror: &self.mirror,
            artifacts: &self.artifacts,
            progress,
            borrowed: &Borrowed::default(),
            egress: (&Arc::default(), &Arc::default()),
            cancel,
        };
        let verdict = verify(self.allowed.clone(), with).await;
        sandboxes.close().await;
        assert_eq!(self.backend.sweep(&|_| false).await.unwrap(), 0, "no sandbox is left");
        verdict
    }

    pub(super) fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    fn artifact(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(self.artifacts.path(name))).unwrap()
    }
}

/// A configuration with these checks, `name: command` one a line; `?` before the name makes one optional, `!` a line of
/// setup.
fn config(checks: &str) -> RepoConfig {
    let mut text = String::from("version = 1\n");
    let setup: Vec<String> =
        checks.lines().filter_map(|line| line.strip_prefix('!')).map(|line| format!("'''{line}'''")).collect();
    text.push_str(&format!("[environment]\nsetup = [{}]\nenv = {{ FROM_REPO = \"yes\" }}\n", setup.join(", ")));
    for line in checks.lines().filter(|line| !line.starts_with('!')) {
        let (name, command) = line.split_once(": ").unwrap();
        let required = !name.starts_with('?');
        let name = name.trim_start_matches('?');
        text.push_str(&format!(
            "[[check]]\nname = \"{name}\"\ncommand = '''{command}'''\nrequired = {required}\ntimeout = \"2s\"\n"
        ));
    }
    if !text.contains("[[check]]") {
        text.push_str("[[check]]\nname = \"none\"\ncommand = \"true\"\n");
    }
    RepoConfig::load(Some(text.as_bytes()), &[]).unwrap()
}

pub(super) fn results(verdict: &Verdict) -> &[CheckResult] {
    match verdict {
        Verdict::Passed(verified) => verified.checks(),
        Verdict::Failed { checks, .. } => checks,
    }
}

#[tokio::test]
async fn checks_run_on_the_changed_tree_with_the_repositorys_variables() {
    let room = Room::new().await;
    let verdict =
        room.verify("unit/test: cat calc.py; echo \"$FROM_REPO $CI\"; grep -q 'a + b' calc.py").await.unwrap();
    let Verdict::Passed(verified) = verdict else { panic!("{verdict:?}") };
    assert_eq!(verified.checks()[0].output_tail, "def add(a, b):\n    return a + b\nyes true");
    assert_eq!(verified.environment(), "host tools");
    assert_eq!(room.told(), ["unit/test: passed"]);
    assert_eq!(room.artifact("check-1-unit-test.log"), "def add(a, b):\n    return a + b\nyes true\n");
}

#[tokio::test]
async fn a_failed_check_keeps_no_later_one_from_running_and_an_optional_one_holds_nothing_back() {
    let room = Room::new().await;
    let verdict = room.verify("one: echo no >&2; exit 3\n?two: exit 1\nthree: true\nfour: kill -9 $$").await.unwrap();
    assert!(matches!(verdict, Verdict::Failed { .. }));
    assert_eq!(
        room.told(),
        ["one: failed (exit code 3)", "two: failed (exit code 1)", "three: passed", "four: killed by signal 9"]
    );
    assert_eq!(results(&verdict)[0].output_tail, "no");
    assert!(matches!(room.verify("?one: false\ntwo: true").await.unwrap(), Verdict::Passed(_)));
}

#[tokio::test]
async fn a_check_that_hangs_is_ended_at_its_limit() {
    let room = Room::new().await;
    let verdict = room.verify("slow: echo waiting; sleep 600").await.unwrap();
    assert_eq!(results(&verdict)[0].outcome, CheckOutcome::TimedOut { limit_s: 2 });
    assert_eq!(results(&verdict)[0].output_tail, "waiting");
}

#[tokio::test]
async fn setup_that_the_change_broke_is_a_failed_check() {
    let room = Room::new().await;
    let verdict = room.verify("!true\n!echo broken; grep -q 'a - b' calc.py\ntest: true").await.unwrap();
    let [setup] = results(&verdict) else { panic!("{verdict:?}") };
    assert_eq!((setup.name.as_str(), setup.output_tail.as_str(), setup.blocks()), ("setup", "broken", true));
    assert!(matches!(verdict, Verdict::Failed { .. }));
}

#[tokio::test]
async fn what_one_check_changes_in_the_tree_is_put_back_before_the_next() {
    let room = Room::new().await;
    let verdict = room.verify("one: echo broken > calc.py; echo new > built.txt\ntwo: grep -q 'a + b' calc.py && test -f built.txt\nthree: touch calc.py").await;
    assert!(matches!(verdict.unwrap(), Verdict::Passed(_)));
    assert_eq!(
        room.told(),
        [
            "one: passed",
            "warning: the check `one` changed `calc.py`; put back as it was",
            "two: passed",
            "three: passed"
        ]
    );
}

#[tokio::test]
async fn a_stopped_task_ends_its_checks_at_once_and_leaves_no_sandbox() {
    let room = Room::new().await;
    let cancel = CancellationToken::new();
    let progress = Progress::new({
        let cancel = cancel.clone();
        move |_| cancel.cancel()
    });
    let failure = room.verify_with("one: true\ntwo: sleep 600", &progress, &cancel).await.unwrap_err();
    assert_eq!(failure.code, Code::Cancelled);
}
