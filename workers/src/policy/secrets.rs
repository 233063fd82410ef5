//! The shapes of well-known secrets. A set that is nearly never wrong: a false alarm holds a good change back.
//!
//! Shapes that an issuer gave its tokens (a prefix, a length, an alphabet) stand by themselves. Where only the words beside
//! a value say that it is a secret, the value has to look random too, and must not be one that stands for another.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

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

/// (what, shape, bits of entropy that a character of it has at least). The secret is the group called `s`, or the whole match.
const SHAPES: &[(&str, &str, f64)] = &[
    // Forges
    ("a GitHub token", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b", 0.0),
    ("a GitHub token", r"\bgithub_pat_[A-Za-z0-9_]{40,255}\b", 0.0),
    ("a GitLab token", r"\bgl(?:pat|dt|rt|rtr|cbt|ptt|ft|imt|agent|oas|soat|ffct)-[A-Za-z0-9_=-]{20,255}", 0.0),
    ("a Bitbucket token", r"\bATBB[A-Za-z0-9]{32}\b", 3.0),
    ("an Atlassian token", r"\bATATT3[A-Za-z0-9_=-]{60,255}", 0.0),
    // Models
    ("an Anthropic key", r"\bsk-ant-[A-Za-z0-9_-]{24,255}", 0.0),
    ("an OpenAI key", r"\bsk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{24,255}", 0.0),
    ("an OpenAI key", r"\bsk-[A-Za-z0-9]{40,64}\b", 0.0),
    ("an OpenRouter key", r"\bsk-or-v1-[0-9a-f]{64}\b", 0.0),
    ("a Groq key", r"\bgsk_[A-Za-z0-9]{52}\b", 0.0),
    ("an xAI key", r"\bxai-[A-Za-z0-9]{70,90}\b", 0.0),
    ("a Perplexity key", r"\bpplx-[A-Za-z0-9]{48}\b", 0.0),
    ("a Hugging Face token", r"\bhf_[A-Za-z0-9]{34,64}\b", 0.0),
    ("a Replicate token", r"\br8_[A-Za-z0-9]{37}\b", 0.0),
    // Clouds
    ("an AWS access key", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", 0.0),
    (
        "an AWS secret key",
        r#"(?i)aws[a-z0-9_.-]{0,24}(?:secret|key)[a-z0-9_.-]{0,16}["']?\s*[:=]\s*["']?(?-i:(?P<s>[A-Za-z0-9/+]{40}))(?:["'\s;,]|$)"#,
        4.2,
    ),
    ("a Google API key", r"\bAIza[A-Za-z0-9_-]{35}\b", 0.0),
    ("a Google OAuth secret", r"\bGOCSPX-[A-Za-z0-9_-]{28}\b", 0.0),
    ("a Google access token", r"\bya29\.[A-Za-z0-9_-]{40,255}", 0.0),
    ("an Azure storage key", r"(?i)AccountKey=(?P<s>[A-Za-z0-9+/]{86}==)", 4.0),
    ("an Azure client secret", r"(?:^|[^A-Za-z0-9_~.-])(?P<s>[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34})", 3.5),
    ("a DigitalOcean token", r"\bdo[opr]_v1_[a-f0-9]{64}\b", 0.0),
    ("a Heroku key", r"\bHRKU-[A-Za-z0-9_-]{36,64}\b", 0.0),
    ("a Fly.io token", r"\bfm[12][ar]?_[A-Za-z0-9+/=_-]{100,}", 0.0),
    ("a Netlify token", r"\bnf[pcoub]_[A-Za-z0-9]{36,40}\b", 3.0),
    ("a Cloudflare origin key", r"\bv1\.0-[a-f0-9]{24}-[a-f0-9]{146}\b", 0.0),
    ("an Alibaba access key", r"\bLTAI[A-Za-z0-9]{20}\b", 3.0),
    ("a Databricks token", r"\bdapi[a-f0-9]{32}(?:-\d)?\b", 3.0),
    ("a PlanetScale credential", r"\bpscale_(?:tkn|oauth|pw)_[A-Za-z0-9_=.-]{32,64}", 0.0),
    ("a Supabase token", r"\bsbp_[a-f0-9]{40}\b", 0.0),
    // Secrets of secrets
    ("a Vault token", r"\bhv[sbr]\.[A-Za-z0-9_-]{24,300}", 3.0),
    ("a Terraform Cloud token", r"\b[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,70}", 0.0),
    ("a Pulumi token", r"\bpul-[a-f0-9]{40}\b", 0.0),
    ("a Doppler token", r"\bdp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._-]{40,64}", 0.0),
    ("a 1Password token", r"\bops_eyJ[A-Za-z0-9+/=_-]{200,}", 0.0),
    ("an age key", r"\bAGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}\b", 0.0),
    // Registries
    ("an npm token", r"\bnpm_[A-Za-z0-9]{36}\b", 0.0),
    ("a registry password", r"(?i)_(?:authToken|auth|password)\s*=\s*(?P<s>[A-Za-z0-9+/=_-]{20,255})", 3.2),
    ("a PyPI token", r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,255}", 0.0),
    ("a RubyGems key", r"\brubygems_[a-f0-9]{48}\b", 0.0),
    ("a crates.io token", r"\bcio[A-Za-z0-9]{32}\b", 3.5),
    ("a NuGet key", r"\boy2[a-z0-9]{43}\b", 3.5),
    ("a Docker Hub token", r"\bdckr_(?:pat|oat)_[A-Za-z0-9_-]{27,40}", 0.0),
    ("an Artifactory token", r"\bAKCp[A-Za-z0-9]{69}\b", 0.0),
    // Talk and work
    ("a Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{20,255}", 0.0),
    ("a Slack token", r"\bxapp-\d-[A-Z0-9]+-\d+-[a-z0-9]{32,}", 0.0),
    (
        "a Slack webhook",
        r"https://hooks\.slack\.com/(?:services|workflows)/T?[A-Z0-9]+/[AB]?[A-Z0-9]+/[A-Za-z0-9/]{16,64}",
        0.0,
    ),
    ("a Discord webhook", r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/\d{17,20}/[A-Za-z0-9_-]{60,80}", 0.0),
    ("a Discord bot token", r"\b[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}\b", 4.0),
    ("a Telegram bot token", r"\b\d{8,10}:AA[A-Za-z0-9_-]{33}\b", 0.0),
    (
        "a Microsoft Teams webhook",
        r"https://[a-z0-9-]+\.webhook\.office\.com/webhookb2/[A-Za-z0-9@-]{60,90}/IncomingWebhook/[a-f0-9]{32}/[a-f0-9-]{36}",
        0.0,
    ),
    ("a Linear key", r"\blin_(?:api|oauth)_[A-Za-z0-9]{40,64}\b", 0.0),
    ("a Notion token", r"\bntn_[A-Za-z0-9]{40,50}\b", 0.0),
    ("a Figma token", r"\bfig[du]_[A-Za-z0-9_-]{40,64}", 0.0),
    ("a Postman key", r"\bPMAK-[a-f0-9]{24}-[a-f0-9]{34}\b", 0.0),
    ("an Airtable token", r"\bpat[A-Za-z0-9]{14}\.[a-f0-9]{64}\b", 0.0),
    // Mail, money, shops
    ("a SendGrid key", r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}\b", 0.0),
    ("a Mailgun key", r"\bkey-[a-f0-9]{32}\b", 3.0),
    ("a Mailchimp key", r"\b[a-f0-9]{32}-us\d{1,2}\b", 3.0),
    ("a Twilio key", r"\bSK[a-f0-9]{32}\b", 3.0),
    ("a Stripe key", r"\b[rs]k_live_[A-Za-z0-9]{20,255}\b", 0.0),
    ("a Stripe webhook secret", r"\bwhsec_[A-Za-z0-9+/=]{32,64}", 3.5),
    ("a Square token", r"\bsq0(?:atp|csp|idp)-[A-Za-z0-9_-]{22,43}", 3.0),
    ("a Shopify token", r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\b", 3.0),
    // Watching
    ("a Grafana token", r"\bgl(?:sa_[A-Za-z0-9]{32}_[a-f0-9]{8}\b|c_eyJ[A-Za-z0-9+/=]{40,})", 0.0),
    ("a Sentry token", r"\bsntry[us]_[A-Za-z0-9+/=_]{60,255}", 0.0),
    ("a New Relic key", r"\bNRAK-[A-Z0-9]{27}\b", 3.0),
    ("a Dynatrace token", r"\bdt0c01\.[A-Z0-9]{24}\.[A-Z0-9]{64}\b", 0.0),
    ("a PostHog key", r"\bph[xs]_[A-Za-z0-9]{40,64}\b", 3.0),
    ("a PagerDuty key", r#"(?i)pagerduty[a-z0-9_ .-]{0,24}[=:]\s*["']?(?-i:(?P<s>[A-Za-z0-9+_-]{20}))\b"#, 3.6),
    // Anybody's
    ("a signed token", r"\beyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{40,}", 0.0),
    ("a private key", r"-----BEGIN (?:[A-Z0-9]+ ){0,2}PRIVATE KEY(?: BLOCK)?-----", 0.0),
    ("a private key", r"PuTTY-User-Key-File-[23]: [a-z0-9-]+", 0.0),
    (
        "a password in an address",
        r#"\b[a-z][a-z0-9+.-]{1,20}://[^/\s:@'"`<>{}]{1,64}:(?P<s>[^/\s:@'"`<>{}$]{10,128})@[A-Za-z0-9]"#,
        3.3,
    ),
    (
        "a password",
        r#"(?i)\b[a-z0-9_.-]{0,24}(?:api[_-]?key|secret|token|passw(?:or)?d|passphrase|credential|access[_-]?key|auth[_-]?key|private[_-]?key)[a-z0-9_.-]{0,16}["']?\s*(?::=|=>|[:=])\s*["'`](?-i:(?P<s>[A-Za-z0-9+/_=.~!@#%^&*-]{20,200}))["'`]"#,
        4.0,
    ),
    (
        "a password",
        r"(?m)^\s*(?:export )?[A-Z0-9_]{0,32}(?:API_KEY|SECRET|TOKEN|PASSWORD|PASSWD|ACCESS_KEY|PRIVATE_KEY)[A-Z0-9_]{0,16}=(?P<s>[A-Za-z0-9+/_=.~!@#%^&*-]{20,200})\s*$",
        4.0,
    ),
];

struct Compiled {
    any: RegexSet,
    each: Vec<(&'static str, Regex, f64)>,
}

static COMPILED: LazyLock<Compiled> = LazyLock::new(|| {
    let each = SHAPES.iter().map(|(what, shape, entropy)| {
        let regex = RegexBuilder::new(shape).unicode(false).build();
        (*what, regex.expect("a shape that does not compile fails every test"), *entropy)
    });
    let all = SHAPES.iter().map(|(_, shape, _)| shape);
    Compiled {
        any: RegexSetBuilder::new(all).unicode(false).size_limit(64 << 20).build().expect("each of them compiles"),
        each: each.collect(),
    }
});

/// The fewest different characters in a real secret: `ghp_xxxxxxxx…` in a document is none.
const MIN_DIFFERENT: usize = 10;
/// A longer line is searched in pieces of so many bytes: what a minifier writes is one line.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces overlap by more than a secret is long.
const OVERLAP_BYTES: usize = 1 << 10;

/// Everything in one line that looks like a secret.
pub(super) fn find(line: &[u8]) -> Vec<Secret> {
    let mut found: Vec<(std::ops::Range<usize>, Secret)> = Vec::new();
    let mut from = 0;
    loop {
        let to = line.len().min(from + PIECE_BYTES);
        find_in(&line[from..to], from, &mut found);
        if to == line.len() {
            break;
        }
        from = to - OVERLAP_BYTES;
    }
    found.into_iter().map(|(_, secret)| secret).collect()
}

fn find_in(piece: &[u8], from: usize, found: &mut Vec<(std::ops::Range<usize>, Secret)>) {
    for at in COMPILED.any.matches(piece) {
        let (what, regex, entropy) = &COMPILED.each[at];
        for captures in regex.captures_iter(piece) {
            let Some(hit) = captures.name("s").or_else(|| captures.get(0)) else { continue };
            let range = from + hit.start()..from + hit.end();
            let overlaps = found.iter().any(|(known, _)| known.start < range.end && range.start < known.end);
            if !overlaps && is_real(hit.as_bytes(), *entropy) {
                let text = String::from_utf8_lossy(hit.as_bytes());
                let secret = Secret { what, start: text.chars().take(4).collect(), length: text.chars().count() };
                found.push((range, secret));
            }
        }
    }
}

fn is_real(secret: &[u8], entropy: f64) -> bool {
    let mut different = secret.to_vec();
    different.sort_unstable();
    different.dedup();
    // The documentation of AWS ends its example keys so.
    if different.len() < MIN_DIFFERENT || secret.ends_with(b"EXAMPLE") || secret.ends_with(b"EXAMPLEKEY") {
        return false;
    }
    // Where only the words beside it tell.
    entropy == 0.0 || (bits_per_character(secret) >= entropy && is_mixed(secret) && !stands_for_another(secret))
}

/// The entropy of its characters.
fn bits_per_character(text: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    text.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let n = text.len() as f64;
    counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / n).map(|p| -p * p.log2()).sum()
}

/// Letters and digits: words are not made of both.
fn is_mixed(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_digit) && text.iter().any(u8::is_ascii_alphabetic)
}

/// A name of something, or what documents write in a secret's place.
fn stands_for_another(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).to_lowercase();
    let words =
        ["example", "placeholder", "changeme", "change-me", "change_me", "your-", "your_", "dummy", "redacted", "xxxx"];
    let is_path =
        text.contains("../") || text.starts_with("./") || text.matches(['.', '/', '-', '_']).count() * 5 > text.len();
    words.iter().any(|word| text.contains(word)) || is_path
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters and digits that no issuer ever gave out; put together here so that no scanner takes them for real.
    fn body(n: usize) -> String {
        "aB3dE6fG9hJ2kL5mN8pQ1rS4tU7vW0xY".chars().cycle().take(n).collect()
    }

    fn hex(n: usize) -> String {
        "0f1e2d3c4b5a69788796a5b4c3d2e1f0".chars().cycle().take(n).collect()
    }

    #[test]
    fn a_value_beside_telling_words_is_a_secret_when_it_looks_random() {
        let value = format!("{}+/q7", body(36));
        for (line, what) in [
            (format!("password = \"{value}\""), "a password"),
            (format!("  \"clientSecret\": \"{value}\","), "a password"),
            (format!("API_TOKEN={value}"), "a password"),
            (format!("db = postgres://app:{}@db.internal/app", body(16)), "a password in an address"),
            (format!("aws_secret_access_key = {value}"), "an AWS secret key"),
            (format!("//registry.example/:_authToken={}", body(24)), "a registry password"),
            (format!("AccountKey={}==", body(86)), "an Azure storage key"),
        ] {
            let found = find(line.as_bytes());
            assert_eq!(found.iter().map(|secret| secret.what).collect::<Vec<_>>(), [what], "{line}");
        }
        for line in [
            "password = \"correct horse battery staple\"",
            "token: \"your-token-goes-here-0123456789\"",
            "secret_name = \"projects/acme/secrets/db-password-2\"",
            "API_TOKEN=${CI_API_TOKEN_FROM_THE_VAULT_2}",
            "const TOKEN: &str = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaa1\"",
            "postgres://postgres:postgres@localhost:5432/test",
            "postgres://user:password@host/db",
            "https://user:${PASSWORD}@host/",
            "let token = self.next_token(TokenKind::Identifier2, \"x\");",
            "integrity sha512-AbC0dEf1gHi2jKl3mNo4pQr5sTu6vWx7yZ8AbC0dEf1gHi2jKl3mNo4pQr5sTu6vWx7yZ8AbC0dEf1==",
        ] {
            assert_eq!(find(line.as_bytes()), [], "{line}");
        }
    }

    #[test]
    fn a_secret_in_a_very_long_line_is_found_once_wherever_it_stands() {
        let secret = format!("ghp_{}", body(36));
        for at in [0, PIECE_BYTES - OVERLAP_BYTES - 20, PIECE_BYTES - 20] {
            let line = format!("{} {secret} {}", "x".repeat(at), "y".repeat(PIECE_BYTES));
            assert_eq!(find(line.as_bytes()).len(), 1, "{at}");
        }
    }

    #[test]
    fn every_shape_compiles() {
        assert_eq!(COMPILED.each.len(), SHAPES.len());
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
            (format!("hf_{}", body(34)), "a Hugging Face token"),
            (format!("SG.{}.{}", body(22), body(43)), "a SendGrid key"),
            (format!("dop_v1_{}", hex(64)), "a DigitalOcean token"),
            (format!("dckr_pat_{}", body(27)), "a Docker Hub token"),
            (format!("rubygems_{}", hex(48)), "a RubyGems key"),
            (format!("shpat_{}", hex(32)), "a Shopify token"),
            (format!("hvs.{}", body(90)), "a Vault token"),
            (format!("123456789:AA{}", body(33)), "a Telegram bot token"),
            (format!("lin_api_{}", body(40)), "a Linear key"),
            (format!("glsa_{}_{}", body(32), hex(8)), "a Grafana token"),
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
