use tasks::{Limit, Timestamp};

use super::*;
use crate::{
    checkout::{Mirror, fixture::Scratch},
    forge::none::NoForge,
    sandbox::{Command, HostTools, Limits, SandboxSpec, namespace::NamespaceBackend, pool::PoolOptions},
    workspace::{Wish, Workspace},
};

/// A repository with a base of its own, on the backend that is everywhere.
struct Room {
    scratch: Scratch,
    bases: Arc<Bases>,
    sandboxes: Arc<Sandboxes>,
    repo: RepoName,
}

const CONFIG: &str = r#"version = 1
[environment]
setup = ["echo installed > installed && cp package.json ~/seen && for f in tracked.*; do echo spoiled >> $f; done"]
prebuild = ["mkdir -p out && cat src.txt > out/object", "exit 7"]
[[check]]
name = "test"
command = "true"
"#;

#[expect(clippy::disallowed_methods, reason = "the clock of the program, as it is handed in")]
fn clock() -> Timestamp {
    chrono::Utc::now()
}

impl Room {
    fn new(config: &str) -> Self {
        let files = [(".onramp.toml", config), ("package.json", "{}"), ("src.txt", "1"), ("tracked.txt", "ours\n")];
        let scratch = Scratch::with(&files);
        let backend = NamespaceBackend::new(scratch.dir.path().join("boxes"), HostTools::default(), false);
        let options = PoolOptions { max_warm: 0, ..PoolOptions::default() };
        let sandboxes = Sandboxes::new(Arc::new(backend.accept_without(Limit::ALL)), options);
        let (dir, mirrors) = (scratch.dir.path().join("bases"), scratch.dir.path().join("mirrors"));
        let forge = Arc::new(NoForge::new(scratch.path()));
        let bases = Bases::new(dir, BasesOptions::default(), sandboxes.clone(), forge, mirrors, clock);
        Self { scratch, bases: Arc::new(bases), sandboxes, repo: "acme/web".parse().unwrap() }
    }

    /// A workspace at the tip of the branch, by the configuration of that commit.
    async fn open(&self, name: &str) -> Workspace {
        let (mirror, tip) = self.scratch.checkout(None).await.unwrap();
        let tree = mirror.tree_of(&tip.commit).await.unwrap();
        let config = crate::environment::configuration(&mirror, &tip.commit, &tree).await.unwrap();
        let spec = SandboxSpec { limits: small(), ..SandboxSpec::new(format!("onramp-base-test-{name}")) };
        self.open_at(&mirror, &tree, &config, &spec).await
    }

    async fn open_at(
        &self,
        mirror: &Mirror,
        tree: &tasks::TreeSha,
        config: &RepoConfig,
        spec: &SandboxSpec,
    ) -> Workspace {
        let (sandboxes, bases, repo) = (&self.sandboxes, Some(self.bases.as_ref()), &self.repo);
        Workspace::open(&Wish { sandboxes, bases, mirror, repo, tree, config, spec }).await.unwrap()
    }

    async fn end(self) {
        self.sandboxes.close().await;
        for base in self.sandboxes.backend().bases().await.unwrap() {
            self.sandboxes.backend().remove_base(&base).await.unwrap();
        }
    }
}

fn small() -> Limits {
    Limits { memory_bytes: 256 << 20, pids: 64, disk_bytes: 64 << 20, ..Limits::default() }
}

