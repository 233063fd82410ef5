//! Who goes first, who is told to wait, what a second trigger leaves, and what becomes of a task that kills its workers.

use super::*;

fn by(login: &str, id: u64, repo: &str, issue: u64, key: &str) -> TaskRequest {
    TaskRequest { actor: Actor { login: login.into(), id: Some(id) }, ..request(repo, issue, key) }
}

#[tokio::test]
async fn what_a_second_trigger_says_is_kept_and_reaches_the_agent() {
    let room = Room::new();
    let first = room.enqueue(request("acme/web", 12, "github:1")).await;
    room.enqueue(request("acme/web", 12, "github:2")).await;
    let mut edited = by("eve", 8, "acme/web", 12, "github:3");
    edited.instruction.body = "Also the header.".into();
    room.enqueue(edited).await;
    let room = room.reopened(|dir| fs::remove_dir_all(dir.join("index")).unwrap()).await;
    let (task, _) = room.lease("w1").await;
    assert_eq!(task.id, first);
    let said: Vec<_> = task.notes.iter().map(|note| (note.actor.login.as_str(), note.text.as_str())).collect();
    assert_eq!(said, [("ada", ""), ("eve", "Fix the pager\n\nAlso the header.")]);
    let body = task.body_with_notes();
    assert!(body.starts_with("It drops a row.") && body.ends_with("Also the header."), "{body}");
    assert_eq!(body.matches("asked again").count(), 1, "what says nothing new is not repeated to the agent");
}

#[tokio::test]
async fn notes_are_cut_and_counted() {
    let room = Room::new();
    room.enqueue(request("acme/web", 12, "github:first")).await;
    for n in 0..60 {
        let mut more = request("acme/web", 12, &format!("github:{n}"));
        more.instruction.body = format!("{n}").repeat(10_000);
        room.enqueue(more).await;
    }
    let (task, _) = room.lease("w1").await;
    assert_eq!(task.notes.len(), tasks::task::MAX_NOTES);
    assert!(task.notes.iter().all(|note| note.text.len() < 5_000));
}

#[tokio::test]
async fn a_task_that_kills_its_workers_is_set_aside_with_the_reason_and_comes_back_by_hand() {
    let room = Room::new();
    let poison = room.enqueue(nth(1)).await;
    for n in 1..=3 {
        room.clock.advance(3600);
        let (task, lease) = room.lease("w1").await;
        assert_eq!((task.id, task.crashes), (poison, n - 1));
        room.queue.renew(&lease, Stage::AgentRunning).await.unwrap();
        room.clock.advance(LEASE_S);
        assert_eq!(room.queue.expire_leases(room.clock.now()).await.unwrap(), [poison]);
    }
    let other = room.enqueue(nth(2)).await;
    let task = room.queue.get(poison).await.unwrap().unwrap();
    assert_eq!((task.attempt, task.crashes, task.failures), (3, 3, 0));
    let TaskState::Failed { failure } = task.state else { panic!("{task:?}") };
    assert_eq!(failure.code, Code::PoisonTask);
    assert!(failure.message.contains("vanished 3 times") && failure.message.contains("while running"), "{failure}");
    assert_eq!(room.lease("w1").await.0.id, other, "the queue moves on");

    room.queue.requeue(poison).await.unwrap();
    let (task, lease) = room.lease("w2").await;
    assert_eq!((task.id, task.attempt, task.crashes), (poison, 4, 0));
    assert_eq!(lease.attempt, 4, "attempts never fall");
}

#[tokio::test]
async fn no_more_than_so_many_of_a_repository_are_at_work_and_others_pass() {
    let clock = ManualClock::new();
    let dir = TempDir::new().unwrap();
    let options = QueueOptions { parallel_per_repository: 2, ..clock.options() };
    let queue = Arc::new(Queue::open(dir.path(), options).unwrap());
    for n in 1..=4 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    let mut leases = Vec::new();
    for n in 1..=2 {
        leases.push(queue.lease_once(&name(&format!("w{n}"))).await.unwrap().unwrap().1);
    }
    assert!(queue.lease_once(&name("w3")).await.unwrap().is_none(), "two are at work");
    queue.enqueue(request("beta/app", 1, "github:beta")).await.unwrap();
    let (task, _) = queue.lease_once(&name("w3")).await.unwrap().unwrap();
    assert_eq!(task.request.repo.as_str(), "beta/app");
    // Who waits is woken as soon as there is room again.
    let (waiting, w4) = (queue.clone(), name("w4"));
    let waits = tokio::spawn(async move { waiting.lease(&w4).await.unwrap().0 });
    tokio::task::yield_now().await;
    queue.report(&leases[0], opened(1)).await.unwrap();
    let task = tokio::time::timeout(std::time::Duration::from_secs(20), waits).await.unwrap().unwrap();
    assert_eq!(task.request.issue(), Some(3));
}

