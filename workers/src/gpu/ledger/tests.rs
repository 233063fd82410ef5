//! The rules of lending against a model of a machine: several processes, crashes, boxes that outlive their process.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tasks::{GpuKind, GpuRequest};

use super::*;
use crate::gpu::Slice;

/// The same numbers every time, so that a failure can be seen again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize) % below
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }
}

fn whole(id: usize, model: &str, gib: u64) -> Gpu {
    Gpu { id: format!("GPU-{id}"), model: model.into(), memory_bytes: gib << 30, minor: None, slice: None }
}

fn slice(id: usize, profile: &str, gib: u64) -> Gpu {
    let slice = Some(Slice { profile: profile.into(), instances: None });
    Gpu { id: format!("MIG-{id}"), slice, ..whole(id, "NVIDIA A100-SXM4-80GB", gib) }
}

/// Machines of whole GPUs, of slices, and of both.
fn machines() -> Vec<Vec<Gpu>> {
    let h100 = |id| whole(id, "NVIDIA H100 80GB HBM3", 80);
    vec![
        vec![whole(0, "Tesla T4", 15)],
        (0..8).map(h100).collect(),
        vec![slice(0, "3g.40gb", 40), slice(1, "2g.20gb", 20), slice(2, "1g.10gb", 10), slice(3, "1g.10gb", 10)],
        vec![
            h100(0),
            h100(1),
            whole(2, "NVIDIA H200", 141),
            whole(3, "NVIDIA A100-SXM4-80GB", 80),
            slice(4, "3g.40gb", 40),
            slice(5, "1g.10gb", 10),
            whole(6, "NVIDIA A100-SXM4-40GB", 40),
        ],
    ]
}

const REQUESTS: &[&str] = &[
    "any",
    "any",
    "any:2",
    "any:4",
    "h100",
    "h100!",
    "h100:2",
    "h100:8",
    "h200",
    "a100",
    "a100-40gb",
    "a100-80gb!",
    "h100!, a100:2",
    "h100:2, a100, any",
    "a100:4, any",
    "min_vram=40GiB",
    "min_vram=80GiB:2",
    "min_vram=9GiB",
    "1g.10gb",
    "a100-3g.40gb, any",
    "t4",
];

/// One process with workers.
struct Process {
    ledger: Ledger,
    /// Waiting, in order, with what was asked.
    waiting: Vec<(Ticket, GpuRequest)>,
    held: BTreeMap<Ticket, Vec<usize>>,
}

/// A machine with several processes on it. Locks are the kernel's: they go when a process dies; its boxes may not.
struct Machine {
    devices: Vec<Gpu>,
    processes: Vec<Process>,
    locks: Vec<Option<usize>>,
    /// Boxes of dead processes: seen by the driver as foreign processes.
    orphans: Vec<bool>,
    n_granted: usize,
    /// What each request could use, worked out once.
    usable: HashMap<GpuRequest, Vec<(usize, Vec<usize>)>>,
}

impl Machine {
    fn new(devices: Vec<Gpu>, n_processes: usize) -> Self {
        let process = || Process { ledger: Ledger::new(devices.clone()), waiting: Vec::new(), held: BTreeMap::new() };
        let processes = (0..n_processes).map(|_| process()).collect();
        let n = devices.len();
        let (locks, orphans) = (vec![None; n], vec![false; n]);
        Self { devices, processes, locks, orphans, n_granted: 0, usable: HashMap::new() }
    }

    fn grant(&mut self, n: usize) {
        let (locks, orphans) = (std::cell::RefCell::new(&mut self.locks), &self.orphans);
        let mut take = |at: usize| {
            let free = locks.borrow()[at].is_none() && !orphans[at];
            if free {
                locks.borrow_mut()[at] = Some(n);
            }
            free
        };
        let mut put_back = |at: usize| locks.borrow_mut()[at] = None;
        let granted = self.processes[n].ledger.grant(&mut take, &mut put_back);
        if granted.is_empty() {
            // Nothing changed hands.
            return;
        }
        for (ticket, devices) in granted {
            self.n_granted += 1;
            self.check(n, ticket, &devices);
            let process = &mut self.processes[n];
            process.waiting.retain(|(waiting, _)| *waiting != ticket);
            assert!(process.held.insert(ticket, devices).is_none(), "one grant for each request");
        }
        self.no_double_lease();
    }

