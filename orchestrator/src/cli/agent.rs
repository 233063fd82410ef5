//! `onramp agent`: which agents there are, an image to run each in, and whether one really works here.
//!
//! The test is the real road on a made-up repository with one wrong number in it: a sandbox, the gateway, the agent, the
//! patch, policy, and a check in a second sandbox. Only the repository is made up.

use std::{collections::BTreeSet, fmt::Write as _, io, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;
use tasks::{
    Actor, AgentName, Code, Deliver, Evidence, Failure, Instruction, Outcome, RepoName, Report, Resources, Source,
    Task, TaskId, TaskRequest, TokenUsage,
};
use tokio_util::sync::CancellationToken;
use workers::{
    agent::{AgentDefinition, Agents},
    fence::Fence,
    forge::local::LocalForge,
    run::{Hands, run_task, sandbox_failure},
    sandbox::{Command, FileKind, Output, SandboxError, SandboxSpec, TreeFile},
    text,
};

use super::{Setting, show::Show};
use crate::{config::Config, now, wiring};

/// A program that only has to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// List the known agents
    List {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Let an agent correct one number on the real road: says its version, whether its model lets it in, and what it cost
    Test(TestArgs),
    /// Print the Dockerfile of a sandbox with this agent, or, with `cuda`, of one with CUDA beside an agent
    Image {
        /// Such as claude
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The agent
    name: AgentName,
    /// The image of its sandbox [default: what the configuration says for repositories that name none]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
}

/// One agent as programs read it.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    /// The version that the reader of its output was tried with.
    version: Option<&'a str>,
    model: Option<&'a str>,
    /// Providers of models whose gateway it may talk to.
    providers: BTreeSet<&'a str>,
    /// `onramp agent image` prints a Dockerfile with it.
    has_image: bool,
    install: Option<&'a str>,
}

/// Where nothing but the configuration is needed.
pub(super) async fn agent(setting: Setting, command: AgentCommand) -> Result<u8, Failure> {
    match command {
        AgentCommand::List { json } => list(&known(&setting.config)?, json),
        AgentCommand::Image { name } => image(&name),
        AgentCommand::Test(args) => test(setting, args).await,
    }
}

fn known(config: &Config) -> Result<Agents, Failure> {
    Agents::load(Some(config.agent.dir.clone()).filter(|dir| !dir.as_os_str().is_empty()))
}

fn list(agents: &Agents, json: bool) -> Result<u8, Failure> {
    let agents = agents.names().map(|name| agents.get(name)).collect::<Result<Vec<_>, _>>()?;
    let agents: Vec<Listed<'_>> = agents.into_iter().map(listed).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&agents).map_err(Failure::internal)?);
        return Ok(0);
    }
    println!("{:<10} {:<10} {:<30} {:<20} image", "agent", "version", "model", "providers");
    for Listed { name, version, model, providers, has_image, .. } in agents {
        let providers = providers.into_iter().collect::<Vec<_>>().join(", ");
        let (version, model) = (version.unwrap_or("any"), model.unwrap_or("its own choice"));
        println!("{name:<10} {version:<10} {model:<30} {providers:<20} {}", if has_image { "yes" } else { "-" });
    }
    Ok(0)
}

fn listed(agent: &AgentDefinition) -> Listed<'_> {
    let name = agent.name().as_str();
    let image = templates::sandbox_image(name);
    Listed {
        name,
        version: image.and_then(templates::version_in_image),
        model: agent.model(),
        providers: agent.providers(),
        has_image: image.is_some(),
        install: agent.install(),
    }
}

fn image(name: &str) -> Result<u8, Failure> {
    let Some(dockerfile) = templates::sandbox_image(name) else {
        let names: Vec<&str> = templates::SANDBOX_IMAGES.iter().map(|(name, _)| *name).collect();
        return Err(Failure::new(Code::UnknownAgent, format!("There is no Dockerfile for `{name}`"))
            .next(format!("There is one for each of {}.", names.join(", "))));
    };
    print!("{dockerfile}");
    Ok(0)
}

