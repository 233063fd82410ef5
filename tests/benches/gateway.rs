//! What the model gateway adds to a question, and what it takes of a stream, beside asking the same server directly.
//!
//! `cargo run --release -p tests --bin gateway-bench -- [QUESTIONS] [STREAMS]`
//!
//! Both ways go over this machine's loopback, turn by turn, from the same client. The gateway counts every answer, as it
//! does at work. The bars: at most 1 ms more in the middle of all questions, and at least 0.9 of the direct throughput.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has failed")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tasks::Allowance;
use tokio::net::TcpListener;
use workers::egress::{EgressPolicy, Gateway, Key, ModelProviders, Provider, Tally};

/// The size of a question: a short conversation.
const QUESTION_BYTES: usize = 32 << 10;
/// The size of a stream.
const STREAM_BYTES: usize = 64 << 20;

/// One answer, or a long stream of small events in the pieces that a server would write.
async fn serve(body: Bytes) -> Response {
    let asked: Value = serde_json::from_slice(&body).unwrap();
    if asked["stream"] != true {
        let usage = json!({ "input_tokens": 8000, "output_tokens": 12 });
        return axum::Json(
            json!({ "type": "message", "content": [{ "type": "text", "text": "yes" }], "usage": usage }),
        )
        .into_response();
    }
    let event = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a few words\"}}\n\n";
    let piece = Bytes::from(event.repeat(16_384 / event.len()));
    let pieces = STREAM_BYTES / piece.len();
    let end = Bytes::from_static(
        b"data: {\"type\":\"message_delta\",\"usage\":{\"input_tokens\":8000,\"output_tokens\":500}}\n\n",
    );
    let pieces = stream::iter((0..pieces).map(move |_| piece.clone()).chain([end]).map(Ok::<_, std::io::Error>));
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Asks once; how long it took, and how many bytes came.
async fn ask(client: &reqwest::Client, url: &str, token: &str, body: &str) -> (Duration, usize) {
    let started = Instant::now();
    let request = client.post(url).header("x-api-key", token).header("content-type", "application/json");
    let answer = request.body(body.to_owned()).send().await.unwrap().error_for_status().unwrap();
    let mut pieces = answer.bytes_stream();
    let mut n_bytes = 0;
    while let Some(piece) = pieces.next().await {
        n_bytes += piece.unwrap().len();
    }
    (started.elapsed(), n_bytes)
}

/// The value below which so many percent lie.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>().unwrap());
    let (n_questions, n_streams) = (arguments.next().unwrap_or(2000), arguments.next().unwrap_or(12));
    let (model, direct) = listener().await;
    tokio::spawn(async move { axum::serve(model, axum::Router::new().fallback(serve)).await.unwrap() });

    let provider = Provider::new("anthropic", &direct, Some(Key::fixed("sk-bench".to_owned())));
    let models = ModelProviders { providers: [("anthropic".to_owned(), provider)].into(), ..ModelProviders::default() };
    // With an allowance, so that streams are counted against it piece by piece.
    let allowance = Allowance { tokens: Some(u64::MAX / 200), ..Allowance::default() };
    let tally = Arc::new(Tally::new(allowance, None));
    let (gateway, token) = Gateway::new(Arc::new(models), &EgressPolicy::default(), tally.clone()).unwrap();
    let (inside, through) = listener().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = inside.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let gateway = gateway.clone();
            tokio::spawn(async move { gateway.serve(stream).await });
        }
    });

    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().unwrap();
    let ways = [format!("{direct}/v1/messages"), format!("{through}/anthropic/v1/messages")];
    let filling = "x".repeat(QUESTION_BYTES);
    let question = json!({ "model": "m", "messages": [{ "role": "user", "content": filling }] }).to_string();
    let mut took = [Vec::new(), Vec::new()];
    for n in 0..n_questions + 50 {
        for (way, took) in ways.iter().zip(&mut took) {
            let (time, _) = ask(&client, way, &token, &question).await;
            // The first ones open connections.
            if n >= 50 {
                took.push(time);
            }
        }
    }
    took.iter_mut().for_each(|took| took.sort());
    println!("a question of {} KiB, {n_questions} each way, in turns (ms)", QUESTION_BYTES >> 10);
    for (name, took) in ["directly", "through the gateway"].iter().zip(&took) {
        println!(
            "  {name:<20} p50 {:.3}  p95 {:.3}  p99 {:.3}",
            percentile(took, 50),
            percentile(took, 95),
            percentile(took, 99)
        );
    }
    let added = percentile(&took[1], 50) - percentile(&took[0], 50);
    println!("  added at p50: {added:.3} ms (bar: 1.000)");

    let streamed = json!({ "model": "m", "stream": true, "messages": [] }).to_string();
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..n_streams {
        for (way, rates) in ways.iter().zip(&mut rates) {
            let (time, n_bytes) = ask(&client, way, &token, &streamed).await;
            rates.push(n_bytes as f64 / time.as_secs_f64() / f64::from(1 << 20));
        }
    }
    rates.iter_mut().for_each(|rates| rates.sort_by(f64::total_cmp));
    let middle = |rates: &[f64]| rates[rates.len() / 2];
    println!("a stream of {} MiB in small events, {n_streams} each way, in turns (MiB/s, middle)", STREAM_BYTES >> 20);
    println!(
        "  directly {:.0}, through the gateway {:.0}: {:.2} of it (bar: 0.90)",
        middle(&rates[0]),
        middle(&rates[1]),
        middle(&rates[1]) / middle(&rates[0])
    );
    let counted = tally.record().models.iter().map(|model| model.n_exchanges).sum::<u64>();
    println!("counted by the gateway: {counted} answers");
}
