//! The keys of the index. Numbers are big-endian, so that byte order is their order.

use tasks::{RepoName, TaskId};

/// Chunks of a request: the id, then the number of the chunk.
pub(super) fn request_chunk(task: TaskId, chunk: u16) -> [u8; 18] {
    let mut key = [0; 18];
    key[..16].copy_from_slice(task.as_bytes());
    key[16..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// Tasks by age: the sequence of the record that made them. Ids sort by creation only down to the millisecond.
pub(super) fn age(sequence: u64) -> [u8; 8] {
    sequence.to_be_bytes()
}

/// A pull request: the repository, a zero byte (no name holds one), the number.
pub(super) fn pull_request(repo: &RepoName, number: u64) -> Vec<u8> {
    let mut key = repo.as_str().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&number.to_be_bytes());
    key
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
