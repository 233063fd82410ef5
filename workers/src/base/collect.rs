//! Which bases go, and their removal.

use std::collections::HashSet;

use chrono::TimeDelta;
use tasks::Timestamp;

use super::{Bases, BasesOptions, Record};
use crate::sandbox::{KeptBase, SandboxError};

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// The bases that went, by name for people.
    pub gone: Vec<String>,
    /// Their bytes, as far as known.
    pub n_bytes: u64,
    /// Bases that should go and are used by a sandbox.
    pub n_in_use: usize,
}

impl Bases {
    /// Removes bases that are superseded, old, or beyond the caps, and those without a record. `dry`: only says which.
    ///
    /// Only for the process that builds: a base that another one is building has no record yet.
    pub async fn collect(&self, now: Timestamp, dry: bool) -> Collected {
        let backend = self.sandboxes.backend();
        let records = self.shelf.all();
        let used = |record: &Record| self.shelf.used_at(&record.base.id).unwrap_or(record.made_at).max(record.made_at);
        let kept: Vec<(Record, Timestamp)> =
            records.into_iter().map(|record| (used(&record), record)).map(swap).collect();
        let known: HashSet<&str> = kept.iter().map(|(record, _)| record.base.id.as_str()).collect();
        let mut doomed: Vec<(KeptBase, String)> = doomed(&kept, now, &self.options)
            .into_iter()
            .map(|record| (record.base.clone(), format!("{} at {}", record.repo, record.commit.short())))
            .collect();
        match backend.bases().await {
            Ok(all) => {
                let orphans = all.into_iter().filter(|base| !known.contains(base.id.as_str()));
                doomed.extend(orphans.map(|base| {
                    let name = format!("{} without a record", base.id);
                    (base, name)
                }));
            }
            Err(error) => tracing::warn!(%error, "cannot look for bases without a record"),
        }
        let mut collected = Collected::default();
        for (base, name) in doomed {
            if !dry {
                // Nothing new starts from it; what stands ready on it goes too.
                self.sandboxes.retire(&base.id);
                match backend.remove_base(&base).await {
                    Ok(()) => self.shelf.remove(&base.id),
                    Err(SandboxError::Refused { .. }) => {
                        collected.n_in_use += 1;
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(base.id = base.id, %error, "a base cannot be removed");
                        continue;
                    }
                }
            }
            collected.n_bytes += base.n_bytes;
            collected.gone.push(name);
        }
        collected
    }
}

fn swap<A, B>((a, b): (A, B)) -> (B, A) {
    (b, a)
}

/// The bases that should go, each with the time of its last use given.
fn doomed<'a>(kept: &'a [(Record, Timestamp)], now: Timestamp, options: &BasesOptions) -> Vec<&'a Record> {
    let max_age = TimeDelta::from_std(options.max_age).unwrap_or(TimeDelta::MAX);
    let superseded = |record: &Record| {
        kept.iter().any(|(other, _)| {
            (&other.repo, &other.recipe) == (&record.repo, &record.recipe) && other.made_at > record.made_at
        })
    };
    let mut by_use: Vec<&(Record, Timestamp)> = kept.iter().collect();
    by_use.sort_by_key(|(record, used)| std::cmp::Reverse((*used, record.made_at)));
    let (mut n_bytes, mut count) = (0_u64, 0);
    let mut doomed = Vec::new();
    for (record, used) in by_use {
        let fits = count < options.max_count && n_bytes.saturating_add(record.base.n_bytes) <= options.max_bytes;
        if !options.enabled || superseded(record) || now - *used > max_age || !fits {
            doomed.push(record);
        } else {
            count += 1;
            n_bytes += record.base.n_bytes;
        }
    }
    doomed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_superseded_the_old_and_those_beyond_the_caps_go() {
        let day = |n: i64| Timestamp::from_timestamp(n * 86_400, 0).unwrap();
        let record = |id: &str, repo: &str, made: i64, used: i64, n_bytes: u64| {
            let base = KeptBase {
                id: id.into(),
                kind: "namespace".into(),
                kept_as: String::new(),
                environment: String::new(),
                n_bytes,
            };
            let sha = "0123456789012345678901234567890123456789";
            let (commit, tree) = (sha.parse().unwrap(), sha.parse().unwrap());
            (Record::new(&repo.parse().unwrap(), "r".into(), commit, tree, base, day(made)), day(used))
        };
        let kept = [
            record("a-old", "o/a", 1, 19, 1),
            record("a-new", "o/a", 2, 18, 1),
            record("b-large", "o/b", 3, 17, 90),
            record("c-small", "o/c", 3, 16, 9),
            record("d-unused", "o/d", 3, 9, 0),
            record("e", "o/e", 3, 15, 0),
        ];
        let ids = |options: &BasesOptions| -> Vec<&str> {
            doomed(&kept, day(20), options).into_iter().map(|record| record.base.id.as_str()).collect()
        };
        let options = BasesOptions { max_age: Duration::from_secs(10 * 86_400), ..BasesOptions::default() };
        assert_eq!(ids(&options), ["a-old", "d-unused"]);
        assert_eq!(ids(&BasesOptions { max_bytes: 50, ..options.clone() }), ["a-old", "b-large", "d-unused"]);
        assert_eq!(ids(&BasesOptions { max_count: 3, ..options.clone() }), ["a-old", "e", "d-unused"]);
        assert_eq!(ids(&BasesOptions { enabled: false, ..options }).len(), 6);
    }
}