#[tokio::test]
async fn nobody_waits_behind_the_flood_of_another_person() {
    let room = Room::new();
    for n in 1..=50 {
        room.enqueue(by("ada", 7, "acme/web", n, &format!("github:{n}"))).await;
    }
    let late = room.enqueue(by("bob", 9, "acme/web", 99, "github:late")).await;
    let order = [room.lease("w1").await.0.id, room.lease("w1").await.0.id];
    assert!(order.contains(&late));
}

#[tokio::test]
async fn urgent_repositories_go_first() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let priority = Arc::new(|request: &TaskRequest| match request.repo.as_str() {
        "acme/urgent" => Priority::High,
        _ => Priority::Normal,
    });
    let queue = Queue::open(dir.path(), QueueOptions { priority, ..clock.options() }).unwrap();
    for n in 1..=20 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    let urgent = queue.enqueue(request("acme/urgent", 1, "github:urgent")).await.unwrap().id();
    queue.shutdown().await;
    drop(queue);
    // It was decided when the task was stored.
    let queue = Queue::open(dir.path(), clock.options()).unwrap();
    assert_eq!(queue.lease_once(&name("w1")).await.unwrap().unwrap().0.id, urgent);
}

#[tokio::test]
async fn one_too_many_of_a_person_is_refused_once_with_the_reason() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), QueueOptions { queued_per_actor: 3, ..clock.options() }).unwrap();
    for n in 1..=3 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    let Received::New(refused) = queue.enqueue(nth(4)).await.unwrap() else { panic!("it is told") };
    let task = queue.get(refused).await.unwrap().unwrap();
    let TaskState::Failed { failure } = task.state else { panic!("{task:?}") };
    assert_eq!(failure.code, Code::TooManyQueued);
    for n in 5..=9 {
        assert_eq!(queue.enqueue(nth(n)).await.unwrap(), Received::Known(refused), "told once");
    }
    assert_eq!(queue.enqueue(nth(5)).await.unwrap(), Received::Known(refused), "also when it is delivered again");
    let other = queue.enqueue(by("bob", 9, "acme/web", 50, "github:bob")).await.unwrap();
    assert!(matches!(other, Received::New(_)));
    // Room again, and then too many again: told again.
    queue.lease_once(&name("w1")).await.unwrap().unwrap();
    let taken = queue.enqueue(nth(10)).await.unwrap().id();
    assert_eq!(queue.get(taken).await.unwrap().unwrap().state.word(), "queued");
    let Received::New(again) = queue.enqueue(nth(11)).await.unwrap() else { panic!("a new answer") };
    assert_ne!(again, refused);
}

#[tokio::test]
async fn a_refusal_that_was_not_stored_was_told_to_nobody_and_one_that_was_is_not_forgotten() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let options = QueueOptions { queued_per_actor: 1, segment_bytes: 1, ..clock.options() };
    let queue = Queue::open(dir.path(), options).unwrap();
    queue.enqueue(nth(1)).await.unwrap();
    let blocked = dir.path().join("journal/000003.new");
    std::os::unix::fs::symlink("/dev/full", &blocked).unwrap();
    queue.enqueue(nth(2)).await.unwrap_err();
    fs::remove_file(&blocked).unwrap();
    let Received::New(refused) = queue.enqueue(nth(2)).await.unwrap() else { panic!("nobody was told yet") };

    // Room again, which a request takes that cannot be stored: so there is room still, and nothing else has changed.
    let (_, lease) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
    let blocked = dir.path().join("journal/000005.new");
    std::os::unix::fs::symlink("/dev/full", &blocked).unwrap();
    queue.enqueue(nth(3)).await.unwrap_err();
    fs::remove_file(&blocked).unwrap();
    queue.report(&lease, Report::Released { used: None }).await.unwrap();
    assert_eq!(queue.enqueue(nth(4)).await.unwrap(), Received::Known(refused), "told once");
}

#[tokio::test]
async fn a_clock_that_was_set_back_delays_a_task_by_no_more_than_the_longest_wait_whatever_is_said_of_it_meanwhile() {
    let mut room = Room::new();
    let id = room.enqueue(nth(1)).await;
    let clock = room.clock.clone();
    room = room.reopened(move |_| clock.advance(-86_400)).await;
    let again = TaskRequest { dedupe_key: "github:again".parse().unwrap(), ..nth(1) };
    assert_eq!(room.queue.enqueue(again).await.unwrap(), Received::Known(id), "a note");
    room.clock.advance(LONGEST_WAIT.num_seconds());
    assert_eq!(room.lease("w1").await.0.id, id);
}

#[tokio::test]
async fn a_worker_gets_the_end_of_the_journal_as_it_was() {
    let room = Room::new();
    room.enqueue(nth(1)).await;
    let (sequence, hash) = room.queue.journal_head();
    let (task, _) = room.lease("w1").await;
    let anchor = task.anchor.unwrap();
    assert_eq!((anchor.sequence, anchor.hash.as_str()), (sequence, hash.to_string().as_str()));
    assert!(room.queue.get(task.id).await.unwrap().unwrap().anchor.is_none(), "it is not stored");
    room.queue.shutdown().await;
    let journal = room.dir.path().join("journal");
    audit::verify(&journal, Some(&anchor)).unwrap();
}
