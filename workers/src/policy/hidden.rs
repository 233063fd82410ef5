//! Characters that show a reader something else than a program reads: text that runs backwards, letters without width.

use tasks::Finding;

use super::{Policy, Rule};

/// Lines that are named.
const MAX_LINES: usize = 5;

/// Hidden characters in the name of a file.
pub(super) fn in_name(path: &str, policy: &Policy) -> Option<Finding> {
    let found = first(path, true).or_else(|| path.chars().find(|c| c.is_control()))?;
    let shown: String = path.chars().flat_map(char::escape_default).collect();
    let what = format!("The name `{shown}` holds {}, which nobody sees.", name(found));
    Some(policy.finding(Rule::HiddenCharacters, Some(path), what, "Give the file a name that reads as it is written."))
}

/// Hidden characters in lines of a file.
pub(super) fn in_lines<'a>(
    path: &str,
    lines: impl Iterator<Item = (usize, &'a [u8])>,
    policy: &Policy,
) -> Option<Finding> {
    let hits = lines.filter_map(|(at, line)| {
        let text = std::str::from_utf8(line).ok().filter(|text| !text.is_ascii())?;
        // A mark at the start of a file says how it is encoded.
        let text = if at == 0 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        Some((at + 1, first(text, false)?))
    });
    let hits: Vec<_> = hits.collect();
    let (_, sample) = hits.first()?;
    let mut places: Vec<String> = hits.iter().take(MAX_LINES).map(|(line, _)| line.to_string()).collect();
    if hits.len() > MAX_LINES {
        places.push(format!("{} more", hits.len() - MAX_LINES));
    }
    let what = format!(
        "`{path}` holds {} in line {}: what a reader sees is not what a compiler reads.",
        name(*sample),
        places.join(", ")
    );
    let mend = "Write such characters as escapes, or take them out.";
    Some(policy.finding(Rule::HiddenCharacters, Some(path), what, mend))
}

fn name(c: char) -> String {
    let word = match c {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => "a mark that turns the direction of the text",
        '\u{e0000}'..='\u{e007f}' => "an invisible tag",
        _ if c.is_control() => "a control character",
        _ => "a character without width",
    };
    format!("U+{:04X}, {word}", c as u32)
}

/// The first hidden character. `strict`: those that some scripts and emoji need are hidden too.
fn first(text: &str, strict: bool) -> Option<char> {
    let mut before = None;
    let mut in_flag = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let ascii = |c: Option<char>| c.is_none_or(|c| c.is_ascii());
        let hidden = match c {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
            '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{180e}' | '\u{115f}' | '\u{1160}' | '\u{3164}' => {
                true
            }
            // Between letters of scripts and parts of emoji they have a meaning; beside ASCII they have none.
            '\u{200c}' | '\u{200d}' => strict || ascii(before) || ascii(chars.peek().copied()),
            '\u{200e}' | '\u{200f}' | '\u{00ad}' => strict,
            // Flags of regions are a black flag and tags.
            '\u{e0000}'..='\u{e007f}' => strict || !in_flag,
            _ => false,
        };
        if hidden {
            return Some(c);
        }
        in_flag = c == '\u{1f3f4}' || (in_flag && ('\u{e0000}'..='\u{e007f}').contains(&c));
        before = Some(c);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_or_vanishes_is_found_and_what_scripts_and_emoji_need_is_not() {
        for text in ["if a\u{202e} b", "x\u{2066}y", "pass\u{200b}word", "a\u{200d}b", "x\u{e0041}", "\u{3164} = 1"] {
            assert!(first(text, false).is_some(), "{text:?}");
        }
        for text in [
            "naïve café 修复 Ωλ",
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
            "می\u{200c}خواهم",
            "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f} flag",
            "plain",
        ] {
            assert!(first(text, false).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_mark_at_the_start_of_a_file_is_no_hidden_character_and_lines_are_counted() {
        let text = "\u{feff}a\nb\u{202e}\nc\n".as_bytes();
        let lines = text.split(|byte| *byte == b'\n').enumerate();
        let found = in_lines("a.rs", lines, &Policy::default()).unwrap();
        insta::assert_snapshot!(found.message, @"`a.rs` holds U+202E, a mark that turns the direction of the text in line 2: what a reader sees is not what a compiler reads.");
    }
}
