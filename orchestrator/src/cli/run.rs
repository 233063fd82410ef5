//! `onramp run`: the whole road for one request, with no services. Standard output carries the diff and nothing else.

use std::{
    fs,
    io::{IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use tasks::{
    Actor, AgentName, BranchName, Code, Deliver, Evidence, Failure, GpuRequest, Instruction, Outcome, RepoName, Report,
    Resources, Source, Task, TaskId, TaskRequest,
};
use tokio_util::sync::CancellationToken;
use workers::{
    checkout::Mirror,
    fence::Fence,
    forge::{Forge, none::NoForge},
    local::LocalCheckout,
    progress::{Progress, ProgressEvent},
    run::{Hands, run_task},
};

use super::{Setting, show::Show};
use crate::{now, wiring};

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 ok, 1 internal, 2 usage, 3 verification or policy, 4 authorisation, 5 environment, \
                        6 no changes, 7 time limit, 130 stopped."
)]
pub(super) struct RunArgs {
    /// What to do; `-` reads standard input
    #[arg(required_unless_present = "file")]
    instruction: Option<String>,
    /// Read what to do from a file
    #[arg(short = 'F', long, value_name = "FILE", conflicts_with = "instruction")]
    file: Option<PathBuf>,
    /// A checkout on this machine, or owner/name on the forge
    #[arg(long, default_value = ".", value_name = "PATH|owner/name")]
    repo: String,
    /// The agent
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// Branch (or, in a checkout, any revision) to start from
    #[arg(long, value_name = "REF")]
    base: Option<String>,
    /// A GPU for the agent and the checks that ask for one: any, h100, a100-80gb:2, "h100!, a100"
    #[arg(long, value_name = "GPU")]
    gpu: Option<GpuRequest>,
    /// Open a pull request on the forge
    #[arg(long)]
    pr: bool,
    /// Put the verified change into the working tree
    #[arg(long, conflicts_with = "pr")]
    apply: bool,
    /// Write the verified diff to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    patch: Option<PathBuf>,
}

/// What the run works on.
struct Target {
    repo: RepoName,
    base: Option<BranchName>,
    forge: Arc<dyn Forge>,
    checkout: Option<LocalCheckout>,
}

pub(super) async fn run(setting: Setting, args: RunArgs) -> Result<u8, Failure> {
    let instruction = instruction(&args)?;
    let target = target(&setting, &args)?;
    let show = Show::new(std::io::stderr(), setting.colour);
    let (hands, why) = wiring::hands(&setting.config, &setting.surroundings, target.forge.clone(), None).await?;
    show.line(&why);
    // Before anything is fetched or started.
    args.gpu.iter().try_for_each(|gpu| hands.gpus.could(gpu))?;

    let request = TaskRequest {
        dedupe_key: format!("cli:{}", TaskId::new(now())).parse().map_err(Failure::internal)?,
        source: Source::CommandLine,
        actor: Actor { login: setting.surroundings.user.clone(), id: None },
        repo: target.repo.clone(),
        base: target.base.clone(),
        agent: args.agent.clone(),
        instruction,
        deliver: if args.pr { Deliver::PullRequest } else { Deliver::Diff },
        resources: Resources { gpu: args.gpu.clone() },
        revises: None,
        work: tasks::Work::default(),
        discussed_until: None,
    };
    let mut task = Task::new(TaskId::new(now()), request, now());
    task.attempt = 1;
    let cancel = cancelled_by_signal(&show);
    let report =
        run_task(&hands, &task, &Fence::open(), &noting_the_diff(&show), &cancel, &CancellationToken::new()).await;
    // Removed off the path, and still before this process ends.
    hands.sandboxes.close().await;
    let kept = hands.artifacts.join(task.id.to_string()).join(task.attempt.to_string());
    if let (Report::Finished { outcome: Outcome::DiffVerified, evidence: Some(evidence), .. }, true) =
        (&report, args.apply)
    {
        apply(&target, evidence, &hands, &kept, &show).await?;
    }
    end(report, &kept, &args, &show)
}

