//! Whose turn it is: higher priorities first, and within one, repositories take turns, and their requesters within each.
//!
//! Pure bookkeeping, so that a flood of one repository or one person delays nobody else by more than one turn, and a flood
//! of urgent tasks delays the others and does not starve them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tasks::{Actor, Priority, RepoName, TaskId};

/// Of so many turns, the last one is for the second lane first, and of so many of those, for the third.
const TURNS_PER_LANE: u32 = 4;

/// Who counts as one requester: the number on the forge, which no rename changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Requester {
    Id(u64),
    Login(String),
}

impl From<&Actor> for Requester {
    fn from(actor: &Actor) -> Self {
        actor.id.map_or_else(|| Self::Login(actor.login.clone()), Self::Id)
    }
}

/// What decides about a task's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) priority: Priority,
    pub(super) repo: RepoName,
    pub(super) requester: Requester,
    /// Its age: the sequence of the record that made it.
    pub(super) enqueued: u64,
}

/// What is due of one priority: repositories, and in each its requesters, and of each their tasks by age.
type Lane = Ring<RepoName, Ring<Requester, BTreeMap<u64, TaskId>>>;

/// All tasks that are due.
#[derive(Debug, Default)]
pub(super) struct Turns {
    lanes: BTreeMap<Priority, Lane>,
    /// Turns since more than one lane had something.
    n_turns: u32,
}

/// Members in the order of their turns. None is empty.
#[derive(Debug)]
struct Ring<K, V> {
    turns: VecDeque<K>,
    members: HashMap<K, V>,
}

impl<K: Clone + Eq + std::hash::Hash, V: Default> Ring<K, V> {
    fn member(&mut self, key: &K) -> &mut V {
        if !self.members.contains_key(key) {
            self.turns.push_back(key.clone());
        }
        self.members.entry(key.clone()).or_default()
    }

    fn leave(&mut self, key: &K) {
        self.members.remove(key);
        self.turns.retain(|other| other != key);
    }

    /// The first one in turn that `pick` finds something in. The turn is used up even if nothing comes of it.
    fn turn<T>(&mut self, mut pick: impl FnMut(&K, &mut V) -> Option<T>) -> Option<T> {
        for n in 0..self.turns.len() {
            let key = &self.turns[n];
            let found = self.members.get_mut(key).and_then(|member| pick(key, member));
            if found.is_some() {
                if let Some(key) = self.turns.remove(n) {
                    self.turns.push_back(key);
                }
                return found;
            }
        }
        None
    }
}

impl<K, V> Default for Ring<K, V> {
    fn default() -> Self {
        Self { turns: VecDeque::new(), members: HashMap::new() }
    }
}

impl Turns {
    pub(super) fn insert(&mut self, place: &Place, id: TaskId) {
        let lane = self.lanes.entry(place.priority).or_default();
        lane.member(&place.repo).member(&place.requester).insert(place.enqueued, id);
    }

    pub(super) fn remove(&mut self, place: &Place) {
        let Some(lane) = self.lanes.get_mut(&place.priority) else { return };
        let Some(repo) = lane.members.get_mut(&place.repo) else { return };
        let Some(queue) = repo.members.get_mut(&place.requester) else { return };
        queue.remove(&place.enqueued);
        if queue.is_empty() {
            repo.leave(&place.requester);
        }
        if repo.members.is_empty() {
            lane.leave(&place.repo);
        }
        if lane.members.is_empty() {
            self.lanes.remove(&place.priority);
        }
    }

    /// The task whose turn it is, among the repositories that have room for one more at work. A task that may not begin
    /// keeps its place, and so do those of the same person behind it.
    pub(super) fn next(
        &mut self,
        has_room: impl Fn(&RepoName) -> bool,
        mut may: impl FnMut(TaskId) -> bool,
    ) -> Option<TaskId> {
        let mut order: Vec<_> = self.lanes.keys().rev().copied().collect();
        self.n_turns = if order.len() > 1 { self.n_turns.wrapping_add(1) } else { 0 };
        let third = self.n_turns.is_multiple_of(TURNS_PER_LANE * TURNS_PER_LANE);
        let second = self.n_turns.is_multiple_of(TURNS_PER_LANE);
        let first = if order.len() < 2 { 0 } else { usize::from(second) + usize::from(third && order.len() > 2) };
        order.rotate_left(first);
        for priority in order {
            let Some(lane) = self.lanes.get_mut(&priority) else { continue };
            let id = lane.turn(|repo, requesters| {
                if !has_room(repo) {
                    return None;
                }
                requesters.turn(|_, queue| queue.values().next().copied().filter(|id| may(*id)))
            });
            if id.is_some() {
                return id;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(priority: Priority, repo: &str, requester: u64, enqueued: u64) -> Place {
        Place { priority, repo: repo.parse().unwrap(), requester: Requester::Id(requester), enqueued }
    }

    fn id(n: u64) -> TaskId {
        TaskId::from_bytes(u128::from(n).to_be_bytes())
    }

    /// The order in which everything is taken.
    fn order(places: &[Place], may: impl Fn(&RepoName) -> bool) -> Vec<u64> {
        let mut turns = Turns::default();
        for place in places {
            turns.insert(place, id(place.enqueued));
        }
        let mut taken = Vec::new();
        while let Some(next) = turns.next(&may, |_| true) {
            let n = places.iter().position(|place| id(place.enqueued) == next).unwrap();
            turns.remove(&places[n]);
            taken.push(places[n].enqueued);
        }
        if taken.len() == places.len() {
            assert!(turns.lanes.is_empty(), "nothing is left behind");
        }
        taken
    }

    #[test]
    fn repositories_take_turns_and_their_requesters_within_them() {
        let n = Priority::Normal;
        let places = [
            place(n, "a/a", 1, 1),
            place(n, "a/a", 1, 2),
            place(n, "a/a", 1, 3),
            place(n, "a/a", 2, 4),
            place(n, "b/b", 1, 5),
        ];
        assert_eq!(order(&places, |_| true), [1, 5, 4, 2, 3]);
    }

    #[test]
    fn what_is_urgent_goes_first_and_starves_nobody() {
        let mut places: Vec<_> = (1..=8).map(|n| place(Priority::High, "a/a", 1, n)).collect();
        places.push(place(Priority::Normal, "b/b", 1, 9));
        places.push(place(Priority::Low, "c/c", 1, 10));
        assert_eq!(order(&places, |_| true), [1, 2, 3, 9, 4, 5, 6, 10, 7, 8]);
    }

    #[test]
    fn a_repository_that_may_not_is_passed_over_and_keeps_its_turn() {
        let n = Priority::Normal;
        let places = [place(n, "a/a", 1, 1), place(n, "b/b", 1, 2), place(n, "b/b", 1, 3)];
        assert_eq!(order(&places, |repo| repo.as_str() != "a/a"), [2, 3]);
    }
}
