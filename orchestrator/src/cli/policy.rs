//! `onramp policy`: what policy and risk would say of a patch, and which rules there are.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use tasks::{Action, Code, Failure, RepoName};
use workers::{
    checkout::{Mirror, Remote},
    local::LocalCheckout,
    patch::Patch,
    policy::{Explained, Policy, PolicyTable, Rule, explain, explain_text},
};

use super::{Setting, out::print};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say what each rule decides about a patch, and which tier of risk it belongs to; exit code 3 when something blocks
    Explain(ExplainArgs),
    /// List the rules, what follows from each here, and the globs that are protected in every repository
    Rules,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// A file with a unified diff, `-` for standard input, or a range of commits such as main..topic
    patch: String,
    /// The checkout that it is about
    #[arg(long, default_value = ".", value_name = "PATH")]
    repo: PathBuf,
    /// The revision whose policy holds and that the diff is against [default: HEAD]
    #[arg(long, value_name = "REF")]
    base: Option<String>,
    /// A label of the issue, for tiers of risk; may be given again
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Who would ask, for tiers of risk
    #[arg(long, value_name = "LOGIN")]
    requester: Option<String>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(setting: &Setting, command: PolicyCommand) -> Result<u8, Failure> {
    match command {
        PolicyCommand::Explain(args) => explain_patch(setting, args).await,
        PolicyCommand::Rules => {
            rules(&Policy::of(&setting.config.policy, &PolicyTable::default()));
            Ok(0)
        }
    }
}

/// What was named on the command line.
enum Named {
    Text(Vec<u8>),
    Range(String, String),
}

fn named(patch: &str) -> Result<Named, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(Code::Usage, format!("The patch {patch} cannot be read: {error}"))
            .next("Give a file with a unified diff, `-`, or a range of commits such as main..topic.")
    };
    if patch == "-" {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).map_err(unreadable)?;
        return Ok(Named::Text(text));
    }
    if let (false, Some((base, head))) = (Path::new(patch).exists(), patch.split_once("..")) {
        let or_head = |name: &str| if name.is_empty() { "HEAD".to_owned() } else { name.to_owned() };
        return Ok(Named::Range(or_head(base), or_head(head)));
    }
    std::fs::read(patch).map(Named::Text).map_err(unreadable)
}

async fn explain_patch(setting: &Setting, args: ExplainArgs) -> Result<u8, Failure> {
    let named = named(&args.patch)?;
    let operator = setting.config.operator()?;
    let login = args.requester.as_deref().unwrap_or(&setting.surroundings.user);
    let asked = (login, args.label.as_slice());

    // The person's repository is only fetched from, into a mirror of a moment.
    let scratch = tempfile::tempdir().map_err(Failure::internal)?;
    let name: RepoName = "local/repository".parse().map_err(Failure::internal)?;
    let revision = match &named {
        Named::Text(_) => args.base.clone().unwrap_or_else(|| "HEAD".to_owned()),
        Named::Range(base, _) => base.clone(),
    };
    let checkout = LocalCheckout::inspect(&args.repo, &revision)?;
    let remote = Remote { url: checkout.root.display().to_string(), token: None };
    let (mirror, base) = Mirror::checkout(scratch.path(), &name, &remote, Some(checkout.commit.as_str())).await?;
    let explained = match named {
        Named::Text(text) => explain_text(text, &mirror, &base.commit, &operator, asked).await?,
        Named::Range(_, head) => {
            let head = LocalCheckout::inspect(&args.repo, &head)?.commit;
            let (mirror, _) = Mirror::checkout(scratch.path(), &name, &remote, Some(head.as_str())).await?;
            let patch = Patch::between(&mirror, &base.commit, &head).await?;
            explain(patch, &mirror, &operator, asked).await?
        }
    };
    if args.json {
        print(&[serde_json::to_string_pretty(&explained).map_err(Failure::internal)?]);
    } else {
        tell(&explained);
    }
    Ok(if explained.verdict == Some(Action::Block) { Code::PolicyRejected.exit_code() } else { 0 })
}

fn tell(explained: &Explained) {
    let Explained { base, policy_from, policy_sha256, patch_sha256, stat, rules, tier, draft, reviewers, verdict } =
        explained;
    let (n_files, n_added, n_removed) = stat;
    let mut lines = vec![
        format!("base    {base}"),
        format!("policy  {policy_from}, sha256 {policy_sha256}"),
        format!("patch   {n_files} file(s), +{n_added} -{n_removed}, sha256 {patch_sha256}"),
        String::new(),
    ];
    for rule in rules {
        let lock = if rule.locked { ", locked by the operator" } else { "" };
        if rule.findings.is_empty() {
            lines.push(format!("-      {:<18} nothing found (would {}{lock})", rule.rule, rule.action));
        }
        for finding in &rule.findings {
            lines.push(format!("{:<6} {:<18} {}", finding.action.word(), finding.rule, finding.message));
        }
    }
    lines.push(String::new());
    lines.push(match tier {
        Some(tier) => {
            let approvals =
                if tier.approvals > 0 { format!("; {} approval(s)", tier.approvals) } else { String::new() };
            format!("tier    {}: {}{approvals}", tier.name, tier.because.join(", "))
        }
        None => "tier    none".to_owned(),
    });
    if *draft || !reviewers.is_empty() {
        let who = if reviewers.is_empty() { "nobody".to_owned() } else { reviewers.join(", ") };
        lines.push(format!("request {}, asks {who} for review", if *draft { "a draft" } else { "ready" }));
    }
    lines.push(format!("verdict {}", verdict.map_or("nothing found", Action::word)));
    print(&lines);
}

fn rules(policy: &Policy) {
    let mut lines = Vec::new();
    for rule in Rule::ALL {
        let lock = if policy.is_locked(rule.key()) { " (locked)" } else { "" };
        lines.push(format!("{:<6} {:<18} {}{lock}", policy.action(*rule).word(), rule.key(), rule.meaning()));
    }
    for (key, globs) in
        [("protected", &policy.protected), ("workflows", &policy.workflows), ("build files", &policy.build_files)]
    {
        lines.push(format!("\n{key}:"));
        lines.extend(globs.iter().map(|glob| format!("  {glob}")));
    }
    print(&lines);
}