/// Tells how it ended, delivers the diff where there is one, and chooses the exit code.
fn end(report: Report, kept: &Path, args: &RunArgs, show: &Show) -> Result<u8, Failure> {
    let kept_line = format!("prompt, transcript, outputs and diff are kept in {}", kept.display());
    match report {
        Report::Finished { outcome: Outcome::DiffVerified, evidence, .. } => {
            if let Some(evidence) = &evidence {
                show.evidence(evidence);
            }
            deliver_diff(kept, args, show)?;
            show.line(&kept_line);
            Ok(0)
        }
        Report::Finished {
            outcome: Outcome::PullRequestOpened { pull_request } | Outcome::PullRequestUpdated { pull_request },
            evidence,
            ..
        } => {
            if let Some(evidence) = &evidence {
                show.evidence(evidence);
            }
            deliver_diff(kept, args, show)?;
            show.line(&format!("pull request: {}", pull_request.url));
            Ok(0)
        }
        Report::Finished { outcome: Outcome::NothingChanged, .. } => {
            show.line(&kept_line);
            Err(Failure::new(Code::NothingChanged, "The agent finished and changed nothing"))
        }
        Report::Finished { outcome: Outcome::PolicyRejected { violations }, .. } => {
            show.line(&kept_line);
            let lines: Vec<String> = violations
                .iter()
                .map(|found| format!("{} {}: {}", found.rule, found.path.as_deref().unwrap_or("-"), found.message))
                .collect();
            Err(Failure::new(Code::PolicyRejected, "Policy does not allow the change").detail(lines.join("\n")))
        }
        Report::Finished { outcome: Outcome::Cancelled, .. } | Report::Released { .. } => {
            show.line(&kept_line);
            Err(Failure::new(Code::Cancelled, "The run was stopped"))
        }
        Report::Failed { failure, .. } => {
            show.line(&kept_line);
            Err(failure)
        }
    }
}

fn deliver_diff(kept: &Path, args: &RunArgs, show: &Show) -> Result<(), Failure> {
    let diff = fs::read(kept.join("diff.patch")).map_err(Failure::internal)?;
    if let Some(file) = &args.patch {
        fs::write(file, &diff).map_err(|error| {
            Failure::new(Code::Usage, format!("{} cannot be written: {error}", file.display()))
                .next(format!("The diff is kept as {}.", kept.join("diff.patch").display()))
        })?;
        show.line(&format!("verified diff written to {}", file.display()));
        return Ok(());
    }
    // A reader that went away has what it wanted.
    let _ = std::io::stdout().write_all(&diff);
    Ok(())
}

/// Looks again right before writing: the person may have gone on working while the agent did.
async fn apply(target: &Target, evidence: &Evidence, hands: &Hands, kept: &Path, show: &Show) -> Result<(), Failure> {
    let Some(checkout) = &target.checkout else { return Ok(()) };
    let current = LocalCheckout::inspect(&checkout.root, "HEAD")?;
    if current.commit != evidence.base || !current.dirty.is_empty() {
        let message = "The working tree is not clean at the base of the change, so nothing was written into it";
        let next = format!("Apply it by hand: git apply {}", kept.join("diff.patch").display());
        return Err(Failure::new(Code::DirtyTree, message).next(next));
    }
    let remote = target.forge.remote(&target.repo).await?;
    let base = Some(evidence.base.as_str());
    let (mirror, _) = Mirror::checkout(&hands.mirrors, &target.repo, &remote, base).await?;
    let before = mirror.files(&evidence.base).await?;
    let n_files = checkout.bring(&before, mirror.tree_files(&evidence.tree).await?)?;
    show.line(&format!("{n_files} file(s) written into {}", checkout.root.display()));
    Ok(())
}

fn instruction(args: &RunArgs) -> Result<Instruction, Failure> {
    let unreadable = |what: &str, error: std::io::Error| {
        Failure::new(Code::EmptyInstruction, format!("The instruction cannot be read from {what}: {error}"))
    };
    let text = match (&args.file, args.instruction.as_deref()) {
        (Some(file), _) => fs::read_to_string(file).map_err(|error| unreadable(&file.display().to_string(), error))?,
        (None, Some("-")) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| unreadable("standard input", error))?;
            text
        }
        (None, text) => text.unwrap_or_default().to_owned(),
    };
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::new(Code::EmptyInstruction, "The instruction is empty"));
    }
    let (title, body) = text.split_once('\n').unwrap_or((text, ""));
    Ok(Instruction {
        title: title.trim().to_owned(),
        body: body.trim().to_owned(),
        trusted: true,
        about: String::new(),
    })
}

