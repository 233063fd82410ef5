//! PostgreSQL: a cluster of its own, on a unix socket, and the queue that one would build on it.

use std::{
    fs::{self, File},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tasks::TaskRequest;
use tokio_postgres::{Client, NoTls, Statement};

use crate::store::Store;

const SETTINGS: &str = "
listen_addresses = ''
max_connections = 200
shared_buffers = 512MB
max_wal_size = 8GB
fsync = on
synchronous_commit = on
full_page_writes = on
autovacuum_naptime = 5s
jit = off
";

/// The state of a row: 0 queued, 1 running, 2 done. The small index holds what is queued and nothing else.
const SCHEMA: &str = "
DROP TABLE IF EXISTS deliveries, tasks;
DROP SEQUENCE IF EXISTS task_ids;
CREATE SEQUENCE task_ids CACHE 32;
CREATE TABLE deliveries (key text PRIMARY KEY, task bigint NOT NULL);
CREATE TABLE tasks (
    id bigint PRIMARY KEY, state smallint NOT NULL DEFAULT 0, attempt int NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(), lease_until timestamptz, worker text,
    repo text NOT NULL, request bytea NOT NULL, outcome bytea, created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX ready ON tasks (id) WHERE state = 0;
";

/// Both rows in one transaction and one round trip.
const ENQUEUE: &str = "
WITH delivery AS (
    INSERT INTO deliveries (key, task) VALUES ($1, nextval('task_ids')) ON CONFLICT (key) DO NOTHING RETURNING task
)
INSERT INTO tasks (id, repo, request) SELECT task, $2, $3 FROM delivery RETURNING id";

const LEASE: &str = "
UPDATE tasks SET state = 1, attempt = attempt + 1, worker = $1, lease_until = now() + interval '20 seconds'
WHERE id = (
    SELECT id FROM tasks WHERE state = 0 AND not_before <= now() ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, attempt, request";

const ACKNOWLEDGE: &str = "
UPDATE tasks SET state = 2, outcome = $3 WHERE id = $1 AND attempt = $2 AND state = 1 AND lease_until > now()";

/// A running cluster. Stopped when dropped.
pub(crate) struct Cluster {
    bin: PathBuf,
    dir: PathBuf,
    /// `None`: whoever runs this. PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
    server: Child,
}

impl Cluster {
    /// Makes a cluster in a new directory and starts it.
    pub(crate) async fn start(dir: &Path) -> Self {
        let bin = find_bin().expect("PostgreSQL is missing: apt-get install postgresql");
        let user = unprivileged();
        fs::create_dir(dir).expect("a directory");
        if let Some((uid, gid)) = user {
            chown(dir, Some(uid), Some(gid)).expect("a directory of theirs");
            let above = dir.parent().expect("a directory above");
            make_passable(above);
        }
        let data = dir.join("data");
        let made = program(&bin, "initdb", user).args(["-A", "trust", "-U", "postgres", "-D"]).arg(&data).output();
        let made = made.expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings = format!("{SETTINGS}unix_socket_directories = '{}'\n", dir.display());
        fs::write(data.join("postgresql.auto.conf"), settings).expect("the settings are written");
        let log = File::create(dir.join("log")).expect("a log");
        let mut server = program(&bin, "postgres", user);
        let server = server.arg("-D").arg(&data).stdout(Stdio::null()).stderr(log).spawn().expect("postgres runs");
        let cluster = Self { bin, dir: dir.to_owned(), user, server };
        let began = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        while tokio_postgres::connect(&config(dir), NoTls).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "PostgreSQL does not start; see {}", dir.display());
            ticks.tick().await;
        }
        cluster
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> &Path {
        &self.dir
    }

    /// Its version and the settings that matter.
    pub(crate) async fn about(&self) -> String {
        let client = connect(&self.dir).await;
        let mut about = Vec::new();
        for name in
            ["server_version", "synchronous_commit", "fsync", "wal_sync_method", "full_page_writes", "shared_buffers"]
        {
            let row = client.query_one(&format!("SHOW {name}"), &[]).await.expect("a setting");
            about.push(format!("{name} {}", row.get::<_, &str>(0)));
        }
        format!("PostgreSQL on a unix socket: {}", about.join(", "))
    }

    /// Empty tables, and so many connections to them.
    pub(crate) async fn fresh(&self, n_connections: usize) -> Postgres {
        connect(&self.dir).await.batch_execute(SCHEMA).await.expect("the tables are made");
        Postgres::connect(&self.dir, n_connections).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = program(&self.bin, "pg_ctl", self.user);
        let _ = stop.args(["stop", "-m", "immediate", "-D"]).arg(self.dir.join("data")).output();
        let _ = self.server.wait();
    }
}

/// The newest version that Debian has installed.
fn find_bin() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    let found = versions.filter(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    found.max_by_key(|bin| bin.parent().and_then(|dir| dir.file_name()?.to_str()?.parse::<u32>().ok()))
}

/// The user `postgres`, when this runs as root.
fn unprivileged() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let root = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).ok()? == 0;
    let line = users.lines().find_map(|line| line.strip_prefix("postgres:"));
    let ids = line.map(|line| line.split(':').skip(1).take(2).filter_map(|id| id.parse().ok()).collect::<Vec<u32>>());
    root.then(|| match ids.as_deref() {
        Some(&[uid, gid]) => (uid, gid),
        _ => panic!("there is no user postgres: apt-get install postgresql"),
    })
}

