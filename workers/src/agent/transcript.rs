//! An agent's output as lines: kept raw in the transcript, read for events, its end remembered for people.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    path::Path,
};

use tasks::TokenUsage;

use super::events::{AgentEvent, Format, UsageScope};
use crate::{artifacts::Log, sandbox::Output, text};

/// How much of a transcript is kept.
pub(super) const TRANSCRIPT_BYTES: u64 = 64 << 20;
/// Longer lines are kept but not read.
const MAX_LINE_BYTES: usize = 1 << 20;
/// How many readable lines a failure shows.
const END_LINES: usize = 20;
/// How long one of them may be, in characters.
const END_LINE_CHARS: usize = 400;
/// How long a line of progress may be, in characters.
const PROGRESS_CHARS: usize = 200;

/// What was heard from an agent in one call.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) session: Option<String>,
    pub(super) summary: Option<String>,
    pub(super) usage: TokenUsage,
    /// Tokens of the whole conversation, where the agent counts so.
    pub(super) conversation_usage: Option<TokenUsage>,
    pub(super) trouble: Option<String>,
    pub(super) failed: Option<String>,
    pub(super) finished: bool,
}

impl Heard {
    /// Takes one event in. Returns what a person may want to read of it.
    fn hear(&mut self, event: AgentEvent) -> Option<String> {
        match event {
            AgentEvent::Session(id) => {
                self.session = Some(id);
                None
            }
            AgentEvent::Activity(words) => Some(words),
            AgentEvent::Message(words) => {
                let line = words.clone();
                self.summary = Some(words);
                Some(line)
            }
            AgentEvent::Summary(words) => {
                self.summary = Some(words);
                None
            }
            AgentEvent::Usage(usage, scope) => {
                match scope {
                    UsageScope::Step => self.usage = self.usage.plus(usage),
                    UsageScope::Call => self.usage = usage,
                    UsageScope::Conversation => self.conversation_usage = Some(usage),
                }
                None
            }
            AgentEvent::Trouble(why) => {
                self.trouble = Some(why.clone());
                Some(why)
            }
            AgentEvent::Failed(why) => {
                self.failed = Some(why.clone());
                Some(why)
            }
            AgentEvent::Finished => {
                self.finished = true;
                self.trouble = None;
                None
            }
        }
    }
}

/// Takes output in pieces and makes lines, events and a transcript of it.
pub(super) struct Reader<'a> {
    format: Format,
    log: Log,
    tell: &'a (dyn Fn(String) + Send + Sync),
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    overlong: [bool; 2],
    end: VecDeque<String>,
    pub(super) heard: Heard,
}

impl<'a> Reader<'a> {
    pub(super) fn new(format: Format, log: Log, tell: &'a (dyn Fn(String) + Send + Sync)) -> Self {
        let (stdout, stderr) = (Vec::new(), Vec::new());
        let (overlong, end) = ([false; 2], VecDeque::new());
        Self { format, log, tell, stdout, stderr, overlong, end, heard: Heard::default() }
    }

    /// Takes one piece in.
    pub(super) fn push(&mut self, piece: Output<'_>) {
        let (bytes, is_stdout) = match piece {
            Output::Stdout(bytes) => (bytes, true),
            Output::Stderr(bytes) => (bytes, false),
        };
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.part_of_line(part, is_stdout);
        }
        self.log.flush();
    }

    /// Reads what was left without an end of line.
    pub(super) fn close(&mut self) {
        for is_stdout in [true, false] {
            let line = if is_stdout { &self.stdout } else { &self.stderr };
            if !line.is_empty() {
                self.part_of_line(b"\n", is_stdout);
            }
        }
        self.log.flush();
    }

    /// The end of what was said, for people.
    pub(super) fn end(&self) -> String {
        self.end.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Lines of the two streams never mix in the transcript: each is written when it is whole, or too long to wait for.
    fn part_of_line(&mut self, part: &[u8], is_stdout: bool) {
        let line = if is_stdout { &mut self.stdout } else { &mut self.stderr };
        let overlong = &mut self.overlong[usize::from(is_stdout)];
        let ends = part.ends_with(b"\n");
        line.extend_from_slice(part);
        if !ends && line.len() <= MAX_LINE_BYTES {
            return;
        }
        self.log.push(line);
        let skip = *overlong || line.len() > MAX_LINE_BYTES;
        *overlong = skip && !ends;
        let line = std::mem::take(line);
        if !skip {
            self.whole_line(&String::from_utf8_lossy(&line), is_stdout);
        }
    }

    fn whole_line(&mut self, line: &str, is_stdout: bool) {
        let events = if is_stdout || self.format == Format::Plain { self.format.parse_line(line) } else { Vec::new() };
        let readable = !line.trim_start().starts_with('{');
        if events.is_empty() && readable {
            self.remember(line);
        }
        for event in events {
            if let Some(words) = self.heard.hear(event) {
                self.remember(&words);
                let words = one_line(&words, PROGRESS_CHARS);
                if !words.is_empty() {
                    (self.tell)(words);
                }
            }
        }
    }

    fn remember(&mut self, words: &str) {
        let line = one_line(words, END_LINE_CHARS);
        if line.is_empty() || self.end.back() == Some(&line) {
            return;
        }
        if self.end.len() == END_LINES {
            self.end.pop_front();
        }
        self.end.push_back(line);
    }
}

