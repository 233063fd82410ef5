//! One conversation with a guest: what may be said in it, and how much may be on the way.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use guest::protocol::{ErrorKind, Exit, FileKind, Found, MAX_PAYLOAD, ToGuest, ToWorker, WINDOW, cost};

use super::{SandboxError, link::Shared};

/// What a conversation is about: which messages may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Greeting,
    Command,
    Put,
    /// Answered by a word, done or not.
    Ask,
    Changes,
    Get,
    Listener,
    Tunnel,
}

impl Purpose {
    fn may_receive(self, message: &ToWorker<'_>) -> bool {
        use Purpose::{Ask, Changes, Command, Get, Greeting, Listener, Put, Tunnel};
        match message {
            ToWorker::Hello { .. } => self == Greeting,
            ToWorker::Stdout(_) | ToWorker::Stderr(_) | ToWorker::Exit(_) => self == Command,
            ToWorker::Credit(_) => matches!(self, Command | Put | Tunnel),
            ToWorker::File { .. } => self == Get,
            ToWorker::Data(_) => matches!(self, Get | Tunnel),
            ToWorker::Changed(_) => self == Changes,
            ToWorker::Done { .. } => matches!(self, Put | Ask | Changes | Get | Listener),
            ToWorker::Eof | ToWorker::Closed => self == Tunnel,
            ToWorker::Error { .. } => !matches!(self, Greeting | Tunnel),
            ToWorker::Accepted { .. } => false,
        }
    }

    /// Gets more credit as it goes. The others have one allowance for all that may come.
    fn has_credit(self) -> bool {
        matches!(self, Self::Command | Self::Tunnel)
    }
}

/// What came from the guest in a conversation.
#[derive(Debug)]
pub(super) enum Event {
    Hello {
        version: u32,
    },
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Exit(Exit),
    File(FileKind, Vec<u8>),
    Data(Vec<u8>),
    Changed(Vec<(Vec<u8>, Found)>),
    Done,
    Accepted(Channel),
    Eof,
    Closed,
    Error(ErrorKind, String),
    /// More than the allowance of a conversation without credit.
    Overflow,
}

/// What a message means beyond its conversation.
pub(super) enum Effect {
    None,
    /// Nobody wants it; the guest may send more of it, so that it comes to its end.
    Refund(u32),
    Over,
}

