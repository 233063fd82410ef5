//! The log of a task, line by line over all its attempts, as it grows.
//!
//! What is followed is the file that each attempt writes its progress to, wherever its worker is. A reader says how far it
//! has come, so that one that was cut off goes on where it was.

use std::{collections::VecDeque, fmt, io::SeekFrom, str::FromStr, time::Duration};

use futures_util::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tasks::{Code, Failure, Intake as _, Stage, Task};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use workers::progress_log;

use super::{Front, files, refusal};

/// How often a file that may grow is looked at, while somebody reads it.
const LOOK: Duration = Duration::from_millis(250);
const PIECE_BYTES: u64 = 256 << 10;

/// How far a reader has come: an attempt, and the bytes of its log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    attempt: u32,
    offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.attempt, self.offset)
    }
}

impl FromStr for Place {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let parsed = text
            .split_once('-')
            .and_then(|(attempt, offset)| Some(Self { attempt: attempt.parse().ok()?, offset: offset.parse().ok()? }));
        parsed.ok_or_else(|| {
            Failure::new(Code::Usage, "The Last-Event-ID does not come from a log of ours")
                .next("Give the id of the last event that arrived, or none.")
        })
    }
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// A stage begins.
    Stage,
    /// A step was done.
    Step,
    /// The agent said or did something.
    Agent,
    /// A check ended.
    Check,
    /// Something to know that stops nothing.
    Warning,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// The attempt.
    pub attempt: u32,
    /// Since the start of the attempt, in seconds.
    pub seconds: f64,
    /// What it is about.
    pub kind: LineKind,
    /// What it says, without control codes.
    pub text: String,
}

/// What a reader is told.
#[derive(Debug, Clone)]
pub enum LogEvent {
    /// A line, and how far the reader has come with it.
    Line(LogLine, Place),
    /// There is no more, and the task stands so.
    End(Box<Task>),
}

impl Front {
    /// The log of a task from a place on; with `follow` until the task ends, else what there is now.
    pub fn log(&self, task: &Task, from: Option<Place>, follow: bool) -> impl Stream<Item = LogEvent> + Send + use<> {
        let place = from.unwrap_or(Place { attempt: 1, offset: 0 });
        let reader = Reader { front: self.clone(), task: task.clone(), place, lines: VecDeque::new(), follow };
        futures_util::stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            let event = reader.next().await?;
            let rest = matches!(event, LogEvent::Line(..)).then_some(reader);
            Some((event, rest))
        })
    }
}

struct Reader {
    front: Front,
    task: Task,
    place: Place,
    lines: VecDeque<(LogLine, Place)>,
    follow: bool,
}

impl Reader {
    /// `None`: the server is closing, or the store cannot be read.
    async fn next(&mut self) -> Option<LogEvent> {
        loop {
            if let Some((line, place)) = self.lines.pop_front() {
                return Some(LogEvent::Line(line, place));
            }
            // Before the file: what is written until a task ends is then read.
            self.task = self.front.queue().get(self.task.id).await.map_err(refusal).ok()??;
            let is_over = self.task.attempt > self.place.attempt || !self.task.state.is_unfinished();
            self.read(is_over).await;
            if !self.lines.is_empty() {
                continue;
            }
            if self.task.attempt > self.place.attempt {
                self.place = Place { attempt: self.place.attempt + 1, offset: 0 };
                continue;
            }
            if !self.follow || !self.task.state.is_unfinished() {
                return Some(LogEvent::End(Box::new(self.task.clone())));
            }
            tokio::select! {
                () = self.front.closing().cancelled() => return None,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Reads whole lines; of a log that grows no more, also a last one without an end.
    async fn read(&mut self, is_over: bool) {
        let Place { attempt, offset } = self.place;
        let Ok(path) = self.front.artifact(self.task.id, attempt, progress_log::NAME) else { return };
        let piece = async {
            let mut file = tokio::fs::File::open(path).await?;
            file.seek(SeekFrom::Start(offset)).await?;
            let mut piece = Vec::new();
            file.take(PIECE_BYTES).read_to_end(&mut piece).await?;
            std::io::Result::Ok(piece)
        };
        let piece = match piece.await {
            Ok(piece) => piece,
            Err(error) => {
                tracing::warn!(task.id = %self.task.id, failure = %files::unreadable(&error), "a log cannot be read");
                return;
            }
        };
        let whole = match piece.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if is_over || piece.len() as u64 == PIECE_BYTES => piece.len(),
            None => 0,
        };
        for line in piece[..whole].split_inclusive(|byte| *byte == b'\n') {
            self.place.offset += line.len() as u64;
            let line = workers::text::clean(line);
            if !line.trim().is_empty() {
                self.lines.push_back((LogLine::parse(attempt, line.trim_end()), self.place));
            }
        }
    }
}

impl LogLine {
    /// A line of `progress.log`: `    0.1 s  preparing`.
    fn parse(attempt: u32, line: &str) -> Self {
        let timed = line.split_once(" s  ").and_then(|(at, text)| Some((at.trim().parse().ok()?, text)));
        let (seconds, text) = timed.unwrap_or((0.0, line));
        let is_stage = [Stage::Preparing, Stage::AgentRunning, Stage::Verifying, Stage::Publishing]
            .iter()
            .any(|stage| stage.word() == text);
        let (kind, text) = match text.split_once(": ") {
            _ if is_stage => (LineKind::Stage, text),
            Some(("agent", said)) => (LineKind::Agent, said),
            Some(("warning", said)) => (LineKind::Warning, said),
            Some((what, _)) if what.starts_with("check ") => (LineKind::Check, text),
            _ => (LineKind::Step, text),
        };
        Self { attempt, seconds, kind, text: text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_what_and_of_which_kind() {
        let parsed = |line| {
            let LogLine { seconds, kind, text, .. } = LogLine::parse(1, line);
            (seconds, kind, text)
        };
        assert_eq!(parsed("    0.1 s  preparing"), (0.1, LineKind::Stage, "preparing".into()));
        assert_eq!(parsed("   12.0 s  agent: preparing"), (12.0, LineKind::Agent, "preparing".into()));
        assert_eq!(parsed("    2.0 s  check test: passed"), (2.0, LineKind::Check, "check test: passed".into()));
        assert_eq!(parsed("    2.0 s  warning: slow"), (2.0, LineKind::Warning, "slow".into()));
        assert_eq!(parsed("    2.0 s  setup: npm ci"), (2.0, LineKind::Step, "setup: npm ci".into()));
        assert_eq!(parsed("no time"), (0.0, LineKind::Step, "no time".into()));
    }

    #[test]
    fn a_place_is_what_was_told() {
        let place = Place { attempt: 2, offset: 99 };
        assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
        assert_eq!("x".parse::<Place>().unwrap_err().code, Code::Usage);
    }
}