/// A path that is there is a checkout; otherwise `owner/name` is a repository on the forge.
fn target(setting: &Setting, args: &RunArgs) -> Result<Target, Failure> {
    let path = Path::new(&args.repo);
    if path.exists() {
        return local_target(setting, args, path);
    }
    let repo: RepoName = args.repo.parse().map_err(|_| {
        Failure::new(Code::NotARepository, format!("`{}` is neither a directory here nor owner/name", args.repo))
    })?;
    if args.apply {
        return Err(
            Failure::new(Code::Usage, "--apply needs a checkout on this machine").next("Give its path with --repo.")
        );
    }
    let base = args.base.as_deref().map(|base| base.parse().map_err(|error| base_failure(&error))).transpose()?;
    let forge = wiring::github(&setting.config)?;
    Ok(Target { repo, base, forge, checkout: None })
}

fn local_target(setting: &Setting, args: &RunArgs, path: &Path) -> Result<Target, Failure> {
    let checkout = LocalCheckout::inspect(path, args.base.as_deref().unwrap_or("HEAD"))?;
    if args.pr {
        let origin = checkout.origin.as_deref().and_then(repository_of);
        let repo = origin.ok_or_else(|| {
            Failure::new(Code::Usage, "--pr needs a forge, and the checkout's remote `origin` names none")
                .next("Name the repository with --repo owner/name.")
        })?;
        let base = match &args.base {
            Some(base) => Some(base.parse().map_err(|error| base_failure(&error))?),
            None => checkout.branch.clone(),
        };
        return Ok(Target { repo, base, forge: wiring::github(&setting.config)?, checkout: None });
    }
    // A named base says which state is meant; without one, leaving changes out silently would surprise.
    if !checkout.dirty.is_empty() && (args.base.is_none() || args.apply) {
        let n = checkout.dirty.len();
        let message = format!("The working tree has uncommitted changes ({n} file(s), such as {})", checkout.dirty[0]);
        let failure = Failure::new(Code::DirtyTree, message);
        return Err(if args.apply { failure.next("Commit or stash them before using --apply.") } else { failure });
    }
    let name: String = checkout.root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let repo =
        format!("local/{}-{}", if name.is_empty() { "repository" } else { &name }, wiring::path_key(&checkout.root));
    Ok(Target {
        repo: repo.parse().map_err(Failure::internal)?,
        base: Some(checkout.commit.as_str().parse().map_err(Failure::internal)?),
        forge: Arc::new(NoForge::new(checkout.root.clone())),
        checkout: Some(checkout),
    })
}

fn base_failure(error: &impl std::fmt::Display) -> Failure {
    Failure::new(Code::BaseNotFound, format!("The base cannot be used: {error}"))
        .next("Name a branch of the forge with --base.")
}

/// `owner/name` out of `https://host/owner/name.git`, `git@host:owner/name.git` and their like.
fn repository_of(url: &str) -> Option<RepoName> {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => url.split_once(':')?.1,
    };
    path.trim_end_matches('/').trim_end_matches(".git").parse().ok()
}

/// The first Ctrl-C stops the work and keeps what was done; the second ends the program.
fn cancelled_by_signal(show: &Show) -> CancellationToken {
    let cancel = CancellationToken::new();
    let (token, show) = (cancel.clone(), show.clone());
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            show.line("stopping; once more to leave at once");
            token.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(i32::from(Code::Cancelled.exit_code()));
        }
    });
    cancel
}

fn noting_the_diff(show: &Show) -> Progress {
    let (inner, colour) = (show.progress(), std::io::stderr().is_terminal());
    let show = show.clone();
    Progress::new(move |event| {
        if let (ProgressEvent::Diff(path), false) = (&event, colour) {
            show.line(&format!("  diff (not verified yet): {}", path.display()));
        }
        inner.tell(event);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_read_from_the_address_of_origin() {
        for url in [
            "https://github.com/acme/web.git",
            "https://github.com/acme/web",
            "git@github.com:acme/web.git",
            "ssh://git@ghe.example/acme/web/",
        ] {
            assert_eq!(repository_of(url).unwrap().as_str(), "acme/web", "{url}");
        }
        assert!(repository_of("/srv/git/web.git").is_none());
    }
}
