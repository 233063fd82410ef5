//! The gateway between a scripted upstream and a client that writes its requests by hand.

use std::{collections::BTreeMap, sync::Mutex};

use tasks::{Allowance, Money, Tokens};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream},
    net::TcpListener,
    sync::mpsc,
};

use super::*;

const CANARY: &str = "sk-canary-0123456789";
const TOKEN: &str = "onramp-of-this-sandbox";

/// An upstream that keeps every request as text and answers with the pieces it is given, one at a time.
struct Upstream {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
    pieces: mpsc::Sender<String>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (pieces, mut next) = mpsc::channel::<String>(16);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let request = read_request(&mut stream).await;
                kept.lock().unwrap().push(request);
                while let Some(piece) = next.recv().await {
                    if piece.is_empty() {
                        break;
                    }
                    stream.write_all(piece.as_bytes()).await.unwrap();
                }
            }
        });
        Self { url, seen, pieces }
    }

    /// Answers the next request with `status` and `body`, then closes.
    async fn answer(&self, status: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");
        for piece in [head, body.to_owned(), String::new()] {
            self.pieces.send(piece).await.unwrap();
        }
    }

    fn seen(&self) -> String {
        self.seen.lock().unwrap().join("\n---\n")
    }
}

/// Head and body of one request: by content-length, or by chunks until the empty one.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    loop {
        let (head, body) = match text.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => text.split_at(end + 4),
            None => (&[][..], &text[..]),
        };
        let head_text = String::from_utf8_lossy(head).to_lowercase();
        let length =
            head_text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let chunked = head_text.contains("transfer-encoding: chunked");
        if !head.is_empty() && if chunked { body.ends_with(b"0\r\n\r\n") } else { body.len() >= length } {
            return String::from_utf8(text).unwrap();
        }
        if stream.read_buf(&mut text).await.unwrap() == 0 {
            return String::from_utf8(text).unwrap();
        }
    }
}

fn gateway(providers: &[(&str, &str)]) -> Arc<Models> {
    let provider = |name: &str, url: &str| Provider::new(name, url, Some(Key::fixed(CANARY.to_owned())));
    let providers = providers.iter().map(|&(name, url)| (name.to_owned(), provider(name, url)));
    gateway_to(providers.collect(), Allowance::default())
}

/// With short waits, and within an allowance.
fn gateway_to(providers: BTreeMap<String, Provider>, allowance: Allowance) -> Arc<Models> {
    let patience = Patience { first_wait: Duration::from_millis(1), ..Patience::default() };
    let providers = ModelProviders { providers, patience, ..ModelProviders::default() };
    let tally = Arc::new(Tally::new(allowance, None));
    Arc::new(Models::new(Arc::new(providers), Arc::default(), tally, TOKEN.into()))
}

fn connect(models: &Arc<Models>) -> DuplexStream {
    let (inside, outside) = tokio::io::duplex(64 * 1024);
    tokio::spawn(Arc::clone(models).serve(outside));
    inside
}

/// One request on a connection of its own; the whole answer as text.
async fn ask(models: &Arc<Models>, line: &str, headers: &str, body: &str) -> String {
    let mut inside = connect(models);
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: 127.0.0.1:8099\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    inside.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    inside.read_to_string(&mut answer).await.unwrap();
    assert!(!answer.contains(CANARY), "the key came in: {answer}");
    answer
}

