//! Reading the journal as its readers do: events in order, while it grows at one end and is pruned at the other.

use super::{
    Shared,
    journal::{JournalError, Walk},
    record::{self, QueueRecord},
};

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
