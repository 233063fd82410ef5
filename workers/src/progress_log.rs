//! The progress of an attempt as lines of an artifact, so that whoever looks later, or from elsewhere, sees what happened
//! when.

use std::{path::Path, sync::Mutex, time::Instant};

use tasks::TaskId;

use crate::{
    artifacts::Artifacts,
    progress::{Progress, ProgressEvent},
    text,
};

/// The artifact's name.
pub const NAME: &str = "progress.log";
/// More lines than a person reads.
const MAX_BYTES: u64 = 4 << 20;

/// Writes what is told into the attempt's artifacts below `root`. Without a place to write to it tells nobody: what an
/// attempt is worth does not depend on it.
pub fn progress_log(root: &Path, task: TaskId, attempt: u32) -> Progress {
    let opened = Artifacts::open(root, task, attempt).and_then(|artifacts| artifacts.log(NAME, MAX_BYTES));
    let log = match opened {
        Ok(log) => Mutex::new(log),
        Err(error) => {
            tracing::warn!(task.id = %task, %error, "the progress of this attempt is not written down");
            return Progress::silent();
        }
    };
    let started = Instant::now();
    Progress::new(move |event| {
        let Some(words) = words(&event) else { return };
        let elapsed = started.elapsed().as_millis();
        if let Ok(mut log) = log.lock() {
            log.push(format!("{:>5}.{} s  {words}\n", elapsed / 1000, elapsed % 1000 / 100).as_bytes());
            log.flush();
        }
    })
}

fn words(event: &ProgressEvent) -> Option<String> {
    Some(match event {
        ProgressEvent::Stage(stage) => stage.word().to_owned(),
        ProgressEvent::Waiting(text) | ProgressEvent::Step(text) => text.clone(),
        ProgressEvent::Warning(text) => format!("warning: {text}"),
        ProgressEvent::Agent(line) => format!("agent: {line}"),
        ProgressEvent::Check(check) => format!("check {}: {}", check.name, text::result_words(check)),
        // A path of this machine tells nobody elsewhere anything; the diff lies beside this file.
        ProgressEvent::Diff(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use tasks::Stage;

    use super::*;

    #[test]
    fn what_is_told_can_be_read_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let task = TaskId::from_bytes([1; 16]);
        let progress = progress_log(dir.path(), task, 2);
        progress.tell(ProgressEvent::Stage(Stage::Preparing));
        progress.step("checked out main@a1b2c3d");
        progress.tell(ProgressEvent::Diff("/x".into()));
        let path = dir.path().join(task.to_string()).join("2").join(NAME);
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once(" s  ").unwrap().1).collect();
        assert_eq!(lines, ["preparing", "checked out main@a1b2c3d"]);
    }
}
