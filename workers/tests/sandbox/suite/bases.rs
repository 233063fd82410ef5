//! What a base keeps, and what boxes that start from it may do to it: nothing.

use std::{sync::Arc, time::Duration};

use workers::sandbox::{
    Command, FileKind, Found, KeptBase, Sandbox, SandboxError, SandboxSpec, Update,
    pool::{PoolOptions, Sandboxes},
};

use super::{Backend, file, sh, spec};

/// A base with a workspace of two files, something that was built there, and something in its home.
async fn keep(backend: &Backend, id: &str) -> KeptBase {
    let spec = spec(None);
    let sandbox = Sandbox::start(Arc::clone(backend), &spec).await.unwrap();
    let files = vec![
        file("a.txt", FileKind::Regular, "one\n"),
        file("dir/run.sh", FileKind::Executable, "echo hi\n"),
        file("link", FileKind::Symlink, "dir/run.sh"),
    ];
    sandbox.put(files).await.unwrap();
    sh(&sandbox, "mkdir built && echo object > built/o && echo cached > ~/cache && chmod 700 built && touch -d '2020-01-02 03:04:05' a.txt").await;
    sandbox.kill_all().await.unwrap();
    let kept = sandbox.keep(&spec, id).await.unwrap();
    assert!(kept.n_bytes > 0, "{kept:?}");
    kept
}

fn from(base: &KeptBase) -> SandboxSpec {
    SandboxSpec { base: Some(base.clone()), ..spec(None) }
}

fn id(what: &str) -> String {
    format!("test-{what}-{}", std::process::id())
}

/// Files, build state, home, owners and modification times are as they were, and each box has its own.
pub(crate) async fn a_box_starts_with_all_that_its_base_keeps(backend: Backend) {
    let base = keep(&backend, &id("files")).await;
    let sandbox = Sandbox::start(Arc::clone(&backend), &from(&base)).await.unwrap();
    let seen =
        "cat a.txt built/o ~/cache; ./link; ls -ld built | cut -c1-10; stat -c %Y a.txt; [ -O built/o ] && echo own";
    assert_eq!(sh(&sandbox, seen).await, "one\nobject\ncached\nhi\ndrwx------\n1577934245\nown");
    // All of it can be written, replaced and removed.
    sh(&sandbox, "echo two >> a.txt && echo x > built/new && rm -r dir && echo y >> ~/cache && mv built moved").await;
    let other = Sandbox::start(Arc::clone(&backend), &from(&base)).await.unwrap();
    assert_eq!(sh(&other, "cat a.txt ~/cache; ls; ls built").await, "one\ncached\na.txt\nbuilt\ndir\nlink\no");
    sandbox.stop().await.unwrap();
    other.stop().await.unwrap();
    backend.remove_base(&base).await.unwrap();
}

/// A base that is used stays; one that is not goes, and may go twice.
pub(crate) async fn a_base_stays_while_a_box_uses_it(backend: Backend) {
    let base = keep(&backend, &id("used")).await;
    let is_kept = async || backend.bases().await.unwrap().iter().any(|kept| kept.id == base.id);
    let sandbox = Sandbox::start(Arc::clone(&backend), &from(&base)).await.unwrap();
    match backend.remove_base(&base).await {
        Err(SandboxError::Refused { reason, .. }) => assert_eq!(reason, "a sandbox uses it"),
        other => panic!("{other:?}"),
    }
    assert!(is_kept().await);
    assert_eq!(sh(&sandbox, "cat a.txt").await, "one");
    sandbox.stop().await.unwrap();
    backend.remove_base(&base).await.unwrap();
    assert!(!is_kept().await);
    backend.remove_base(&base).await.unwrap();
    let gone = Sandbox::start(Arc::clone(&backend), &from(&base)).await;
    assert!(gone.is_err(), "{gone:?}");
}