    /// A grant is what was asked for, and nobody who came earlier could have used what it took.
    fn check(&self, n: usize, ticket: Ticket, devices: &[usize]) {
        let process = &self.processes[n];
        let request =
            &process.waiting.iter().find(|(waiting, _)| *waiting == ticket).expect("somebody waited for it").1;
        let distinct: BTreeSet<_> = devices.iter().collect();
        assert_eq!(distinct.len(), devices.len(), "each device once");
        let fits = self.usable[request]
            .iter()
            .any(|(count, allowed)| devices.len() == *count && devices.iter().all(|at| allowed.contains(at)));
        assert!(fits, "{request}: {devices:?}");
        let exact = |request: &GpuRequest| {
            request
                .choices()
                .iter()
                .all(|choice| matches!(&choice.kind, GpuKind::Model { name, exact: true } if name == "h100"))
        };
        assert!(!exact(request) || devices.iter().all(|at| self.devices[*at].model.contains("H100")), "{request}");
        for (earlier, theirs) in process.waiting.iter().take_while(|(waiting, _)| *waiting < ticket) {
            let overtakes = self.usable[theirs].iter().any(|(_, wanted)| devices.iter().any(|at| wanted.contains(at)));
            assert!(!overtakes, "{ticket:?} overtook {earlier:?}: {theirs}");
        }
    }

    fn no_double_lease(&self) {
        let mut holder: Vec<Option<(usize, Ticket)>> = vec![None; self.devices.len()];
        for (n, process) in self.processes.iter().enumerate() {
            for (ticket, devices) in &process.held {
                for &at in devices {
                    assert_eq!(holder[at].replace((n, *ticket)), None, "device {at} is lent twice");
                    assert_eq!(self.locks[at], Some(n), "what is lent is locked");
                    assert!(!self.orphans[at], "device {at} is lent while somebody else's box uses it");
                }
            }
        }
        let n_locked = self.locks.iter().filter(|lock| lock.is_some()).count();
        assert_eq!(n_locked, holder.iter().flatten().count(), "nothing is locked that is not lent");
    }

    fn ask(&mut self, n: usize, request: &GpuRequest) {
        let process = &mut self.processes[n];
        if !self.usable.contains_key(request) {
            let choices = request.choices().iter();
            let usable = choices.map(|choice| (usize::from(choice.count), candidates(choice, &self.devices)));
            let usable: Vec<_> = usable.collect();
            let could = usable.iter().any(|(count, usable)| usable.len() >= *count);
            assert_eq!(process.ledger.could(request), could, "{request}");
            self.usable.insert(request.clone(), usable);
        }
        if self.usable[request].iter().any(|(count, usable)| usable.len() >= *count) {
            let ticket = process.ledger.wait(request);
            process.waiting.push((ticket, request.clone()));
            self.grant(n);
        }
    }

    fn give_back(&mut self, n: usize, ticket: Ticket) {
        let process = &mut self.processes[n];
        for at in process.held.remove(&ticket).expect("it was held") {
            self.locks[at] = None;
        }
        process.ledger.end(ticket);
        self.grant(n);
    }

    fn give_up_waiting(&mut self, n: usize, nth: usize) {
        let process = &mut self.processes[n];
        let (ticket, _) = process.waiting.remove(nth);
        process.ledger.end(ticket);
        self.grant(n);
    }

