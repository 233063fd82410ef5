//! The tally of one attempt: what it asked of models and hosts, what that cost, and whether it may go on.
//!
//! Every sandbox of the attempt writes into the same one. It is what the evidence shows, so it is bounded: a sandbox
//! chooses the names in it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::json;
use tasks::{Allowance, EgressRecord, HostUse, Meter, ModelUse, Money, Phase, Tokens, Usage};

use super::models::Measured;
use crate::artifacts::Log;

/// So many different attempts at hosts are listed; further ones are only counted.
const MAX_HOSTS: usize = 200;
/// So many models are told apart.
const MAX_MODELS: usize = 32;
/// Why a host that may be reached was not: nobody blocked it, so no line would allow it.
pub(super) const NOT_REACHED: &str = "it could not be reached";
/// Stands for a host that cannot be written.
const UNREADABLE: &str = "(no readable name)";
/// From so much of its allowance on, a task is told to come to an end.
const WARN_AT_PERCENT: u64 = 80;

/// How much of its allowance a task has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Fine,
    /// It is to be told to come to an end.
    Nearly,
    /// Not one token more.
    UsedUp,
}

/// The tally of one attempt.
#[derive(Debug, Default)]
pub struct Tally {
    allowance: Allowance,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    models: BTreeMap<(String, String), ModelUse>,
    hosts: BTreeMap<(Phase, String, Option<String>), HostUse>,
    n_unlisted: u64,
    n_external: u64,
    interface_bytes: Option<u64>,
    /// What open answers have come to so far, by the number of the exchange.
    open: BTreeMap<u64, Usage>,
    n_opened: u64,
    /// Why not one request more goes out.
    stopped: Option<String>,
    log: Option<Log>,
}

/// One exchange with a model, as it ended.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) provider: &'a str,
    pub(super) host: &'a str,
    pub(super) model: &'a str,
    /// `None`: no answer of a model came.
    pub(super) measured: Option<Measured>,
    /// What the tokens cost; `None`: the price is unknown.
    pub(super) cost: Option<Money>,
    /// The last status of the provider; 0: none.
    pub(super) status: u16,
    /// How often it was asked.
    pub(super) n_tries: u32,
    pub(super) duration_ms: u64,
}

impl Tally {
    /// A tally with an allowance, of which money and tokens are held here; each exchange and each attempt at a host becomes
    /// a line of `log`.
    pub fn new(allowance: Allowance, log: Option<Log>) -> Self {
        let Allowance { money, tokens, .. } = allowance;
        let allowance = Allowance { money, tokens, ..Allowance::default() };
        Self { allowance, books: Mutex::new(Books { log, ..Books::default() }) }
    }

    /// What it comes to, answers that have ended.
    pub fn record(&self) -> EgressRecord {
        let books = self.lock();
        EgressRecord {
            models: books.models.values().cloned().collect(),
            hosts: books.hosts.values().cloned().collect(),
            n_unlisted: books.n_unlisted,
            n_external: books.n_external,
            interface_bytes: books.interface_bytes,
        }
    }

    /// Hosts that were asked for and refused, sorted, each once.
    pub fn blocked_hosts(&self) -> Vec<String> {
        let books = self.lock();
        let refused = |why: &String| why != NOT_REACHED;
        let blocked =
            books.hosts.values().filter(|host| host.blocked.as_ref().is_some_and(refused) && host.host != UNREADABLE);
        let mut hosts: Vec<String> = blocked.map(|host| host.host.clone()).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }

    /// Why the attempt may ask no model any more: its allowance is used up, or what it uses cannot be measured.
    pub fn stopped(&self) -> Option<String> {
        self.lock().stopped.clone()
    }

    /// Whether money is limited, so that a price has to be known.
    pub(super) fn limits_money(&self) -> bool {
        self.allowance.money.is_some()
    }

    /// Where the task stands. At the end of its allowance it stays there.
    pub(super) fn standing(&self) -> Standing {
        self.lock().standing(&self.allowance)
    }

