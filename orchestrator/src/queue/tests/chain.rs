//! The chain against somebody who knows the format: every checksum is right, and only the links tell.

use std::time::Duration as StdDuration;

use super::{
    super::frame::{self, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES},
    *,
};

/// The records of a file, whole.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &bytes[SEGMENT_HEADER_BYTES..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (frame, after) = rest.split_at(FRAME_HEADER_BYTES + frame::payload_len(rest).unwrap());
        frames.push(frame.to_vec());
        rest = after;
    }
    frames
}

/// The same payload after another record, with the checksum that it should have then.
fn after(mut head: Head, frame: &[u8]) -> (Head, Vec<u8>) {
    let mut bytes = Vec::new();
    let group = frame::decode(frame).unwrap().group;
    frame::encode(&mut bytes, &mut head, group, &frame[FRAME_HEADER_BYTES..]);
    (head, bytes)
}

#[tokio::test]
async fn a_last_record_that_was_written_anew_is_no_unfinished_write() {
    let room = Room::new();
    for n in 1..=3 {
        room.enqueue(nth(n)).await;
    }
    room.queue.shutdown().await;
    drop(room.queue);
    let file = journal_file(room.dir.path());
    let sound = fs::read(&file).unwrap();
    let last = frames(&sound).pop().unwrap();
    let mut bytes = sound[..sound.len() - last.len()].to_vec();
    bytes.extend(after(Head { sequence: 2, hash: Hash([7; 32]) }, &last).1);
    fs::write(&file, &bytes).unwrap();
    fs::remove_dir_all(room.dir.path().join("index")).unwrap();
    let failure = Queue::open(room.dir.path(), room.clock.options()).err().expect("it is refused");
    assert_eq!(failure.code, Code::StoreDamaged);
    assert!(failure.message.contains("it does not follow the record before it"), "{}", failure.message);
    assert_eq!(fs::read(&file).unwrap(), bytes, "nothing was cut off");
}

#[tokio::test]
async fn a_segment_that_was_written_anew_does_not_carry_on() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), QueueOptions { segment_bytes: 1, ..clock.options() }).unwrap();
    for n in 1..=3 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    queue.shutdown().await;
    let journal = dir.path().join("journal");
    audit::verify(&journal, None).unwrap();
    // The last one, so that nothing after it could tell.
    let path = dir.path().join("journal/000004.log");
    let path = if path.exists() { path } else { dir.path().join("journal/000003.log") };
    let record = frames(&fs::read(&path).unwrap()).pop().unwrap();
    let sequence = frame::decode(&record).unwrap().sequence - 1;
    let forged = Head { sequence, hash: Hash([7; 32]) };
    fs::write(&path, [frame::segment_header(forged).to_vec(), after(forged, &record).1].concat()).unwrap();
    let error = audit::verify(&journal, None).unwrap_err().to_string();
    assert!(error.contains("does not carry on where the one before it ends"), "{error}");
}

#[tokio::test]
async fn a_checkpoint_with_a_row_taken_out_or_written_anew_is_told() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let options = QueueOptions { segment_bytes: 4096, checkpoints: true, ..clock.options() };
    let queue = Queue::open(dir.path(), options).unwrap();
    for n in 1..=40 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    let journal = dir.path().join("journal");
    let last_named = || {
        let mut named = None;
        audit::show(&journal, &audit::Wanted::default(), |_, record| {
            if let QueueRecord::Checkpointed { segment, .. } = record {
                named = Some(*segment);
            }
            true
        })
        .unwrap();
        named
    };
    let deadline = Instant::now() + StdDuration::from_secs(30);
    while last_named().is_none() {
        // Any step lets the committer take what its maker has made.
        queue.set_cursor("test", queue.journal_head().0).await.unwrap();
        assert!(Instant::now() < deadline, "no checkpoint was made");
        tokio::time::sleep(StdDuration::from_millis(5)).await;
    }
    queue.shutdown().await;
    // Another one may have taken its place until then.
    let segment = last_named().unwrap();
    audit::verify(&journal, None).unwrap();
    let path = checkpoint::path(&journal, segment);
    let sound = fs::read(&path).unwrap();
    let header = sound[..SEGMENT_HEADER_BYTES].to_vec();
    let mut rows = frames(&sound);
    rows.remove(rows.len() / 2);

    fs::write(&path, [header.clone(), rows.concat()].concat()).unwrap();
    let error = audit::verify(&journal, None).unwrap_err().to_string();
    assert!(error.contains("it does not follow the row before it"), "{error}");

    let (mut head, mut bytes) = (Head::default(), header);
    for row in rows {
        let (next, row) = after(head, &row);
        head = next;
        bytes.extend(row);
    }
    fs::write(&path, bytes).unwrap();
    let error = audit::verify(&journal, None).unwrap_err().to_string();
    assert!(error.contains("it is not the one that the journal names"), "{error}");
}

#[tokio::test]
async fn what_a_newer_version_wrote_in_our_own_words_is_refused_too() {
    let room = Room::new();
    room.enqueue(nth(1)).await;
    room.queue.shutdown().await;
    drop(room.queue);
    let file = journal_file(room.dir.path());
    let first = frames(&fs::read(&file).unwrap()).pop().unwrap();
    let payload = String::from_utf8(first[FRAME_HEADER_BYTES..].to_vec()).unwrap();
    let newer = payload.replacen("{\"v\":3,", "{\"v\":99,", 1);
    assert_ne!(newer, payload);
    let mut bytes = fs::read(&file).unwrap()[..SEGMENT_HEADER_BYTES].to_vec();
    frame::encode(&mut bytes, &mut Head::default(), 1, newer.as_bytes());
    fs::write(&file, &bytes).unwrap();
    fs::remove_dir_all(room.dir.path().join("index")).unwrap();
    let failure = Queue::open(room.dir.path(), room.clock.options()).err().expect("it is refused");
    assert_eq!(failure.code, Code::StoreNewer, "{failure}");
}
