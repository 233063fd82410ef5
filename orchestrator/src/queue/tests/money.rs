//! What attempts may use: reserved before they begin, settled when they end, and never more than a limit says.

use tasks::{Account, Allowance, Money, Month, Usage};

use super::*;
use crate::queue::budget::{Budgets, Level, WhenOver};

fn dollars(n: u64) -> Allowance {
    Allowance { money: Some(Money::microusd(n * 1_000_000)), ..Allowance::default() }
}

fn spent(cents: u64) -> Option<Usage> {
    Some(Usage { money: Money::microusd(cents * 10_000), ..Usage::default() })
}

fn done(used: Option<Usage>) -> Report {
    Report::Finished { outcome: Outcome::NothingChanged, evidence: None, used }
}

/// Five dollars for a task, and twelve for all of them in a month.
fn limited(clock: &ManualClock, when_over: WhenOver) -> QueueOptions {
    let all = Level { task: dollars(5), month: dollars(12) };
    QueueOptions { budgets: Arc::new(Budgets { all, when_over, ..Budgets::default() }), ..clock.options() }
}

async fn of_all(queue: &Queue, clock: &ManualClock) -> (u64, u64, usize) {
    let spending = queue.spending(Month::of(clock.now())).await.unwrap();
    let all = &spending[0];
    assert_eq!(all.account, Account::All);
    let cents = |money: Money| money.as_microusd() / 10_000;
    (cents(all.used.money), all.reserved.money.map_or(0, cents), all.waiting.len())
}

#[tokio::test]
async fn attempts_at_the_same_time_cannot_overshoot_a_limit_together() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), limited(&clock, WhenOver::Wait)).unwrap();
    for n in 1..=4 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    let mut leases = Vec::new();
    for allowed in [dollars(5), dollars(5), dollars(2)] {
        let (task, lease) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
        assert_eq!(task.reservation.unwrap().allowance, allowed);
        leases.push(lease);
    }
    assert!(queue.lease_once(&name("w1")).await.unwrap().is_none(), "all is reserved");
    assert_eq!(of_all(&queue, &clock).await, (0, 1200, 1));
    let held = queue.list(TaskFilter::default()).await.unwrap().remove(0);
    assert_eq!(
        held.held.unwrap().to_string(),
        "the limit of all tasks for 2026-09 is $12.00, and $0.00 are used and $12.00 reserved by what runs"
    );
    let (head, _) = queue.journal_head();
    assert!(queue.lease_once(&name("w1")).await.unwrap().is_none());
    assert_eq!(queue.journal_head().0, head, "told once");

    // What was not needed is there for the next one.
    queue.report(&leases[0], done(spent(125))).await.unwrap();
    assert_eq!(of_all(&queue, &clock).await, (125, 700, 1));
    let (task, _) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
    assert_eq!((task.held, task.reservation.unwrap().allowance.money), (None, Some(Money::microusd(3_750_000))));
    assert_eq!(of_all(&queue, &clock).await, (125, 1075, 0));
}

#[tokio::test]
async fn the_ledger_is_the_same_after_a_kill_and_without_its_index() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), limited(&clock, WhenOver::Wait)).unwrap();
    for n in 1..=3 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    let (_, first) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
    queue.lease_once(&name("w2")).await.unwrap().unwrap();
    queue.report(&first, done(spent(300))).await.unwrap();
    let before = queue.spending(Month::of(clock.now())).await.unwrap();
    queue.shutdown().await;
    drop(queue);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let queue = Queue::open(dir.path(), limited(&clock, WhenOver::Wait)).unwrap();
    assert_eq!(queue.spending(Month::of(clock.now())).await.unwrap(), before);
    assert_eq!(of_all(&queue, &clock).await, (300, 500, 0));

    // Its worker never comes back, and nobody knows what it used.
    clock.advance(LEASE_S + 1);
    reaper::sweep_once(&queue, clock.now()).await.unwrap();
    assert_eq!(of_all(&queue, &clock).await, (800, 0, 0));
    let lost = queue.list(TaskFilter::default()).await.unwrap().into_iter().find(|task| task.crashes == 1).unwrap();
    assert_eq!((lost.used.money, lost.used.n_unmeasured), (Money::microusd(5_000_000), 1));
}

#[tokio::test]
async fn a_task_that_used_its_own_limit_fails_and_says_how_to_go_on() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), limited(&clock, WhenOver::Wait)).unwrap();
    let id = queue.enqueue(nth(1)).await.unwrap().id();
    let (_, lease) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
    let failure = Failure::new(Code::ForgeUnavailable, "It is away");
    queue.report(&lease, Report::Failed { failure, evidence: None, used: spent(500) }).await.unwrap();
    clock.advance(3600);
    let behind = queue.enqueue(nth(2)).await.unwrap().id();
    let (next, _) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
    assert_eq!(next.id, behind, "it holds up nobody");
    let TaskState::Failed { failure } = queue.get(id).await.unwrap().unwrap().state else {
        panic!("it has nothing left")
    };
    assert_eq!((failure.code, failure.kind), (Code::BudgetSpent, tasks::FailureKind::Budget));
    assert_eq!(failure.message, "The task cannot go on: the limit of the task is $5.00, and $5.00 are used");
    assert!(failure.next_step.contains("onramp task retry"), "{}", failure.next_step);
    queue.requeue(id).await.unwrap();
    let (again, _) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
    assert_eq!((again.id, again.reservation.unwrap().allowance), (id, dollars(2)), "what the month leaves");
}

#[tokio::test]
async fn a_worker_that_waits_is_woken_by_the_next_month() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), limited(&clock, WhenOver::Wait)).unwrap();
    for n in 1..=4 {
        queue.enqueue(nth(n)).await.unwrap();
        if let Some((_, lease)) = queue.lease_once(&name("w1")).await.unwrap() {
            queue.report(&lease, done(spent(400))).await.unwrap();
        }
    }
    let due = queue.grant(&name("w1")).await.unwrap().map(Grant::take).unwrap_err();
    assert_eq!(due, Some(Month::of(clock.now()).end()));
    clock.advance((due.unwrap() - clock.now()).num_seconds());
    assert!(queue.lease_once(&name("w1")).await.unwrap().is_some());
    assert_eq!(of_all(&queue, &clock).await, (0, 500, 0));
}

#[tokio::test]
async fn where_nothing_is_to_wait_a_task_over_a_limit_fails_before_it_costs_anything() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), limited(&clock, WhenOver::Fail)).unwrap();
    for n in 1..=4 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    for _ in 0..3 {
        queue.lease_once(&name("w1")).await.unwrap().unwrap();
    }
    assert!(queue.lease_once(&name("w1")).await.unwrap().is_none());
    let TaskState::Failed { failure } = queue.list(TaskFilter::default()).await.unwrap().remove(0).state else {
        panic!("it does not wait")
    };
    assert_eq!(failure.code, Code::OverBudget);
    assert!(failure.message.contains("Nothing was spent on this attempt"), "{}", failure.message);
}

#[tokio::test]
async fn a_lease_that_never_arrived_costs_nothing() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), limited(&clock, WhenOver::Wait)).unwrap();
    queue.enqueue(nth(1)).await.unwrap();
    drop(queue.grant(&name("w1")).await.unwrap());
    let (task, _) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
    assert_eq!((task.attempt, task.used), (2, Usage::default()));
    assert_eq!(of_all(&queue, &clock).await, (0, 500, 0));
}
