//! Which new files `git add -A` would leave out: the rules of the `.gitignore` files in the changed workspace.
//!
//! Decided on the host from bytes, because a git inside the sandbox could have been told anything. Each line becomes a
//! regular expression over bytes, so that matching takes linear time (git's own matcher backtracks, and an agent may have
//! written the rules) and names that are not UTF-8 are matched as git matches them. What is left to a hostile file, its size
//! times the number of paths, is bounded. The tests hold it against git itself.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use regex::bytes::{RegexSet, RegexSetBuilder};
use tasks::Failure;

use super::names;

/// The name of the files that hold rules.
pub(super) const FILE_NAME: &[u8] = b".gitignore";

/// Lines that are compiled together: more would run into the size limit of one automaton.
const SET_LINES: usize = 200;
/// A longer file is refused.
const MAX_FILE_BYTES: usize = 256 << 10;
/// A file with more stars is refused: each one is a place that a match may be at.
const MAX_STARS: usize = 10_000;
/// All matching of one workspace.
const MAX_TIME: Duration = Duration::from_secs(30);

/// The rules of a workspace. Files can be added as they become known.
pub(super) struct Rules {
    deadline: Instant,
    /// Directory (empty for the top) to the rules of its file.
    files: HashMap<Vec<u8>, RuleFile>,
    /// Directories that were asked for. Cleared when a file is added.
    directories: HashMap<Vec<u8>, bool>,
}

impl Rules {
    /// No rules yet.
    pub(super) fn new() -> Self {
        Self { deadline: Instant::now() + MAX_TIME, files: HashMap::new(), directories: HashMap::new() }
    }

    /// Sets the rules of the file at `path`.
    ///
    /// # Errors
    /// E031 when they are more than can be matched in time.
    pub(super) fn set(&mut self, path: &[u8], content: &[u8]) -> Result<(), Failure> {
        self.directories.clear();
        let file = RuleFile::parse(content).map_err(|reason| names::refused(path, reason))?;
        self.files.insert(parent(path).to_vec(), file);
        Ok(())
    }

    /// Whether an untracked path stays out. A file below an ignored directory cannot be taken in again.
    ///
    /// # Errors
    /// E031 when the rules take too long.
    pub(super) fn ignores(&mut self, path: &[u8], is_directory: bool) -> Result<bool, Failure> {
        Ok(self.ignores_directory(parent(path))? || self.matches(path, is_directory)?)
    }

    /// Whether everything untracked in a directory (empty for the top) stays out.
    ///
    /// # Errors
    /// E031 when the rules take too long.
    pub(super) fn ignores_directory(&mut self, directory: &[u8]) -> Result<bool, Failure> {
        if directory.is_empty() {
            return Ok(false);
        }
        if let Some(known) = self.directories.get(directory) {
            return Ok(*known);
        }
        // Outer directories first and in a loop: a path may have two thousand parts.
        let mut ignored = false;
        let slashes = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in slashes.chain([directory.len()]) {
            let outer = &directory[..end];
            ignored = match self.directories.get(outer) {
                Some(known) => *known,
                None => ignored || self.matches(outer, true)?,
            };
            self.directories.insert(outer.to_vec(), ignored);
        }
        Ok(ignored)
    }

