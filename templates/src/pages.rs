//! The pages: server-rendered HTML. Whatever a field holds is escaped, because much of it was written by strangers; an address
//! is only a link when it is one of the web.

use std::sync::LazyLock;

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

use crate::RenderError;

/// What the pages load, by name, with its media type.
pub const ASSETS: [(&str, &str, &str); 3] = [
    ("pages.css", "text/css; charset=utf-8", include_str!("../pages/pages.css")),
    ("pages.js", "text/javascript; charset=utf-8", include_str!("../pages/pages.js")),
    ("icon.svg", "image/svg+xml", include_str!("../pages/icon.svg")),
];

static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("only delimiters can be wrong, and those are the usual ones"));
    for (name, source) in [
        ("admin.html", include_str!("../pages/admin.html")),
        ("base.html", include_str!("../pages/base.html")),
        ("diff.html", include_str!("../pages/diff.html")),
        ("evidence.html", include_str!("../pages/evidence.html")),
        ("log.html", include_str!("../pages/log.html")),
        ("login.html", include_str!("../pages/login.html")),
        ("macros.html", include_str!("../pages/macros.html")),
        ("problem.html", include_str!("../pages/problem.html")),
        ("stats.html", include_str!("../pages/stats.html")),
        ("task.html", include_str!("../pages/task.html")),
        ("tasks.html", include_str!("../pages/tasks.html")),
        ("verify.html", include_str!("../pages/verify.html")),
    ] {
        env.add_template(name, source).expect("an embedded template that does not parse fails every test");
    }
    env.add_filter("link", link);
    env.add_filter("dollars", dollars);
    env.add_filter("when", when);
    env
});

/// A page by the name of its template.
///
/// # Errors
/// When the template asks for what the context does not have: a defect of ours.
pub fn page(name: &str, context: impl Serialize) -> Result<String, RenderError> {
    let rendered = PAGES.get_template(name).and_then(|template| template.render(Serde(context)));
    rendered.map_err(|source| RenderError { name: name.to_owned(), source })
}

/// An address of the web, or none: what stands in a field may be `javascript:`.
fn link(address: &str) -> String {
    let is_web = address.starts_with("https://") || address.starts_with("http://");
    if is_web { address.to_owned() } else { "#".to_owned() }
}

/// Millionths of a dollar, in dollars and cents, never less than it was.
fn dollars(microusd: u64) -> String {
    let cents = microusd.div_ceil(10_000);
    format!("${}.{:02}", cents / 100, cents % 100)
}

/// `2026-09-21T14:13:20.123Z` as `2026-09-21 14:13:20`.
fn when(at: &str) -> String {
    at.get(..19).unwrap_or(at).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance as WCAG 2.2 defines it.
    fn luminance(colour: &str) -> f64 {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    fn contrast(one: &str, other: &str) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn every_text_stands_out_from_its_ground_in_both_themes() {
        let css = ASSETS[0].2;
        let themes: Vec<&str> =
            css.split("  color-scheme:").skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
        assert_eq!(themes.len(), 3, "light, dark by the system, dark by choice");
        assert_eq!(themes[1], themes[2], "the two ways to darkness lead to the same");
        for theme in themes {
            let colour = |name: &str| {
                let value = theme.split(&format!("--{name}: ")).nth(1).unwrap_or_else(|| panic!("no {name}"));
                &value[..7]
            };
            let pairs = [
                ("text", "ground"),
                ("text", "raised"),
                ("soft", "ground"),
                ("soft", "raised"),
                ("link", "ground"),
                ("link", "raised"),
                ("button-text", "button"),
                ("good", "ground"),
                ("good", "good-ground"),
                ("bad", "bad-ground"),
                ("bad", "ground"),
                ("bad", "raised"),
                ("good", "raised"),
                ("busy", "busy-ground"),
                ("busy", "raised"),
                ("calm", "calm-ground"),
                ("text", "added"),
                ("text", "removed"),
                ("text", "added-word"),
                ("text", "removed-word"),
                ("soft", "busy-ground"),
                ("text", "busy-ground"),
            ];
            for (text, ground) in pairs {
                let found = contrast(colour(text), colour(ground));
                assert!(found >= 4.5, "{text} on {ground}: {found:.2} in {theme}");
            }
            assert!(contrast("#ffffff", colour("danger")) >= 4.5);
            assert!(contrast(colour("focus"), colour("ground")) >= 3.0);
        }
    }

    #[test]
    fn nothing_of_a_page_is_inline_and_no_field_is_trusted() {
        for (name, text) in [
            ("base", include_str!("../pages/base.html")),
            ("task", include_str!("../pages/task.html")),
            ("tasks", include_str!("../pages/tasks.html")),
            ("diff", include_str!("../pages/diff.html")),
            ("log", include_str!("../pages/log.html")),
            ("admin", include_str!("../pages/admin.html")),
            ("stats", include_str!("../pages/stats.html")),
            ("login", include_str!("../pages/login.html")),
        ] {
            for forbidden in [" style=", " onclick=", "<style", "|safe", "| safe", "javascript:"] {
                assert!(!text.contains(forbidden), "{name}: {forbidden}");
            }
        }
        assert_eq!(link("javascript:alert(1)"), "#");
        assert_eq!(link("https://github.com/acme/web/pull/1"), "https://github.com/acme/web/pull/1");
    }

    #[test]
    fn money_is_never_told_as_less_than_it_was() {
        assert_eq!([0, 1, 10_000, 1_234_567].map(dollars), ["$0.00", "$0.01", "$0.01", "$1.24"]);
    }
}
