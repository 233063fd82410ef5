//! A diff on its page: files, lines with their numbers, and within changed lines the words that differ.
//!
//! It is read from the text that git wrote, and only to be looked at: nothing is ever applied from here.

use axum::{
    Extension,
    extract::{Path, State},
    http::header,
    response::IntoResponse as _,
};
use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use super::{Answer, Of, session::Session};

/// More lines than a person reads in a browser.
const MAX_LINES: usize = 4_000;
/// Longer lines are not compared word by word.
const MAX_WORDS_CHARS: usize = 1_000;
/// What tools write and nobody reads.
const LOCK_FILES: [&str; 12] = [
    "Cargo.lock",
    "package-lock.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "poetry.lock",
    "uv.lock",
    "Pipfile.lock",
    "go.sum",
    "Gemfile.lock",
    "composer.lock",
    "bun.lock",
    "flake.lock",
];

/// A whole diff.
#[derive(Debug, Serialize)]
pub(super) struct Diff {
    attempt: u32,
    n_added: usize,
    n_removed: usize,
    files: Vec<File>,
    /// Not all of it is here.
    cut: bool,
}

#[derive(Debug, Default, Serialize)]
struct File {
    path: String,
    n_added: usize,
    n_removed: usize,
    /// Why it is folded, if it is.
    folded: Option<&'static str>,
    rows: Vec<Row>,
}

/// One line of a file: for the unified view as it is, for the split one as two sides.
#[derive(Debug, Default, Serialize)]
struct Row {
    is: &'static str,
    text: String,
    old: Option<u64>,
    new: Option<u64>,
    parts: Vec<Part>,
    left: Option<Side>,
    right: Option<Side>,
}

#[derive(Debug, Clone, Serialize)]
struct Side {
    is: &'static str,
    n: u64,
    new: bool,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Part {
    text: String,
    changed: bool,
}

/// Reads what git wrote.
pub(super) fn parsed(attempt: u32, bytes: &[u8]) -> Diff {
    let text = workers::text::clean(bytes);
    let mut reader = Reader::default();
    let mut cut = false;
    for (n, line) in text.lines().enumerate() {
        if n == MAX_LINES {
            cut = true;
            break;
        }
        reader.line(line);
    }
    reader.end_run();
    let files = reader.files;
    let sum = |count: fn(&File) -> usize| files.iter().map(count).sum();
    Diff { attempt, n_added: sum(|file| file.n_added), n_removed: sum(|file| file.n_removed), files, cut }
}

#[derive(Debug, Default)]
struct Reader {
    files: Vec<File>,
    old: u64,
    new: u64,
    /// Lines that are left of the hunk, on each side: what looks like a header may be a line of the file.
    left: (u64, u64),
    removed: Vec<(u64, String)>,
    added: Vec<(u64, String)>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if self.left != (0, 0) {
            return self.in_hunk(line);
        }
        self.end_run();
        if let Some(names) = line.strip_prefix("diff --git ") {
            // `a/x b/x`: where they differ, the lines below say more.
            let path = names.rsplit_once(" b/").map_or(names, |(_, path)| path);
            self.files.push(File { path: unquoted(path), folded: folded(path), ..File::default() });
        } else if let Some(hunk) = line.strip_prefix("@@ -") {
            self.hunk(line, hunk);
        } else if let (Some(path), Some(file)) = (line.strip_prefix("+++ b/"), self.files.last_mut()) {
            file.path = unquoted(path);
        } else if let Some(file) = self.files.last_mut()
            && ["new file", "deleted file", "old mode", "new mode", "rename ", "Binary files", "GIT binary patch"]
                .iter()
                .any(|word| line.starts_with(word))
        {
            file.rows.push(Row { is: "hunk", text: line.to_owned(), ..Row::default() });
        }
    }