    /// The innermost file with a rule for the path decides.
    fn matches(&self, path: &[u8], is_directory: bool) -> Result<bool, Failure> {
        let mut directory = path;
        while !directory.is_empty() {
            directory = parent(directory);
            let Some(file) = self.files.get(directory) else { continue };
            if Instant::now() >= self.deadline {
                return Err(names::refused(
                    path,
                    "and to match it with the rules of `.gitignore` files takes too long",
                ));
            }
            let below = if directory.is_empty() { path } else { &path[directory.len() + 1..] };
            if let Some(ignored) = file.verdict(below, is_directory) {
                return Ok(ignored);
            }
        }
        Ok(false)
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
    fn parse(content: &[u8]) -> Result<Self, &'static str> {
        if content.len() > MAX_FILE_BYTES || content.iter().filter(|byte| **byte == b'*').count() > MAX_STARS {
            return Err("whose rules are more than can be matched");
        }
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        let rules: Vec<(Rule, String)> = content.split(|byte| *byte == b'\n').filter_map(parse_line).collect();
        let compile = |group: &[(Rule, String)]| {
            let (rules, patterns): (Vec<Rule>, Vec<&str>) =
                group.iter().map(|(rule, text)| (*rule, text.as_str())).unzip();
            let mut set = RegexSetBuilder::new(patterns);
            let set = set.unicode(false).dot_matches_new_line(true).size_limit(64 << 20).build();
            set.map(|set| (rules, set)).map_err(|_| "whose rules are more than can be matched")
        };
        let groups: Result<Vec<_>, _> = rules.chunks(SET_LINES).map(compile).collect();
        Ok(Self { groups: groups? })
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
    if line.starts_with(b"#") {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::{prelude::*, test_runner::Config};

    use super::*;
    use crate::checkout::fixture::{Scratch, raw, try_git};

    /// What git ignores of these paths, with this file at the top and another one in `a`.
    fn by_git(scratch: &Scratch, paths: &[&[u8]], top: &[u8], inner: &[u8]) -> Vec<bool> {
        fs::write(scratch.path().join(".gitignore"), top).unwrap();
        fs::write(scratch.path().join("a/.gitignore"), inner).unwrap();
        let mut input = paths.join(&b'\0');
        input.push(0);
        let (_, output, error) = try_git(&scratch.path(), &["check-ignore", "-z", "--stdin"], &input);
        assert_eq!(error, "");
        let ignored: Vec<&[u8]> = output.split(|byte| *byte == 0).collect();
        paths.iter().map(|path| ignored.contains(path)).collect()
    }

    fn by_us(paths: &[&[u8]], top: &[u8], inner: &[u8]) -> Vec<bool> {
        let mut rules = Rules::new();
        rules.set(b".gitignore", top).unwrap();
        rules.set(b"a/.gitignore", inner).unwrap();
        paths.iter().map(|path| rules.ignores(path, false).unwrap()).collect()
    }

    const PATHS: &[&[u8]] = &[
        b"a/a",
        b"a/ab",
        b"a/b/a",
        b"a/b/ab",
        b"a/b/c/a",
        b"ab",
        b"b/a",
        b"b/ab/a",
        b"b/b/b/b",
        b"a b",
        b"a b ",
        b"{a,b}",
        b"[a]",
        b"a\\b",
        b"a*",
        b"-",
        b"]",
        b"!a",
        b"#a",
        b"\xff",
        b"b/\xffa",
        "ä".as_bytes(),
        "b/aä".as_bytes(),
        b"a\n",
        b"aa",
        b"bb",
        b"aab",
        b"A",
        b"b/A.b",
        b"a.b",
        b".a",
        b"b/.a/b",
        b"a\t",
        b"1",
        b"b/1a",
    ];

    fn scratch_with_paths() -> Scratch {
        let scratch = Scratch::empty();
        for path in PATHS {
            scratch.write(raw(path), b"");
        }
        scratch
    }

    #[test]
    fn known_oddities_of_the_rules_are_kept() {
        let scratch = scratch_with_paths();
        for (top, inner) in [
            ("*\n!a\n", ""),
            ("a/\n", "!a\n"),
            ("/a\n", ""),
            ("a/b\n", ""),
            ("b/\n!b/a\n", ""),
            ("**/a\n", ""),
            ("a/**\n", ""),
            ("a/**/a\n", ""),
            ("**\n!b/\n", ""),
            ("{a,b}\n", ""),
            ("*.{b,c}\n", ""),
            ("\\{a,b}\n", ""),
            ("[[]a]\n", ""),
            ("\\[a]\n", ""),
            ("[a\n", ""),
            ("a\\\\b\n", ""),
            ("a\\*\n", ""),
            ("[]-]\n", ""),
            ("[!a-z]\n", ""),
            ("[^a]*\n", ""),
            ("[[:digit:]]*\n", ""),
            ("[[:nope:]]\n", ""),
            ("[[:alpha:]\n", ""),
            ("\\!a\n", ""),
            ("\\#a\n", ""),
            ("#a\n", ""),
            ("a b \n", ""),
            ("a b\\ \n", ""),
            ("a b   \n", ""),
            ("a\t\n", ""),
            ("a\r\n", ""),
            ("\u{feff}ab\n", ""),
            ("ä\n", ""),
            ("?\n", ""),
            ("[ä]\n", ""),
            ("a\\", ""),
            ("/\n", ""),
            ("!\n", ""),
            ("\n\n", ""),
            ("b/*/b\n", ""),
            ("b/**b\n", ""),
            ("a**\n", ""),
            ("b/a**b/a\n", ""),
            ("*a/b\n", ""),
            ("", "*\n!b/\n"),
            ("a/*\n!a/b/\n", ""),
            ("*/\n", ""),
            ("[b-a]\n", ""),
            ("[/]\n", ""),
            ("b[/]a\n", ""),
            ("b?a\n", ""),
            ("[]\n", ""),
            ("[!]a]\n", ""),
            ("[a-]\n", ""),
            ("[\\]]\n", ""),
            ("**/\n", ""),
            ("/**/a\n", ""),
            ("b/a*b\n", ""),
            ("***\n", ""),
            ("b/***/a\n", ""),
            ("//a\n", ""),
            ("a//\n", ""),
            ("b**/a\n", ""),
        ] {
            let (git, us) = (
                by_git(&scratch, PATHS, top.as_bytes(), inner.as_bytes()),
                by_us(PATHS, top.as_bytes(), inner.as_bytes()),
            );
            assert_eq!(us, git, "{top:?} and {inner:?} of {PATHS:?}");
        }
    }

    #[test]
    fn random_rules_mean_what_git_says() {
        let scratch = scratch_with_paths();
        let piece = prop::sample::select(vec![
            "a",
            "b",
            "A",
            "1",
            "*",
            "**",
            "/",
            "?",
            "[a-b]",
            "[!a]",
            "[^ab]",
            "[[:alpha:]]",
            "[]a]",
            "[",
            "]",
            "\\",
            "!",
            "-",
            ".",
            "{",
            "}",
            ",",
            " ",
            "ä",
            "**/",
            "/**",
            "a/",
            "/*",
            "#",
            "\t",
        ]);
        let line = prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat());
        let file = prop::collection::vec(line, 0..4).prop_map(|lines| lines.join("\n"));
        let config = Config { failure_persistence: None, ..Config::with_cases(150) };
        proptest!(config, |(top in file.clone(), inner in file)| {
            let git = by_git(&scratch, PATHS, top.as_bytes(), inner.as_bytes());
            prop_assert_eq!(by_us(PATHS, top.as_bytes(), inner.as_bytes()), git, "{:?} and {:?}", top, inner);
        });
    }

    #[test]
    fn hostile_rules_are_matched_in_time_or_refused() {
        let mut rules = Rules::new();
        assert!(rules.set(b".gitignore", &b"*a\n".repeat(20_000)).is_err());
        assert!(rules.set(b".gitignore", &b"a\n".repeat(200_000)).is_err());
        // What makes a matcher that backtracks take for ever.
        let pattern = format!("{}b\n", "*a/**/".repeat(30));
        rules.set(b".gitignore", pattern.repeat(5).as_bytes()).unwrap();
        assert!(!rules.ignores(format!("{}c", "a/".repeat(100)).as_bytes(), false).unwrap());
        rules.deadline = Instant::now();
        let failure = rules.ignores(b"fresh/c", false).unwrap_err();
        assert!(failure.message.ends_with("takes too long"), "{}", failure.message);
    }
}
