//! Checkpoints, what may go once they stand, and what an anchor shows.

use std::time::Duration as StdDuration;

use super::*;

/// Small segments, with checkpoints.
fn options(clock: &ManualClock, keep_segments: u32) -> QueueOptions {
    QueueOptions { segment_bytes: 4096, checkpoints: true, keep_segments, ..clock.options() }
}

fn names(dir: &Path, extension: &str) -> Vec<String> {
    let files = fs::read_dir(dir.join("journal")).unwrap().map(|file| file.unwrap().path());
    let mut names: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Waits until the journal names a checkpoint of this segment or a later one.
async fn until_checkpointed(queue: &Queue, dir: &Path, segment: u32) {
    let deadline = Instant::now() + StdDuration::from_secs(30);
    loop {
        // Any step lets the committer take what its maker has made.
        queue.set_cursor("test", queue.journal_head().0).await.unwrap();
        let mut newest = 0;
        audit::show(&dir.join("journal"), &audit::Wanted::default(), |_, record| {
            if let QueueRecord::Checkpointed { segment, .. } = record {
                newest = newest.max(*segment);
            }
            true
        })
        .unwrap();
        if newest >= segment {
            return;
        }
        assert!(Instant::now() < deadline, "no checkpoint of segment {segment}; the newest is {newest}");
        tokio::time::sleep(StdDuration::from_millis(5)).await;
    }
}

/// Fills some segments; what is there then.
async fn filled(dir: &Path, options: QueueOptions) -> (Vec<Task>, Queue) {
    let queue = Queue::open(dir, options).unwrap();
    for n in 1..=60 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    for n in 1..=20 {
        let (_, lease) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
        queue.report(&lease, opened(n)).await.unwrap();
    }
    let tasks = queue.list(TaskFilter::default()).await.unwrap();
    (tasks, queue)
}

#[tokio::test]
async fn an_index_is_made_anew_from_the_newest_checkpoint_and_what_came_after() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let (before, queue) = filled(dir.path(), options(&clock, 0)).await;
    until_checkpointed(&queue, dir.path(), 5).await;
    queue.shutdown().await;
    drop(queue);
    let summary = audit::verify(&dir.path().join("journal"), None).unwrap();
    assert!(summary.n_checkpoints >= 1 && summary.first == 1, "{summary:?}");
    let checkpoint = names(dir.path(), "checkpoint").pop().unwrap();
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    // With the segments before it unreadable, only the checkpoint can have told.
    let hidden = dir.path().join("hidden");
    fs::create_dir(&hidden).unwrap();
    for segment in names(dir.path(), "log").iter().filter(|segment| **segment <= checkpoint) {
        fs::rename(dir.path().join(format!("journal/{segment}.log")), hidden.join(segment)).unwrap();
    }
    let queue = Queue::open(dir.path(), options(&clock, 0)).unwrap();
    assert_eq!(queue.list(TaskFilter::default()).await.unwrap(), before);
    assert_eq!(queue.enqueue(nth(1)).await.unwrap().id(), before.last().unwrap().id, "dedupe keys are in it");
}

