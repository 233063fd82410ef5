//! Which new files `git add -A` would leave out: the rules of the `.gitignore` files in the changed workspace.
//!
//! Decided on the host from bytes, because a git inside the sandbox could have been told anything. Each line becomes a
//! regular expression over bytes, so that matching takes linear time (git's own matcher backtracks, and an agent may have
//! written the rules) and names that are not UTF-8 are matched as git matches them. The tests hold it against git itself.

use std::collections::HashMap;

use regex::bytes::{RegexSet, RegexSetBuilder};

/// The name of the files that hold rules.
pub(super) const FILE_NAME: &[u8] = b".gitignore";

/// Lines that are compiled together: more would run into the size limit of one automaton.
const SET_LINES: usize = 200;
/// A longer line is no rule.
const MAX_LINE_BYTES: usize = 4096;

/// The rules of a workspace. Files can be added as they become known.
#[derive(Default)]
pub(super) struct Rules {
    /// Directory (empty for the top) to the rules of its file.
    files: HashMap<Vec<u8>, RuleFile>,
    /// Directories that were asked for. Cleared when a file is added.
    directories: HashMap<Vec<u8>, bool>,
}

impl Rules {
    /// Sets the rules of the file in `directory` (empty for the top); `None`: there is no such file.
    pub(super) fn set(&mut self, directory: &[u8], content: Option<&[u8]>) {
        self.directories.clear();
        match content {
            Some(content) => self.files.insert(directory.to_vec(), RuleFile::parse(content)),
            None => self.files.remove(directory),
        };
    }

    /// Whether an untracked path stays out. A file below an ignored directory cannot be taken in again.
    pub(super) fn ignores(&mut self, path: &[u8], is_directory: bool) -> bool {
        self.ignores_directory(parent(path)) || self.matches(path, is_directory)
    }

    /// Whether everything untracked in a directory (empty for the top) stays out.
    pub(super) fn ignores_directory(&mut self, directory: &[u8]) -> bool {
        if directory.is_empty() {
            return false;
        }
        if let Some(known) = self.directories.get(directory) {
            return *known;
        }
        // Outer directories first and in a loop: a path may have two thousand parts.
        let mut ignored = false;
        let slashes = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in slashes.chain([directory.len()]) {
            let outer = &directory[..end];
            ignored = match self.directories.get(outer) {
                Some(known) => *known,
                None => ignored || self.matches(outer, true),
            };
            self.directories.insert(outer.to_vec(), ignored);
        }
        ignored
    }

    /// The innermost file with a rule for the path decides.
    fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        let mut directory = path;
        while !directory.is_empty() {
            directory = parent(directory);
            let Some(file) = self.files.get(directory) else { continue };
            let below = if directory.is_empty() { path } else { &path[directory.len() + 1..] };
            if let Some(ignored) = file.verdict(below, is_directory) {
                return ignored;
            }
        }
        false
    }
}

/// The directory of a path; empty for the top.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

/// The rules of one file, in order, compiled in groups.
struct RuleFile {
    groups: Vec<(Vec<Rule>, RegexSet)>,
}

/// What a matching line means.
#[derive(Clone, Copy)]
struct Rule {
    negated: bool,
    only_directories: bool,
}

impl RuleFile {
    fn parse(content: &[u8]) -> Self {
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        let rules: Vec<(Rule, String)> = content.split(|byte| *byte == b'\n').filter_map(parse_line).collect();
        let groups = rules.chunks(SET_LINES).filter_map(|group| {
            let (rules, patterns): (Vec<Rule>, Vec<&str>) =
                group.iter().map(|(rule, text)| (*rule, text.as_str())).unzip();
            let set =
                RegexSetBuilder::new(patterns).unicode(false).dot_matches_new_line(true).size_limit(64 << 20).build();
            set.ok().map(|set| (rules, set))
        });
        Self { groups: groups.collect() }
    }

    /// The last line that matches decides; none: somebody else does.
    fn verdict(&self, path: &[u8], is_directory: bool) -> Option<bool> {
        self.groups.iter().rev().find_map(|(rules, set)| {
            let matching = set.matches(path);
            let last = matching.iter().map(|at| rules[at]).rfind(|rule| is_directory || !rule.only_directories);
            last.map(|rule| !rule.negated)
        })
    }
}