// --- the test ---

async fn test(setting: Setting, args: TestArgs) -> Result<u8, Failure> {
    let agents = known(&setting.config)?;
    let agent = agents.get(&args.name)?;
    let show = Show::new(io::stdout(), setting.colour && io::IsTerminal::is_terminal(&io::stdout()));
    let dir = tempfile::Builder::new().prefix("onramp-agent-").tempdir().map_err(Failure::internal)?;
    let config = adapted(&setting.config, dir.path().join("data"), args.image);
    let repo: RepoName = "onramp/agent-test".parse().map_err(Failure::internal)?;
    let forge = Arc::new(LocalForge::new(dir.path().join("forge")));
    forge.create_repository(&repo, &files(), "One number, and a check that knows the right one").await?;
    let (hands, why) = wiring::hands(&config, &setting.surroundings, forge, Some(agents.clone())).await?;
    show.line(&why);
    let tested = tokio::select! {
        tested = try_out(&hands, agent, &config, &repo, &show) => tested,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Cancelled, "The test was stopped")),
    };
    hands.sandboxes.close().await;
    tested.map(|()| 0)
}

/// The person's own configuration, with a place of its own and nothing that outlives the test.
fn adapted(config: &Config, data: PathBuf, image: Option<String>) -> Config {
    let mut config = config.clone();
    config.data_dir = data;
    config.bases.enabled = false;
    config.pool.max_warm = 0;
    if let Some(image) = image {
        config.sandbox.default_image = image;
    }
    config
}

fn files() -> Vec<TreeFile> {
    let file = |path: &str, text: &str| TreeFile { path: path.into(), kind: FileKind::Regular, bytes: text.into() };
    vec![
        file(".onramp.toml", "version = 1\n[[check]]\nname = \"answer\"\ncommand = \"grep -qx 42 answer.txt\"\n"),
        file("answer.txt", "41\n"),
    ]
}

async fn try_out(
    hands: &Hands,
    agent: &AgentDefinition,
    config: &Config,
    repo: &RepoName,
    show: &Show,
) -> Result<(), Failure> {
    show.line(&format!("version: {}", version(hands, agent, repo).await?));
    show.line(&format!("keys: {}", keys(agent, config)));
    let task = task(agent, repo)?;
    let cancel = CancellationToken::new();
    let report = run_task(hands, &task, &Fence::open(), &show.progress(), &cancel, &CancellationToken::new()).await;
    match report {
        Report::Finished { outcome: Outcome::DiffVerified, evidence: Some(evidence), .. } => {
            show.line("auth: the model answered");
            show.line(&format!("cost: {}", cost(&evidence.usage)));
            show.line(&edit(&evidence));
            Ok(())
        }
        Report::Finished { outcome: Outcome::NothingChanged, .. } => Err(Failure::new(
            Code::NothingChanged,
            format!("The agent `{}` ended and left the wrong number as it was", agent.name()),
        )),
        Report::Failed { failure, evidence, .. } => {
            if let Some(evidence) = evidence {
                show.line(&format!("cost: {}", cost(&evidence.usage)));
            }
            Err(failure)
        }
        other => Err(Failure::internal(format!("the test of an agent ended as {other:?}"))),
    }
}

/// What the agent's program says of itself, in a sandbox like that of the test.
async fn version(hands: &Hands, agent: &AgentDefinition, repo: &RepoName) -> Result<String, Failure> {
    let Some(check) = agent.check() else { return Ok("its definition has no `check` that would tell".to_owned()) };
    let name = format!("onramp-agent-version-{}", TaskId::new(now()));
    let spec = SandboxSpec { scope: repo.to_string(), ..SandboxSpec::new(name) };
    let sandbox = hands.sandboxes.open(&spec).await.map_err(sandbox_failure)?;
    let mut said = text::Tail::default();
    let command = Command { argv: check.to_vec(), ..Command::shell("", VERSION_TIMEOUT) };
    let line = check.join(" ");
    match sandbox.run(&command, &mut |piece: Output<'_>| said.push(piece)).await {
        Ok(exit) if exit.success() => Ok(said.lines(1).trim().to_owned()),
        Ok(exit) => {
            Err(agent.missing(&format!("`{line}` ended with {}", text::exit_words(&exit))).detail(said.lines(20)))
        }
        Err(SandboxError::CannotRun { reason, .. }) => Err(agent.missing(&reason)),
        Err(error) => Err(sandbox_failure(error)),
    }
}

