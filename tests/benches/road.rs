//! How long the road takes, stage by stage, beside a plain shell script that does the same steps.
//!
//! ```text
//! cargo run -p tests --bin road-bench -- [RUNS]
//! ```
//!
//! Everything is on this machine: a fake GitHub over HTTP, a small repository, an agent and a check that take no time
//! themselves. What is measured is therefore what Onramp adds, and the script's numbers are what one would pay anyway.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tasks::Stage;
use tests::{
    Backend, Onramp, Setup,
    github::{GitHub, Permission},
    onramp::{IMAGE, LABEL, REPO},
    target,
};
use workers::progress::ProgressEvent;

const AGENT: &str = "echo 42 > answer.txt";
const CHECK: &str = "sh test.sh";
/// In the order of the road.
const STAGES: [&str; 9] =
    ["door", "queue", "checkout", "sandbox", "workspace", "agent", "extract", "verify", "publish"];

/// Microseconds by stage, one entry a run.
type Times = BTreeMap<&'static str, Vec<u128>>;

#[tokio::main]
async fn main() {
    let runs = std::env::args().nth(1).map_or(10, |text| text.parse().expect("usage: road-bench [RUNS]"));
    let on_docker = Setup::new(Backend::Docker).agent(AGENT).start().await;
    let on_namespaces = Setup::new(Backend::Namespace).agent(AGENT).start().await;
    let by_script = Script::start().await;
    let (mut docker, mut namespace, mut script) = (Times::new(), Times::new(), Times::new());
    // In turns, so that whatever else the machine does falls on all three alike.
    for run in 0..=runs {
        // The first run clones the mirror and fills every cache of the machine.
        let note = |times: &mut Times, measured: Vec<(&'static str, u128)>| {
            for (stage, time) in measured.into_iter().filter(|_| run > 0) {
                times.entry(stage).or_default().push(time);
            }
        };
        note(&mut docker, one_task(&on_docker, run).await);
        note(&mut namespace, one_task(&on_namespaces, run).await);
        note(&mut script, by_script.run(run).await);
    }
    on_docker.end().await;
    on_namespaces.end().await;
    println!("The road in milliseconds, {runs} runs each after one to warm up: p50 (min..max)\n");
    println!("{:<10} {:>26} {:>26} {:>26}", "stage", "onramp, docker", "onramp, namespaces", "shell script, docker");
    for stage in STAGES.into_iter().chain(["total"]) {
        let cell = |times: &Times| times.get(stage).map_or_else(|| "-".to_owned(), |times| summary(times));
        println!("{stage:<10} {:>26} {:>26} {:>26}", cell(&docker), cell(&namespace), cell(&script));
    }
    println!("\nagent and verify of the script hold the start of their containers; Onramp's agent does not (sandbox).");
}

fn summary(times: &[u128]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let ms = |us: u128| format!("{:.1}", us as f64 / 1000.0);
    format!("{} ({}..{})", ms(sorted[sorted.len() / 2]), ms(sorted[0]), ms(sorted[sorted.len() - 1]))
}

/// The road through Onramp's front door.
async fn one_task(onramp: &Onramp, run: usize) -> Vec<(&'static str, u128)> {
    let issue = onramp.github.issue(REPO, &format!("The answer is wrong, {run}"), "", "eve");
    let delivery = onramp.github.label(REPO, issue, LABEL, "ada");
    let n_before = onramp.progress().len();
    let sent = Instant::now();
    let (status, answer) = onramp.deliver(&delivery).await;
    let answered = Instant::now();
    assert_eq!(status, 202, "{answer}");
    let tasks = onramp.until_all_ended().await;
    assert!(tasks.iter().all(|task| task.state.word() == "done"), "{tasks:#?}");

    let events = onramp.progress().split_off(n_before);
    let mut marks = vec![("door", answered)];
    for (at, event) in events {
        let ended = match &event {
            ProgressEvent::Stage(Stage::Preparing) => Some("queue"),
            ProgressEvent::Step(text) if text.starts_with("checked out") => Some("checkout"),
            ProgressEvent::Step(text) if text.starts_with("sandbox ready") => Some("sandbox"),
            ProgressEvent::Stage(Stage::AgentRunning) => Some("workspace"),
            ProgressEvent::Stage(Stage::Verifying) => Some("agent"),
            ProgressEvent::Diff(_) => Some("extract"),
            ProgressEvent::Stage(Stage::Publishing) => Some("verify"),
            ProgressEvent::Step(text) if text.starts_with("published") => Some("publish"),
            _ => None,
        };
        marks.extend(ended.map(|stage| (stage, at)));
    }
    let names: Vec<_> = marks.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(names, STAGES, "every stage was told of, once and in order");

    let mut before = sent;
    let mut times: Vec<_> = Vec::new();
    for (stage, at) in marks {
        // A worker may have the task before the sender has the answer: the queue then took no time of its own.
        times.push((stage, at.saturating_duration_since(before).as_micros()));
        before = before.max(at);
    }
    times.push(("total", before.duration_since(sent).as_micros()));
    times
}

/// The same steps by `road.sh`, against a GitHub of its own.
struct Script {
    github: GitHub,
    token: String,
}

impl Script {
    async fn start() -> Self {
        let github = GitHub::start().await;
        let check = format!("version = 1\n[[check]]\nname = \"answer\"\ncommand = \"{CHECK}\"\n");
        let test = "grep -qx 42 answer.txt || { echo \"the answer is $(cat answer.txt)\"; exit 1; }\n";
        github.repository(REPO, &[(".onramp.toml", &check), ("test.sh", test), ("answer.txt", "41\n")]);
        github.user("ada", 7).permission(REPO, "ada", Permission::Write);
        let token = github.personal_token("ada");
        Self { github, token }
    }

    async fn run(&self, run: usize) -> Vec<(&'static str, u128)> {
        let environment = [
            ("GIT_URL", self.github.git_url()),
            ("API_URL", self.github.api_url()),
            ("REPO", REPO.to_owned()),
            ("TOKEN", self.token.clone()),
            ("IMAGE", IMAGE.to_owned()),
            ("AGENT", AGENT.to_owned()),
            ("CHECK", CHECK.to_owned()),
            ("BRANCH", format!("script/{run}")),
        ];
        let path = target::workspace().join("tests/benches/road.sh");
        let measured = tokio::task::spawn_blocking(move || run_script(&path, environment)).await;
        assert_eq!(self.github.pulls().len(), run + 1);
        measured.expect("the script does not panic")
    }
}

fn run_script(path: &Path, environment: [(&str, String); 8]) -> Vec<(&'static str, u128)> {
    let began = Instant::now();
    let output = Command::new(path).envs(environment).output().expect("bash runs the script");
    let total: Duration = began.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut times = vec![("total", total.as_micros())];
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (stage, time) = line.split_once(' ').expect("stage and time");
        let stage = STAGES.into_iter().find(|known| *known == stage).expect("a stage of the road");
        times.push((stage, time.parse().expect("microseconds")));
    }
    times
}
