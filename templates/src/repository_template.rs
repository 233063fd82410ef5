//! The repository's own template for pull requests, with our words in it.
//!
//! Its authors wrote it for people: what it asks of them stays to be read, and boxes stay to be ticked by somebody who can
//! answer for it. What would act on every pull request anew does not: nobody is notified, nothing is closed, no picture is
//! fetched.

use crate::{clean, markdown};

/// What of a template is taken, in bytes. What a forge takes leaves room for it beside our own words.
const MAX_BYTES: usize = 5_000;
/// Where a template wants our words.
const PLACE: &str = "<!-- onramp -->";
/// Tags that only shape text.
const TAGS: [&str; 10] = ["details", "summary", "br", "hr", "sub", "sup", "kbd", "b", "i", "em"];

/// Our words in the repository's template: at `<!-- onramp -->`, else under the heading `section`, else in front of it.
pub fn into_repository_template(ours: &str, template: &str, section: Option<&str>) -> String {
    let ours = ours.trim_end();
    let template = clean::cut_bytes(template, MAX_BYTES);
    if let Some((before, after)) = template.split_once(PLACE) {
        return joined(&[&inert(before), ours, &inert(after)]);
    }
    if let Some(section) = section {
        let lines: Vec<&str> = template.lines().collect();
        if let Some(at) = lines.iter().position(|line| is_heading(line, section)) {
            return joined(&[&inert(&lines[..=at].join("\n")), ours, &inert(&lines[at + 1..].join("\n"))]);
        }
    }
    joined(&[ours, &inert(template)])
}

/// The parts that say anything, with an empty line between them.
fn joined(parts: &[&str]) -> String {
    let parts: Vec<_> = parts.iter().map(|part| part.trim_matches('\n').trim_end()).filter(|p| !p.is_empty()).collect();
    parts.join("\n\n") + "\n"
}

fn is_heading(line: &str, wanted: &str) -> bool {
    let text = line.trim_start_matches('#');
    text.len() < line.len() && text.trim().trim_end_matches([':', '?']).eq_ignore_ascii_case(wanted.trim())
}

/// The template's text without what acts.
fn inert(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in clean::clean_untrusted(text).lines() {
        let line = inert_line(line.trim_end());
        if !(line.is_empty() && lines.last().is_none_or(String::is_empty)) {
            lines.push(line);
        }
    }
    lines.join("\n")
}

fn inert_line(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '@' | '#' if starts_name(c, after) => {
                let len = after.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"-_/".contains(b)).count();
                // Inside of inline code it is inert already.
                match out.matches('`').count() % 2 {
                    0 => out.push_str(&markdown::code(&rest[..=len])),
                    _ => out.push_str(&rest[..=len]),
                }
                rest = &after[len..];
                continue;
            }
            // A picture becomes a link to it.
            '!' if after.starts_with('[') => {}
            '<' if !is_harmless_tag(after) => out.push_str("&lt;"),
            c => out.push(c),
        }
        rest = after;
    }
    out
}

fn starts_name(c: char, after: &str) -> bool {
    after.bytes().next().is_some_and(|b| if c == '#' { b.is_ascii_digit() } else { b.is_ascii_alphanumeric() })
}

fn is_harmless_tag(after: &str) -> bool {
    let name = after.strip_prefix('/').unwrap_or(after);
    let Some((name, _)) = name.split_once('>') else { return false };
    TAGS.contains(&name.trim_end_matches(['/', ' ']).to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "Fixes #12\n\nOurs.\n";

    #[test]
    fn our_words_stand_in_front_under_a_heading_or_at_the_mark() {
        let template = "<!-- Say what you did. -->\n## What\n\n## Checklist\n- [ ] I tested it\n";
        let in_front = into_repository_template(OURS, template, None);
        assert_eq!(in_front, "Fixes #12\n\nOurs.\n\n## What\n\n## Checklist\n- [ ] I tested it\n");
        let under = into_repository_template(OURS, template, Some("what"));
        assert_eq!(under, "## What\n\nFixes #12\n\nOurs.\n\n## Checklist\n- [ ] I tested it\n");
        assert_eq!(into_repository_template(OURS, template, Some("Why")), in_front, "there is no such heading");
        let marked = into_repository_template(OURS, "A\n<!-- onramp -->\nB", Some("what"));
        assert_eq!(marked, "A\n\nFixes #12\n\nOurs.\n\nB\n");
    }

    #[test]
    fn nothing_in_a_template_acts() {
        let evil = "cc @acme/team and mail a@b.example\nCloses #99\n![x](https://evil.example/p.png)\n<img src=x><script>\n\
                    <details><summary>More</summary>\n`@kept`\n</details>\u{202e}";
        let text = into_repository_template("Ours.", evil, None);
        assert_eq!(
            text,
            "Ours.\n\ncc `@acme/team` and mail a`@b`.example\nCloses `#99`\n[x](https://evil.example/p.png)\n&lt;img \
             src=x>&lt;script>\n<details><summary>More</summary>\n`@kept`\n</details>\n"
        );
    }

    #[test]
    fn a_template_of_any_length_fits() {
        let text = into_repository_template(OURS, &"ü- [ ] box\n".repeat(5_000), None);
        assert!(text.len() < MAX_BYTES + OURS.len() + 10, "{}", text.len());
        assert_eq!(into_repository_template(OURS, "<!-- only a comment -->", None), "Fixes #12\n\nOurs.\n");
    }
}
