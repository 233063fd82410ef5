//! What is said on a pull request that nobody does anything with.

use serde::Serialize;

use crate::{RenderError, render};

/// A pull request that nobody does anything with.
#[derive(Debug)]
pub struct StaleNote<'a> {
    /// Task id.
    pub task_id: &'a str,
    /// For how long, in words.
    pub idle: &'a str,
    /// When it will be closed, in words; `None`: never.
    pub closes_in: Option<&'a str>,
    /// It is being closed.
    pub closed: bool,
}

/// The hidden marker of such a comment, by which it is found again.
pub fn stale_marker(task_id: &str) -> String {
    format!("<!-- onramp:stale={task_id} -->")
}

/// Renders it; begins with [`stale_marker`].
///
/// # Errors
/// Only for a defect in the template.
pub fn stale(context: &StaleNote<'_>) -> Result<String, RenderError> {
    #[derive(Serialize)]
    struct View<'a> {
        marker: String,
        idle: &'a str,
        closes_in: Option<&'a str>,
        closed: bool,
    }
    let StaleNote { task_id, idle, closes_in, closed } = *context;
    render("stale.md.j2", View { marker: stale_marker(task_id), idle, closes_in, closed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_for_how_long_and_what_comes_of_it() {
        let text = |closes_in, closed| stale(&StaleNote { task_id: "t1", idle: "14 days", closes_in, closed }).unwrap();
        for said in [text(None, false), text(Some("7 days"), false), text(Some("7 days"), true)] {
            assert!(said.starts_with("<!-- onramp:stale=t1 -->\n") && said.contains("14 days"), "{said}");
            assert_eq!(said.lines().count(), 2, "{said}");
        }
        assert!(text(None, false).contains("said once"));
        assert!(text(Some("7 days"), false).contains("closed in 7 days unless"));
        assert!(text(Some("7 days"), true).contains("Closed, because"));
    }
}
