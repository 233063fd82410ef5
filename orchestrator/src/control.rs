//! How an operator reaches the queue: through the process that has it open, or, where there is none, by opening it.
//!
//! `onramp serve` listens on a socket inside the queue's own directory, which only its user can enter: whoever can speak
//! to it could as well change the files. One line of JSON asks, one answers.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tasks::{Actor, Code, Evidence, Failure, Intake, Month, QueueError, RepoName, Spending, Task, TaskFilter, TaskId};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::queue::{Queue, QueueOptions};

const MAX_QUESTION_BYTES: u64 = 64 << 10;
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Digits that name a task when they are the end of its id; fewer would name too many.
const MIN_DIGITS: usize = 4;

/// What an operator may ask.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Question {
    /// Many tasks, newest first.
    List {
        /// Only of this repository.
        repo: Option<RepoName>,
        /// Only those that wait or run.
        unfinished: bool,
        /// Only those that were set aside because their workers vanish.
        dead: bool,
        /// At most so many.
        limit: usize,
    },
    /// One task.
    Show {
        /// Its id, or the end of it.
        task: String,
    },
    /// What was used in a month, and what is left.
    Budget {
        /// Which; `None`: this one.
        month: Option<Month>,
    },
    /// Put it back into the queue.
    Requeue {
        /// Its id, or the end of it.
        task: String,
    },
    /// Let a repository go on that was left alone because nobody did anything with its pull requests.
    Resume {
        /// Which.
        repo: RepoName,
    },
    /// Stop it.
    Cancel {
        /// Its id, or the end of it.
        task: String,
        /// Who asks.
        by: String,
    },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Many tasks.
    Tasks(Vec<Task>),
    /// One task as it is now, and what its last verification showed.
    Task(Box<Task>, Option<Box<Evidence>>),
    /// What every account used.
    Spending(Vec<Spending>),
    /// It was not done.
    Refused(Failure),
}

/// Where the socket lies.
pub fn socket(data: &Path) -> PathBuf {
    data.join("queue").join("control.sock")
}

/// Answers operators until the shutdown. A socket that cannot be made is a warning: the work does not need it.
pub fn serve(socket: &Path, queue: Arc<Queue>, shutdown: CancellationToken, tracker: &TaskTracker) {
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
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let queue = queue.clone();
                    tokio::spawn(async move {
                        let answered = tokio::time::timeout(QUESTION_TIMEOUT, converse(stream, &queue)).await;
                        tracing::debug!(?answered, "an operator was answered");
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "an operator could not be heard");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}

async fn converse(mut stream: UnixStream, queue: &Queue) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_QUESTION_BYTES)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => answer(queue, question).await,
        Err(error) => Answer::Refused(Failure::internal(error)),
    };
    write.write_all(&serde_json::to_vec(&answer)?).await?;
    write.write_all(b"\n").await
}

/// Asks the process that has the queue of this data directory open; where none has, opens it for the question.
///
/// # Errors
/// The refusal, or that neither way was possible.
pub async fn ask(data: &Path, options: QueueOptions, question: Question) -> Result<Answer, Failure> {
    let path = socket(data);
    let answer = match connect(&path).await {
        Ok(stream) => put(stream, &question).await.map_err(|error| {
            let message = format!("The process that has the task store open does not answer: {error}");
            Failure::new(Code::StoreUnavailable, message).next("Look at its log; it may be closing just now.")
        })?,
        Err(_) => {
            let dir = data.join("queue");
            if !dir.exists() {
                let message = format!("There is no task store in {}", dir.display());
                return Err(Failure::new(Code::StoreUnavailable, message)
                    .next("Name the data directory of `onramp serve` with --data-dir."));
            }
            let opened = tokio::task::spawn_blocking(move || Queue::open(&dir, options)).await;
            let queue = opened.map_err(Failure::internal)??;
            let answer = answer(&queue, question).await;
            queue.shutdown().await;
            answer
        }
    };
    match answer {
        Answer::Refused(failure) => Err(failure),
        answer => Ok(answer),
    }
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_dir, path) = short(path)?;
    UnixStream::connect(path).await
}

async fn put(mut stream: UnixStream, question: &Question) -> io::Result<Answer> {
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// The path of a socket may have 107 bytes, and that of a data directory has more sometimes.
fn short(path: &Path) -> io::Result<(File, PathBuf)> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let dir = File::open(path.parent().ok_or_else(missing)?)?;
    let name = path.file_name().ok_or_else(missing)?;
    let by_descriptor = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok((dir, by_descriptor))
}

