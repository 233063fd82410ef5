//! How long a waiting worker waits: from the acknowledgement of a request to the return of a lease that was waiting.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::{
    Options,
    ours::Ours,
    postgres::{Cluster, Postgres},
    report::{self, Measured, Report},
    store::{Store, request},
};

/// Between two requests, so that each finds the worker waiting and the disk at rest.
const PAUSE: Duration = Duration::from_millis(2);

pub(crate) async fn run(report: &mut Report, options: &Options, cluster: Option<&Cluster>) {
    report::head("Wake-up: request acknowledged to waiting lease returned (both durable)");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..options.n_rounds {
        if let Some(cluster) = cluster {
            theirs.push(wake_ups(Listening::new(cluster).await, options.span).await);
        }
        let dir = options.dir.join(format!("wake-{round}"));
        let store = Ours::open(&dir).await;
        ours.push(wake_ups(store.clone(), options.span).await);
        store.0.shutdown().await;
        std::fs::remove_dir_all(dir).expect("the store is removed");
    }
    if cluster.is_some() {
        report::row("PostgreSQL, LISTEN/NOTIFY and SKIP LOCKED", &theirs);
    }
    let ours = report::row("onramp", &ours).took;
    let measured =
        format!("p50 {:.3} ms, p95 {:.3} ms, p99 {:.3} ms, wanted p50 under 0.5 ms", ours.p50, ours.p95, ours.p99);
    report.bar("wake-up", ours.p50 < 0.5, measured);
}

async fn wake_ups<S: Store>(store: S, span: Duration) -> Measured {
    let (sender, mut leased) = mpsc::channel(1);
    let worker = store.clone();
    let waiting = tokio::spawn(async move {
        loop {
            let lease = worker.lease(0).await;
            let at = Instant::now();
            worker.acknowledge(lease).await;
            if sender.send(at).await.is_err() {
                return;
            }
        }
    });
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut n = 0;
    while began.elapsed() < span {
        // The pause is a part of what is measured, not a wait for something that could be asked.
        tokio::time::sleep(PAUSE).await;
        store.enqueue(request(n)).await;
        let acknowledged = Instant::now();
        let woken = leased.recv().await.expect("the worker lives");
        // It may have the task before the asker hears that it is stored.
        samples.push(woken.saturating_duration_since(acknowledged));
        n += 1;
    }
    waiting.abort();
    Measured::of(&samples, began.elapsed())
}

/// PostgreSQL with its own way to wake whoever waits.
#[derive(Clone)]
struct Listening {
    store: Postgres,
    notified: Arc<Notify>,
    /// Its connection ends with it.
    _listener: Arc<Client>,
}

impl Listening {
    async fn new(cluster: &Cluster) -> Self {
        let store = cluster.fresh(4).await;
        let trigger = "
            CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY ready; RETURN NULL; END $$;
            CREATE TRIGGER tell AFTER INSERT ON tasks FOR EACH STATEMENT EXECUTE FUNCTION tell();";
        store.connection().client.batch_execute(trigger).await.expect("the trigger is made");
        let config = format!("host={} user=postgres", cluster.socket().display());
        let (client, mut connection) = tokio_postgres::connect(&config, NoTls).await.expect("PostgreSQL answers");
        let notified = Arc::new(Notify::new());
        let notify = notified.clone();
        tokio::spawn(async move {
            while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let Ok(AsyncMessage::Notification(_)) = message {
                    notify.notify_one();
                }
            }
        });
        client.batch_execute("LISTEN ready").await.expect("it listens");
        Self { store, notified, _listener: Arc::new(client) }
    }
}

impl Store for Listening {
    type Leased = (i64, i32);

    async fn enqueue(&self, request: tasks::TaskRequest) {
        Store::enqueue(&self.store, request).await;
    }

    async fn lease(&self, worker: usize) -> (i64, i32) {
        let worker = format!("worker-{worker}");
        loop {
            if let Some(leased) = self.store.lease_once(&worker).await {
                return leased;
            }
            self.notified.notified().await;
        }
    }

    async fn acknowledge(&self, leased: (i64, i32)) {
        self.store.acknowledge(leased).await;
    }
}
