//! Hosts in one canonical form, and lists of them.
//!
//! Filters were bypassed by names that the check and the connection read differently. So a host has one spelling, or none.

use tasks::{Code, Failure};

/// A list of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostList {
    exact: Vec<String>,
    /// Each with its leading dot.
    suffixes: Vec<String>,
}

impl HostList {
    /// Exact names, or `.suffix` for every name below it.
    ///
    /// # Errors
    /// E007 for an entry that is neither.
    pub(crate) fn new(entries: &[String]) -> Result<Self, Failure> {
        let (mut exact, mut suffixes) = (Vec::new(), Vec::new());
        for entry in entries {
            let (name, list) = match entry.strip_prefix('.') {
                Some(below) => (below, &mut suffixes),
                None => (entry.as_str(), &mut exact),
            };
            let canonical = canonical_host(name).map_err(|reason| {
                Failure::new(
                    Code::BadRepoConfig,
                    format!("Under [network] allow, {entry:?} is neither a host nor a .suffix: {reason}"),
                )
            })?;
            list.push(match entry.starts_with('.') {
                true => format!(".{canonical}"),
                false => canonical,
            });
        }
        Ok(Self { exact, suffixes })
    }

    /// Whether a canonical host is on the list. `.example.org` is every name below example.org, not itself.
    pub(crate) fn contains(&self, host: &str) -> bool {
        self.exact.iter().any(|name| name == host) || self.suffixes.iter().any(|suffix| host.ends_with(suffix))
    }
}

/// The one spelling of a host: lower case, letters, digits, hyphens and underscores between single dots, and nothing that
/// any resolver or HTTP client could take for an address.
pub(crate) fn canonical_host(host: &str) -> Result<String, &'static str> {
    if host.is_empty() || host.len() > 253 {
        return Err("a host has 1 to 253 characters");
    }
    if host.contains(['[', ']', ':']) {
        return Err("an address in place of a name, or a port too many");
    }
    if host.contains('@') {
        return Err("user names have no place here");
    }
    let labels: Vec<&str> = host.split('.').collect();
    if labels.iter().any(|label| label.is_empty()) {
        return Err("a dot at its begin or end, or two in a row");
    }
    let part_of_a_name = |label: &&str| {
        label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if !labels.iter().all(part_of_a_name) {
        return Err("a host has letters, digits, hyphens and dots only");
    }
    // An address may be written in decimal, octal or hexadecimal and with fewer than four parts; it always ends in a number.
    let last = labels.last().copied().unwrap_or_default().to_ascii_lowercase();
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if number(&last) || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Err("an address in place of a name");
    }
    if labels.len() < 2 {
        return Err("a name without a dot is a name of the local network");
    }
    Ok(host.to_ascii_lowercase())
}

/// Every way to write an address, or a name that two readers would read differently.
#[cfg(test)]
pub(super) const ODD: &[&str] = &[
    "127.0.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "0177.0.0.01",
    "127.1",
    "127.0.1",
    "0",
    "0.0.0.0",
    "169.254.169.254",
    "0xa9fea9fe",
    "::1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[fe80::1%25eth0]",
    "[64:ff9b::7f00:1]",
    "example.org.",
    ".example.org",
    "example..org",
    "example.org\0.evil.test",
    "example.org%00.evil.test",
    "user@example.org",
    "example.org@evil.test",
    "user:pass@example.org",
    "evil.test#.example.org",
    "evil.test/.example.org",
    "evil.test\\.example.org",
    "evil.test?.example.org",
    "evil.test .example.org",
    "example.org\t",
    "example.org\r\nx: y",
    "ex\u{430}mple.org",
    "example\u{3002}org",
    "\u{ff11}27.0.0.1",
    "-example.org",
    "example-.org",
    "localhost",
    "metadata",
    "*.example.org",
    "",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_spellings_have_no_canonical_form() {
        for host in ODD {
            assert!(canonical_host(host).is_err(), "{host:?}");
        }
        assert!(canonical_host(&format!("{}.org", "a".repeat(64))).is_err());
        assert!(canonical_host(&"a.".repeat(200)).is_err());
    }

    #[test]
    fn a_suffix_begins_with_a_dot_and_matches_whole_labels() {
        let list = HostList::new(&["crates.example".into(), ".cdn.example".into()]).unwrap();
        for host in ["crates.example", "a.cdn.example", "b.a.cdn.example"] {
            assert!(list.contains(host), "{host}");
        }
        for host in
            ["x.crates.example", "notcrates.example", "crates.example.evil.test", "cdn.example", "evilcdn.example"]
        {
            assert!(!list.contains(host), "{host}");
        }
    }

    #[test]
    fn an_entry_that_would_allow_everything_or_nothing_is_an_error() {
        for entry in ["", ".", "*", "*.example.org", "https://example.org", "example.org:443", "..org", "10.0.0.1"] {
            let failure = HostList::new(&[entry.to_owned()]).err().unwrap();
            assert_eq!(failure.code, Code::BadRepoConfig, "{entry:?}");
            assert!(failure.message.contains(&format!("{entry:?}")), "{failure}");
        }
    }
}