#[tokio::test]
async fn each_family_gets_its_key_in_its_own_form_and_never_the_token() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("anthropic", &upstream.url), ("openai", &upstream.url), ("gemini", &upstream.url)]);
    for (line, sent, expected) in [
        (
            "POST /anthropic/v1/messages?beta=true",
            format!("X-Api-Key: {TOKEN}"),
            ("POST /v1/messages?beta=true ", "x-api-key: "),
        ),
        (
            "POST /openai/v1/responses",
            format!("Authorization: Bearer {TOKEN}"),
            ("POST /v1/responses ", "authorization: Bearer "),
        ),
        (
            "POST /gemini/v1beta/models/g:generateContent",
            format!("x-goog-api-key: {TOKEN}"),
            ("POST /v1beta/models/g:generateContent ", "x-goog-api-key: "),
        ),
        (
            "POST /gemini/v1beta/models/g:streamGenerateContent?alt=sse&key=onramp-of-this-sandbox",
            "A: b".into(),
            ("POST /v1beta/models/g:streamGenerateContent?alt=sse ", "x-goog-api-key: "),
        ),
    ] {
        upstream.answer("200 OK", "{\"ok\":1}").await;
        let answer =
            ask(&models, line, &format!("{sent}\r\nX-Kept: yes\r\nProxy-Authorization: no\r\n"), "{\"q\":1}").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("{\"ok\":1}"), "{answer}");
        let seen = upstream.seen.lock().unwrap().pop().unwrap();
        assert!(seen.starts_with(expected.0), "{seen}");
        assert!(seen.contains(&format!("{}{CANARY}\r\n", expected.1)), "{seen}");
        assert!(seen.ends_with("{\"q\":1}") && seen.contains("x-kept: yes"), "{seen}");
        assert!(!seen.contains(TOKEN) && !seen.contains("proxy-authorization"), "{seen}");
        assert_eq!(seen.matches(CANARY).count(), 1, "{seen}");
    }
}

#[tokio::test]
async fn a_wrong_or_missing_token_is_refused_in_the_style_of_the_provider() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("anthropic", &upstream.url), ("openai", &upstream.url), ("gemini", &upstream.url)]);
    for headers in
        ["", "x-api-key: sk-of-somebody-else\r\n", "Authorization: Bearer onramp-of-this-sandbo\r\n", "x-api-key: \r\n"]
    {
        let answer = ask(&models, "GET /anthropic/v1/models", headers, "").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.contains(r#"{"error":{"message":"The token of this sandbox is missing or wrong; send it where the key of the provider would go.","type":"authentication_error"},"type":"error"}"#), "{answer}");
    }
    assert!(ask(&models, "GET /openai/v1/models", "", "").await.contains(r#""param":null"#));
    assert!(ask(&models, "GET /gemini/v1beta/models", "", "").await.contains(r#""status":"UNAUTHENTICATED""#));
    assert_eq!(upstream.seen(), "");
}

#[tokio::test]
async fn a_streamed_answer_arrives_piece_by_piece_before_the_upstream_ends() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("anthropic", &upstream.url)]);
    let mut inside = connect(&models);
    let head =
        format!("POST /anthropic/v1/messages HTTP/1.1\r\nHost: x\r\nx-api-key: {TOKEN}\r\nContent-Length: 0\r\n\r\n");
    inside.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let pieces = [
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        "10\r\ndata: number-1\n\n\r\n",
        "10\r\ndata: number-2\n\n\r\n",
        "10\r\ndata: number-3\n\n\r\n",
    ];
    // The next piece is only sent when the one before has arrived: the upstream is still open all the while.
    for (piece, expected) in pieces.iter().zip(["text/event-stream", "number-1", "number-2", "number-3"]) {
        upstream.pieces.send((*piece).to_owned()).await.unwrap();
        while !String::from_utf8_lossy(&answer).contains(expected) {
            assert_ne!(inside.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn a_provider_that_is_not_configured_or_not_known_is_named_with_the_way_to_configure_it() {
    let models = gateway(&[]);
    let token = format!("x-api-key: {TOKEN}\r\n");
    let answer = ask(&models, "POST /anthropic/v1/messages", &token, "{}").await;
    assert!(answer.starts_with("HTTP/1.1 501") && answer.contains("[models.anthropic]"), "{answer}");
    let answer = ask(&models, "POST /v1/messages", &token, "{}").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("/anthropic, /openai, /gemini"), "{answer}");
}

#[tokio::test]
async fn a_provider_that_wants_a_key_where_none_is_configured_is_named() {
    let upstream = Upstream::start().await;
    let provider = Provider::new("anthropic", &upstream.url, None);
    let models = gateway_to(BTreeMap::from([("anthropic".to_owned(), provider)]), Allowance::default());
    let token = format!("x-api-key: {TOKEN}\r\n");
    upstream.answer("401 Unauthorized", "{\"error\":\"x-api-key header is required\"}").await;
    let answer = ask(&models, "POST /anthropic/v1/messages", &token, "{}").await;
    assert!(answer.contains("wants a key; set one under [models.anthropic]"), "{answer}");
    upstream.answer("200 OK", "{\"ok\":1}").await;
    let answer = ask(&models, "POST /anthropic/v1/messages", &token, "{}").await;
    assert!(answer.contains("{\"ok\":1}"), "a provider without keys is a provider: {answer}");
    assert!(!upstream.seen().contains(TOKEN));
}

#[tokio::test]
async fn an_unreachable_provider_is_a_bad_gateway_that_says_nothing_of_the_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let answer =
        ask(&gateway(&[("openai", &url)]), "POST /openai/v1/responses", &format!("api-key: {TOKEN}\r\n"), "{}").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains("The model provider cannot be reached from the host."), "{answer}");
    assert!(!answer.contains("127.0.0.1") && !answer.contains("refused"), "{answer}");
}

#[tokio::test]
async fn a_refusal_that_quotes_the_key_arrives_without_it_and_a_redirect_is_not_followed() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("openai", &upstream.url)]);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    upstream.answer(&format!("401 Unauthorized\r\nX-Quoted: {CANARY}"), &format!("{{\"bad\":\"{CANARY}\"}}")).await;
    let answer = ask(&models, "POST /openai/v1/responses", &token, "{}").await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains(r#"{"bad":"***"}"#), "{answer}");
    upstream.answer(&format!("307 Temporary Redirect\r\nLocation: {}/elsewhere", upstream.url), "").await;
    let answer = ask(&models, "POST /openai/v1/responses", &token, "{}").await;
    assert!(answer.starts_with("HTTP/1.1 307"), "{answer}");
    assert_eq!(upstream.seen.lock().unwrap().len(), 2);
}