    /// `12,3 +14,5 @@ fn main()`
    fn hunk(&mut self, line: &str, hunk: &str) {
        let mut sides = hunk.split_whitespace().map(|side| {
            let (start, n) =
                side.trim_start_matches('+').split_once(',').unwrap_or((side.trim_start_matches('+'), "1"));
            (start.parse().unwrap_or(0), n.parse().unwrap_or(0))
        });
        let ((old, n_old), (new, n_new)) = (sides.next().unwrap_or_default(), sides.next().unwrap_or_default());
        (self.old, self.new, self.left) = (old, new, (n_old, n_new));
        if let Some(file) = self.files.last_mut() {
            file.rows.push(Row { is: "hunk", text: line.to_owned(), ..Row::default() });
        }
    }

    fn in_hunk(&mut self, line: &str) {
        let (mark, text) = line.split_at_checked(1).unwrap_or((" ", ""));
        match mark {
            "+" => {
                self.added.push((self.new, text.to_owned()));
                (self.new, self.left.1) = (self.new + 1, self.left.1.saturating_sub(1));
            }
            "-" => {
                if !self.added.is_empty() {
                    self.end_run();
                }
                self.removed.push((self.old, text.to_owned()));
                (self.old, self.left.0) = (self.old + 1, self.left.0.saturating_sub(1));
            }
            "\\" => {}
            _ => {
                self.end_run();
                let parts = vec![Part { text: text.to_owned(), changed: false }];
                let side = |n, new| Some(Side { is: "", n, new, parts: parts.clone() });
                let (left, right) = (side(self.old, false), side(self.new, true));
                if let Some(file) = self.files.last_mut() {
                    let (old, new) = (Some(self.old), Some(self.new));
                    file.rows.push(Row { is: "", text: String::new(), old, new, parts: parts.clone(), left, right });
                }
                (self.old, self.new) = (self.old + 1, self.new + 1);
                self.left = (self.left.0.saturating_sub(1), self.left.1.saturating_sub(1));
            }
        }
    }

    /// A run of removed lines and the added ones that follow: line by line they are held against each other.
    fn end_run(&mut self) {
        let (removed, added) = (std::mem::take(&mut self.removed), std::mem::take(&mut self.added));
        let Some(file) = self.files.last_mut() else { return };
        file.n_added += added.len();
        file.n_removed += removed.len();
        let mut lefts = Vec::new();
        let mut rights = Vec::new();
        for at in 0..removed.len().max(added.len()) {
            let pair = (removed.get(at), added.get(at));
            let (old_parts, new_parts) = match pair {
                (Some((_, old)), Some((_, new))) => words(old, new),
                (old, new) => {
                    let whole = |line: Option<&(u64, String)>| {
                        line.map(|(_, text)| Part { text: text.clone(), changed: false }).into_iter().collect()
                    };
                    (whole(old), whole(new))
                }
            };
            lefts.push(pair.0.map(|(n, _)| Side { is: "removed", n: *n, new: false, parts: old_parts }));
            rights.push(pair.1.map(|(n, _)| Side { is: "added", n: *n, new: true, parts: new_parts }));
        }
        // Unified: first all that went, then all that came. The two sides stand in the rows from the top.
        let unified = lefts.iter().flatten().chain(rights.iter().flatten()).cloned();
        let n_pairs = lefts.len();
        for (at, side) in unified.enumerate() {
            let (old, new) = if side.new { (None, Some(side.n)) } else { (Some(side.n), None) };
            let (left, right) = match at < n_pairs {
                true => (lefts[at].clone(), rights[at].clone()),
                false => (None, None),
            };
            file.rows.push(Row { is: side.is, text: String::new(), old, new, parts: side.parts, left, right });
        }
    }
}