/// A mark of single paths costs nothing for the others, and the next list of changes is right.
pub(crate) async fn single_paths_can_be_marked(backend: Backend) {
    let sandbox = Sandbox::start(backend, &spec(None)).await.unwrap();
    sandbox.put(vec![file("a", FileKind::Regular, "1"), file("d/b", FileKind::Regular, "2")]).await.unwrap();
    sandbox.mark().await.unwrap();
    sandbox.put(vec![file("a", FileKind::Regular, "one"), file("new/c", FileKind::Regular, "3")]).await.unwrap();
    sandbox.delete(vec![b"d/b".to_vec()]).await.unwrap();
    let paths = ["a", "new/c", "d/b", "never/was"].map(|path| path.as_bytes().to_vec()).to_vec();
    sandbox.mark_paths(paths).await.unwrap();
    // Young entries may be told again: whoever compares their bytes finds them equal. What is gone is not told.
    let told = |changes: Vec<workers::sandbox::ChangedPath>| -> Vec<String> {
        changes.into_iter().map(|change| String::from_utf8(change.path).unwrap()).collect()
    };
    let changes = told(sandbox.changes().await.unwrap());
    assert!(changes.iter().all(|path| path == "a" || path == "new/c"), "{changes:?}");
    sh(&sandbox, "rm a && echo x > fresh").await;
    let changes = told(sandbox.changes().await.unwrap());
    assert!(changes.contains(&"a".to_owned()) && changes.contains(&"fresh".to_owned()), "{changes:?}");
    sandbox.stop().await.unwrap();
}

/// Whoever asks again gets a box that stood ready; each is used once; a dead one is not handed out; nothing stays.
pub(crate) async fn boxes_stand_ready_for_those_who_ask_again(backend: Backend) {
    let base = keep(&backend, &id("pool")).await;
    let options = PoolOptions { max_warm: 2, min_warm: 0, idle: Duration::from_secs(600) };
    let sandboxes = Sandboxes::new(Arc::clone(&backend), options);
    let first = sandboxes.open(&from(&base)).await.unwrap();
    assert_eq!((sandboxes.stats().n_hits, sandboxes.stats().n_misses), (0, 1));
    assert!(sandboxes.fill_once(std::time::Instant::now()).await);
    assert!(!sandboxes.fill_once(std::time::Instant::now()).await, "one question, one box");
    let second = sandboxes.open(&from(&base)).await.unwrap();
    assert!(second.is_marked() && !first.is_marked());
    assert_eq!(sh(&second, "cat a.txt && echo mine > a.txt").await, "one");
    assert_eq!((sandboxes.stats().n_hits, sandboxes.stats().n_warm), (1, 0));

    // One that died while it stood there is passed over.
    while sandboxes.fill_once(std::time::Instant::now()).await {}
    assert_eq!(sandboxes.stats().n_warm, 2);
    sandboxes.backend().sweep(&|name| !name.starts_with("onramp-warm")).await.unwrap();
    let third = sandboxes.open(&from(&base)).await.unwrap();
    assert_eq!(sh(&third, "cat a.txt").await, "one");
    assert_eq!((sandboxes.stats().n_hits, sandboxes.stats().n_misses), (1, 2));

    // Other limits are another kind of box, and a retired base has none that stands ready.
    while sandboxes.fill_once(std::time::Instant::now()).await {}
    let mut other = from(&base);
    other.limits.pids += 1;
    drop(sandboxes.open(&other).await.unwrap());
    assert_eq!(sandboxes.stats().n_hits, 1);
    assert_eq!(sandboxes.retire(&base.id).len(), 2);
    assert_eq!(sandboxes.stats().n_warm, 0);

    // Nobody asks for a while: none stands ready.
    drop(sandboxes.open(&from(&base)).await.unwrap());
    while sandboxes.fill_once(std::time::Instant::now()).await {}
    assert!(sandboxes.stats().n_warm > 0);
    assert!(!sandboxes.fill_once(std::time::Instant::now() + Duration::from_secs(601)).await);
    assert_eq!(sandboxes.stats().n_warm, 0);

    drop((first, second, third));
    sandboxes.close().await;
    assert_eq!(sandboxes.stats().n_boxes, 0);
    assert!(sandboxes.open(&from(&base)).await.is_err(), "nothing is started after the end");
    backend.remove_base(&base).await.unwrap();
}

