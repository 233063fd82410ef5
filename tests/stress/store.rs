//! A store under test: how it is opened, what was acknowledged of it, and whether that still stands.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use orchestrator::queue::{Queue, QueueOptions, audit, steady_clock};
use tasks::{
    Actor, Anchor, Deliver, Failure, Instruction, Intake as _, Resources, Source, TaskFilter, TaskId, TaskRequest,
    Timestamp,
};

/// Small segments, so that everything that happens to a store happens soon.
pub(crate) fn options() -> QueueOptions {
    let start: Timestamp = SystemTime::now().into();
    QueueOptions { segment_bytes: 8 << 10, keep_segments: 3, ..QueueOptions::new(steady_clock(start)) }
}

/// The request of a key: each of an issue of its own, so that none joins another.
pub(crate) fn request(key: &str) -> TaskRequest {
    let issue = key.bytes().fold(7u64, |n, byte| n.wrapping_mul(131).wrapping_add(u64::from(byte)) >> 1);
    TaskRequest {
        dedupe_key: key.parse().expect("a key"),
        source: Source::IssueLabelled { issue, label: "onramp".into() },
        actor: Actor { login: "ada".into(), id: Some(7) },
        repo: "acme/web".parse().expect("a name"),
        base: None,
        agent: None,
        instruction: Instruction {
            title: format!("Fix {key}"),
            body: "x".repeat(300),
            trusted: false,
            about: String::new(),
        },
        deliver: Deliver::PullRequest,
        resources: Resources::default(),
        revises: None,
        work: tasks::Work::default(),
        discussed_until: None,
    }
}

/// What a store acknowledged.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ledger {
    /// Key and task.
    pub(crate) acked: HashMap<String, String>,
    /// Tasks whose end was acknowledged.
    pub(crate) ended: Vec<String>,
    /// The newest anchor that was told.
    pub(crate) anchor: Option<Anchor>,
}

impl Ledger {
    /// Takes one line of what a child says. A line that is not whole says nothing.
    pub(crate) fn take(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["acked", key, task] => match self.acked.insert(key.to_owned(), task.to_owned()) {
                Some(before) if before != task => Err(format!("{key} was task {before} and is now {task}")),
                _ => Ok(()),
            },
            ["ended", task] => {
                self.ended.push(task.to_owned());
                Ok(())
            }
            ["anchor", anchor] => {
                self.anchor = anchor.parse().ok().or(self.anchor.take());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Opens the store and holds everything that was acknowledged against it.
    pub(crate) async fn check(&self, dir: &Path) -> Vec<String> {
        let queue = match open(dir).await {
            Ok(queue) => queue,
            Err(failure) => return vec![format!("it does not open: {failure}")],
        };
        let mut problems = Vec::new();
        match queue.list(TaskFilter::default()).await {
            Ok(tasks) => {
                let mut n_of_key: HashMap<String, u32> = HashMap::new();
                for task in &tasks {
                    *n_of_key.entry(task.request.dedupe_key.to_string()).or_default() += 1;
                }
                problems.extend(n_of_key.iter().filter(|(_, n)| **n > 1).map(|(key, n)| format!("{n} tasks of {key}")));
                let state: HashMap<_, _> = tasks.iter().map(|task| (task.id.to_string(), task.state.word())).collect();
                for (key, task) in &self.acked {
                    if !state.contains_key(task) {
                        problems.push(format!("LOST: {key}, acknowledged as {task}"));
                    }
                }
                let ended = self.ended.iter().filter(|task| state.get(*task) != Some(&"no_changes"));
                problems.extend(ended.map(|task| format!("LOST: the end of {task}")));
            }
            Err(error) => problems.push(format!("it does not list: {error}")),
        }
        for (key, task) in &self.acked {
            match queue.enqueue(request(key)).await {
                Ok(received) if received.id().to_string() == *task => {}
                other => problems.push(format!("{key} was {task} and is answered with {other:?}")),
            }
        }
        queue.shutdown().await;
        drop(queue);
        match audit::verify(&dir.join("journal"), self.anchor.as_ref()) {
            Ok(_) | Err(audit::AuditError::Gone { .. }) => {}
            Err(error) => problems.push(format!("the journal does not verify: {error}")),
        }
        problems
    }
}

pub(crate) async fn open(dir: &Path) -> Result<Arc<Queue>, Failure> {
    let dir = dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || Queue::open(&dir, options())).await;
    opened.map_err(Failure::internal)?.map(Arc::new)
}

/// A copy of a directory with everything in it.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Every file below a directory, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
    found.sort();
    found
}

/// A store with segments, a checkpoint, tasks in several states and an index, closed as one does; what stands in it.
pub(crate) async fn used(dir: &Path, n_tasks: u32) -> Result<Ledger, Failure> {
    let queue = open(dir).await?;
    let mut ledger = Ledger::default();
    let worker = "w1".parse().map_err(Failure::internal)?;
    for n in 0..n_tasks {
        let key = format!("used:{n}");
        let id: TaskId = queue.enqueue(request(&key)).await.map_err(Failure::internal)?.id();
        ledger.acked.insert(key, id.to_string());
        if n % 3 == 0
            && let Some((task, lease)) = queue.lease_once(&worker).await.map_err(Failure::internal)?
        {
            let outcome = tasks::Outcome::NothingChanged;
            let report = tasks::Report::Finished { outcome, evidence: None, used: None };
            tasks::WorkQueue::report(&*queue, &lease, report).await.map_err(Failure::internal)?;
            ledger.ended.push(task.id.to_string());
        }
    }
    // Until a checkpoint of the last closed segment is named in the journal.
    for _ in 0..400 {
        queue.set_cursor("used", 1).await.map_err(Failure::internal)?;
        let has_checkpoint = files(dir).iter().any(|path| path.extension().is_some_and(|e| e == "checkpoint"));
        if has_checkpoint {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (sequence, hash) = queue.journal_head();
    ledger.anchor = Some(Anchor { sequence, hash: hash.to_string() });
    queue.shutdown().await;
    Ok(ledger)
}

/// Random numbers that are the same every time.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % n.max(1)
    }
}
