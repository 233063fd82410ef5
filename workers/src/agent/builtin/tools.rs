//! What the built-in agent can do in a sandbox: five tools, each a few frames to the guest.
//!
//! Files are read and written by the guest beneath the workspace, without following links, as everything else that comes
//! from outside of it.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    agent::Round,
    sandbox::{Command, FileKind, Output, Sandbox, SandboxError, TreeFile, WORKSPACE},
    text,
};

/// The names of the tools.
pub(super) const NAMES: [&str; 5] = ["run", "read", "write", "edit", "search"];

/// The limit of a command that names none, and the longest that one may name, in seconds.
const RUN_S: u64 = 120;
const MAX_RUN_S: u64 = 480;
/// What a tool says at most, in bytes: the begin and the end of what is longer.
const MAX_RESULT_BYTES: usize = 24_000;
/// The largest file that is read or changed.
const MAX_FILE_BYTES: u64 = 2 << 20;
/// Lines of a file that are shown at once.
const READ_LINES: usize = 1_000;
/// Lines that a search shows.
const SEARCH_LINES: usize = 200;

/// Why a tool did not do it.
pub(super) enum Error {
    /// The model asked for something that cannot be done; it is told why.
    Wrong(String),
    /// The sandbox is gone.
    Sandbox(SandboxError),
}

impl From<SandboxError> for Error {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Refused { .. } | SandboxError::TooMuch { .. } | SandboxError::CannotRun { .. } => {
                Self::Wrong(error.to_string())
            }
            SandboxError::Lost(_) | SandboxError::Failure(_) => Self::Sandbox(error),
        }
    }
}

/// Name, description, and JSON Schema of the input of each.
pub(super) fn all() -> [(&'static str, &'static str, Value); 5] {
    let schema = |properties: Value, required: &[&str]| json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    let string = |about: &str| json!({ "type": "string", "description": about });
    let path = || string("Path of a file, relative to the top of the repository");
    let [run, read, write, edit, search] = NAMES;
    [
        (
            run,
            "Runs a command line with sh at the top of the repository and returns its output and exit code.",
            schema(
                json!({ "command": string("The command line"), "timeout_s": { "type": "integer", "minimum": 1, "maximum": MAX_RUN_S } }),
                &["command"],
            ),
        ),
        (
            read,
            "Returns a text file with line numbers, 1000 lines at once.",
            schema(
                json!({ "path": path(), "from_line": { "type": "integer", "minimum": 1 }, "n_lines": { "type": "integer", "minimum": 1 } }),
                &["path"],
            ),
        ),
        (
            write,
            "Writes a whole file, new or in place of the old one.",
            schema(json!({ "path": path(), "content": string("The whole content") }), &["path", "content"]),
        ),
        (
            edit,
            "Replaces one piece of text in a file. The old text has to stand there exactly once, unless all is true.",
            schema(
                json!({ "path": path(), "old": string("The text that is there"), "new": string("The text in its place"), "all": { "type": "boolean" } }),
                &["path", "old", "new"],
            ),
        ),
        (
            search,
            "Looks for an extended regular expression in all text files below a path and returns the lines with their places.",
            schema(
                json!({ "pattern": string("The expression"), "path": string("A file or directory; default: everything") }),
                &["pattern"],
            ),
        ),
    ]
}

/// The tools of one round.
pub(super) struct Tools<'a> {
    sandbox: &'a Sandbox,
    env: BTreeMap<String, String>,
}

impl<'a> Tools<'a> {
    pub(super) fn new(sandbox: &'a Sandbox, round: &Round<'_>) -> Self {
        let mut env = round.gateway.env();
        env.extend(round.env.clone());
        Self { sandbox, env }
    }