#[test]
fn tokens_are_long_and_never_the_same() {
    let (one, other) = (random_token().unwrap(), random_token().unwrap());
    assert!(one.len() >= 64 && one != other);
}

/// A message of Anthropic's with this usage.
fn message(input: u64, output: u64) -> String {
    format!(r#"{{"type":"message","usage":{{"input_tokens":{input},"output_tokens":{output}}}}}"#)
}

const ASK: &str = "POST /anthropic/v1/messages";

fn token() -> String {
    format!("x-api-key: {TOKEN}\r\n")
}

#[tokio::test]
async fn every_answer_is_counted_and_priced_and_an_unknown_price_is_no_zero() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("anthropic", &upstream.url)]);
    for (model, n) in [("claude-sonnet-4-5", 1), ("claude-sonnet-4-5", 2), ("scripted-1", 1)] {
        upstream.answer("200 OK", &message(1000, 10)).await;
        let answer = ask(&models, ASK, &token(), &format!(r#"{{"model":"{model}"}}"#)).await;
        assert!(answer.contains("input_tokens"), "{n}: {answer}");
    }
    // What asks no model is not counted.
    upstream.answer("200 OK", r#"{"input_tokens":5}"#).await;
    ask(&models, "POST /anthropic/v1/messages/count_tokens", &token(), "{}").await;
    let record = models.tally.record();
    let of = |name: &str| record.models.iter().find(|model| model.model == name).unwrap();
    let (known, unknown) = (of("claude-sonnet-4-5"), of("scripted-1"));
    assert_eq!((known.n_exchanges, known.tokens), (2, Tokens { input: 2000, output: 20, ..Tokens::default() }));
    assert_eq!((known.known_cost(), unknown.known_cost()), (Some(Money::microusd(6300)), None));
    assert_eq!((record.models.len(), record.metered().unwrap().cost_microusd), (2, None));
}

#[tokio::test]
async fn an_outage_is_repeated_before_the_first_byte_and_the_body_arrives_whole_each_time() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("anthropic", &upstream.url)]);
    for status in ["429 Too Many Requests\r\nRetry-After: 0", "500 Internal Server Error", "529 Overloaded"] {
        upstream.answer(status, "{}").await;
    }
    upstream.answer("200 OK", &message(1, 1)).await;
    let answer = ask(&models, ASK, &token(), r#"{"model":"m","n":12}"#).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = upstream.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|request| request.ends_with(r#"{"model":"m","n":12}"#)), "{seen:#?}");
    let model = models.tally.record().models.remove(0);
    assert_eq!((model.n_exchanges, model.n_failed), (1, 0));
}

