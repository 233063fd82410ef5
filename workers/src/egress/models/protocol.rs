//! The protocols that models are spoken to in: where a key goes, which paths there are, how a refusal looks, and where in
//! a request the model and the conversation stand.
//!
//! Only the paths that ask a model something are open. A provider offers more under the same key: files, batches,
//! fine-tuning, an organisation's settings. Those could carry data away or spend money past every count.

use hyper::{
    Method, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tasks::{Code, Failure};

/// The way in which a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaks {
    /// Anthropic's Messages.
    Anthropic,
    /// OpenAI's chat completions and Responses, which most others speak too.
    Openai,
    /// Gemini's `generateContent`.
    Gemini,
}

/// A path that may be asked for: method, and a path in which `*` stands for one part or the rest of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    method: Method,
    pattern: String,
}

/// What an answer has to be counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    Messages,
    Chat,
    Responses,
    Gemini,
    /// It asks no model: a list of models, a count of tokens.
    Free,
}

impl Speaks {
    /// How a provider of this name speaks when its configuration does not say.
    pub fn of_name(name: &str) -> Self {
        match name {
            "anthropic" => Self::Anthropic,
            "gemini" => Self::Gemini,
            _ => Self::Openai,
        }
    }

    /// What may be asked for when the configuration names nothing else.
    pub(super) fn paths(self) -> Vec<Path> {
        let paths: &[(Method, &str)] = match self {
            Self::Anthropic => &[
                (Method::POST, "/v1/messages"),
                (Method::POST, "/v1/messages/count_tokens"),
                (Method::GET, "/v1/models"),
                (Method::GET, "/v1/models/*"),
            ],
            Self::Openai => &[
                (Method::POST, "/v1/chat/completions"),
                (Method::POST, "/v1/responses"),
                (Method::POST, "/v1/responses/compact"),
                (Method::POST, "/v1/completions"),
                (Method::POST, "/v1/embeddings"),
                (Method::GET, "/v1/models"),
                (Method::GET, "/v1/models/*"),
            ],
            Self::Gemini => &[
                (Method::POST, "/*/models/*:generateContent"),
                (Method::POST, "/*/models/*:streamGenerateContent"),
                (Method::POST, "/*/models/*:countTokens"),
                (Method::GET, "/*/models"),
                (Method::GET, "/*/models/*"),
            ],
        };
        let path = |(method, pattern): &(Method, &str)| Path { method: method.clone(), pattern: (*pattern).to_owned() };
        paths.iter().map(path).collect()
    }

    /// The key in the form that providers of this kind want.
    pub(super) fn credential(self, key: &SecretString) -> Option<(HeaderName, HeaderValue)> {
        let key = key.expose_secret();
        let (header, value) = match self {
            Self::Anthropic => (HeaderName::from_static("x-api-key"), key.to_owned()),
            Self::Gemini => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
            Self::Openai => (header::AUTHORIZATION, format!("Bearer {key}")),
        };
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((header, value))
    }

    /// How an answer to `path` (without the query) is counted.
    pub(super) fn counting(self, method: &Method, path: &str) -> Counting {
        if method != Method::POST {
            return Counting::Free;
        }
        match self {
            Self::Anthropic if path.ends_with("/messages") => Counting::Messages,
            Self::Gemini if path.ends_with("enerateContent") => Counting::Gemini,
            Self::Openai if path.contains("/responses") => Counting::Responses,
            Self::Openai => Counting::Chat,
            Self::Anthropic | Self::Gemini => Counting::Free,
        }
    }

    /// A refusal as the provider itself would write it, so that agents show the sentence.
    pub(super) fn error(self, status: StatusCode, message: &str) -> serde_json::Value {
        let (kind, state) = match status {
            StatusCode::UNAUTHORIZED => ("authentication_error", "UNAUTHENTICATED"),
            StatusCode::FORBIDDEN => ("permission_error", "PERMISSION_DENIED"),
            StatusCode::NOT_FOUND => ("not_found_error", "NOT_FOUND"),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => ("invalid_request_error", "INVALID_ARGUMENT"),
            StatusCode::NOT_IMPLEMENTED => ("api_error", "UNIMPLEMENTED"),
            _ => ("api_error", "UNAVAILABLE"),
        };
        match self {
            Self::Anthropic => json!({"type": "error", "error": {"type": kind, "message": message}}),
            Self::Gemini => json!({"error": {"code": status.as_u16(), "message": message, "status": state}}),
            Self::Openai => json!({"error": {"message": message, "type": kind, "param": null, "code": null}}),
        }
    }
}

