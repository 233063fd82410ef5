//! `onramp resume`: a repository goes on that was left alone because nobody did anything with its pull requests.

use clap::Args;
use serde_json::{Value, json};
use tasks::{Failure, RepoName};

use super::{Setting, out::print};
use crate::control::Client;

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The repository, as owner/name
    repo: RepoName,
}

pub(super) async fn resume(setting: &Setting, args: ResumeArgs) -> Result<u8, Failure> {
    let client = Client::connect(&setting.config, &setting.surroundings.user).await?;
    let done = client.post::<Value>("/resume", Some(&json!({ "repo": args.repo }))).await;
    client.close().await;
    done?;
    print(&[format!("{} goes on", args.repo)]);
    Ok(0)
}