#[tokio::test]
async fn a_damaged_checkpoint_is_passed_over_and_made_again() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let (before, queue) = filled(dir.path(), options(&clock, 0)).await;
    until_checkpointed(&queue, dir.path(), 5).await;
    queue.shutdown().await;
    drop(queue);
    let newest = names(dir.path(), "checkpoint").pop().unwrap();
    let path = dir.path().join(format!("journal/{newest}.checkpoint"));
    let whole = fs::read(&path).unwrap();
    let mut wrong = whole.clone();
    wrong[whole.len() / 2] ^= 4;
    fs::write(&path, &wrong).unwrap();
    let error = audit::verify(&dir.path().join("journal"), None).unwrap_err().to_string();
    assert!(error.contains(&format!("{newest}.checkpoint")), "{error}");
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let queue = Queue::open(dir.path(), options(&clock, 0)).unwrap();
    assert_eq!(queue.list(TaskFilter::default()).await.unwrap(), before);
    let head = queue.journal_head().0;
    queue.set_cursor("test", head).await.unwrap();
    let deadline = Instant::now() + StdDuration::from_secs(30);
    while audit::verify(&dir.path().join("journal"), None).is_err() {
        assert!(Instant::now() < deadline, "it is not made again");
        tokio::time::sleep(StdDuration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn segments_that_a_checkpoint_stands_for_may_go_and_the_chain_goes_on() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let (before, queue) = filled(dir.path(), options(&clock, 2)).await;
    until_checkpointed(&queue, dir.path(), 5).await;
    let (sequence, hash) = queue.journal_head();
    queue.shutdown().await;
    drop(queue);
    let segments = names(dir.path(), "log");
    assert!(segments[0].as_str() > "000001", "{segments:?}");
    let anchor = tasks::Anchor { sequence, hash: hash.to_string() };
    let summary = audit::verify(&dir.path().join("journal"), Some(&anchor)).unwrap();
    assert!(summary.first > 1 && summary.n_checkpoints >= 1, "{summary:?}");
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let queue = Queue::open(dir.path(), options(&clock, 2)).unwrap();
    assert_eq!(queue.list(TaskFilter::default()).await.unwrap(), before);
    let first = queue.events_after(0, 1).await.unwrap();
    assert!(first[0].0 >= summary.first, "who reads from the beginning begins where the journal does");
    drop(queue);
    // Without the checkpoint nothing stands for what is gone.
    for checkpoint in names(dir.path(), "checkpoint") {
        fs::remove_file(dir.path().join(format!("journal/{checkpoint}.checkpoint"))).unwrap();
    }
    let failure = Queue::open(dir.path(), options(&clock, 2)).err().unwrap();
    assert_eq!(failure.code, Code::StoreDamaged);
}

#[tokio::test]
async fn a_segment_that_a_reader_has_not_read_stays() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), options(&clock, 1)).unwrap();
    queue.set_cursor("slow", 1).await.unwrap();
    drop(queue);
    let (_, queue) = filled(dir.path(), options(&clock, 1)).await;
    until_checkpointed(&queue, dir.path(), 5).await;
    assert_eq!(names(dir.path(), "log")[0], "000001");
    assert!(!queue.events_after(1, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn who_reads_without_a_cursor_is_served_while_segments_are_removed() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Arc::new(Queue::open(dir.path(), options(&clock, 1)).unwrap());
    queue.enqueue(nth(1)).await.unwrap();
    let reading = tokio::spawn({
        let queue = queue.clone();
        async move {
            let mut first = 0;
            // Until it was seen that something is gone.
            while first < 60 {
                let events = queue.events_after(0, 10).await.unwrap();
                assert!(events.is_sorted_by_key(|event| event.0), "{events:?}");
                // None, when all that there was at the beginning of the question was removed before its end.
                let begins = events.first().map_or(first, |event| event.0);
                assert!(begins >= first, "what was gone came back: {begins} after {first}");
                first = begins;
            }
        }
    });
    let mut n = 1;
    while !reading.is_finished() {
        n += 1;
        queue.enqueue(nth(n)).await.unwrap();
        assert!(n < 20_000, "nothing is ever removed");
    }
    reading.await.unwrap();
}

#[tokio::test]
async fn a_cut_end_an_older_copy_and_another_journal_are_told_by_the_anchor() {
    let room = Room::new();
    room.enqueue(nth(1)).await;
    let end = fs::metadata(journal_file(room.dir.path())).unwrap().len();
    for n in 2..=4 {
        room.enqueue(nth(n)).await;
    }
    room.queue.shutdown().await;
    let journal = room.dir.path().join("journal");
    let anchor = audit::verify(&journal, None).unwrap().anchor();
    audit::verify(&journal, Some(&anchor)).unwrap();
    let changed = tasks::Anchor { hash: "0".repeat(64), ..anchor.clone() };
    assert!(matches!(audit::verify(&journal, Some(&changed)), Err(AuditError::Other { sequence: 4, .. })));
    fs::OpenOptions::new().write(true).open(journal_file(room.dir.path())).unwrap().set_len(end).unwrap();
    assert_eq!(audit::verify(&journal, None).unwrap().n_records, 1, "by itself it looks whole");
    assert!(matches!(audit::verify(&journal, Some(&anchor)), Err(AuditError::Cut { end: 1, anchor: 4 })));
}

#[tokio::test]
async fn rows_that_are_lost_or_older_than_they_should_be_are_noticed() {
    let room = Room::new();
    history(&room).await;
    let before = room.all().await;
    let mut room = room;
    for n in 0..3 {
        room = room
            .reopened(|dir| {
                let db = sled::Config::new().path(dir.join("index")).open().unwrap();
                let rows = db.open_tree("rows").unwrap();
                let (key, value) = rows.scan_prefix("t").nth(n).unwrap().unwrap();
                match n {
                    0 => drop(rows.remove(key).unwrap()),
                    1 => drop(rows.insert(key, &value[..value.len() - 1]).unwrap()),
                    _ => drop(rows.insert("k-somebody's", value).unwrap()),
                }
                db.flush().unwrap();
            })
            .await;
        let why = fs::read_to_string(room.dir.path().join("index.damaged/WHY")).unwrap();
        assert!(why.contains("do not add up"), "{why}");
        assert_eq!(room.all().await, before);
        fs::remove_dir_all(room.dir.path().join("index.damaged")).unwrap();
    }
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_refused_and_not_touched() {
    let room = Room::new();
    room.enqueue(nth(1)).await;
    let head = room.queue.journal_head();
    room.queue.shutdown().await;
    let file = journal_file(room.dir.path());
    let mut bytes = fs::read(&file).unwrap();
    let mut head = Head { sequence: head.0, hash: head.1 };
    frame::encode(&mut bytes, &mut head, 2, br#"{"v":99,"value":{"kind":"tomorrow"}}"#);
    fs::write(&file, &bytes).unwrap();
    let failure = Queue::open(room.dir.path(), room.clock.options()).err().unwrap();
    assert_eq!(failure.code, Code::StoreNewer, "{failure}");
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn a_crash_while_segments_are_removed_is_made_good_by_the_next_start() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let (before, queue) = filled(dir.path(), options(&clock, 0)).await;
    until_checkpointed(&queue, dir.path(), 3).await;
    queue.shutdown().await;
    drop(queue);
    let covered = names(dir.path(), "checkpoint").pop().unwrap();
    assert!(*covered > *"000002", "more than one goes at once: {covered}");
    // As it is after the first of them.
    fs::write(dir.path().join("journal/pruning"), covered.trim_start_matches('0')).unwrap();
    fs::remove_file(dir.path().join("journal/000001.log")).unwrap();
    let queue = Queue::open(dir.path(), options(&clock, 0)).unwrap();
    assert_eq!(queue.list(TaskFilter::default()).await.unwrap(), before);
    queue.shutdown().await;
    assert!(names(dir.path(), "log")[0] > covered, "{:?}", names(dir.path(), "log"));
    assert!(!dir.path().join("journal/pruning").exists());
    audit::verify(&dir.path().join("journal"), None).unwrap();

    // Without that intent, a segment that is missing is damage.
    fs::remove_file(dir.path().join("journal").join(format!("{covered}.checkpoint"))).unwrap();
    assert_eq!(Queue::open(dir.path(), options(&clock, 0)).err().unwrap().code, Code::StoreDamaged);
}