/// What reader and channel share.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) purpose: Purpose,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    events: VecDeque<Event>,
    /// What may still be sent to the guest.
    credit: u32,
    /// What may still come from the guest.
    allowance: u64,
    /// The one message that may come only once without ending it has come: done of a listener, the end of a tunnel.
    told: bool,
    ended: bool,
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Conversation {
    pub(super) fn new(purpose: Purpose, allowance: u64) -> Self {
        let inner = Inner {
            events: VecDeque::new(),
            credit: WINDOW,
            allowance,
            told: false,
            ended: false,
            abandoned: false,
            reader: None,
            writer: None,
        };
        Self { purpose, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings an event to whoever reads.
    pub(super) fn push(&self, event: Event) {
        let mut inner = self.lock();
        if inner.abandoned {
            // Not under the lock: an event may hold a channel, whose drop does more.
            drop(inner);
            return drop(event);
        }
        inner.events.push_back(event);
        wake(inner.reader.take());
    }

    /// How many events nobody has read yet.
    pub(super) fn n_waiting(&self) -> usize {
        self.lock().events.len()
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        wake(inner.reader.take());
        wake(inner.writer.take());
    }

    /// Takes a message in. The error is what an honest guest would not have done.
    pub(super) fn receive(&self, message: ToWorker<'_>, payload: usize) -> Result<Effect, String> {
        if !self.purpose.may_receive(&message) {
            return Err("an answer to something else".into());
        }
        let event = match message {
            ToWorker::Credit(bytes) => return self.add_credit(bytes).map(|()| Effect::None),
            ToWorker::Stdout(bytes) => return self.receive_flow(payload, || Event::Stdout(bytes.to_vec())),
            ToWorker::Stderr(bytes) => return self.receive_flow(payload, || Event::Stderr(bytes.to_vec())),
            ToWorker::Data(bytes) => return self.receive_flow(payload, || Event::Data(bytes.to_vec())),
            ToWorker::File { kind, path } => return self.receive_flow(payload, || Event::File(kind, path)),
            ToWorker::Changed(changes) => return self.receive_flow(payload, || Event::Changed(changes)),
            ToWorker::Eof => return self.receive_once(Event::Eof),
            ToWorker::Done { .. } if self.purpose == Purpose::Listener => return self.receive_once(Event::Done),
            ToWorker::Hello { version, .. } => Event::Hello { version },
            ToWorker::Exit(exit) => Event::Exit(exit),
            ToWorker::Done { .. } => Event::Done,
            ToWorker::Closed => Event::Closed,
            ToWorker::Error { kind, reason } => Event::Error(kind, reason),
            ToWorker::Accepted { .. } => return Err("a connection where none can be".into()),
        };
        self.push(event);
        self.end();
        Ok(Effect::Over)
    }

    fn receive_once(&self, event: Event) -> Result<Effect, String> {
        if std::mem::replace(&mut self.lock().told, true) {
            return Err("the same answer twice".into());
        }
        self.push(event);
        Ok(Effect::None)
    }

    fn receive_flow(&self, payload: usize, event: impl FnOnce() -> Event) -> Result<Effect, String> {
        let mut inner = self.lock();
        if inner.abandoned {
            return Ok(if self.purpose.has_credit() { Effect::Refund(cost(payload)) } else { Effect::None });
        }
        let event = match inner.allowance.checked_sub(u64::from(cost(payload))) {
            Some(rest) => {
                inner.allowance = rest;
                event()
            }
            None if self.purpose.has_credit() => return Err("more than its credit".into()),
            None => {
                inner.abandoned = true;
                Event::Overflow
            }
        };
        inner.events.push_back(event);
        wake(inner.reader.take());
        Ok(Effect::None)
    }

    fn add_credit(&self, bytes: u32) -> Result<(), String> {
        let mut inner = self.lock();
        inner.credit = inner.credit.saturating_add(bytes);
        if inner.credit > WINDOW {
            return Err("more credit than it can have".into());
        }
        wake(inner.writer.take());
        Ok(())
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// One end of a conversation. When it is dropped early the guest is told to stop, and what still comes is thrown away.
#[derive(Debug)]
pub(super) struct Channel {
    shared: Arc<Shared>,
    id: u32,
    conversation: Arc<Conversation>,
}

impl Channel {
    pub(super) fn new(shared: Arc<Shared>, id: u32, conversation: Arc<Conversation>) -> Self {
        Self { shared, id, conversation }
    }

    pub(super) fn send(&self, message: &ToGuest<'_>) {
        self.shared.send(self.id, message);
    }

    /// Takes credit for a frame and gives the largest payload for it, not more than `wanted`; 0 when the conversation
    /// is over.
    pub(super) fn poll_credit(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        let mut inner = self.conversation.lock();
        if inner.ended {
            return Poll::Ready(0);
        }
        let fits = (inner.credit.saturating_sub(cost(0)) as usize).min(wanted).min(MAX_PAYLOAD);
        if fits == 0 {
            inner.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        inner.credit -= cost(fits);
        Poll::Ready(fits)
    }

    /// Takes credit for a frame that cannot be cut. False when the conversation is over.
    pub(super) fn poll_credit_for(&self, cx: &mut Context<'_>, payload: usize) -> Poll<bool> {
        let mut inner = self.conversation.lock();
        if inner.ended {
            return Poll::Ready(false);
        }
        match inner.credit.checked_sub(cost(payload)) {
            Some(rest) => {
                inner.credit = rest;
                Poll::Ready(true)
            }
            None => {
                inner.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next event; `None` when the conversation is over and all of it was read.
    pub(super) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut inner = self.conversation.lock();
        match inner.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if inner.ended => Poll::Ready(None),
            None => {
                inner.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next event; an error when the sandbox is lost.
    pub(super) async fn event(&self) -> Result<Event, SandboxError> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await.ok_or_else(|| self.lost())
    }

    /// Why there is nothing more to come.
    pub(super) fn lost(&self) -> SandboxError {
        SandboxError::Lost(self.shared.why_lost().unwrap_or_else(|| "the conversation is over".into()))
    }

    /// Lets the guest send so many bytes of frames more.
    pub(super) fn grant(&self, bytes: u32) {
        self.conversation.lock().allowance += u64::from(bytes);
        self.send(&ToGuest::Credit(bytes));
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let (events, refund) = {
            let mut inner = self.conversation.lock();
            if inner.ended {
                return;
            }
            inner.abandoned = true;
            // What was not read is given back, so that the guest gets to its end.
            let refund = u64::from(WINDOW).saturating_sub(inner.allowance);
            (std::mem::take(&mut inner.events), u32::try_from(refund).unwrap_or(WINDOW))
        };
        drop(events);
        match self.conversation.purpose {
            Purpose::Command => self.send(&ToGuest::Signal(9)),
            Purpose::Put | Purpose::Tunnel => self.send(&ToGuest::Reset),
            Purpose::Greeting | Purpose::Ask | Purpose::Changes | Purpose::Get | Purpose::Listener => {}
        }
        if self.conversation.purpose.has_credit() && refund > 0 {
            self.send(&ToGuest::Credit(refund));
        }
    }
}
