//! A patch that somebody wrote as text: a unified diff as `git diff` makes it, put on its base without any work tree.

use std::collections::BTreeMap;

use git2::{Diff, Repository};
use tasks::{Code, CommitSha, Failure};

use super::{Patch, tree};
use crate::{
    checkout::{
        Mirror, commit_tree,
        tree::{Entry, flatten},
    },
    sandbox::FileKind,
};

const SECTION: &[u8] = b"diff --git ";

impl Patch {
    /// The patch that a unified diff is on its base. Everything before its first section, such as the head of a mail, is left
    /// out.
    ///
    /// # Errors
    /// E032 for text that is no diff or does not fit the base; E031 for what cannot be carried.
    pub async fn parse(text: Vec<u8>, mirror: &Mirror, base: &CommitSha) -> Result<Self, Failure> {
        let commit = base.clone();
        let entries = mirror.read(move |repo| {
            let tree = commit_tree(repo, &commit)?;
            let before = flatten(repo, &tree)?;
            let after = apply(repo, &tree, &before, &text, &commit)?;
            tree::between(repo, &before, &after)
        });
        Self::new(base.clone(), entries.await?)
    }

    /// What leads from one commit to another.
    ///
    /// # Errors
    /// E031 for what cannot be carried; when a commit is not in the mirror.
    pub async fn between(mirror: &Mirror, base: &CommitSha, head: &CommitSha) -> Result<Self, Failure> {
        let (from, to) = (base.clone(), head.clone());
        let entries = mirror.read(move |repo| {
            tree::between(repo, &flatten(repo, &commit_tree(repo, &from)?)?, &flatten(repo, &commit_tree(repo, &to)?)?)
        });
        Self::new(base.clone(), entries.await?)
    }
}

type Files = BTreeMap<Vec<u8>, Entry>;

fn apply(
    repo: &Repository,
    tree: &git2::Tree<'_>,
    before: &Files,
    text: &[u8],
    base: &CommitSha,
) -> Result<Files, Failure> {
    let bad = |what: &str| Failure::new(Code::BadPatch, format!("The patch cannot be put on {}: {what}", base.short()));
    let sections = sections(text);
    if sections.is_empty() {
        return Err(bad("it has no section that begins with `diff --git`"));
    }
    let (mut rest, mut empty, mut renamed) = (Vec::new(), Vec::new(), Vec::new());
    for section in sections {
        // The parser of libgit2 takes no section without content, and trips over a space in a name that only moves.
        match (contentless(section), moved(section)) {
            (Some(change), _) => empty.push(change.ok_or_else(|| bad("a name in it cannot be read"))?),
            (None, Some(names)) => renamed.push(names),
            (None, None) => rest.extend_from_slice(section),
        }
    }
    let has = |words: &str| rest.split(|byte| *byte == b'\n').any(|line| line.starts_with(words.as_bytes()));
    if has("Binary files ") {
        return Err(bad("it names a binary file without its content").next("Make it with `git diff --binary`."));
    }
    let mut after = match rest.is_empty() {
        true => before.clone(),
        false => {
            let diff = Diff::from_buffer(&rest).map_err(|error| bad(error.message()))?;
            let mut index = repo.apply_to_tree(tree, &diff, None).map_err(|error| bad(error.message()))?;
            let id = index.write_tree_to(repo).map_err(|error| bad(error.message()))?;
            flatten(repo, &repo.find_tree(id).map_err(Failure::internal)?)?
        }
    };
    for (from, to) in renamed {
        let entry = after.remove(from).ok_or_else(|| bad("it renames a file that is not there"))?;
        after.insert(to.to_vec(), entry);
    }
    for (path, kind) in empty {
        match kind {
            Some(kind) => {
                let blob = repo.blob(b"").map_err(Failure::internal)?;
                after.insert(path, Entry::File(kind, blob));
            }
            None => {
                after.remove(&path).ok_or_else(|| bad("it deletes a file that is not there"))?;
            }
        }
    }
    Ok(after)
}

