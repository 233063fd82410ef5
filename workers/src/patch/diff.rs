//! The difference of two trees as text, as `git diff --binary --full-index` writes it and `git apply` takes it. For people
//! and for `onramp run > fix.patch`; inside Onramp no text patch is ever applied.

use git2::{DiffFormat, DiffLineType, DiffOptions, Repository, Tree};
use tasks::Failure;

/// The text, and how many lines it adds and removes.
pub(super) fn between(repo: &Repository, base: &Tree<'_>, result: &Tree<'_>) -> Result<(Vec<u8>, u64, u64), Failure> {
    print(repo, base, result).map_err(Failure::internal)
}

fn print(repo: &Repository, base: &Tree<'_>, result: &Tree<'_>) -> Result<(Vec<u8>, u64, u64), git2::Error> {
    let mut options = DiffOptions::new();
    options.show_binary(true).id_abbrev(40).context_lines(3);
    let diff = repo.diff_tree_to_tree(Some(base), Some(result), Some(&mut options))?;
    let (mut text, mut n_added, mut n_removed) = (Vec::new(), 0, 0);
    diff.print(DiffFormat::Patch, |_, _, line| {
        match line.origin_value() {
            DiffLineType::Addition => n_added += 1,
            DiffLineType::Deletion => n_removed += 1,
            DiffLineType::Context
            | DiffLineType::ContextEOFNL
            | DiffLineType::AddEOFNL
            | DiffLineType::DeleteEOFNL
            | DiffLineType::FileHeader
            | DiffLineType::HunkHeader
            | DiffLineType::Binary => {}
        }
        if matches!(line.origin(), '+' | '-' | ' ') {
            text.push(line.origin() as u8);
        }
        text.extend_from_slice(line.content());
        true
    })?;
    Ok((text, n_added, n_removed))
}