#[tokio::test]
async fn a_lasting_outage_is_handed_on_and_a_wish_to_wait_for_long_is_not_waited_for() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("anthropic", &upstream.url)]);
    upstream.answer("429 Too Many Requests\r\nRetry-After: 4000", r#"{"slow":"down"}"#).await;
    let answer = ask(&models, ASK, &token(), "{}").await;
    assert!(
        answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 4000") && answer.contains("slow"),
        "{answer}"
    );
    for _ in 0..4 {
        upstream.answer("503 Service Unavailable", "{}").await;
    }
    let answer = ask(&models, ASK, &token(), "{}").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(upstream.seen.lock().unwrap().len(), 5);
    assert_eq!(models.tally.record().models[0].n_failed, 2);
}

#[tokio::test]
async fn a_refusal_that_is_no_outage_is_not_repeated() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("anthropic", &upstream.url)]);
    for status in ["400 Bad Request", "403 Forbidden", "413 Too Large"] {
        upstream.answer(status, "{}").await;
        let answer = ask(&models, ASK, &token(), "{}").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {}", &status[..3])), "{answer}");
    }
    assert_eq!(upstream.seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn the_fallbacks_are_asked_in_order_each_with_its_own_key_and_model() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let key = |key: &str| Some(Key::fixed(key.to_owned()));
    let mut anthropic = Provider::new("anthropic", &first.url, key("key-of-first"));
    anthropic.fallback = vec![Fallback::parse("anthropic/small-1"), Fallback::parse("backup/other/large-2")];
    let backup = Provider::new("backup", &second.url, key("key-of-second")).speaking(Speaks::Anthropic);
    let providers = BTreeMap::from([("anthropic".to_owned(), anthropic), ("backup".to_owned(), backup)]);
    let models = gateway_to(providers, Allowance::default());
    for _ in 0..4 {
        first.answer("503 Service Unavailable", "{}").await;
    }
    second.answer("200 OK", &message(7, 3)).await;
    let answer = ask(&models, ASK, &token(), r#"{"model":"big-1","x":1}"#).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let asked = first.seen.lock().unwrap().iter().map(|text| text.contains("small-1")).collect::<Vec<_>>();
    assert_eq!(asked, [false, false, true, true], "once more each, as another comes after it");
    let seen = second.seen();
    assert!(
        seen.contains("x-api-key: key-of-second") && seen.ends_with(r#"{"model":"other/large-2","x":1}"#),
        "{seen}"
    );
    let used = models.tally.record().models.remove(0);
    assert_eq!((used.provider.as_str(), used.model.as_str(), used.n_exchanges), ("backup", "other/large-2", 1));
}

#[tokio::test]
async fn a_refused_key_is_read_again_and_the_agent_notices_nothing() {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "old-key").unwrap();
    // A command is asked anew by its counter, so that no time has to pass.
    let key = Key::command(format!("cat {0}; echo new-key > {0}", path.display()));
    let provider = Provider::new("anthropic", &upstream.url, Some(key));
    let models = gateway_to(BTreeMap::from([("anthropic".to_owned(), provider)]), Allowance::default());
    upstream.answer("401 Unauthorized", "{}").await;
    let answer = ask(&models, ASK, &token(), "{}").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "nothing younger than a few seconds is asked again: {answer}");
    assert!(upstream.seen().contains("old-key") && !upstream.seen().contains("new-key"));
}

#[tokio::test]
async fn a_provider_that_does_not_begin_its_answer_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = Provider::new("anthropic", format!("http://{}", silent.local_addr().unwrap()), None);
    let patience = Patience { n_retries: 0, head_timeout: Duration::from_millis(50), ..Patience::default() };
    let providers = BTreeMap::from([("anthropic".to_owned(), provider)]);
    let providers = ModelProviders { providers, patience, ..ModelProviders::default() };
    let models = Arc::new(Models::new(Arc::new(providers), Arc::default(), Arc::default(), TOKEN.into()));
    let answer = ask(&models, ASK, &token(), "{}").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test]
