//! Who holds which device and who waits, without any I/O: the rules of lending.
//!
//! Waiting is first come, first served for every device that two requests have in common: whoever waits keeps every free
//! device that it could use away from those behind it, so that a request for eight GPUs is not overtaken for ever by
//! requests for one. Requests that have no device in common never wait for each other.

use std::collections::VecDeque;

use tasks::GpuRequest;

use super::{Gpu, choose::candidates};

/// Names one request from the moment it waits until its devices are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    /// For each choice, in order of preference: how many, and of which devices.
    choices: Vec<(usize, Vec<usize>)>,
}

/// The devices of a machine, by position.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    devices: Vec<Gpu>,
    holders: Vec<Option<Ticket>>,
    waiting: VecDeque<Waiting>,
    n_tickets: u64,
}

impl Ledger {
    pub(super) fn new(devices: Vec<Gpu>) -> Self {
        Self { holders: vec![None; devices.len()], devices, waiting: VecDeque::new(), n_tickets: 0 }
    }

    pub(super) fn devices(&self) -> &[Gpu] {
        &self.devices
    }

    /// Whether the request could be met if nobody else held anything.
    pub(super) fn could(&self, request: &GpuRequest) -> bool {
        request.choices().iter().any(|choice| candidates(choice, &self.devices).len() >= usize::from(choice.count))
    }

    /// Queues a request behind all others.
    pub(super) fn wait(&mut self, request: &GpuRequest) -> Ticket {
        self.n_tickets += 1;
        let ticket = Ticket(self.n_tickets);
        let choices =
            request.choices().iter().map(|choice| (usize::from(choice.count), candidates(choice, &self.devices)));
        self.waiting.push_back(Waiting { ticket, choices: choices.collect() });
        ticket
    }

    /// Forgets a request, whether it waits or holds devices.
    pub(super) fn end(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
        self.holders.iter_mut().filter(|holder| **holder == Some(ticket)).for_each(|holder| *holder = None);
    }

    /// Gives devices to those who wait, in order. `take` is asked for each device before it counts as given (another
    /// process may hold it); what is not needed after all goes back through `put_back`.
    pub(super) fn grant(
        &mut self,
        take: &mut dyn FnMut(usize) -> bool,
        put_back: &mut dyn FnMut(usize),
    ) -> Vec<(Ticket, Vec<usize>)> {
        let mut kept_back = vec![false; self.devices.len()];
        let mut granted: Vec<(Ticket, Vec<usize>)> = Vec::new();
        for waiting in &self.waiting {
            let mut given = None;
            for (count, candidates) in &waiting.choices {
                let mut taken = Vec::with_capacity(*count);
                for &at in candidates {
                    if taken.len() == *count {
                        break;
                    }
                    if self.holders[at].is_none() && !kept_back[at] && take(at) {
                        taken.push(at);
                    }
                }
                if taken.len() == *count {
                    given = Some(taken);
                    break;
                }
                taken.into_iter().for_each(&mut *put_back);
            }
            match given {
                Some(devices) => {
                    devices.iter().for_each(|&at| self.holders[at] = Some(waiting.ticket));
                    granted.push((waiting.ticket, devices));
                }
                None => {
                    let could_use = waiting.choices.iter().flat_map(|(_, candidates)| candidates);
                    could_use.for_each(|&at| kept_back[at] = true);
                }
            }
        }
        self.waiting.retain(|waiting| granted.iter().all(|(ticket, _)| *ticket != waiting.ticket));
        granted
    }
}

#[cfg(test)]
mod tests;