    /// Stops every further request.
    pub(super) fn stop(&self, why: &str) {
        self.lock().stopped.get_or_insert_with(|| why.to_owned());
    }

    /// An answer begins. The number is its own until [`Tally::closed`].
    pub(super) fn opened(&self) -> u64 {
        let mut books = self.lock();
        books.n_opened += 1;
        books.n_opened
    }

    /// What an open answer has come to; returns where that leaves the task.
    pub(super) fn so_far(&self, number: u64, tokens: Tokens, cost: Option<Money>) -> Standing {
        let mut books = self.lock();
        books.open.insert(number, Usage { tokens, money: cost.unwrap_or_default(), ..Usage::default() });
        books.standing(&self.allowance)
    }

    /// An exchange has ended.
    pub(super) fn closed(&self, number: Option<u64>, exchange: &Exchange<'_>) {
        let mut books = self.lock();
        if let Some(number) = number {
            books.open.remove(&number);
        }
        books.enter(exchange);
        if !self.allowance.is_unlimited() && exchange.measured == Some(Measured::Not) {
            let name = if exchange.model.is_empty() { exchange.provider } else { exchange.model };
            let why = format!("what {name} used could not be measured, and what this task may use is limited");
            books.stopped.get_or_insert(why);
        }
        books.standing(&self.allowance);
        let (result, tokens) = match exchange.measured {
            None => ("failed", None),
            Some(Measured::Not) => ("unmeasured", None),
            Some(Measured::About(tokens)) => ("estimated", Some(tokens)),
            Some(Measured::Exactly(tokens)) => ("measured", Some(tokens)),
        };
        books.note(&json!({
            "kind": "model", "provider": exchange.provider, "model": exchange.model, "result": result, "tokens": tokens,
            "cost_microusd": exchange.cost, "status": exchange.status, "tries": exchange.n_tries,
            "duration_ms": exchange.duration_ms,
        }));
    }

    /// A host was asked for.
    pub(super) fn asked_for(&self, phase: Phase, host: &str, blocked: Option<&str>) {
        let readable = !host.is_empty() && host.len() <= 260 && host.bytes().all(|b| b.is_ascii_graphic());
        let host = if readable { host.to_ascii_lowercase() } else { UNREADABLE.to_owned() };
        let mut books = self.lock();
        books.note(&json!({ "kind": "host", "phase": phase, "host": host, "blocked": blocked }));
        let key = (phase, host, blocked.map(str::to_owned));
        if !books.hosts.contains_key(&key) && books.hosts.len() >= MAX_HOSTS {
            books.n_unlisted += 1;
            return;
        }
        let (_, host, blocked) = key.clone();
        let new = HostUse { host, phase, blocked, n_attempts: 0, received_bytes: 0, sent_bytes: 0 };
        books.hosts.entry(key).or_insert(new).n_attempts += 1;
    }

    /// Bytes flowed to and from a host that was reached.
    pub(super) fn flowed(&self, phase: Phase, host: &str, sent_bytes: u64, received_bytes: u64) {
        let mut books = self.lock();
        if let Some(found) = books.hosts.get_mut(&(phase, host.to_owned(), None)) {
            found.sent_bytes = found.sent_bytes.saturating_add(sent_bytes);
            found.received_bytes = found.received_bytes.saturating_add(received_bytes);
        }
    }

    /// A connection was opened to an address of the public internet.
    pub(super) fn went_outside(&self) {
        self.lock().n_external += 1;
    }