/// The sections of a diff, one for each file.
fn sections(text: &[u8]) -> Vec<&[u8]> {
    let mut starts = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(SECTION) {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
}

/// A section that moves a file as it is: from where, to where. `None`: it is another section, or its names are quoted.
fn moved(section: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut lines = section.split(|byte| *byte == b'\n').skip(1);
    if lines.next()? != b"similarity index 100%" {
        return None;
    }
    let from = lines.next()?.strip_prefix(b"rename from ")?;
    let to = lines.next()?.strip_prefix(b"rename to ")?;
    let is_all = lines.all(<[u8]>::is_empty);
    (is_all && !from.starts_with(b"\"") && !to.starts_with(b"\"")).then_some((from, to))
}

/// A section that makes or deletes an empty file: its path, and the kind that it becomes. `Some(None)`: its name cannot be
/// read; `None`: it is another section.
fn contentless(section: &[u8]) -> Option<Option<(Vec<u8>, Option<FileKind>)>> {
    let lines: Vec<&[u8]> = section.split(|byte| *byte == b'\n').collect();
    let has = |words: &[u8]| lines.iter().any(|line| line.starts_with(words));
    if has(b"@@ ") || has(b"GIT binary patch") || has(b"Binary files ") || has(b"rename ") || has(b"copy ") {
        return None;
    }
    let kind = lines.iter().find_map(|line| match *line {
        b"new file mode 100644" => Some(Some(FileKind::Regular)),
        b"new file mode 100755" => Some(Some(FileKind::Executable)),
        line if line.starts_with(b"deleted file mode ") => Some(None),
        _ => None,
    })?;
    // `a/NAME b/NAME`, and both names are the same one.
    let names = lines[0].strip_prefix(SECTION)?;
    let half = names.len().checked_sub(1)? / 2;
    let (one, other) = (names.get(2..half), names.get(half + 3..));
    let is_plain = one.is_some() && one == other && names.starts_with(b"a/");
    Some(is_plain.then(|| (one.unwrap_or_default().to_vec(), kind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkout::fixture::{Scratch, try_git};

    #[tokio::test]
    async fn what_git_diff_writes_comes_back_as_the_same_tree() {
        let scratch = Scratch::with(&[
            ("edit.txt", "a\nb\nc\n"),
            ("gone.txt", "x\n"),
            ("empty-gone", ""),
            ("run.sh", "#!/bin/sh\n"),
            ("old name.txt", "1\n2\n3\n4\n5\n"),
        ]);
        let base: CommitSha = scratch.git(&["rev-parse", "HEAD"]).parse().unwrap();
        scratch.write("edit.txt", b"a\nB\nc\n");
        for gone in ["gone.txt", "empty-gone"] {
            std::fs::remove_file(scratch.path().join(gone)).unwrap();
        }
        scratch.write("new/empty.py", b"");
        scratch.write("data.bin", b"\0\x01\x02");
        scratch.make_executable("run.sh");
        std::fs::rename(scratch.path().join("old name.txt"), scratch.path().join("new name.txt")).unwrap();
        let head: CommitSha = scratch.commit("Second").parse().unwrap();
        let (_, diff, _) = try_git(&scratch.path(), &["diff", "--binary", "-M", base.as_str(), head.as_str()], b"");
        let (mirror, _) = scratch.checkout(None).await.unwrap();
        let patch = Patch::parse([b"Subject: x\n\n", diff.as_slice()].concat(), &mirror, &base).await.unwrap();
        assert_eq!(patch, Patch::between(&mirror, &base, &head).await.unwrap());
        let tree = patch.onto(&mirror).await.unwrap();
        assert_eq!(tree.tree(), &mirror.tree_of(&head).await.unwrap());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_in_words() {
        let scratch = Scratch::with(&[("a.txt", "1\n")]);
        let (mirror, base) = scratch.checkout(None).await.unwrap();
        for text in [
            "hello\n",
            "diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-2\n+3\n",
            "diff --git a/x b/x\ndeleted file mode 100644\nindex e69de29..0000000\n",
            "diff --git a/x b/x\nnew file mode 100644\nBinary files /dev/null and b/x differ\n",
        ] {
            let failure = Patch::parse(text.as_bytes().to_vec(), &mirror, &base.commit).await.unwrap_err();
            assert_eq!(failure.code, Code::BadPatch, "{text}: {failure}");
        }
        let evil = "diff --git a/../x b/../x\nnew file mode 100644\nindex 0000000..e69de29\n";
        assert!(Patch::parse(evil.as_bytes().to_vec(), &mirror, &base.commit).await.is_err());
    }
}
