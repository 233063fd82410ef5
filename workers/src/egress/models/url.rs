//! From the path that a program inside asked for to the URL outside.

use hyper::Uri;
use reqwest::Url;

/// Path and query after the provider's name, beginning with `/`, `?`, or empty.
pub(super) fn rest_of<'a>(uri: &'a Uri, name: &str) -> &'a str {
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    path.trim_start_matches('/').strip_prefix(name).unwrap_or_default()
}

/// The same without a `key` in the query, which is another way of Gemini's clients to send theirs, and that key.
pub(super) fn without_key(rest: &str) -> (String, Option<String>) {
    let Some((path, query)) = rest.split_once('?') else { return (rest.to_owned(), None) };
    let (mut kept, mut key) = (Vec::new(), None);
    for pair in query.split('&') {
        match pair.strip_prefix("key=") {
            Some(value) => key = Some(value.to_owned()),
            None => kept.push(pair),
        }
    }
    (if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }, key)
}

/// Where a request goes. `None` when dots in the path would lead it above the provider's base.
pub(in crate::egress) fn upstream_url(base: &str, rest: &str) -> Option<Url> {
    let base = base.trim_end_matches('/');
    let last = base.rsplit('/').next().unwrap_or_default();
    let first = rest.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
    let rest = match !first.is_empty() && first == last {
        true => rest.trim_start_matches('/').strip_prefix(first).unwrap_or_default(),
        false => rest,
    };
    let (bounds, url) = (Url::parse(base).ok()?, Url::parse(&format!("{base}{rest}")).ok()?);
    let inside = url
        .path()
        .strip_prefix(bounds.path().trim_end_matches('/'))
        .is_some_and(|p| p.is_empty() || p.starts_with('/'));
    (url.origin() == bounds.origin() && url.username() == bounds.username() && inside).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_added_to_the_base_and_cannot_leave_it() {
        let url = |base, rest| upstream_url(base, rest).map(|url| url.to_string());
        let to = |text: &str| Some(text.to_owned());
        assert_eq!(url("https://api.openai.com", "/v1/responses"), to("https://api.openai.com/v1/responses"));
        assert_eq!(
            url("https://api.openai.com/v1/", "/v1/responses?a=b"),
            to("https://api.openai.com/v1/responses?a=b")
        );
        assert_eq!(url("https://host/tenant/a", "/v1/models"), to("https://host/tenant/a/v1/models"));
        assert_eq!(url("https://host/v1", "/v1beta/models"), to("https://host/v1/v1beta/models"));
        for rest in ["/../b/models", "/%2e%2e/b", "/v1/../../b", "/..\\b", "/.%2E/ab"] {
            assert_eq!(url("https://host/tenant/a", rest), None, "{rest}");
        }
        for rest in [".evil.test/", "@evil.test/", ":81/x", "x"] {
            assert_eq!(url("https://host", rest), None, "{rest}");
        }
    }
}
