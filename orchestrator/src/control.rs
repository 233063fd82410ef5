//! How an operator reaches the queue: through the process that has it open, or, where there is none, by opening it.
//!
//! `onramp serve` answers on a socket inside the queue's own directory, which only its user can enter: whoever can speak to it
//! could as well change the files. What it answers is the API. Where nobody serves, whoever asks serves themselves for as long as
//! it takes, so that there is one way to ask.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::Router;
use reqwest::{Method, Response};
use serde::{Serialize, de::DeserializeOwned};
use tasks::{Code, Failure};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{self, OPERATOR_HEADER, Problem},
    config::Config,
    front::{Front, Tokens},
    now,
    queue::{self, Queue},
    wiring,
};

/// Where the socket lies.
pub fn socket(data: &Path) -> PathBuf {
    data.join("queue").join("control.sock")
}

/// Answers operators until the shutdown. A socket that cannot be made is a warning: the work does not need it.
pub fn serve(socket: &Path, router: Router, shutdown: CancellationToken, tracker: &TaskTracker) {
    let listener = match short(socket).and_then(|(_dir, path)| {
        // The queue is ours alone, so what lies here was left by a process that is gone.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(path)
    }) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(socket = %socket.display(), %error, "operators cannot ask this process anything");
            return;
        }
    };
    tracker.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = served.await {
            tracing::warn!(%error, "operators can ask this process nothing any more");
        }
    });
}

/// The path of a socket may have 107 bytes, and that of a data directory has more sometimes.
fn short(path: &Path) -> io::Result<(File, PathBuf)> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let dir = File::open(path.parent().ok_or_else(missing)?)?;
    let name = path.file_name().ok_or_else(missing)?;
    let by_descriptor = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok((dir, by_descriptor))
}

/// An operator who asks.
pub struct Client {
    http: reqwest::Client,
    operator: String,
    /// Open, because the path of the socket leads through it.
    _dir: File,
    own: Option<Own>,
}

/// The store, opened for the questions of this process.
struct Own {
    queue: Arc<Queue>,
    closing: CancellationToken,
    answering: TaskTracker,
}

impl Client {
    /// Reaches the process that has the queue of this data directory open; where none has, opens it. `operator`: who asks, for
    /// the audit log.
    ///
    /// # Errors
    /// E062 when there is no store, E060 when a process has it open that does not answer.
    pub async fn connect(config: &Config, operator: &str) -> Result<Self, Failure> {
        let data = config.data_dir()?;
        let path = socket(&data);
        let own = match short(&path) {
            Ok((_dir, path)) if UnixStream::connect(&path).await.is_ok() => None,
            _ => Some(Own::open(&data, config).await?),
        };
        let (dir, path) = short(&path).map_err(|error| no_answer(&error))?;
        let http = reqwest::Client::builder().unix_socket(path).no_proxy().build().map_err(Failure::internal)?;
        Ok(Self { http, operator: operator.to_owned(), _dir: dir, own })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// The refusal, or that there is no answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.read(self.send(Method::GET, path, None::<&()>, &[]).await?).await
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// The refusal, or that there is no answer.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: Option<&impl Serialize>) -> Result<T, Failure> {
        self.read(self.send(Method::POST, path, body, &[]).await?).await
    }

    /// Asks for something that is no JSON. `headers` come on top.
    ///
    /// # Errors
    /// The refusal, or that there is no answer.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response, Failure> {
        self.send(Method::GET, path, None::<&()>, headers).await
    }

    /// Hands over a message and returns the answer, where it wants one. `path` is from the root.
    ///
    /// # Errors
    /// That there is no answer.
    pub async fn message(&self, path: &str, message: String) -> Result<Option<String>, Failure> {
        let request = self.http.post(format!("http://onramp{path}")).header(OPERATOR_HEADER, &self.operator);
        let request = request.header("content-type", "application/json").body(message);
        let response = request.send().await.map_err(|error| no_answer(&error))?;
        let text = response.text().await.map_err(|error| no_answer(&error))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Lets go of the store, where it was opened for this.
    pub async fn close(self) {
        let Some(Own { queue, closing, answering }) = self.own else { return };
        // Its connections are open as long as it is there.
        drop(self.http);
        closing.cancel();
        answering.close();
        answering.wait().await;
        queue.shutdown().await;
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        headers: &[(&str, &str)],
    ) -> Result<Response, Failure> {
        let address = format!("http://onramp{}{path}", api::ROOT);
        let mut request = self.http.request(method, address).header(OPERATOR_HEADER, &self.operator);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| no_answer(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let problem = response.json::<Problem>().await.map_err(|error| no_answer(&error))?;
        Err(problem.into_failure())
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, Failure> {
        response.json().await.map_err(|error| no_answer(&error))
    }
}

impl Own {
    async fn open(data: &Path, config: &Config) -> Result<Self, Failure> {
        let dir = data.join("queue");
        if !dir.exists() {
            let message = format!("There is no task store in {}", dir.display());
            return Err(Failure::new(Code::StoreUnavailable, message)
                .next("Name the data directory of `onramp serve` with --data-dir."));
        }
        let clock = queue::steady_clock(now());
        let options = wiring::queue_options(config, clock.clone());
        let opened = tokio::task::spawn_blocking(move || Queue::open(&dir, options)).await;
        let queue = Arc::new(opened.map_err(Failure::internal)??);
        let (closing, answering) = (CancellationToken::new(), TaskTracker::new());
        let (artifacts, options) = (data.join("artifacts"), wiring::front_options(config));
        let front = Front::new(queue.clone(), clock, artifacts, Tokens::of(data), options, closing.clone());
        serve(&socket(data), api::operator_router(front), closing.clone(), &answering);
        Ok(Self { queue, closing, answering })
    }
}

fn no_answer(error: &dyn std::fmt::Display) -> Failure {
    let message = format!("The process that has the task store open does not answer: {error}");
    Failure::new(Code::StoreUnavailable, message).next("Look at its log; it may be closing just now.")
}