    /// Does what the model asks for.
    pub(super) async fn call(&self, name: &str, input: &Value) -> Result<String, Error> {
        let result = match name {
            "run" => self.run(text(input, "command")?, number(input, "timeout_s")).await?,
            "read" => self.read(text(input, "path")?, number(input, "from_line"), number(input, "n_lines")).await?,
            "write" => self.write(text(input, "path")?, text(input, "content")?).await?,
            "edit" => {
                let all = input["all"].as_bool().unwrap_or(false);
                self.edit(text(input, "path")?, text(input, "old")?, text(input, "new")?, all).await?
            }
            "search" => self.search(text(input, "pattern")?, input["path"].as_str().unwrap_or(".")).await?,
            _ => return Err(Error::Wrong(format!("there is no tool {name:?}; there are {}", NAMES.join(", ")))),
        };
        Ok(shortened(&result))
    }

    async fn run(&self, command: &str, timeout_s: Option<u64>) -> Result<String, Error> {
        let limit = Duration::from_secs(timeout_s.unwrap_or(RUN_S).clamp(1, MAX_RUN_S));
        let (said, exit) = self.execute(vec!["/bin/sh".into(), "-c".into(), command.to_owned()], limit).await?;
        let ended = match exit.timed_out {
            true => format!("stopped after {} s", limit.as_secs()),
            false => text::exit_words(&exit),
        };
        Ok(format!("{}\n[{ended}]", said.trim_end()))
    }

    async fn execute(&self, argv: Vec<String>, limit: Duration) -> Result<(String, crate::sandbox::Exit), Error> {
        let command = Command { argv, env: self.env.clone(), cwd: WORKSPACE.into(), stdin: None, timeout: limit };
        let mut said = Said::default();
        let exit = self.sandbox.run(&command, &mut |piece| said.push(piece)).await?;
        Ok((said.text(), exit))
    }

    async fn file(&self, path: &str) -> Result<TreeFile, Error> {
        let mut files = self.sandbox.get(vec![inside(path)?], MAX_FILE_BYTES).await?;
        let file = files.pop().ok_or_else(|| Error::Wrong(format!("{path} is not there")))?;
        match file.kind {
            FileKind::Regular | FileKind::Executable => Ok(file),
            FileKind::Symlink => Err(Error::Wrong(format!("{path} is a symbolic link; name what it leads to"))),
        }
    }

    async fn read(&self, path: &str, from_line: Option<u64>, n_lines: Option<u64>) -> Result<String, Error> {
        let file = self.file(path).await?;
        let content = String::from_utf8(file.bytes).map_err(|_| Error::Wrong(format!("{path} is not text")))?;
        let at_most = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let from = at_most(from_line.unwrap_or(1)).max(1);
        let n = n_lines.map_or(READ_LINES, at_most).clamp(1, READ_LINES);
        let n_all = content.lines().count();
        let lines: Vec<String> = content
            .lines()
            .enumerate()
            .skip(from - 1)
            .take(n)
            .map(|(at, line)| format!("{:>5}\t{line}", at + 1))
            .collect();
        let shown = lines.join("\n");
        Ok(match from - 1 + lines.len() {
            end if end < n_all => format!("{shown}\n[{n_all} lines in all]"),
            _ if n_all == 0 => "[the file is empty]".to_owned(),
            _ => shown,
        })
    }

    async fn write(&self, path: &str, content: &str) -> Result<String, Error> {
        let kind = match self.file(path).await {
            Ok(file) => file.kind,
            Err(Error::Sandbox(error)) => return Err(Error::Sandbox(error)),
            Err(Error::Wrong(_)) => FileKind::Regular,
        };
        let file = TreeFile { path: inside(path)?, kind, bytes: content.as_bytes().to_vec() };
        self.sandbox.put(vec![file]).await?;
        Ok(format!("wrote {} bytes to {path}", content.len()))
    }

