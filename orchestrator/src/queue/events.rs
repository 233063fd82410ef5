//! Reading the journal as its readers do: events in order, while it grows at one end and is pruned at the other.

use super::{
    Shared,
    index::Stored,
    journal::{JournalError, Walk},
    record::{self, QueueRecord},
};

/// So many events are held in memory at a time.
const BATCH: usize = 1000;

/// At most `limit` events after one sequence, up to another.
pub(super) fn read(
    shared: &Shared,
    after: u64,
    until: u64,
    limit: usize,
) -> Result<Vec<(u64, QueueRecord)>, JournalError> {
    let mut events = Vec::new();
    if after >= until {
        return Ok(events);
    }
    let mut walk = Walk::near(&shared.journal, &shared.marks, after + 1)?;
    while events.len() < limit && walk.head().sequence < until {
        let here = walk.damage_here();
        walk.mark(&shared.marks);
        let Some(entry) = walk.next()? else {
            // It is durable and not there: what follows was removed meanwhile. On with the first that is left.
            let next = Walk::near(&shared.journal, &shared.marks, walk.head().sequence + 1)?;
            if next.head().sequence <= walk.head().sequence {
                break;
            }
            walk = next;
            continue;
        };
        if entry.head.sequence > after {
            let record: QueueRecord =
                record::decode(&entry.payload).map_err(|error| JournalError::unreadable(here, error))?;
            if record.is_event() {
                events.push((entry.head.sequence, record));
            }
        }
    }
    Ok(events)
}

/// What happened to one task. Nothing that is about it lies after the last record that changed it.
pub(super) fn read_of(
    shared: &Shared,
    stored: &Stored,
    until: u64,
    limit: usize,
) -> Result<Vec<(u64, QueueRecord)>, JournalError> {
    let (mut after, until) = (stored.enqueued.saturating_sub(1), until.min(stored.sequence));
    let mut found = Vec::new();
    while found.len() < limit {
        let events = read(shared, after, until, BATCH)?;
        let Some((last, _)) = events.last() else { break };
        after = *last;
        found.extend(events.into_iter().filter(|(_, record)| record.task() == Some(stored.task.id)));
    }
    found.truncate(limit);
    Ok(found)
}