async fn sh(workspace: &Workspace, line: &str) -> String {
    let mut output = Vec::new();
    let mut keep = |piece: crate::sandbox::Output<'_>| {
        let (crate::sandbox::Output::Stdout(bytes) | crate::sandbox::Output::Stderr(bytes)) = piece;
        output.extend_from_slice(bytes);
    };
    let command = Command::shell(line, Duration::from_secs(20));
    workspace.sandbox().run(&command, &mut keep).await.unwrap();
    String::from_utf8(output).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn a_task_starts_where_setup_has_ended_and_only_what_differs_travels() {
    let room = Room::new(CONFIG);
    room.bases.refresh(&room.repo).await;
    let before = room.open("before").await;
    assert!(before.is_set_up());
    let seen = "cat installed ~/seen out/object tracked.txt; stat -c %Y src.txt out/object";
    let first = sh(&before, seen).await;
    assert!(first.starts_with("installed\n{}1ours\n"), "tracked files are as in the commit: {first}");
    assert_eq!(before.sandbox().changes().await.unwrap(), [], "what setup wrote counts as there from the start");

    std::thread::sleep(Duration::from_millis(1100));
    room.scratch.write("tracked.txt", b"newer\n");
    room.scratch.write("fresh/new.txt", b"new\n");
    room.scratch.git(&["rm", "-q", "--cached", "src.txt"]);
    std::fs::remove_file(room.scratch.path().join("src.txt")).unwrap();
    room.scratch.commit("Second");
    let after = room.open("after").await;
    assert!(after.is_set_up(), "the old base serves");
    assert_eq!(
        sh(&after, "cat tracked.txt fresh/new.txt installed; ls src.txt 2>&1 | wc -l").await,
        "newer\nnew\ninstalled\n1"
    );
    assert!(sh(&after, "ls src.txt").await.contains("No such file"));
    let times = sh(&after, "stat -c %Y package.json out/object").await;
    let old = sh(&before, "stat -c %Y package.json out/object").await;
    assert_eq!(times, old, "untouched files keep their times");
    let changed: Vec<_> = after.sandbox().changes().await.unwrap();
    let names: Vec<_> = changed.iter().map(|change| String::from_utf8_lossy(&change.path).into_owned()).collect();
    assert!(names.iter().all(|name| name == "tracked.txt" || name == "fresh/new.txt"), "young at most: {names:?}");
    drop((before, after));
    room.end().await;
}

#[tokio::test]
async fn a_tree_that_would_be_set_up_otherwise_starts_from_the_image() {
    let room = Room::new(CONFIG);
    room.bases.refresh(&room.repo).await;
    room.scratch.write("package.json", b"{\"name\": 1}");
    room.scratch.commit("Other dependencies");
    let workspace = room.open("lock").await;
    assert!(!workspace.is_set_up());
    assert_eq!(sh(&workspace, "cat package.json; ls installed out 2>/dev/null").await, "{\"name\": 1}");
    room.scratch.write("package.json", b"{}");
    room.scratch.write(".onramp.toml", CONFIG.replace("installed >", "otherwise >").as_bytes());
    room.scratch.commit("Other setup");
    let other = room.open("setup").await;
    assert!(!other.is_set_up());
    drop((workspace, other));
    room.end().await;
}

#[tokio::test]
async fn where_setup_left_something_in_the_way_of_a_tree_its_box_starts_from_the_image() {
    let room = Room::new(CONFIG);
    room.bases.refresh(&room.repo).await;
    room.scratch.write("out", b"a file, where setup made a directory");
    room.scratch.commit("Second");
    let settled = room.open("settled").await;
    assert_eq!(
        (settled.is_set_up(), sh(&settled, "cat out").await.as_str()),
        (false, "a file, where setup made a directory")
    );

    // Begun and not waited for: the first command finds out, and nothing of it is told.
    let (mirror, tip) = room.scratch.checkout(None).await.unwrap();
    let tree = &mirror.tree_of(&tip.commit).await.unwrap();
    let config = &crate::environment::configuration(&mirror, &tip.commit, tree).await.unwrap();
    let spec = &SandboxSpec { limits: small(), ..SandboxSpec::new("onramp-base-test-begun") };
    let (sandboxes, bases, repo, mirror) = (&room.sandboxes, Some(room.bases.as_ref()), &room.repo, &mirror);
    let wish = Wish { sandboxes, bases, mirror, repo, tree, config, spec };
    let begun = Workspace::begin(&wish).await.unwrap();
    assert!(begun.is_set_up() && !begun.holds_its_tree());
    let command = Command::shell("echo ran", Duration::from_secs(20));
    begun.sandbox().run(&command, &mut |piece| panic!("{piece:?}")).await.unwrap_err();
    assert!(!begun.holds_its_tree());
    let again = begun.again(&wish).await.unwrap();
    assert!(!again.is_set_up() && again.holds_its_tree());
    assert_eq!(sh(&again, "cat out").await, "a file, where setup made a directory");
    drop((settled, again));
    room.end().await;
}