fn make_passable(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).expect("a mode");
}

fn program(bin: &Path, name: &str, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(bin.join(name));
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

fn config(socket: &Path) -> String {
    format!("host={} user=postgres", socket.display())
}

async fn connect(socket: &Path) -> Client {
    let (client, connection) = tokio_postgres::connect(&config(socket), NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    client
}

/// The queue on it: a pool of connections, each with its prepared statements. Who asks takes the next one in turn;
/// requests that share one are pipelined.
#[derive(Clone)]
pub(crate) struct Postgres {
    pool: Arc<Vec<Connection>>,
    next: Arc<AtomicUsize>,
}

pub(crate) struct Connection {
    pub(crate) client: Client,
    enqueue: Statement,
    lease: Statement,
    acknowledge: Statement,
}

impl Postgres {
    /// So many connections to tables that are there.
    pub(crate) async fn connect(socket: &Path, n_connections: usize) -> Self {
        let mut pool = Vec::new();
        for _ in 0..n_connections {
            let client = connect(socket).await;
            let enqueue = client.prepare(ENQUEUE).await.expect("a statement");
            let lease = client.prepare(LEASE).await.expect("a statement");
            let acknowledge = client.prepare(ACKNOWLEDGE).await.expect("a statement");
            pool.push(Connection { client, enqueue, lease, acknowledge });
        }
        Self { pool: Arc::new(pool), next: Arc::default() }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.pool[self.next.fetch_add(1, Ordering::Relaxed) % self.pool.len()]
    }

    /// Stores a request; `None`: its key was known.
    pub(crate) async fn insert(&self, request: &TaskRequest) -> Result<Option<i64>, tokio_postgres::Error> {
        let bytes = serde_json::to_vec(request).expect("a request is JSON");
        let (key, repo) = (request.dedupe_key.as_str(), request.repo.as_str());
        let Connection { client, enqueue, .. } = self.connection();
        Ok(client.query_opt(enqueue, &[&key, &repo, &bytes]).await?.map(|row| row.get(0)))
    }

    /// The next task, if there is one now.
    pub(crate) async fn lease_once(&self, worker: &str) -> Option<(i64, i32)> {
        let Connection { client, lease, .. } = self.connection();
        let row = client.query_opt(lease, &[&worker]).await.expect("PostgreSQL answers")?;
        // As whoever works on it would.
        let request: TaskRequest = serde_json::from_slice(row.get(2)).expect("a request");
        std::hint::black_box(request);
        Some((row.get(0), row.get(1)))
    }
}

impl Store for Postgres {
    type Leased = (i64, i32);

    async fn enqueue(&self, request: TaskRequest) {
        self.insert(&request).await.expect("the request is stored").expect("the request is new");
    }

    async fn lease(&self, worker: usize) -> (i64, i32) {
        let worker = format!("worker-{worker}");
        loop {
            // Another one may have taken the row that was looked at; the next look finds the next one.
            if let Some(leased) = self.lease_once(&worker).await {
                return leased;
            }
        }
    }

    async fn acknowledge(&self, (id, attempt): (i64, i32)) {
        let outcome = br#"{"outcome":"nothing_changed"}"#.as_slice();
        let Connection { client, acknowledge, .. } = self.connection();
        let n_rows = client.execute(acknowledge, &[&id, &attempt, &outcome]).await.expect("PostgreSQL answers");
        assert_eq!(n_rows, 1, "the lease was held");
    }
}