    async fn edit(&self, path: &str, old: &str, new: &str, all: bool) -> Result<String, Error> {
        let file = self.file(path).await?;
        let content = String::from_utf8(file.bytes).map_err(|_| Error::Wrong(format!("{path} is not text")))?;
        let n = if old.is_empty() { 0 } else { content.matches(old).count() };
        match n {
            0 => return Err(Error::Wrong(format!("the old text does not stand in {path}; read it again"))),
            1 => {}
            _ if all => {}
            n => {
                return Err(Error::Wrong(format!(
                    "the old text stands in {path} {n} times; give more of what is around it"
                )));
            }
        }
        let bytes = content.replace(old, new).into_bytes();
        self.sandbox.put(vec![TreeFile { path: inside(path)?, kind: file.kind, bytes }]).await?;
        Ok(format!("replaced {n} {} in {path}", if n == 1 { "place" } else { "places" }))
    }

    async fn search(&self, pattern: &str, path: &str) -> Result<String, Error> {
        let path = String::from_utf8(inside(path)?).map_err(|_| Error::Wrong("the path is not text".into()))?;
        let path = if path.is_empty() { ".".to_owned() } else { path };
        let script = format!("grep -rnIE -e \"$1\" -- \"$2\" | head -n {}", SEARCH_LINES + 1);
        let argv = ["/bin/sh", "-c", &script, "sh", pattern, &path].map(str::to_owned).to_vec();
        let (said, _) = self.execute(argv, Duration::from_secs(RUN_S)).await?;
        let mut lines: Vec<String> = said
            .lines()
            .filter(|line| !line.starts_with("./.git/"))
            .map(|line| line.chars().take(400).collect())
            .collect();
        if lines.len() > SEARCH_LINES {
            lines.truncate(SEARCH_LINES);
            lines.push("[there is more; search for less]".to_owned());
        }
        Ok(if lines.is_empty() { "[nothing found]".to_owned() } else { lines.join("\n") })
    }
}

/// A path of the workspace as the guest takes it; empty: the workspace itself.
fn inside(path: &str) -> Result<Vec<u8>, Error> {
    let below = path.strip_prefix(WORKSPACE).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    if below.is_none() && path.starts_with('/') {
        return Err(Error::Wrong(format!("{path:?} is not in the repository, which lies in {WORKSPACE}")));
    }
    let parts = below.unwrap_or(path).split('/').filter(|part| !part.is_empty() && *part != ".");
    let parts: Vec<&str> = parts.collect();
    match parts.contains(&"..") {
        true => Err(Error::Wrong(format!("{path:?} leads out of the repository"))),
        false => Ok(parts.join("/").into_bytes()),
    }
}

fn text<'v>(input: &'v Value, key: &str) -> Result<&'v str, Error> {
    input[key].as_str().ok_or_else(|| Error::Wrong(format!("`{key}` is missing, or is not text")))
}

fn number(input: &Value, key: &str) -> Option<u64> {
    input[key].as_u64()
}

/// The begin and the end of what is too long.
fn shortened(text: &str) -> String {
    // Tabs stay: what is shown is what an edit has to name.
    let text = text.split('\t').map(|part| text::clean(part.as_bytes())).collect::<Vec<_>>().join("\t");
    if text.len() <= MAX_RESULT_BYTES {
        return text;
    }
    let head = text.floor_char_boundary(MAX_RESULT_BYTES / 2);
    let tail = text.ceil_char_boundary(text.len() - MAX_RESULT_BYTES / 2);
    format!("{}\n[{} characters left out]\n{}", &text[..head], tail - head, &text[tail..])
}

/// What a command said, both streams in order of arrival: the begin, and the end of what is more.
#[derive(Default)]
struct Said {
    head: Vec<u8>,
    tail: Vec<u8>,
    n_lost: usize,
}

impl Said {
    fn push(&mut self, piece: Output<'_>) {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece;
        let room = MAX_RESULT_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.tail.extend_from_slice(&bytes[room..]);
        if self.tail.len() > 2 * MAX_RESULT_BYTES {
            let n = self.tail.len() - MAX_RESULT_BYTES;
            self.tail.drain(..n);
            self.n_lost += n;
        }
    }

    fn text(&self) -> String {
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&self.tail));
        match self.n_lost {
            0 => format!("{head}{tail}"),
            n => format!("{head}\n[{n} bytes left out]\n{tail}"),
        }
    }
}
