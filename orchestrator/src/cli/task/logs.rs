//! `onramp task logs`: the log of a task, as it grows where that is wanted.

use clap::Args;
use futures_util::StreamExt as _;
use tasks::{Code, Failure};

use super::{super::out::print, WhichArgs, path};
use crate::{
    control::Client,
    front::{
        log::{LineKind, LogLine},
        view::TaskDetail,
    },
};

#[derive(Debug, Args)]
#[command(
    after_help = "With --follow the exit code is that of the task: 0 done, 3 verification or policy, 4 authorisation, \
                        5 environment, 6 no changes, 7 limit, 130 stopped, 1 anything else of ours."
)]
pub(in crate::cli) struct LogsArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Go on until the task has ended
    #[arg(short, long)]
    follow: bool,
    /// Print each event as the API does, one a line
    #[arg(long)]
    jsonl: bool,
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
}

pub(super) async fn logs(client: &Client, args: LogsArgs, colour: bool) -> Result<u8, Failure> {
    let path = path(&args.which.task, &format!("/log?follow={}", args.follow));
    let mut pieces = client.open(&path, &[("accept", "text/event-stream")]).await?.bytes_stream();
    let mut events = Events::default();
    let mut attempt = 1;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| cut_off(&error.to_string()))?;
        for event in events.of(&piece) {
            if args.jsonl && !print(&[&event.data]) {
                return Ok(0);
            }
            match event.name.as_str() {
                "line" if args.jsonl => {}
                "line" => {
                    let line: LogLine = serde_json::from_str(&event.data).map_err(Failure::internal)?;
                    let mut lines = Vec::new();
                    if line.attempt != attempt {
                        attempt = line.attempt;
                        lines.push(format!("attempt {attempt}"));
                    }
                    lines.push(shown(&line, colour));
                    if !print(&lines) {
                        return Ok(0);
                    }
                }
                "end" => {
                    let task: TaskDetail = serde_json::from_str(&event.data).map_err(Failure::internal)?;
                    return Ok(if args.follow { exit_code(&task) } else { 0 });
                }
                _ => {}
            }
        }
    }
    Err(cut_off("it closed the connection"))
}

fn shown(line: &LogLine, colour: bool) -> String {
    // Standard error decides on colour; this goes to standard output.
    let colour = colour && std::io::IsTerminal::is_terminal(&std::io::stdout());
    let paint = |code: &str, text: String| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    let text = match line.kind {
        LineKind::Stage => paint("1", line.text.clone()),
        LineKind::Step | LineKind::Check => format!("  {}", line.text),
        LineKind::Agent => format!("  {} {}", paint("2", "agent:".to_owned()), line.text),
        LineKind::Warning => format!("  {} {}", paint("33", "warning:".to_owned()), line.text),
    };
    format!("{:>7.1} s  {text}", line.seconds)
}

/// What the end of a task means to a script.
fn exit_code(task: &TaskDetail) -> u8 {
    match (&task.task.failure, task.task.state.as_str()) {
        (Some(failure), _) => failure.code.exit_code(),
        (None, "rejected") => Code::PolicyRejected.exit_code(),
        (None, "no_changes") => Code::NothingChanged.exit_code(),
        (None, "stopped") => Code::Cancelled.exit_code(),
        (None, _) => 0,
    }
}

fn cut_off(why: &str) -> Failure {
    Failure::new(Code::StoreUnavailable, format!("The log ends here, before the task did: {why}"))
        .next("`onramp serve` may be closing; ask again when it runs.")
}

/// Server-sent events out of pieces that end anywhere.
#[derive(Debug, Default)]
struct Events {
    rest: Vec<u8>,
    event: Event,
}

impl Events {
    fn of(&mut self, piece: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(piece);
        let mut done = Vec::new();
        while let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=at).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end_matches(['\n', '\r']).split_once(':') {
                None => done.push(std::mem::take(&mut self.event)),
                Some(("event", name)) => name.trim_start().clone_into(&mut self.event.name),
                Some(("data", data)) => self.event.data.push_str(data.strip_prefix(' ').unwrap_or(data)),
                Some(_) => {}
            }
        }
        done.retain(|event| !event.name.is_empty());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_wherever_the_pieces_end() {
        let text = b"event: line\nid: 1-9\ndata: {\"a\":1}\n\n:\n\nevent: end\ndata: {}\n\n";
        for cut in 0..text.len() {
            let mut events = Events::default();
            let mut found = events.of(&text[..cut]);
            found.extend(events.of(&text[cut..]));
            let found: Vec<_> = found.iter().map(|event| (event.name.as_str(), event.data.as_str())).collect();
            assert_eq!(found, [("line", "{\"a\":1}"), ("end", "{}")], "cut at {cut}");
        }
    }
}