#[tokio::test]
async fn a_base_that_does_not_start_is_no_reason_to_fail() {
    let room = Room::new(CONFIG);
    room.bases.refresh(&room.repo).await;
    for base in room.sandboxes.backend().bases().await.unwrap() {
        room.sandboxes.backend().remove_base(&base).await.unwrap();
    }
    let workspace = room.open("gone").await;
    assert!(!workspace.is_set_up());
    assert_eq!(sh(&workspace, "cat src.txt").await, "1");
    drop(workspace);
    room.end().await;
}

#[tokio::test]
async fn a_moved_branch_gets_a_new_base_and_the_old_one_goes_when_nothing_uses_it() {
    let room = Room::new(CONFIG);
    room.bases.refresh(&room.repo).await;
    room.bases.refresh(&room.repo).await;
    let first = room.bases.shelf.all();
    assert_eq!(first.len(), 1, "nothing moved, so nothing was built");
    let user = room.open("user").await;
    room.scratch.write("src.txt", b"2");
    room.scratch.commit("Second");
    room.bases.refresh(&room.repo).await;
    assert_eq!(room.bases.shelf.all().len(), 2, "one is used");
    let (mirror, tip) = room.scratch.checkout(None).await.unwrap();
    let tree = mirror.tree_of(&tip.commit).await.unwrap();
    let config = crate::environment::configuration(&mirror, &tip.commit, &tree).await.unwrap();
    let newest = room.bases.find(&room.repo, &config).unwrap();
    assert_eq!(newest.commit, tip.commit);
    let collected = room.bases.collect(clock(), false).await;
    assert_eq!((collected.gone.len(), collected.n_in_use), (0, 1));
    drop(user);
    room.sandboxes.settle().await;
    let would = room.bases.collect(clock(), true).await;
    assert_eq!(room.bases.collect(clock(), false).await, would);
    assert_eq!(would.gone, [format!("acme/web at {}", first[0].commit.short())]);
    assert_eq!(room.bases.shelf.all(), [newest]);
    room.end().await;
}

#[tokio::test]
async fn a_build_that_fails_is_told_and_leaves_nothing() {
    let room = Room::new(&CONFIG.replace("echo installed > installed", "echo no network >&2; exit 3; true"));
    room.bases.want(&room.repo, None);
    room.bases.refresh(&room.repo).await;
    let trouble = room.bases.trouble(&room.repo).unwrap();
    assert!(trouble.contains("failed on the untouched base (exit code 3)"), "{trouble}");
    assert_eq!(room.bases.shelf.all(), []);
    assert!(room.bases.most_due(clock()).is_none(), "it waits for its next try");
    let workspace = room.open("trouble").await;
    assert!(!workspace.is_set_up());
    drop(workspace);
    room.sandboxes.settle().await;
    assert_eq!(room.sandboxes.backend().bases().await.unwrap(), []);
    room.end().await;
}

#[test]
fn tries_grow_rarer_up_to_an_hour_and_one_success_forgets_them() {
    let start = Timestamp::from_timestamp(1_000_000, 0).unwrap();
    let (mut wanted, options) = (Wanted::new(start), BasesOptions::default());
    let failure = Failure::internal("x");
    let waits: Vec<i64> = (0..9)
        .map(|_| {
            wanted.is_over(start, &options, Some(&failure));
            (wanted.due - start).num_minutes()
        })
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    wanted.is_over(start, &options, None);
    assert_eq!((wanted.due - start).num_minutes(), 30);
    assert_eq!(wanted.trouble, None);
}

#[tokio::test]
async fn only_one_process_builds_and_its_loop_builds_what_is_asked_for() {
    let room = Room::new(CONFIG);
    let turn = room.bases.take_turn().unwrap().unwrap();
    let stop = CancellationToken::new();
    room.bases.clone().run(stop.clone()).await;
    drop(turn);
    let running = tokio::spawn(room.bases.clone().run(stop.clone()));
    room.bases.want(&room.repo, None);
    while room.bases.shelf.all().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    running.await.unwrap();
    room.end().await;
}