/// The parts of two lines, with what differs marked. Lines that have little in common are not picked apart.
fn words(old: &str, new: &str) -> (Vec<Part>, Vec<Part>) {
    let whole = |text: &str| vec![Part { text: text.to_owned(), changed: false }];
    if old.len() > MAX_WORDS_CHARS || new.len() > MAX_WORDS_CHARS {
        return (whole(old), whole(new));
    }
    let diff = TextDiff::from_words(old, new);
    if diff.ratio() < 0.4 {
        return (whole(old), whole(new));
    }
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for change in diff.iter_all_changes() {
        let changed = change.tag() != ChangeTag::Equal;
        let text = change.value();
        if change.tag() != ChangeTag::Insert {
            push(&mut left, text, changed);
        }
        if change.tag() != ChangeTag::Delete {
            push(&mut right, text, changed);
        }
    }
    (left, right)
}

fn push(parts: &mut Vec<Part>, text: &str, changed: bool) {
    match parts.last_mut() {
        Some(last) if last.changed == changed => last.text.push_str(text),
        _ => parts.push(Part { text: text.to_owned(), changed }),
    }
}

fn folded(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    LOCK_FILES.contains(&name).then_some("a lock file, folded")
}

/// git puts quotes around names with unusual bytes.
fn unquoted(path: &str) -> String {
    path.trim_matches('"').to_owned()
}

/// As git wrote it.
pub(super) async fn raw(State(pages): Of, Extension(session): Extension<Session>, Path(task): Path<String>) -> Answer {
    let task = pages.front().find(&session.caller, &task).await?;
    let (_, diff) = pages.front().diff(&task).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], diff).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "diff --git a/src/a.rs b/src/a.rs\nindex 1..2 100644\n--- a/src/a.rs\n+++ b/src/a.rs\n\
        @@ -1,3 +1,4 @@ fn a()\n fn a() {\n-    let n = 1;\n+    let n = 2;\n+    let m = 3;\n }\n\
        diff --git a/Cargo.lock b/Cargo.lock\n--- a/Cargo.lock\n+++ b/Cargo.lock\n@@ -1 +1 @@\n--- a line that looks like a header\n++++ b/another\n";

    #[test]
    fn files_lines_and_words_are_found_and_lock_files_are_folded() {
        let diff = parsed(2, TEXT.as_bytes());
        let files: Vec<_> = diff.files.iter().map(|file| (file.path.as_str(), file.n_added, file.n_removed)).collect();
        assert_eq!(files, [("src/a.rs", 2, 1), ("Cargo.lock", 1, 1)]);
        assert_eq!((diff.n_added, diff.n_removed, diff.cut), (3, 2, false));
        assert!(diff.files[0].folded.is_none() && diff.files[1].folded.is_some());
        let rows: Vec<_> = diff.files[0].rows.iter().map(|row| (row.is, row.old, row.new)).collect();
        let expected = [
            ("hunk", None, None),
            ("", Some(1), Some(1)),
            ("removed", Some(2), None),
            ("added", None, Some(2)),
            ("added", None, Some(3)),
            ("", Some(3), Some(4)),
        ];
        assert_eq!(rows, expected);
        let changed: Vec<_> =
            diff.files[0].rows[3].parts.iter().filter(|part| part.changed).map(|part| part.text.as_str()).collect();
        assert_eq!(changed, ["2;"], "only the word that differs");
        let pair = &diff.files[0].rows[2];
        assert!(
            pair.left.as_ref().is_some_and(|side| side.n == 2) && pair.right.as_ref().is_some_and(|side| side.n == 2)
        );
        let second = &diff.files[0].rows[3];
        assert!(second.left.is_none() && second.right.as_ref().is_some_and(|side| side.n == 3), "{second:?}");
    }

    #[test]
    fn a_huge_diff_is_cut_and_garbage_is_no_panic() {
        let huge = format!("diff --git a/x b/x\n@@ -0,0 +1,9000 @@\n{}", "+x\n".repeat(9000));
        assert!(parsed(1, huge.as_bytes()).cut);
        for garbage in ["@@ -x +y @@\n+\n-\n", "+++ b/\n@@ -\n", "\u{fffd}\n\\ No newline\n", "@@ -1,1 +1,1 @@\né\n"] {
            parsed(1, garbage.as_bytes());
        }
    }
}