/// For which of the agent's providers a key is set: the sandbox never has one, so only the configuration knows.
fn keys(agent: &AgentDefinition, config: &Config) -> String {
    let of = |provider: &str| match config.models.get(provider) {
        Some(model) if model.key.value().is_some() => format!("set for {provider}"),
        Some(_) => format!("none for {provider}"),
        None => format!("{provider} is not configured"),
    };
    let keys: Vec<String> = agent.providers().into_iter().map(of).collect();
    if keys.is_empty() { "it talks to no model of ours".to_owned() } else { keys.join(", ") }
}

fn task(agent: &AgentDefinition, repo: &RepoName) -> Result<Task, Failure> {
    let instruction = Instruction {
        title: "The answer is wrong".to_owned(),
        body: "answer.txt holds 41. Make it 42, and change nothing else.".to_owned(),
        trusted: true,
        about: String::new(),
    };
    let request = TaskRequest {
        dedupe_key: format!("cli:{}", TaskId::new(now())).parse().map_err(Failure::internal)?,
        source: Source::CommandLine,
        actor: Actor { login: "onramp".to_owned(), id: None },
        repo: repo.clone(),
        base: None,
        agent: Some(agent.name().clone()),
        instruction,
        deliver: Deliver::Diff,
        resources: Resources { gpu: None },
        revises: None,
        work: tasks::Work::default(),
        discussed_until: None,
    };
    let mut task = Task::new(TaskId::new(now()), request, now());
    task.attempt = 1;
    Ok(task)
}

/// Tokens, and money where its price is known. What nobody knows is never shown as nothing.
fn cost(usage: &TokenUsage) -> String {
    let tokens = |n: Option<u64>| n.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
    let mut words = format!("{} tokens in, {} tokens out", tokens(usage.input), tokens(usage.output));
    let _ = match usage.cost_microusd {
        Some(cost) => write!(words, ", ${}.{:06}", cost / 1_000_000, cost % 1_000_000),
        None => write!(words, ", price unknown"),
    };
    words
}

fn edit(evidence: &Evidence) -> String {
    let Evidence { n_files, n_added, n_removed, rounds, duration_ms, .. } = evidence;
    let time = text::duration_words(*duration_ms);
    format!("edit: right and verified, {n_files} file(s), +{n_added} -{n_removed}, {rounds} round(s), {time}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_not_shown_as_nothing() {
        let usage = TokenUsage { input: Some(1200), output: Some(34), cost_microusd: Some(1_012_300) };
        insta::assert_snapshot!(cost(&usage), @"1200 tokens in, 34 tokens out, $1.012300");
        insta::assert_snapshot!(cost(&TokenUsage::default()), @"an unknown number of tokens in, an unknown number of tokens out, price unknown");
    }

    #[test]
    fn every_agent_that_ships_is_listed_with_what_it_talks_to() {
        let agents = Agents::load(None).unwrap();
        let of = |name: &str| {
            let listed = listed(agents.get(&name.parse().unwrap()).unwrap());
            (listed.version.map(str::to_owned), listed.providers.into_iter().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of("claude"), (Some("2.1.197".into()), "anthropic".into()));
        assert_eq!(of("codex"), (Some("0.169.0".into()), "openai".into()));
        assert_eq!(of("opencode"), (Some("1.18.33".into()), "anthropic openai".into()));
        assert_eq!(of("aider"), (Some("0.86.2".into()), "anthropic openai".into()));
        assert_eq!(of("command"), (None, "anthropic openai".into()));
    }
}