    /// What the kernel of a sandbox counted on its interfaces, as `/proc/net/dev` shows it.
    pub(crate) fn interfaces(&self, proc_net_dev: &str) {
        let n_bytes = interface_bytes(proc_net_dev);
        self.lock().interface_bytes = Some(n_bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes received and sent on everything but loopback.
fn interface_bytes(proc_net_dev: &str) -> u64 {
    let interfaces =
        proc_net_dev.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let of = |(_, counts): (&str, &str)| {
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        counts.first().copied().unwrap_or(0).saturating_add(counts.get(8).copied().unwrap_or(0))
    };
    interfaces.map(of).fold(0, u64::saturating_add)
}

impl Books {
    fn enter(&mut self, exchange: &Exchange<'_>) {
        let mut key = (exchange.provider.to_owned(), exchange.model.chars().take(120).collect::<String>());
        if !self.models.contains_key(&key) && self.models.len() >= MAX_MODELS {
            key.1 = "(others)".to_owned();
        }
        let (provider, model) = key.clone();
        let found = self.models.entry(key).or_insert_with(|| ModelUse {
            provider,
            host: exchange.host.to_owned(),
            model,
            n_exchanges: 0,
            n_failed: 0,
            n_estimated: 0,
            n_unmeasured: 0,
            tokens: Tokens::default(),
            n_unpriced: 0,
            cost: Money::ZERO,
        });
        let Some(measured) = exchange.measured else {
            found.n_failed += 1;
            return;
        };
        found.n_exchanges += 1;
        let (tokens, cost) = match measured {
            Measured::Exactly(tokens) => (tokens, exchange.cost),
            Measured::About(tokens) => {
                found.n_estimated += 1;
                (tokens, exchange.cost)
            }
            Measured::Not => {
                found.n_unmeasured += 1;
                (Tokens::default(), None)
            }
        };
        found.tokens = found.tokens.plus(&tokens);
        match cost {
            Some(cost) => found.cost = found.cost.plus(cost),
            None => found.n_unpriced += 1,
        }
    }

    fn standing(&mut self, allowance: &Allowance) -> Standing {
        if self.stopped.is_some() {
            return Standing::UsedUp;
        }
        if allowance.is_unlimited() {
            return Standing::Fine;
        }
        let closed = self.models.values().fold(Usage::default(), |sum, model| Usage {
            money: sum.money.plus(model.cost),
            n_unpriced: sum.n_unpriced + model.n_unpriced,
            tokens: sum.tokens.plus(&model.tokens),
            ..sum
        });
        let used = self.open.values().fold(closed, |sum, open| sum.plus(open));
        if let Some(meter) = allowance.used_up_by(&used) {
            let limit = meter.show(allowance.of(meter).unwrap_or(0));
            self.stopped = Some(match meter == Meter::Money && used.n_unpriced > 0 {
                true => format!("it used a model whose price nobody knows, and it may use {limit}"),
                false => format!("it has used all of the {limit} that it may use"),
            });
            return Standing::UsedUp;
        }
        let nearly = |meter: Meter| {
            allowance
                .of(meter)
                .is_some_and(|amount| used.of(meter).saturating_mul(100) >= amount.saturating_mul(WARN_AT_PERCENT))
        };
        if Meter::ALL.into_iter().any(nearly) { Standing::Nearly } else { Standing::Fine }
    }

    fn note(&mut self, line: &serde_json::Value) {
        if let Some(log) = &mut self.log {
            log.push(format!("{line}\n").as_bytes());
            log.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: u64, output: u64) -> Tokens {
        Tokens { input, output, ..Tokens::default() }
    }

    fn exchange(measured: Option<Measured>, cost: Option<u64>) -> Exchange<'static> {
        Exchange {
            provider: "anthropic",
            host: "api.example",
            model: "m",
            measured,
            cost: cost.map(Money::microusd),
            status: 200,
            n_tries: 1,
            duration_ms: 1,
        }
    }

    fn limited(money: Option<u64>, tokens: Option<u64>) -> Tally {
        Tally::new(Allowance { money: money.map(Money::microusd), tokens, ..Allowance::default() }, None)
    }

    #[test]
    fn exchanges_add_up_and_what_is_unknown_stays_unknown() {
        let tally = Tally::default();
        tally.closed(None, &exchange(Some(Measured::Exactly(tokens(10, 5))), Some(7)));
        tally.closed(None, &exchange(Some(Measured::About(tokens(1, 1))), Some(2)));
        tally.closed(None, &exchange(None, None));
        let model = tally.record().models.remove(0);
        assert_eq!((model.n_exchanges, model.n_estimated, model.n_failed), (2, 1, 1));
        assert_eq!(model.known_cost(), Some(Money::microusd(9)));
        tally.closed(None, &exchange(Some(Measured::Not), None));
        let model = tally.record().models.remove(0);
        assert_eq!((model.tokens, model.n_unmeasured, model.known_cost()), (tokens(11, 6), 1, None));
        assert_eq!(tally.stopped(), None, "without a limit nothing stops");
    }

    #[test]
    fn a_task_is_warned_and_then_stopped_and_open_answers_count() {
        let tally = limited(None, Some(100));
        tally.closed(None, &exchange(Some(Measured::Exactly(tokens(70, 5))), None));
        assert_eq!(tally.standing(), Standing::Fine);
        let (one, other) = (tally.opened(), tally.opened());
        assert_eq!(tally.so_far(one, tokens(5, 0), None), Standing::Nearly);
        assert_eq!(tally.so_far(other, tokens(10, 9), None), Standing::Nearly);
        assert_eq!(tally.so_far(one, tokens(5, 1), None), Standing::UsedUp, "both together");
        assert_eq!(tally.stopped().as_deref(), Some("it has used all of the 100 tokens that it may use"));
        tally.closed(Some(one), &exchange(None, None));
        tally.closed(Some(other), &exchange(None, None));
        assert_eq!(tally.standing(), Standing::UsedUp, "it stays there");
    }

    #[test]
    fn what_cannot_be_measured_or_priced_stops_a_task_that_is_limited() {
        let tally = limited(None, Some(1_000_000));
        tally.closed(None, &exchange(Some(Measured::Exactly(tokens(1, 1))), None));
        assert_eq!(tally.standing(), Standing::Fine, "an unknown price is no matter where only tokens are limited");
        tally.closed(None, &exchange(Some(Measured::Not), None));
        assert_eq!(tally.standing(), Standing::UsedUp);
        let why = "what m used could not be measured, and what this task may use is limited";
        assert_eq!(tally.stopped().as_deref(), Some(why));
        let tally = limited(Some(1_500_000), None);
        tally.closed(None, &exchange(Some(Measured::Exactly(tokens(1, 1))), None));
        assert_eq!(tally.stopped().as_deref(), Some("it used a model whose price nobody knows, and it may use $1.50"));
        let tally = limited(Some(1_500_000), None);
        tally.closed(None, &exchange(Some(Measured::Exactly(tokens(1, 1))), Some(1_500_000)));
        assert_eq!(tally.stopped().as_deref(), Some("it has used all of the $1.50 that it may use"));
    }

    #[test]
    fn interfaces_are_counted_but_for_loopback() {
        let head = "Inter-|   Receive |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n";
        let row = |name: &str, received: u64, sent: u64| {
            format!("{name:>6}: {received} 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0\n")
        };
        assert_eq!(interface_bytes(&format!("{head}{}", row("lo", 500, 500))), 0);
        assert_eq!(interface_bytes(&format!("{head}{}{}", row("lo", 500, 500), row("eth0", 30, 12))), 42);
    }

    #[test]
    fn hosts_are_listed_once_for_each_result_and_their_number_is_bounded() {
        let tally = Tally::default();
        for host in ["Example.ORG", "example.org", "evil\u{1b}[2J.org", "", &"x".repeat(300)] {
            tally.asked_for(Phase::Agent, host, Some("not allowed"));
        }
        tally.asked_for(Phase::Setup, "example.org", None);
        tally.flowed(Phase::Setup, "example.org", 3, 4);
        assert_eq!(tally.blocked_hosts(), ["example.org"]);
        let reached = tally.record().hosts.into_iter().find(|host| host.blocked.is_none()).unwrap();
        assert_eq!((reached.n_attempts, reached.sent_bytes, reached.received_bytes), (1, 3, 4));
        for n in 0..1000 {
            tally.asked_for(Phase::Agent, &format!("host-{n}.test"), Some("not allowed"));
        }
        let record = tally.record();
        assert_eq!((record.hosts.len(), record.n_unlisted), (MAX_HOSTS, 803));
    }
}
