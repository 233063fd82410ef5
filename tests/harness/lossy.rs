//! A road between a worker and its server that loses answers: what was asked is done, and nobody hears of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};

const MAX_BODY_BYTES: usize = 64 << 20;

/// The road, open until it is dropped.
pub struct Lossy {
    url: String,
    counts: Arc<Counts>,
    task: tokio::task::JoinHandle<()>,
}

struct Counts {
    server: SocketAddr,
    every: usize,
    n_answers: AtomicUsize,
    n_lost: AtomicUsize,
}

impl Lossy {
    /// A road to `server` that loses the first answer and from then on one in `every`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn to(server: SocketAddr, every: usize) -> Self {
        let counts = Counts { server, every, n_answers: AtomicUsize::new(0), n_lost: AtomicUsize::new(0) };
        let counts = Arc::new(counts);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port of loopback");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let router = axum::Router::new().fallback(travel).with_state(counts.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serving does not end") });
        Self { url, counts, task }
    }

    /// Where the road begins.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many answers were lost.
    pub fn n_lost(&self) -> usize {
        self.counts.n_lost.load(Ordering::Relaxed)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn travel(State(counts): State<Arc<Counts>>, request: Request) -> Response {
    match pass_on(&counts, request).await {
        Some((status, body)) if !counts.n_answers.fetch_add(1, Ordering::Relaxed).is_multiple_of(counts.every) => {
            (status, body).into_response()
        }
        // Done, if the server is there at all; a body that fails before its first byte closes the connection.
        _ => {
            counts.n_lost.fetch_add(1, Ordering::Relaxed);
            let lost = futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("lost")) });
            Body::from_stream(lost).into_response()
        }
    }
}

async fn pass_on(counts: &Counts, request: Request) -> Option<(axum::http::StatusCode, Bytes)> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.ok()?;
    let mut headers = HeaderMap::new();
    for name in ["authorization", "content-type", "onramp-protocol", "onramp-sha256", "onramp-worker"] {
        if let Some(value) = parts.headers.get(name) {
            headers.insert(name, value.clone());
        }
    }
    let url = format!("http://{}{}", counts.server, parts.uri);
    let client = reqwest::Client::builder().no_proxy().build().ok()?;
    let answer = client.request(parts.method, url).headers(headers).body(body).send().await.ok()?;
    Some((answer.status(), answer.bytes().await.ok()?))
}
