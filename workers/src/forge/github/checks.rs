//! Checks on a commit of ours: those of others that failed, and the one that says what Onramp itself verified.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tasks::{BranchName, Code, CommitSha, Failure};

use super::{Reach, WRITES, auth::Own, errors::Trouble, fitting, pulls::encoded};
use crate::{
    fence::Fence,
    forge::{CheckRun, FailedCheck},
};

/// The name of our own check.
const OURS: &str = "onramp / verify";
/// Of what one failed check says, so much is taken, in characters.
const MAX_SAID: usize = 6_000;
const MAX_ANNOTATIONS_READ: usize = 20;
/// More than so many are not taken in one request.
const MAX_ANNOTATIONS: usize = 50;
/// Longest summary that GitHub takes, in characters.
const MAX_SUMMARY: usize = 65_535;

#[derive(Deserialize)]
struct Runs {
    check_runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    id: u64,
    name: String,
    conclusion: Option<String>,
    #[serde(default)]
    external_id: Option<String>,
    #[serde(default)]
    output: RunOutput,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RunOutput {
    title: Option<String>,
    summary: Option<String>,
    text: Option<String>,
    annotations_count: u64,
}

impl Run {
    fn failed(&self) -> bool {
        matches!(self.conclusion.as_deref(), Some("failure" | "timed_out"))
    }
}

/// The last run of each check of others on a commit or branch, by name, and how often it ran there.
async fn last_runs(at: &Reach, of: &str) -> Result<BTreeMap<String, (Run, usize)>, Trouble> {
    let route = format!("/repos/{}/commits/{of}/check-runs?filter=all&per_page=100", at.repository.full_name);
    let mut last: BTreeMap<String, (Run, usize)> = BTreeMap::new();
    for run in at.api.get::<Runs>(&route).await?.value.check_runs {
        if run.name == OURS {
            continue;
        }
        match last.get_mut(&run.name) {
            Some((known, n_runs)) => {
                *n_runs += 1;
                if run.id > known.id {
                    *known = run;
                }
            }
            None => drop(last.insert(run.name.clone(), (run, 1))),
        }
    }
    Ok(last)
}

/// The checks whose last run on a commit failed, with what they say, and whether they fail on the base too.
pub(super) async fn failed(at: &Reach, head: &CommitSha, base: &BranchName) -> Result<Vec<FailedCheck>, Failure> {
    let failure = |trouble: Trouble| trouble.failure("read the checks of a commit", Code::PullRequestRefused);
    let mut found = last_runs(at, head.as_str()).await.map_err(failure)?;
    found.retain(|_, (run, _)| run.failed());
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let on_base = last_runs(at, &encoded(base.as_str())).await.map_err(failure)?;
    let mut failed = Vec::new();
    for (name, (run, n_runs)) in found {
        let fails_on_base = on_base.get(&name).is_some_and(|(run, _)| run.failed());
        let said = said(at, &run).await.map_err(failure)?;
        failed.push(FailedCheck { id: run.id, name, said, n_runs, fails_on_base });
    }
    Ok(failed)
}

async fn said(at: &Reach, run: &Run) -> Result<String, Trouble> {
    #[derive(Deserialize)]
    struct Annotation {
        path: String,
        start_line: Option<u64>,
        message: Option<String>,
    }
    let RunOutput { title, summary, text, annotations_count } = &run.output;
    let mut said: Vec<String> = [title, summary, text].into_iter().flatten().cloned().collect();
    if *annotations_count > 0 {
        let repo = &at.repository.full_name;
        let route = format!("/repos/{repo}/check-runs/{}/annotations?per_page={MAX_ANNOTATIONS_READ}", run.id);
        let annotations = at.api.get::<Vec<Annotation>>(&route).await?.value;
        said.extend(annotations.into_iter().map(|annotation| {
            let line = annotation.start_line.map_or_else(String::new, |line| format!(":{line}"));
            format!("{}{line}: {}", annotation.path, annotation.message.unwrap_or_default())
        }));
    }
    Ok(said.join("\n\n").chars().take(MAX_SAID).collect())
}

/// Has checks run once more. False: GitHub does not let us, as it lets only apps.
pub(super) async fn run_again(at: &Reach, ids: &[u64]) -> Result<bool, Failure> {
    for id in ids {
        let route = format!("/repos/{}/check-runs/{id}/rerequest", at.repository.full_name);
        match at.api.post::<Value>(&route, &json!({})).await {
            Ok(_) => {}
            Err(Trouble::Refused(refusal)) => {
                tracing::info!(status = refusal.status, words = refusal.words, "a check cannot be run again by us");
                return Ok(false);
            }
            Err(trouble) => return Err(trouble.failure("run a check again", Code::PullRequestRefused)),
        }
    }
    Ok(true)
}

/// Writes our own check on a commit, once. Key: the commit and the task. Only apps have such checks.
pub(super) async fn write(at: &Reach, own: &Own, fence: &Fence, run: &CheckRun<'_>) -> Result<(), Failure> {
    if !matches!(own, Own::App { .. }) {
        return Ok(());
    }
    let failure = |trouble: Trouble| trouble.failure("write a check", Code::PermissionDenied);
    let annotations: Vec<Value> = run
        .annotations
        .iter()
        .take(MAX_ANNOTATIONS)
        .map(|annotation| {
            json!({
                "path": annotation.path, "start_line": annotation.line, "end_line": annotation.line,
                "annotation_level": "warning", "message": annotation.message,
            })
        })
        .collect();
    let wanted = json!({
        "name": OURS, "head_sha": run.head, "external_id": run.task, "status": "completed",
        "conclusion": if run.is_clean { "success" } else { "neutral" },
        "output": {"title": run.title, "summary": fitting(run.summary, MAX_SUMMARY, ""), "annotations": annotations},
        "actions": [{
            "label": "Bring up to date", "description": "Merge the base in and verify it again", "identifier": "rebase",
        }],
    });
    let repo = &at.repository.full_name;
    for turn in 1..=WRITES {
        // Nobody can have written it before the first attempt did.
        if (turn > 1 || !run.is_first) && is_there(at, run).await.map_err(failure)? {
            return Ok(());
        }
        fence.confirm().await?;
        match at.api.post::<Value>(&format!("/repos/{repo}/check-runs"), &wanted).await {
            Ok(_) => return Ok(()),
            Err(Trouble::Unclear(why)) if turn < WRITES => {
                tracing::info!(%repo, why, "an unclear answer to a check; looking whether it is there");
            }
            Err(trouble) => return Err(failure(trouble)),
        }
        tokio::time::sleep(at.settle).await;
    }
    unreachable!("the last turn returns")
}

async fn is_there(at: &Reach, run: &CheckRun<'_>) -> Result<bool, Trouble> {
    let route = format!(
        "/repos/{}/commits/{}/check-runs?check_name={}&filter=all&per_page=100",
        at.repository.full_name,
        run.head,
        encoded(OURS)
    );
    let runs = at.api.get::<Runs>(&route).await?.value.check_runs;
    Ok(runs.iter().any(|known| known.external_id.as_deref() == Some(run.task)))
}
