//! Text from outside inside our Markdown: shown, but unable to act.
//!
//! A forge acts on what it renders: `@team` notifies, `Fixes #1` closes, an image calls home, HTML folds text away. Words
//! that an agent or a stranger wrote pass through here, and come out as words.

use crate::clean::{clean_untrusted, cut, redact_tokens, visible, visible_line};

/// A fenced block that its content cannot leave: the fence is longer than any run of backticks within.
pub(crate) fn fence(text: &str, info: &str) -> String {
    let fence = "`".repeat((longest_run(text) + 1).max(3));
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{info}\n{text}{newline}{fence}")
}

fn longest_run(text: &str) -> usize {
    let mut longest = 0;
    let mut run = 0;
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// One line as inline code: nothing in code notifies, links or closes.
pub(crate) fn code(text: &str) -> String {
    let line = visible_line(text);
    if line.is_empty() {
        return "(empty)".to_owned();
    }
    let delimiter = "`".repeat(longest_run(&line) + 1);
    let space = if line.starts_with('`') || line.ends_with('`') { " " } else { "" };
    format!("{delimiter}{space}{line}{space}{delimiter}")
}

/// A command in an item of a list: inline where it is one line, else in a fence of its own, since its line ends count.
pub(crate) fn command(text: &str) -> String {
    let text = visible(text);
    let text = text.trim();
    if !text.contains('\n') {
        return code(text);
    }
    let indented: Vec<String> = fence(text, "sh").lines().map(|line| format!("    {line}")).collect();
    format!("\n{}", indented.join("\n"))
}

/// Inline code of a length that a list or a table can bear.
pub(crate) fn brief(text: &str) -> String {
    code(&cut(&visible_line(text), 100))
}

/// The same for a cell of a table, where a bar would end the cell.
pub(crate) fn cell(text: &str) -> String {
    brief(text).replace('|', "\\|")
}

/// A login: with `@` only when the forge told it, since any other name may be a stranger's login.
pub(crate) fn requester(login: &str, from_forge: bool) -> String {
    let plain = login.strip_suffix("[bot]").unwrap_or(login);
    let is_login = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if from_forge && is_login { format!("@{login}") } else { code(login) }
}

/// Prose of an agent or a stranger: cleaned, at most `max_chars`, list items and inline code kept, all else inert.
///
/// Mentions, references to issues and addresses come out as inline code, where no forge acts on them; HTML, links, images
/// and tables come out as the characters that they are made of.
pub(crate) fn prose(text: &str, max_chars: usize) -> String {
    let text = cut(redact_tokens(&clean_untrusted(text)).trim(), max_chars);
    let mut out: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = inert_line(line.trim());
        if !(line.is_empty() && out.last().is_none_or(String::is_empty)) {
            out.push(line);
        }
    }
    out.join("\n")
}

