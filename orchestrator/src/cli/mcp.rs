//! `onramp mcp`: the Model Context Protocol over standard input and output, for an agent on this machine. Each line is
//! answered by the process that has the queue open.

use tasks::Failure;

use super::{Setting, out::print};
use crate::control::Client;

pub(super) async fn run(setting: &Setting) -> Result<u8, Failure> {
    let client = Client::connect(&setting.config, &setting.surroundings.user).await?;
    while let Some(line) = next_line().await {
        if line.trim().is_empty() {
            continue;
        }
        let Some(answer) = client.message("/mcp", line).await? else { continue };
        if !print(&[answer]) {
            break;
        }
    }
    client.close().await;
    Ok(0)
}

/// `None`: nobody asks any more.
async fn next_line() -> Option<String> {
    let read = || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).ok().filter(|n| *n > 0).map(|_| line)
    };
    tokio::task::spawn_blocking(read).await.ok().flatten()
}
