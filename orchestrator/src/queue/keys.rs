//! The keys of the index. All rows lie in one tree, so that a group is written in one atomic batch; the first byte of a key
//! says what its row is. Numbers are big-endian, so that byte order is their order.

use tasks::{DedupeKey, Month, RepoName, TaskId};

/// How far the index has come: the only row with this letter.
pub(super) const APPLIED: &[u8] = b"m";
/// Tasks.
pub(super) const TASK: u8 = b't';
/// Tasks by age: the sequence of the record that made them. Ids sort by creation only down to the millisecond.
pub(super) const AGE: u8 = b'a';
/// Cursors of readers of events.
pub(super) const CURSOR: u8 = b'c';
/// Unfinished tasks by age.
pub(super) const UNFINISHED: u8 = b'u';

/// Tasks by the pull request that they opened.
pub(super) const PULL_REQUEST: u8 = b'p';

fn key(letter: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(rest.len() + 1);
    key.push(letter);
    key.extend_from_slice(rest);
    key
}

pub(super) fn task(task: TaskId) -> Vec<u8> {
    key(TASK, task.as_bytes())
}

/// Chunks of a request: the id, then the number of the chunk.
pub(super) fn request_chunk(task: TaskId, chunk: u16) -> Vec<u8> {
    let mut key = key(b'r', task.as_bytes());
    key.extend_from_slice(&chunk.to_be_bytes());
    key
}

pub(super) fn age(sequence: u64) -> Vec<u8> {
    key(AGE, &sequence.to_be_bytes())
}

pub(super) fn unfinished(sequence: u64) -> Vec<u8> {
    key(UNFINISHED, &sequence.to_be_bytes())
}

pub(super) fn dedupe(name: &DedupeKey) -> Vec<u8> {
    key(b'k', name.as_str().as_bytes())
}

pub(super) fn observed(name: &DedupeKey) -> Vec<u8> {
    key(b'o', name.as_str().as_bytes())
}

pub(super) fn evidence(task: TaskId) -> Vec<u8> {
    key(b'e', task.as_bytes())
}

/// The accounts of a month: the month, and then each one's key.
pub(super) fn accounts(month: Month) -> Vec<u8> {
    key(b'b', month.to_string().as_bytes())
}

pub(super) fn account(month: Month, account: &str) -> Vec<u8> {
    let mut key = accounts(month);
    key.extend_from_slice(account.as_bytes());
    key
}

pub(super) fn cursor(name: &str) -> Vec<u8> {
    key(CURSOR, name.as_bytes())
}

/// A pull request: the repository, a zero byte (no name holds one), the number.
pub(super) fn pull_request(repo: &RepoName, number: u64) -> Vec<u8> {
    let mut key = key(PULL_REQUEST, repo.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// A row of one of the lists by age.
pub(super) fn listed(letter: u8, sequence: u64) -> Vec<u8> {
    key(letter, &sequence.to_be_bytes())
}

/// The id that a value or a key spells; `None` when it does not.
pub(super) fn task_id(bytes: &[u8]) -> Option<TaskId> {
    bytes.try_into().ok().map(TaskId::from_bytes)
}

/// The number that a value spells; `None` when it does not.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_is_number_order_and_names_do_not_run_into_each_other() {
        assert!(age(255) < age(256));
        let (web, web2): (RepoName, RepoName) = ("acme/web".parse().unwrap(), "acme/web2".parse().unwrap());
        assert!(pull_request(&web, 255) < pull_request(&web, 256));
        assert!(pull_request(&web, u64::MAX) < pull_request(&web2, 0));
    }
}