impl Path {
    /// Reads `POST /v1/messages`.
    ///
    /// # Errors
    /// E006.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let parsed = text.split_once(' ').and_then(|(method, pattern)| {
            let method: Method = method.parse().ok()?;
            let known = [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::DELETE, Method::PATCH];
            (known.contains(&method) && pattern.starts_with('/') && !pattern.contains([' ', '?', '#']))
                .then(|| Self { method, pattern: pattern.to_owned() })
        });
        parsed.ok_or_else(|| {
            Failure::new(
                Code::BadConfig,
                format!("{text:?} is not a path of a model; write it like \"POST /v1/messages\""),
            )
        })
    }

    pub(super) fn fits(&self, method: &Method, path: &str) -> bool {
        // What answers to GET answers to HEAD.
        let same = *method == self.method || (*method == Method::HEAD && self.method == Method::GET);
        let (mut parts, mut patterns) = (path.split('/'), self.pattern.split('/'));
        same && loop {
            match (parts.next(), patterns.next()) {
                (None, None) => break true,
                (Some(part), Some(pattern)) if part_fits(part, pattern) => {}
                _ => break false,
            }
        }
    }
}

fn part_fits(part: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => part == pattern,
        Some((start, end)) => {
            let middle = part.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
            middle.is_some_and(|middle| !middle.is_empty() && !middle.contains(':'))
        }
    }
}

/// What the gateway reads of a request. It borrows from the body, so that a change touches nothing else of it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Request<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(borrow, default)]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    contents: Option<&'a RawValue>,
}