    /// The process is killed: the kernel drops its locks, its boxes go on until somebody sweeps them.
    fn crash(&mut self, n: usize) {
        for at in self.processes[n].held.values().flatten() {
            self.locks[*at] = None;
            self.orphans[*at] = true;
        }
        let ledger = Ledger::new(self.devices.clone());
        self.processes[n] = Process { ledger, waiting: Vec::new(), held: BTreeMap::new() };
    }

    /// Everything is given back: then everybody who waits must be served within as many turns as there are waiters.
    fn nobody_starves(&mut self) {
        self.orphans.fill(false);
        let n_waiting: usize = self.processes.iter().map(|process| process.waiting.len()).sum();
        for _ in 0..=n_waiting {
            for n in 0..self.processes.len() {
                let held: Vec<Ticket> = self.processes[n].held.keys().copied().collect();
                held.into_iter().for_each(|ticket| self.give_back(n, ticket));
                self.grant(n);
            }
        }
        let left: Vec<_> = self.processes.iter().flat_map(|process| &process.waiting).collect();
        assert!(left.is_empty(), "nothing is held by anybody, and these still wait: {left:?}");
    }
}

#[test]
fn a_million_random_steps_lend_nothing_twice_and_let_nobody_starve() {
    const STEPS: usize = 1_000_000;
    let requests: Vec<GpuRequest> = REQUESTS.iter().map(|text| text.parse().unwrap()).collect();
    let mut n_granted = 0;
    let machines = machines();
    let n_setups = machines.len() * 2;
    for (setup, (devices, n_processes)) in machines.iter().flat_map(|devices| [(devices, 1), (devices, 3)]).enumerate()
    {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (setup as u64 + 1));
        let mut machine = Machine::new(devices.clone(), n_processes);
        for step in 0..STEPS / n_setups {
            let n = dice.roll(n_processes);
            let process = &machine.processes[n];
            let held: Vec<Ticket> = process.held.keys().copied().collect();
            match dice.roll(100) {
                0..45 if process.waiting.len() < 8 => machine.ask(n, dice.pick(&requests)),
                0..85 if !held.is_empty() => machine.give_back(n, *dice.pick(&held)),
                85..92 if !process.waiting.is_empty() => {
                    let nth = dice.roll(process.waiting.len());
                    machine.give_up_waiting(n, nth);
                }
                92 => machine.crash(n),
                93..97 => machine.orphans.fill(false),
                _ => machine.grant(n),
            }
            if step % 4_096 == 4_095 {
                machine.nobody_starves();
            }
        }
        machine.nobody_starves();
        n_granted += machine.n_granted;
    }
    assert!(n_granted > STEPS / 10, "only {n_granted} grants: the steps did not test much");
}

#[test]
fn a_large_request_is_not_overtaken_by_small_ones_that_came_later() {
    let mut machine = Machine::new(machines().remove(1), 1);
    let request = |text: &str| text.parse::<GpuRequest>().unwrap();
    machine.ask(0, &request("any"));
    machine.ask(0, &request("h100:8"));
    machine.ask(0, &request("any"));
    assert_eq!(machine.processes[0].waiting.len(), 2, "seven are free, and the eight come first");
    let first = *machine.processes[0].held.keys().next().unwrap();
    machine.give_back(0, first);
    assert_eq!(machine.processes[0].held.values().next().unwrap().len(), 8);
    machine.give_up_waiting(0, 0);
    machine.nobody_starves();
}

#[test]
fn requests_without_a_device_in_common_never_wait_for_each_other() {
    let mut machine = Machine::new(machines().remove(3), 1);
    let request = |text: &str| text.parse::<GpuRequest>().unwrap();
    machine.ask(0, &request("h100!:2"));
    machine.ask(0, &request("h100!:2"));
    machine.ask(0, &request("a100-40gb!"));
    let process = &machine.processes[0];
    assert_eq!((process.held.len(), process.waiting.len()), (2, 1));
    assert!(!process.ledger.could(&request("h100!:3")), "there are two");
    assert!(!process.ledger.could(&request("b300")));
}