/// One line as a rule and an expression over the path below the file's directory.
fn parse_line(line: &[u8]) -> Option<(Rule, String)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.starts_with(b"#") || line.len() > MAX_LINE_BYTES {
        return None;
    }
    let line = without_trailing_blanks(line);
    let (negated, line) = line.strip_prefix(b"!").map_or((false, line), |rest| (true, rest));
    let (only_directories, line) = line.strip_suffix(b"/").map_or((false, line), |rest| (true, rest));
    let anchored = line.contains(&b'/');
    let line = line.strip_prefix(b"/").unwrap_or(line);
    if line.is_empty() {
        return None;
    }
    let prefix = if anchored { "^" } else { "^(?:.*/)?" };
    Some((Rule { negated, only_directories }, format!("{prefix}{}$", expression(line, anchored)?)))
}

/// Cuts blanks off the end, up to an escaped one.
fn without_trailing_blanks(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b' ' => at += 1,
            b'\\' => {
                at = (at + 2).min(line.len());
                end = at;
            }
            _ => {
                at += 1;
                end = at;
            }
        }
    }
    &line[..end]
}

/// A glob as an expression. `None`: git would never match it (an open class, an escape of nothing).
fn expression(glob: &[u8], anchored: bool) -> Option<String> {
    let literal_bytes = glob.iter().position(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'));
    let mut out = String::new();
    let mut at = 0;
    while let Some(&byte) = glob.get(at) {
        at += 1;
        match byte {
            b'\\' => {
                push_byte(&mut out, *glob.get(at)?);
                at += 1;
            }
            b'?' => out.push_str("[^/]"),
            b'[' => {
                let (set, end) = class(glob, at)?;
                push_class(&mut out, &set)?;
                at = end;
            }
            b'*' => {
                let start = at - 1;
                while glob.get(at) == Some(&b'*') {
                    at += 1;
                }
                // Git matches the literal start of a pattern by itself, so two stars right after it stand at a start too.
                let opens = start == 0 || glob[start - 1] == b'/' || literal_bytes == Some(start);
                let rest = &glob[at..];
                let closes = rest.is_empty() || rest.starts_with(b"/") || rest.starts_with(b"\\/");
                let crosses = anchored && at - start > 1 && opens && closes;
                match (crosses, rest.first()) {
                    (true, Some(b'/')) => {
                        out.push_str("(?:.*/)?");
                        at += 1;
                    }
                    (true, _) => out.push_str(".*"),
                    (false, _) => out.push_str("[^/]*"),
                }
            }
            _ => push_byte(&mut out, byte),
        }
    }
    Some(out)
}

fn push_byte(out: &mut String, byte: u8) {
    out.push_str(&format!("\\x{byte:02x}"));
}

/// A class; a slash is never matched by one. `None`: nothing is in it.
fn push_class(out: &mut String, set: &[bool; 256]) -> Option<()> {
    let mut bytes = (0..=u8::MAX).filter(|byte| set[usize::from(*byte)] && *byte != b'/').peekable();
    bytes.peek()?;
    out.push('[');
    bytes.for_each(|byte| push_byte(out, byte));
    out.push(']');
    Some(())
}

/// The class whose text begins at `at`, and where the text after it begins.
fn class(glob: &[u8], mut at: usize) -> Option<([bool; 256], usize)> {
    let mut set = [false; 256];
    let negated = matches!(glob.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let mut before: Option<u8> = None;
    let mut is_first = true;
    loop {
        let byte = *glob.get(at)?;
        at += 1;
        match byte {
            b']' if !is_first => break,
            b'\\' => {
                let escaped = *glob.get(at)?;
                at += 1;
                set[usize::from(escaped)] = true;
                before = Some(escaped);
            }
            b'-' if before.is_some() && glob.get(at).is_some_and(|next| *next != b']') => {
                at += usize::from(glob[at] == b'\\');
                let (from, to) = (before?, *glob.get(at)?);
                at += 1;
                (from..=to).for_each(|byte| set[usize::from(byte)] = true);
                before = None;
            }
            b'[' if glob.get(at) == Some(&b':') => {
                let end = at + 1 + glob[at + 1..].iter().position(|byte| *byte == b']')?;
                match glob[at + 1..end].strip_suffix(b":") {
                    Some(name) => {
                        let holds = named_class(name)?;
                        (0..=u8::MAX).filter(holds).for_each(|byte| set[usize::from(byte)] = true);
                        at = end + 1;
                        before = None;
                    }
                    None => {
                        set[usize::from(b'[')] = true;
                        before = Some(b'[');
                    }
                }
            }
            _ => {
                set[usize::from(byte)] = true;
                before = Some(byte);
            }
        }
        is_first = false;
    }
    if negated {
        set = set.map(|held| !held);
    }
    Some((set, at))
}

fn named_class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}
