//! The load generator: connections that are kept, and deliveries over them. The same for both sides.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{deliveries::Deliveries, report::Measured};

/// How deliveries come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends the next one when the last one was answered.
    AsFastAsAnswered,
    /// So many a second, whatever the answers do; the time that one waits for a free connection counts.
    PerSecond(f64),
}

/// Sends deliveries for a while, and says how long each took to be answered with 202. What comes first, for one tenth of
/// the span, is not counted.
pub(crate) async fn run(
    door: SocketAddr,
    deliveries: &Arc<Deliveries>,
    n_connections: usize,
    pace: Pace,
    span: Duration,
) -> Measured {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let from = began + span / 10;
    let connections: Vec<_> = (0..n_connections)
        .map(|_| {
            let (deliveries, next) = (deliveries.clone(), next.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(door).await;
                let mut samples = Vec::new();
                let mut request = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let due = match pace {
                        Pace::AsFastAsAnswered => Instant::now(),
                        Pace::PerSecond(rate) => began + Duration::from_secs_f64(index as f64 / rate),
                    };
                    if due >= from + span {
                        return samples;
                    }
                    assert!(index < deliveries.len(), "there are not enough deliveries for it");
                    tokio::time::sleep_until(due.into()).await;
                    deliveries.request(&mut request, index);
                    connection.deliver(&request).await;
                    if due >= from {
                        samples.push(due.elapsed());
                    }
                }
            })
        })
        .collect();
    let mut samples = Vec::new();
    for connection in connections {
        samples.extend(connection.await.expect("a connection ends"));
    }
    Measured::of(&samples, from.elapsed())
}

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(door: SocketAddr) -> Self {
        let stream = TcpStream::connect(door).await.expect("the door is open");
        stream.set_nodelay(true).expect("an option of TCP");
        Self { stream, answer: Vec::new() }
    }

    /// Sends one request and waits for the whole answer, which has to say that a task was made.
    async fn deliver(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.expect("it is sent");
        self.answer.clear();
        let len = loop {
            let n = self.stream.read_buf(&mut self.answer).await.expect("it is answered");
            assert!(n > 0, "the door hung up after {:?}", String::from_utf8_lossy(&self.answer));
            if let Some(len) = answer_len(&self.answer).filter(|len| self.answer.len() >= *len) {
                break len;
            }
        };
        let answer = String::from_utf8_lossy(&self.answer);
        assert_eq!(self.answer.len(), len, "{answer}");
        let is_new = answer.starts_with("HTTP/1.1 202 ") && answer.contains("\"known\":false");
        assert!(is_new, "{answer}");
    }
}

/// The length of the whole answer, once its head is there.
fn answer_len(answer: &[u8]) -> Option<usize> {
    let head_len = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..head_len]).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    Some(head_len + length.parse::<usize>().ok()?)
}
