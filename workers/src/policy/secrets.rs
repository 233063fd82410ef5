//! The shapes of well-known secrets. A small set that is nearly never wrong: a false alarm holds a good change back.

use std::sync::LazyLock;

use regex::bytes::Regex;

/// Something that looks like a secret. Holds only what may be shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Secret {
    /// What it looks like: `a GitHub token`.
    pub(super) what: &'static str,
    /// Its first four characters.
    pub(super) start: String,
    /// Its length in characters.
    pub(super) length: usize,
}

/// (what, shape). The whole match is the secret.
const SHAPES: &[(&str, &str)] = &[
    ("a GitHub token", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),
    ("a GitHub token", r"\bgithub_pat_[A-Za-z0-9_]{40,255}\b"),
    ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,255}"),
    ("an Anthropic key", r"\bsk-ant-[A-Za-z0-9_-]{24,255}"),
    ("an OpenAI key", r"\bsk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{24,255}"),
    ("an OpenAI key", r"\bsk-[A-Za-z0-9]{40,64}\b"),
    ("an AWS access key", r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    ("a Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{20,255}"),
    ("a Slack webhook", r"https://hooks\.slack\.com/services/T[A-Z0-9]+/B[A-Z0-9]+/[A-Za-z0-9]{16,64}"),
    ("a Google API key", r"\bAIza[A-Za-z0-9_-]{35}\b"),
    ("an npm token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("a PyPI token", r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,255}"),
    ("a Stripe key", r"\b[rs]k_live_[A-Za-z0-9]{20,255}\b"),
    ("a Hugging Face token", r"\bhf_[A-Za-z0-9]{34,64}\b"),
    ("a signed token", r"\beyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{40,}"),
    ("a private key", r"-----BEGIN (?:[A-Z0-9]+ ){0,2}PRIVATE KEY(?: BLOCK)?-----"),
];

static COMPILED: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let compile = |(what, shape): &(&'static str, &str)| Some((*what, Regex::new(shape).ok()?));
    SHAPES.iter().filter_map(compile).collect()
});

/// The fewest different characters in a real secret: `ghp_xxxxxxxx…` in a document is none.
const MIN_DIFFERENT: usize = 10;

/// Everything in one line that looks like a secret.
pub(super) fn find(line: &[u8]) -> Vec<Secret> {
    let mut found: Vec<(std::ops::Range<usize>, Secret)> = Vec::new();
    for (what, regex) in COMPILED.iter() {
        for hit in regex.find_iter(line) {
            let overlaps = found.iter().any(|(range, _)| range.start < hit.end() && hit.start() < range.end);
            if !overlaps && is_real(hit.as_bytes()) {
                let text = String::from_utf8_lossy(hit.as_bytes());
                let secret = Secret { what, start: text.chars().take(4).collect(), length: text.chars().count() };
                found.push((hit.range(), secret));
            }
        }
    }
    found.into_iter().map(|(_, secret)| secret).collect()
}

fn is_real(secret: &[u8]) -> bool {
    let mut different = secret.to_vec();
    different.sort_unstable();
    different.dedup();
    // The documentation of AWS ends its example keys so.
    different.len() >= MIN_DIFFERENT && !secret.ends_with(b"EXAMPLE")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters and digits that no issuer ever gave out; put together here so that no scanner takes them for real.
    fn body(n: usize) -> String {
        "aB3dE6fG9hJ2kL5mN8pQ1rS4tU7vW0xY".chars().cycle().take(n).collect()
    }

    #[test]
    fn every_shape_compiles() {
        assert_eq!(COMPILED.len(), SHAPES.len());
    }

    #[test]
    fn well_known_tokens_are_found_and_only_their_start_is_kept() {
        let upper: String = body(60).to_uppercase().chars().filter(|c| c.is_ascii_uppercase()).take(16).collect();
        let samples = [
            (format!("ghp_{}", body(36)), "a GitHub token"),
            (format!("gho_{}", body(36)), "a GitHub token"),
            (format!("ghs_{}", body(36)), "a GitHub token"),
            (format!("github_pat_{}", body(60)), "a GitHub token"),
            (format!("glpat-{}", body(20)), "a GitLab token"),
            (format!("sk-ant-{}", body(40)), "an Anthropic key"),
            (format!("sk-proj-{}", body(40)), "an OpenAI key"),
            (format!("sk-{}", body(48)), "an OpenAI key"),
            (format!("AKIA{upper}"), "an AWS access key"),
            (format!("xoxb-{}", body(40)), "a Slack token"),
            (format!("xoxa-{}", body(40)), "a Slack token"),
            (format!("xoxp-{}", body(40)), "a Slack token"),
            (format!("AIza{}", body(35)), "a Google API key"),
            (format!("npm_{}", body(36)), "an npm token"),
            (format!("eyJ{}.eyJ{}.{}", body(20), body(40), body(43)), "a signed token"),
            (format!("-----BEGIN {}PRIVATE KEY-----", "RSA "), "a private key"),
            (format!("-----BEGIN {}PRIVATE KEY-----", ""), "a private key"),
            (format!("-----BEGIN {}PRIVATE KEY BLOCK-----", "PGP "), "a private key"),
        ];
        for (secret, what) in samples {
            let found = find(format!("key = \"{secret}\", x").as_bytes());
            let start = secret.chars().take(4).collect();
            assert_eq!(found, [Secret { what, start, length: secret.len() }], "{secret}");
        }
    }

    #[test]
    fn ordinary_text_is_no_secret() {
        for line in [
            "task-runner sk-learn risk-assessment-of-the-whole-thing-and-more-words",
            &format!("ghp_{}", "x".repeat(36)),
            "AKIAIOSFODNN7EXAMPLE",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "-----BEGIN PUBLIC KEY-----",
            "npm_config_registry npm_lifecycle_event",
            "commit 4852b80d685c186a2242f79e9fd41c87c255407e",
        ] {
            assert_eq!(find(line.as_bytes()), [], "{line}");
        }
    }
}
