//! The stream to a guest, shared by all conversations with it.
//!
//! One task reads and one writes; neither ever waits for a conversation, so none can hold up another. What waits in
//! between is bounded by credit in both directions (see [`guest::protocol`]). The guest runs beside whatever the agent
//! runs, so nothing it sends is believed: a frame that an honest guest would not have sent ends the sandbox.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use guest::protocol::{
    ErrorKind, Exit, FileKind, Found, Frame, GUEST_CHANNELS, HEADER_BYTES, MAX_PAYLOAD, ToGuest, ToWorker, WINDOW, cost,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
};

use super::{GuestStream, SandboxError};

/// More tunnels than any guest of ours opens at once.
const MAX_TUNNELS: usize = 256;
/// So many bytes of frames are joined into one write.
const WRITE_BYTES: usize = 256 * 1024;

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

/// The stream and the tasks that serve it. All conversations end with it.
pub(super) struct Link {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Link {
    pub(super) fn new(stream: Box<dyn GuestStream>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (outgoing, frames) = mpsc::unbounded_channel();
        let state = State { channels: HashMap::new(), next: 0, n_tunnels: 0, lost: None };
        let shared = Arc::new(Shared { outgoing, state: Mutex::new(state) });
        let reading = tokio::spawn(read_all(reader, Arc::clone(&shared)));
        let writing = tokio::spawn(write_all(writer, frames, Arc::clone(&shared)));
        Self { shared, tasks: [reading, writing] }
    }

    /// Opens a conversation with an allowance for what comes back.
    pub(super) fn open(&self, purpose: Purpose, allowance: u64) -> Result<Channel, SandboxError> {
        let mut state = self.shared.lock();
        if let Some(reason) = &state.lost {
            return Err(SandboxError::Lost(reason.clone()));
        }
        let mut id = state.next;
        while state.channels.contains_key(&id) {
            id = (id + 1) % GUEST_CHANNELS;
        }
        state.next = (id + 1) % GUEST_CHANNELS;
        let conversation = Arc::new(Conversation::new(purpose, allowance));
        state.channels.insert(id, Arc::clone(&conversation));
        Ok(Channel { shared: Arc::clone(&self.shared), id, conversation })
    }

    /// Gives the sandbox up.
    pub(super) fn lose(&self, reason: &str) {
        self.shared.lose(reason);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.lose("it was stopped");
    }
}

#[derive(Debug)]
struct Shared {
    /// Unbounded in itself: credit bounds what is sent here.
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    channels: HashMap<u32, Arc<Conversation>>,
    next: u32,
    n_tunnels: usize,
    lost: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, channel: u32, message: &ToGuest<'_>) {
        let mut bytes = Vec::new();
        message.encode(channel, &mut bytes);
        // When nobody takes it the link is lost, and every conversation is told so by its end.
        drop(self.outgoing.send(bytes));
    }

    /// Ends every conversation. The first reason stays.
    fn lose(&self, reason: &str) {
        let channels = {
            let mut state = self.lock();
            if state.lost.is_none() {
                state.lost = Some(reason.to_owned());
            }
            std::mem::take(&mut state.channels)
        };
        channels.values().for_each(|conversation| conversation.end());
    }

    /// Brings a frame to its conversation. The error is what an honest guest would not have done.
    fn receive(self: &Arc<Self>, frame: Frame<'_>) -> Result<(), String> {
        let message = ToWorker::decode(frame.kind, frame.payload).map_err(|error| error.to_string())?;
        if let ToWorker::Accepted { listener } = message {
            return self.accept(frame.channel, listener);
        }
        let conversation = self.lock().channels.get(&frame.channel).cloned();
        let conversation = conversation.ok_or("a frame for a conversation that is over or never was")?;
        match conversation.receive(message, frame.payload.len())? {
            Effect::None => {}
            Effect::Refund(bytes) => self.send(frame.channel, &ToGuest::Credit(bytes)),
            Effect::Over => {
                let mut state = self.lock();
                state.channels.remove(&frame.channel);
                state.n_tunnels -= usize::from(conversation.purpose == Purpose::Tunnel);
            }
        }
        Ok(())
    }

