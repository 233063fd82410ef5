//! An engine that is not always there: a socket before the real one, whose connections can be cut.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
};

const ENGINE: &str = "/var/run/docker.sock";

pub(crate) struct Proxy {
    path: PathBuf,
    /// Until when nobody is let through.
    cut_until: watch::Sender<Option<Instant>>,
    n_cuts: Arc<AtomicU64>,
    serving: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (cut_until, cut) = watch::channel(None);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut cut = cut.clone();
                if cut.borrow_and_update().is_some_and(|until| until > Instant::now()) {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(engine) = UnixStream::connect(ENGINE).await else { return };
                    let (mut client, mut engine) = (client, engine);
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut engine) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { path: path.to_owned(), cut_until, n_cuts: Arc::default(), serving }
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Ends every connection, and refuses new ones for so long.
    pub(crate) fn cut(&self, length: Duration) {
        self.n_cuts.fetch_add(1, Ordering::Relaxed);
        self.cut_until.send_replace(Some(Instant::now() + length));
    }

    pub(crate) fn n_cuts(&self) -> u64 {
        self.n_cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
