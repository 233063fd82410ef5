//! The program `onramp`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    orchestrator::cli::main().await
}