impl<'a> Request<'a> {
    /// Reads a body. One that is no JSON object is answered by the provider, not here.
    pub(super) fn read(body: &'a [u8]) -> Self {
        std::str::from_utf8(body).ok().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The model that is asked, from the body or (Gemini) the path.
    pub(super) fn model(&self, path: &str) -> String {
        let in_body = self.model.and_then(|model| serde_json::from_str(model.get()).ok());
        in_body.or_else(|| model_in_path(path).map(str::to_owned)).unwrap_or_default()
    }

    /// The body with another model.
    pub(super) fn with_model(&self, body: &[u8], model: &str) -> Vec<u8> {
        match self.model {
            Some(old) => splice(body, span(body, old.get()), json!(model).to_string().as_bytes()),
            None => body.to_vec(),
        }
    }

    /// The body with the wish for a count at the end of a stream of chat completions, where it has none of its own: without
    /// it such a stream tells of no tokens.
    pub(super) fn with_count(&self, body: &[u8], counting: Counting) -> Option<Vec<u8>> {
        if counting != Counting::Chat || self.stream != Some(true) || self.stream_options.is_some() {
            return None;
        }
        let start = body.iter().position(|byte| *byte == b'{')? + 1;
        Some(splice(body, start..start, br#""stream_options":{"include_usage":true},"#))
    }

    /// The body with one more thing said to the model, at the end of the conversation.
    pub(super) fn with_turn(&self, body: &[u8], counting: Counting, words: &str) -> Option<Vec<u8>> {
        let (list, turn) = match counting {
            Counting::Messages | Counting::Chat => (self.messages?, json!({"role": "user", "content": words})),
            Counting::Responses => {
                let content = json!([{"type": "input_text", "text": words}]);
                (self.input?, json!({"type": "message", "role": "user", "content": content}))
            }
            Counting::Gemini => (self.contents?, json!({"role": "user", "parts": [{"text": words}]})),
            Counting::Free => return None,
        };
        let inner = list.get().strip_prefix('[')?.strip_suffix(']')?;
        let comma = if inner.trim().is_empty() { "" } else { "," };
        let end = span(body, list.get()).end - 1;
        Some(splice(body, end..end, format!("{comma}{turn}").as_bytes()))
    }
}

/// The model that a path of Gemini's names.
pub(super) fn model_in_path(path: &str) -> Option<&str> {
    path.rsplit_once("/models/")?.1.rsplit_once(':').map(|(model, _)| model)
}

/// Where a part of `body`, borrowed from it, lies in it.
fn span(body: &[u8], part: &str) -> std::ops::Range<usize> {
    let start = part.as_ptr() as usize - body.as_ptr() as usize;
    start..start + part.len()
}

fn splice(body: &[u8], place: std::ops::Range<usize>, new: &[u8]) -> Vec<u8> {
    [&body[..place.start], new, &body[place.end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_ask_a_model_are_open() {
        let open = |speaks: Speaks, method: Method, path: &str| speaks.paths().iter().any(|p| p.fits(&method, path));
        for (speaks, method, path) in [
            (Speaks::Anthropic, Method::POST, "/v1/messages"),
            (Speaks::Anthropic, Method::HEAD, "/v1/models/claude-x"),
            (Speaks::Openai, Method::POST, "/v1/responses"),
            (Speaks::Gemini, Method::POST, "/v1beta/models/gemini-2.5-pro:streamGenerateContent"),
        ] {
            assert!(open(speaks, method, path), "{path}");
        }
        for (speaks, method, path) in [
            (Speaks::Anthropic, Method::POST, "/v1/files"),
            (Speaks::Anthropic, Method::POST, "/v1/messages/batches"),
            (Speaks::Anthropic, Method::DELETE, "/v1/messages"),
            (Speaks::Anthropic, Method::GET, "/v1/organizations/api_keys"),
            (Speaks::Openai, Method::POST, "/v1/files"),
            (Speaks::Openai, Method::GET, "/v1/models/"),
            (Speaks::Openai, Method::GET, "/v1/models/a/b"),
            (Speaks::Openai, Method::POST, "/v1/chat/completions/"),
            (Speaks::Gemini, Method::POST, "/v1beta/models/x:batchGenerateContent"),
            (Speaks::Gemini, Method::POST, "/v1beta/models/a:b:generateContent"),
            (Speaks::Gemini, Method::POST, "/upload/v1beta/files"),
        ] {
            assert!(!open(speaks, method, path), "{path}");
        }
        assert!(Path::parse("POST /api/chat").unwrap().fits(&Method::POST, "/api/chat"));
        for bad in ["/v1/x", "post /v1/x", "POST v1", "POST /v1/x?y", "TRACE /", ""] {
            assert_eq!(Path::parse(bad).unwrap_err().code, Code::BadConfig, "{bad}");
        }
    }

    #[test]
    fn a_request_is_changed_in_one_place_and_nowhere_else() {
        let body =
            br#"{ "messages" : [{"role":"user","content":"a \"model\": x"}] , "model" :"m-1","z":1.0, "stream":true}"#;
        let request = Request::read(body);
        assert_eq!(request.model("/v1/chat/completions"), "m-1");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(request.with_model(body, "m\"2")),
            r#"{ "messages" : [{"role":"user","content":"a \"model\": x"}] , "model" :"m\"2","z":1.0, "stream":true}"#
        );
        let counted = text(request.with_count(body, Counting::Chat).unwrap());
        assert!(counted.starts_with(r#"{"stream_options":{"include_usage":true}, "messages" : ["#), "{counted}");
        assert_eq!(Request::read(counted.as_bytes()).with_count(counted.as_bytes(), Counting::Chat), None);
        assert_eq!(request.with_count(body, Counting::Messages), None);
        let warned = text(request.with_turn(body, Counting::Chat, "hurry").unwrap());
        assert!(warned.contains(r#"x"},{"content":"hurry","role":"user"}] , "model""#), "{warned}");
        assert!(serde_json::from_str::<serde_json::Value>(&warned).is_ok());
    }

    #[test]
    fn every_protocol_can_be_told_something_and_a_body_that_cannot_is_left_alone() {
        for (counting, body) in [
            (Counting::Messages, r#"{"messages":[]}"#),
            (Counting::Responses, r#"{"input":[{"type":"message"}]}"#),
            (Counting::Gemini, r#"{"contents":[{"parts":[]}]}"#),
        ] {
            let told = Request::read(body.as_bytes()).with_turn(body.as_bytes(), counting, "hurry").unwrap();
            assert!(serde_json::from_slice::<serde_json::Value>(&told).unwrap().to_string().contains("hurry"));
        }
        for body in ["", "no json", "[]", r#"{"input":"text"}"#, "{\"model\":7}"] {
            let request = Request::read(body.as_bytes());
            assert_eq!(request.with_turn(body.as_bytes(), Counting::Responses, "hurry"), None, "{body}");
            assert_eq!(request.model("/v1/responses"), "");
        }
        assert_eq!(Request::read(b"{}").model("/v1beta/models/gemini-2.5-pro:generateContent"), "gemini-2.5-pro");
    }
}