async fn answer(queue: &Queue, question: Question) -> Answer {
    answered(queue, question).await.unwrap_or_else(Answer::Refused)
}

async fn answered(queue: &Queue, question: Question) -> Result<Answer, Failure> {
    let task = match question {
        Question::List { repo, unfinished, dead, limit } => {
            let wanted = (!dead).then_some(limit);
            let mut tasks = queue.list(TaskFilter { repo, unfinished, limit: wanted }).await.map_err(refused)?;
            tasks.retain(|task| !dead || is_dead(task));
            tasks.truncate(limit);
            return Ok(Answer::Tasks(tasks));
        }
        Question::Budget { month } => {
            let month = month.unwrap_or_else(|| Month::of(crate::now()));
            return Ok(Answer::Spending(queue.spending(month).await.map_err(refused)?));
        }
        Question::Show { task } => find(queue, &task).await?,
        Question::Resume { repo } => {
            let filter = TaskFilter { repo: Some(repo.clone()), ..TaskFilter::default() };
            let tasks = queue.list(filter).await.map_err(refused)?;
            let open = tasks.into_iter().find(|task| matches!(task.state, tasks::TaskState::PullRequestOpen { .. }));
            let Some(open) = open else {
                let message = format!("No pull request of Onramp is open in {repo}, so it is not left alone");
                return Err(
                    Failure::new(Code::Usage, message).next("`onramp list --repo` says what its tasks wait for.")
                );
            };
            queue.notice(open.id, crate::now()).await.map_err(refused)?;
            find(queue, &open.id.to_string()).await?
        }
        Question::Requeue { task } => {
            let id = find(queue, &task).await?.id;
            queue.requeue(id).await.map_err(refused)?;
            find(queue, &id.to_string()).await?
        }
        Question::Cancel { task, by } => {
            let id = find(queue, &task).await?.id;
            queue.cancel(id, Actor { login: by, id: None }).await.map_err(refused)?;
            find(queue, &id.to_string()).await?
        }
    };
    let evidence = queue.evidence(task.id).await.map_err(refused)?;
    Ok(Answer::Task(Box::new(task), evidence.map(Box::new)))
}

/// Whether it was set aside because its workers vanish.
fn is_dead(task: &Task) -> bool {
    matches!(&task.state, tasks::TaskState::Failed { failure } if failure.code == Code::PoisonTask)
}

async fn find(queue: &Queue, text: &str) -> Result<Task, Failure> {
    let unknown = || {
        Failure::new(Code::Usage, format!("There is no task {}", text.chars().take(64).collect::<String>()))
            .next("`onramp list` shows the tasks of this data directory.")
    };
    if let Ok(id) = text.parse::<TaskId>() {
        return queue.get(id).await.map_err(refused)?.ok_or_else(unknown);
    }
    let end = text.to_ascii_lowercase();
    if end.len() < MIN_DIGITS || !end.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(unknown());
    }
    let tasks = queue.list(TaskFilter::default()).await.map_err(refused)?;
    let mut found: Vec<_> = tasks.into_iter().filter(|task| task.id.to_string().ends_with(&end)).collect();
    match (found.pop(), found.is_empty()) {
        (Some(task), true) => Ok(task),
        (Some(_), false) => {
            let message = format!("More than one task ends in {end}");
            Err(Failure::new(Code::Usage, message).next("Give more digits of the id."))
        }
        (None, _) => Err(unknown()),
    }
}

fn refused(error: QueueError) -> Failure {
    match error {
        QueueError::Unavailable(_) | QueueError::ShuttingDown => Failure::new(Code::StoreUnavailable, sentence(&error)),
        QueueError::AlreadyAtWork(other) => Failure::new(Code::Usage, sentence(&error))
            .next(format!("Wait for it, or stop it first: onramp cancel {}", other.short())),
        QueueError::UnknownTask(_) | QueueError::InvalidTransition(_) | QueueError::StaleLease { .. } => {
            Failure::new(Code::Usage, sentence(&error)).next("`onramp show` says where the task stands.")
        }
    }
}

fn sentence(error: &QueueError) -> String {
    let text = match error {
        QueueError::InvalidTransition(refused) => {
            format!(
                "a task that is {} cannot be {}",
                refused.state,
                match refused.event.word() {
                    "cancel_requested" => "stopped",
                    _ => "put back",
                }
            )
        }
        other => other.to_string(),
    };
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