async fn a_task_near_its_end_is_told_so_and_at_its_end_it_asks_no_more() {
    let upstream = Upstream::start().await;
    let provider = Provider::new("anthropic", &upstream.url, None);
    let allowance = Allowance { tokens: Some(100), ..Allowance::default() };
    let models = gateway_to(BTreeMap::from([("anthropic".to_owned(), provider)]), allowance);
    let body = r#"{"model":"m","messages":[{"role":"user","content":"go on"}]}"#;
    upstream.answer("200 OK", &message(80, 5)).await;
    ask(&models, ASK, &token(), body).await;
    upstream.answer("200 OK", &message(10, 6)).await;
    ask(&models, ASK, &token(), body).await;
    let answer = ask(&models, ASK, &token(), body).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("it has used all of the 100 tokens that it may use"), "{answer}");
    let seen = upstream.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].ends_with(body), "the first arrives as it was sent");
    assert!(seen[1].contains("go on") && seen[1].contains("The budget of this task is nearly used up"), "{}", seen[1]);
}

#[tokio::test]
async fn a_stream_is_cut_where_the_allowance_ends_with_an_error_that_says_so() {
    let upstream = Upstream::start().await;
    let provider = Provider::new("anthropic", &upstream.url, None);
    let allowance = Allowance { tokens: Some(60), ..Allowance::default() };
    let models = gateway_to(BTreeMap::from([("anthropic".to_owned(), provider)]), allowance);
    let start =
        "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":50,\"output_tokens\":1}}}\n\n";
    let words = format!("data: {{\"delta\":{{\"type\":\"text_delta\",\"text\":\"{}\"}}}}\n\n", "x".repeat(100));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    for piece in [head, start, &words] {
        upstream.pieces.send(piece.to_owned()).await.unwrap();
    }
    // The upstream does not end: the answer does.
    let answer = ask(&models, ASK, &token(), r#"{"model":"m","stream":true}"#).await;
    assert!(answer.contains("message_start") && answer.contains("event: error"), "{answer}");
    assert!(answer.contains("it has used all of the 60 tokens"), "{answer}");
    let model = models.tally.record().models.remove(0);
    assert_eq!((model.n_exchanges, model.n_estimated), (1, 1));
    assert!(model.tokens.output >= 25, "{:?}", model.tokens);
}

#[tokio::test]
async fn money_is_only_spent_where_the_price_is_known() {
    let upstream = Upstream::start().await;
    let provider = Provider::new("anthropic", &upstream.url, None);
    let allowance = Allowance { money: Some(Money::microusd(1_000_000)), ..Allowance::default() };
    let models = gateway_to(BTreeMap::from([("anthropic".to_owned(), provider)]), allowance);
    let answer = ask(&models, ASK, &token(), r#"{"model":"scripted-1"}"#).await;
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("the price of the model `scripted-1` is unknown"),
        "{answer}"
    );
    assert_eq!(upstream.seen(), "", "it was not even asked");
}

#[tokio::test]
async fn what_asks_no_model_is_not_open() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("anthropic", &upstream.url), ("openai", &upstream.url)]);
    for line in [
        "POST /anthropic/v1/files",
        "GET /openai/v1/organization/admin_api_keys",
        "DELETE /openai/v1/models/x",
        "POST /openai/v1/batches",
    ] {
        let answer = ask(&models, line, &token(), "{}").await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("is not open here"), "{line}: {answer}");
    }
    assert_eq!(upstream.seen(), "");
}

#[tokio::test]
async fn a_client_that_goes_away_is_still_counted() {
    let upstream = Upstream::start().await;
    let models = gateway(&[("anthropic", &upstream.url)]);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let start =
        "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":50,\"output_tokens\":1}}}\n\n";
    upstream.pieces.send(format!("{head}{start}")).await.unwrap();
    let mut inside = connect(&models);
    let request = format!("{ASK} HTTP/1.1\r\nHost: x\r\nx-api-key: {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}");
    inside.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("message_start") {
        assert_ne!(inside.read_buf(&mut answer).await.unwrap(), 0);
    }
    drop(inside);
    while models.tally.record().models.is_empty() {
        tokio::task::yield_now().await;
    }
    let model = models.tally.record().models.remove(0);
    assert_eq!((model.n_estimated, model.tokens.input), (1, 50));
}
