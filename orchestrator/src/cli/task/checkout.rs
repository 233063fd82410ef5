//! `onramp task checkout`: somebody takes over, in a clone of their own, with their own git and their own credentials.

use std::process::Stdio;

use tasks::{Code, Failure};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{super::out::print, path};
use crate::{control::Client, front::view::TaskDetail};

/// Brings the branch of its pull request; where there is none, a branch of that name from the base commit, with the diff.
pub(super) async fn checkout(client: &Client, task: &str) -> Result<u8, Failure> {
    let detail: TaskDetail = client.get(&path(task, "")).await?;
    let branch = detail.branch.as_str();
    if detail.task.pull_request.is_some() {
        git(&["fetch", "--quiet", "origin", branch], None).await?;
        git(&["switch", "--quiet", "--create", branch, "--track", &format!("origin/{branch}")], None).await?;
        print(&[format!(
            "on {branch}, which is {}",
            detail.task.pull_request.map_or_else(String::new, |pull| pull.url)
        )]);
        return Ok(0);
    }
    let diff = client.open(&path(task, "/diff"), &[]).await?.bytes().await.map_err(Failure::internal)?;
    let base = detail.evidence.as_ref().map_or("HEAD", |evidence| evidence.base.as_str());
    if base == "HEAD" {
        eprintln!("nothing says what the diff was made against; trying the commit that is checked out");
    }
    git(&["switch", "--quiet", "--create", branch, base], None).await?;
    git(&["apply", "--index"], Some(&diff)).await?;
    print(&[format!("on {branch}, from {base}, with the diff of task {} staged", detail.task.short)]);
    Ok(0)
}

/// One command of git in the working directory. Names and ids are of types that cannot be options.
async fn git(arguments: &[&str], input: Option<&[u8]>) -> Result<(), Failure> {
    let failed = |why: &str| {
        let message = format!("`git {}` did not work: {}", arguments.join(" "), why.trim());
        Failure::new(Code::NotARepository, message)
            .next("Run this in a clone of the repository whose working tree is clean; mend what git says.")
    };
    let mut command = Command::new("git");
    command.args(arguments).stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|error| failed(&error.to_string()))?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input).await.map_err(|error| failed(&error.to_string()))?;
    }
    let output = child.wait_with_output().await.map_err(|error| failed(&error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(&String::from_utf8_lossy(&output.stderr))) }
}