/// Whoever says which tree is wanted gets a box that holds it and was looked at, whether one stood ready, none did, or the
/// one that did has died; what cannot be done is told by whatever is asked next, and no command's output before it.
pub(crate) async fn a_claim_comes_with_the_tree_that_was_asked_for(backend: Backend) {
    let base = keep(&backend, &id("at")).await;
    let options = PoolOptions { max_warm: 1, min_warm: 1, idle: Duration::from_secs(600) };
    let sandboxes = Sandboxes::new(Arc::clone(&backend), options);
    // A directory becomes a file: what is gone has to go first.
    let update = Update {
        gone: vec![b"dir/run.sh".to_vec()],
        put: vec![file("a.txt", FileKind::Regular, "two\n"), file("dir", FileKind::Regular, "a file now\n")],
    };
    let mut boxes = Vec::new();
    for (n_hits, how) in [(0, "cold"), (1, "warm"), (1, "warm and dead")] {
        let sandbox = sandboxes.open_at(&from(&base), &update).await.unwrap();
        assert_eq!(sandboxes.stats().n_hits, n_hits, "{how}");
        assert_eq!(sh(&sandbox, "cat a.txt dir; ls").await, "two\na file now\na.txt\nbuilt\ndir\nlink", "{how}");
        assert!(sandbox.is_marked(), "{how}");
        // Young entries may be told again; what was asked to be gone is not.
        let changes = sandbox.changes().await.unwrap();
        assert!(changes.iter().all(|change| change.now != Found::Nothing), "{how}: {changes:?}");
        boxes.push(sandbox);
        while sandboxes.fill_once(std::time::Instant::now()).await {}
        assert_eq!(sandboxes.stats().n_warm, 1);
        if how == "warm" {
            sandboxes.backend().sweep(&|name| !name.starts_with("onramp-warm")).await.unwrap();
        }
    }
    while sandboxes.fill_once(std::time::Instant::now()).await {}
    let n_misses = sandboxes.stats().n_misses;
    let outside = Update { gone: Vec::new(), put: vec![file("../x", FileKind::Regular, "")] };
    let astray = sandboxes.open_at(&from(&base), &outside).await.unwrap();
    assert_eq!(sandboxes.stats().n_misses, n_misses);
    for why in ["../x: the path must be relative", "the workspace was not brought to its tree"] {
        assert!(!astray.is_settled());
        match astray.run(&Command::shell("echo ran", Duration::from_secs(20)), &mut |piece| panic!("{piece:?}")).await {
            Err(SandboxError::Refused { operation: "write files", reason }) => {
                assert!(reason.contains(why), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(astray.changes().await, Err(SandboxError::Refused { .. })));
    drop((boxes, astray));
    sandboxes.close().await;
    backend.remove_base(&base).await.unwrap();
}

/// A start that nobody waits for any more leaves nothing.
pub(crate) async fn a_start_that_was_given_up_leaves_nothing(backend: Backend) {
    let sandboxes = Sandboxes::new(Arc::clone(&backend), PoolOptions::default());
    for wait_ms in [0, 1, 5, 20, 80] {
        let spec = spec(None);
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), sandboxes.open(&spec)).await;
    }
    sandboxes.settle().await;
    assert_eq!(sandboxes.stats().n_boxes, 0);
    sandboxes.close().await;
}

/// What a box holds on the disk is seen from outside of it.
pub(crate) async fn what_a_box_has_written_is_seen_from_outside(backend: Backend) {
    let spec = spec(None);
    let sandbox = Sandbox::start(Arc::clone(&backend), &spec).await.unwrap();
    let before = backend.used_bytes(&spec.name).await.unwrap();
    sh(&sandbox, "head -c 3000000 /dev/urandom > a; head -c 2000000 /dev/urandom > ~/b").await;
    let written = backend.used_bytes(&spec.name).await.unwrap() - before;
    assert!((5_000_000..6_000_000).contains(&written), "{written}");
    sandbox.stop().await.unwrap();
    assert_eq!(backend.used_bytes(&spec.name).await, None);
}