/// Words as one line without control codes, cut to a number of characters.
pub(super) fn one_line(words: &str, max_chars: usize) -> String {
    let clean = text::clean(words.as_bytes());
    let mut line = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(max_chars) {
        line.truncate(line.char_indices().nth(max_chars - 1).map_or(cut, |(at, _)| at));
        line.push('…');
    }
    line
}

/// The tokens of a conversation as an earlier transcript tells them, for agents that count on through a conversation.
pub(super) fn conversation_usage(format: Format, transcript: &Path) -> Option<TokenUsage> {
    let file = BufReader::new(std::fs::File::open(transcript).ok()?);
    let mut last = None;
    for line in file.split(b'\n').map_while(Result::ok).filter(|line| line.len() <= MAX_LINE_BYTES) {
        for event in format.parse_line(&String::from_utf8_lossy(&line)) {
            if let AgentEvent::Usage(usage, UsageScope::Conversation) = event {
                last = Some(usage);
            }
        }
    }
    last
}

/// What the conversation used since `before`.
pub(super) fn usage_since(now: TokenUsage, before: TokenUsage) -> TokenUsage {
    let minus = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
    TokenUsage {
        input: minus(now.input, before.input),
        output: minus(now.output, before.output),
        cost_microusd: minus(now.cost_microusd, before.cost_microusd),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tasks::TaskId;

    use super::*;
    use crate::artifacts::Artifacts;

    /// Feeds pieces; returns what was told, the end, the transcript and what was heard.
    fn read(format: Format, pieces: &[Output<'_>]) -> (Vec<String>, String, Vec<u8>, Heard) {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(dir.path(), TaskId::from_bytes([1; 16]), 1).unwrap();
        let told = Mutex::new(Vec::new());
        let tell = |line| told.lock().unwrap().push(line);
        let mut reader = Reader::new(format, artifacts.log("t.log", TRANSCRIPT_BYTES).unwrap(), &tell);
        pieces.iter().for_each(|piece| reader.push(*piece));
        reader.close();
        let (end, heard) = (reader.end(), std::mem::take(&mut reader.heard));
        drop(reader);
        (told.into_inner().unwrap(), end, std::fs::read(artifacts.path("t.log")).unwrap(), heard)
    }

    #[test]
    fn lines_are_put_together_from_pieces_and_the_streams_do_not_mix() {
        let (told, _, transcript, _) = read(
            Format::Plain,
            &[Output::Stdout(b"one"), Output::Stderr(b"warn"), Output::Stdout(b" two\nth"), Output::Stderr(b"ing\n")],
        );
        assert_eq!(told, ["one two", "warning", "th"]);
        assert_eq!(transcript, b"one two\nwarning\nth\n");
    }

    #[test]
    fn a_line_that_is_too_long_is_kept_and_not_read() {
        let long = vec![b'x'; MAX_LINE_BYTES + 10];
        let (told, _, transcript, _) = read(Format::Plain, &[Output::Stdout(&long), Output::Stdout(b"still\nnext\n")]);
        assert_eq!(told, ["next"]);
        assert_eq!(transcript.len(), long.len() + b"still\nnext\n".len());
    }

    #[test]
    fn progress_is_one_short_line_without_control_codes() {
        let noisy = format!("\x1b[31mred\x1b[0m\tand\r {}\n", "y".repeat(300));
        let (told, ..) = read(Format::Plain, &[Output::Stdout(noisy.as_bytes())]);
        assert!(told[0].starts_with("red and y") && told[0].ends_with('…'));
        assert_eq!(told[0].chars().count(), PROGRESS_CHARS);
        assert_eq!(one_line("ééé", 3), "ééé");
    }

    #[test]
    fn the_end_shows_words_and_no_raw_events() {
        let lines =
            b"{\"type\":\"thread.started\",\"thread_id\":\"t\"}\n{\"type\":\"error\",\"message\":\"try 1\"}\nboom\n";
        let (told, end, _, heard) = read(Format::Codex, &[Output::Stdout(lines), Output::Stderr(b"from stderr\n")]);
        assert_eq!(end, "try 1\nboom\nfrom stderr");
        assert_eq!(told, ["try 1"]);
        assert_eq!(
            (heard.session.as_deref(), heard.trouble.as_deref(), heard.finished),
            (Some("t"), Some("try 1"), false)
        );
    }
}