    fn accept(self: &Arc<Self>, id: u32, listener: u32) -> Result<(), String> {
        let conversation = Arc::new(Conversation::new(Purpose::Tunnel, u64::from(WINDOW)));
        let listener = {
            let mut state = self.lock();
            let listener =
                state.channels.get(&listener).filter(|listener| listener.purpose == Purpose::Listener).cloned();
            let listener = listener.ok_or("a connection to a port that nobody listens to")?;
            if state.lost.is_some() || id < GUEST_CHANNELS || state.n_tunnels >= MAX_TUNNELS {
                return Err("more connections than agreed".into());
            }
            match state.channels.entry(id) {
                Entry::Occupied(_) => return Err("a connection under the number of another".into()),
                Entry::Vacant(vacant) => vacant.insert(Arc::clone(&conversation)),
            };
            state.n_tunnels += 1;
            listener
        };
        // Dropped, and so closed, when nobody listens any more.
        listener.push(Event::Accepted(Channel { shared: Arc::clone(self), id, conversation }));
        Ok(())
    }
}

async fn read_all(mut stream: impl AsyncRead + Unpin, shared: Arc<Shared>) {
    let mut buffer = Vec::with_capacity(2 * (HEADER_BYTES + MAX_PAYLOAD));
    let reason = loop {
        match stream.read_buf(&mut buffer).await {
            Ok(0) => break STREAM_ENDED.to_owned(),
            Ok(_) => {}
            Err(error) => break why_broken(&error),
        }
        let mut taken = 0;
        let received = loop {
            match Frame::split(&buffer[taken..]) {
                Ok(None) => break Ok(()),
                Ok(Some((frame, length))) => {
                    if let Err(reason) = shared.receive(frame) {
                        break Err(reason);
                    }
                    taken += length;
                }
                Err(malformed) => break Err(malformed.to_string()),
            }
        };
        if let Err(reason) = received {
            break format!("its guest is not to be trusted any more: {reason}");
        }
        buffer.drain(..taken);
        buffer.reserve(HEADER_BYTES + MAX_PAYLOAD);
    };
    shared.lose(&reason);
}

async fn write_all(
    mut stream: impl AsyncWrite + Unpin,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
    shared: Arc<Shared>,
) {
    while let Some(mut bytes) = frames.recv().await {
        while bytes.len() < WRITE_BYTES
            && let Ok(next) = frames.try_recv()
        {
            bytes.extend_from_slice(&next);
        }
        let written = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        if let Err(error) = written.await {
            return shared.lose(&why_broken(&error));
        }
    }
}

const STREAM_ENDED: &str = "its stream ended";

/// The same words for the same thing, whether reading or writing found out first.
fn why_broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            STREAM_ENDED.into()
        }
        _ => format!("its stream broke: {error}"),
    }
}

/// What a message means beyond its conversation.
enum Effect {
    None,
    /// Nobody wants it; the guest may send more of it, so that it comes to its end.
    Refund(u32),
    Over,
}

#[derive(Debug)]
struct Conversation {
    purpose: Purpose,
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
    fn new(purpose: Purpose, allowance: u64) -> Self {
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

    fn push(&self, event: Event) {
        let mut inner = self.lock();
        if inner.abandoned {
            // Not under the lock: an event may hold a channel, whose drop does more.
            drop(inner);
            return drop(event);
        }
        inner.events.push_back(event);
        wake(inner.reader.take());
    }

    fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        wake(inner.reader.take());
        wake(inner.writer.take());
    }

    fn receive(&self, message: ToWorker<'_>, payload: usize) -> Result<Effect, String> {
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
        let reason = self.shared.lock().lost.clone();
        SandboxError::Lost(reason.unwrap_or_else(|| "the conversation is over".into()))
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
