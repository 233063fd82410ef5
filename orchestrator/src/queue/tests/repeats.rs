//! What comes again is known again, also when everything else about it has changed.

use super::*;

#[tokio::test]
async fn a_delivery_that_comes_again_after_its_task_ended_makes_no_second_one() {
    let room = Room::new();
    let id = room.enqueue(nth(1)).await;
    let (_, lease) = room.lease("w1").await;
    room.queue.report(&lease, opened(1)).await.unwrap();
    // Nothing is at work on its issue any more: only the key knows.
    assert_eq!(room.queue.enqueue(nth(1)).await.unwrap(), Received::Known(id));
    let room = room.reopened(|_| ()).await;
    assert_eq!(room.queue.enqueue(nth(1)).await.unwrap(), Received::Known(id));
    let room = room.reopened(|dir| fs::remove_dir_all(dir.join("index")).unwrap()).await;
    assert_eq!(room.queue.enqueue(nth(1)).await.unwrap(), Received::Known(id));
    assert_eq!(room.all().await.len(), 1);
}