/// A line of prose. Inline code is recognised within one line only, and every backtick that does not belong to such
/// code is escaped, so that the forge sees exactly the same code as we do.
fn inert_line(line: &str) -> String {
    let line = without_block_marks(line);
    let mut out = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let (len, word) = match c {
            '`' => code_span(rest),
            '@' | '#' => (word_len(&rest[1..]).map_or(0, |len| len + 1), None),
            _ if at_word_start(&out) => (address_len(rest), None),
            _ => (0, None),
        };
        if len > 0 {
            push_code(&mut out, word.unwrap_or(&rest[..len]));
            rest = &rest[len..];
        } else {
            push_inert(&mut out, c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// A line without what would make a heading, a quotation, a fence, a rule or a table of it. A list item stays one.
fn without_block_marks(mut line: &str) -> &str {
    loop {
        let inner = line.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '>' | '~'));
        let text = inner.trim_start_matches('#');
        let is_heading = text.len() < inner.len() && (text.is_empty() || text.starts_with(char::is_whitespace));
        let inner = if is_heading { text } else { inner };
        if inner == line {
            break;
        }
        line = inner;
    }
    if line.starts_with("```") && !line.trim_start_matches('`').contains('`') {
        line = line.trim_start_matches('`');
    }
    // Rules, underlines of headings, and the row that makes a table of the line before it: in a table a bar ends even
    // inline code, and what stood in it would come alive.
    let is_rule = line.chars().all(|c| c.is_whitespace() || matches!(c, '-' | '=' | ':' | '|' | '*' | '_'));
    if is_rule { "" } else { line }
}

/// The length and content of the inline code that starts here; 0 when it is not closed on this line.
fn code_span(text: &str) -> (usize, Option<&str>) {
    let n_ticks = text.bytes().take_while(|b| *b == b'`').count();
    let mut at = n_ticks;
    while let Some(found) = text[at..].find('`') {
        let start = at + found;
        let run = text[start..].bytes().take_while(|b| *b == b'`').count();
        if run == n_ticks {
            return (start + run, Some(&text[n_ticks..start]));
        }
        at = start + run;
    }
    (0, None)
}

/// How much of what follows `@` or `#` a forge could read as a name or a number.
fn word_len(text: &str) -> Option<usize> {
    let len = text.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/')).count();
    (len > 0).then_some(len)
}

fn at_word_start(out: &str) -> bool {
    !out.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// The length of an address that a forge would link, or of a reference such as `GH-12`; 0 when there is none here.
fn address_len(text: &str) -> usize {
    const SCHEMES: &[&str] = &["http:", "https:", "ftp:", "mailto:", "xmpp:", "www.", "gh-"];
    let head = |scheme: &str| text.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    if !SCHEMES.iter().any(|scheme| head(scheme)) {
        return 0;
    }
    let len = text
        .find(|c: char| c.is_whitespace() || matches!(c, '`' | '<' | '>' | '"' | ')' | ']' | '|'))
        .unwrap_or(text.len());
    text[..len].trim_end_matches(['.', ',', ';', ':', '!', '?', '\'']).len()
}

fn push_code(out: &mut String, content: &str) {
    let content = content.replace('`', "'");
    if content.trim().is_empty() {
        return;
    }
    // Two runs of backticks must not touch: they would be one longer run.
    if out.ends_with('`') {
        out.push(' ');
    }
    out.push('`');
    out.push_str(content.trim());
    out.push('`');
}

fn push_inert(out: &mut String, c: char) {
    match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '\\' | '`' | '[' | ']' | '|' | '~' | '$' | '#' => {
            out.push('\\');
            out.push(c);
        }
        '\t' => out.push(' '),
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a forge would act on: the text outside inline code, by the reading of CommonMark (escapes, runs of equal
    /// length across lines).
    fn live_text(markdown: &str) -> String {
        let mut live = String::new();
        let mut rest = markdown;
        while let Some(c) = rest.chars().next() {
            if let Some(escaped) = rest.strip_prefix('\\') {
                live.push('\\');
                live.extend(escaped.chars().take(1));
                rest = escaped.get(1..).unwrap_or("");
                continue;
            }
            if c == '`' {
                let n = rest.bytes().take_while(|b| *b == b'`').count();
                let (len, content) = code_span(rest);
                match content {
                    Some(_) => rest = &rest[len..],
                    None => {
                        live.push_str(&rest[..n]);
                        rest = &rest[n..];
                    }
                }
                continue;
            }
            live.push(c);
            rest = &rest[c.len_utf8()..];
        }
        live
    }

    #[test]
    fn a_fence_is_longer_than_any_run_within() {
        assert_eq!(fence("a", "text"), "```text\na\n```");
        assert_eq!(fence("a\n```\nb\n", ""), "````\na\n```\nb\n````");
        assert_eq!(fence("`````", ""), "``````\n`````\n``````");
        assert_eq!(fence("", ""), "```\n```");
    }

    #[test]
    fn names_closing_keywords_and_addresses_become_code() {
        for (text, inert) in [
            ("thanks @acme/team!", "thanks `@acme/team`!"),
            ("Fixes #1, closes acme/web#2 and GH-3", "Fixes `#1`, closes acme/web`#2` and `GH-3`"),
            ("fixes https://github.com/a/b/issues/1.", "fixes `https://github.com/a/b/issues/1`."),
            ("see [docs](https://evil.example/?q=1)", "see \\[docs\\](`https://evil.example/?q=1`)"),
            ("![x](http://evil.example/a.png)", "!\\[x\\](`http://evil.example/a.png`)"),
            ("<img src=x> & <!-- y -->", "&lt;img src=x&gt; &amp;"),
            ("mail me@evil.example or www.evil.example", "mail me`@evil`.example or `www.evil.example`"),
            ("use `a|b` and ``x`y``", "use `a|b` and `x'y`"),
            ("# > ## Heading", "Heading"),
            ("#12 is next", "`#12` is next"),
            ("> quote", "quote"),
            ("```rust\nlet x;\n```", "rust\nlet x;\n"),
            ("Title\n=====\ntext", "Title\n\ntext"),
            ("- item one\n- item `two`", "- item one\n- item `two`"),
            ("`a`@team", "`a` `@team`"),
            ("a | b\n--- | ---", "a \\| b\n"),
            ("head\n:-:\n`@team | x`", "head\n\n`@team | x`"),
            ("C# and a # b", "C\\# and a \\# b"),
        ] {
            assert_eq!(prose(text, 1500), inert, "{text:?}");
        }
    }

    #[test]
    fn no_trick_with_backticks_or_backslashes_lets_a_name_out() {
        for text in [
            "`@team",
            "``@team`",
            "\\`@team`",
            "`\\`@team`",
            "`a\n`@team`\nb`",
            "```\n@team\n```",
            "~~~\n@team",
            "`x` `@team ` @team",
            "\\\\`@team\\\\`",
            "@\u{200b}team #\u{2060}1",
            "@<!-- -->team fixes #<!-- -->1",
            "`|`\n-|-\n`a | @team` |",
            "````@team```` #7 `",
            "[a]: http://evil.example @team",
            "`` ` `` @team `` ` ``",
            "``` @team\n#1",
            "\x1b[0m@team",
            "@@team ##1",
            "`#1`#1`#1",
        ] {
            let live = live_text(&prose(text, 1500));
            for bad in ["@t", "#1", "#7", "http:", "<"] {
                assert!(!live.contains(bad), "{text:?} -> {:?} is live: {live:?}", prose(text, 1500));
            }
        }
    }

    #[test]
    fn prose_is_cut_and_holds_no_empty_runs() {
        assert_eq!(prose("a\n\n\n\nb\n", 100), "a\n\nb");
        assert!(prose(&"@a ".repeat(1000), 1500).len() < 4000);
    }

    #[test]
    fn a_cell_cannot_end_its_row() {
        assert_eq!(cell("a | b\nc"), "`a \\| b c`");
        assert_eq!(code("a `b`"), "`` a `b` ``");
        assert!(cell(&"x".repeat(500)).chars().count() <= 102);
        assert_eq!(cell(""), "(empty)");
    }

    #[test]
    fn only_a_login_from_the_forge_is_mentioned() {
        assert_eq!(requester("ada", true), "@ada");
        assert_eq!(requester("ada", false), "`ada`");
        assert_eq!(requester("evil @team", true), "`evil @team`");
    }
}
