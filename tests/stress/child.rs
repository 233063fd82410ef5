//! The process that is killed: opens a store, works on it, and says what was acknowledged, one line each.

use std::{
    io::{self, BufRead as _, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use orchestrator::queue::Queue;
use tasks::{Intake as _, Outcome, Report, WorkQueue as _};

use crate::store::{open, request};

/// `DIR PREFIX N_TASKS N_AT_ONCE [gates]`: with gates, waits for a line before it opens, and for another before it works.
pub(crate) async fn main(arguments: &[String]) {
    let [dir, prefix, n_tasks, n_at_once, rest @ ..] = arguments else { panic!("DIR PREFIX N_TASKS N_AT_ONCE") };
    let (n_tasks, n_at_once): (u64, u64) = (n_tasks.parse().unwrap_or(0), n_at_once.parse().unwrap_or(1));
    let gated = !rest.is_empty();
    gate(gated, "ready");
    let queue = match open(Path::new(dir)).await {
        Ok(queue) => queue,
        Err(failure) => {
            say(&format!("refused to open: {failure}"));
            return;
        }
    };
    gate(gated, "open");
    let mut working = tokio::task::JoinSet::new();
    for lane in 0..n_at_once {
        let (queue, prefix) = (queue.clone(), prefix.clone());
        working.spawn(async move {
            for n in (lane..n_tasks).step_by(n_at_once.max(1) as usize) {
                one(&queue, &format!("{prefix}:{n}"), n).await;
            }
        });
    }
    working.join_all().await;
    queue.shutdown().await;
    say("end");
}

/// One task: stored, and every second one taken and ended.
async fn one(queue: &Arc<Queue>, key: &str, n: u64) {
    let id = until_taken(|| queue.enqueue(request(key))).await.id();
    say(&format!("acked {key} {id}"));
    if n.is_multiple_of(2) {
        let worker = format!("w{n}").parse().expect("a name");
        if let Some((task, lease)) = until_taken(|| queue.lease_once(&worker)).await {
            let report = Report::Finished { outcome: Outcome::NothingChanged, evidence: None, used: None };
            until_taken(|| queue.report(&lease, report.clone())).await;
            say(&format!("ended {}", task.id));
        }
    }
    let (sequence, hash) = queue.journal_head();
    say(&format!("anchor {sequence}:{hash}"));
}

/// A store that is ill says so, and is asked again: it has to mend itself.
async fn until_taken<T, F: Future<Output = Result<T, tasks::QueueError>>>(mut ask: impl FnMut() -> F) -> T {
    for _ in 0..400 {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                say(&format!("refused {error}"));
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
    }
    say("it never mends");
    std::process::exit(3)
}

fn gate(gated: bool, word: &str) {
    say(word);
    if gated {
        let _ = io::stdin().lock().read_line(&mut String::new());
    }
}

/// In one write, so that a kill leaves a whole line or none.
fn say(line: &str) {
    let line = format!("{line}\n");
    // An injected fault may hit this very write: then nothing was told.
    let _ = io::stdout().lock().write_all(line.as_bytes());
    let _ = io::stdout().lock().flush();
}
