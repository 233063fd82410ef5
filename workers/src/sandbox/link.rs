//! The stream to a guest, shared by all conversations with it.
//!
//! One task reads and one writes; neither ever waits for a conversation, so none can hold up another. What waits in
//! between is bounded by credit in both directions (see [`guest::protocol`]). The guest runs beside whatever the agent
//! runs, so nothing it sends is believed: a frame that an honest guest would not have sent ends the sandbox.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use guest::protocol::{Frame, GUEST_CHANNELS, HEADER_BYTES, MAX_PAYLOAD, ToGuest, ToWorker, WINDOW};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    GuestStream, SandboxError,
    conversation::{Channel, Conversation, Effect, Event, Purpose},
};

/// More tunnels than any guest of ours opens at once.
const MAX_TUNNELS: usize = 256;
/// What may wait for a guest that does not read, in bytes. Credit bounds data, but a guest can provoke answers without end.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// What a waiting frame costs beside its bytes.
const FRAME_OVERHEAD: usize = 64;
/// So many bytes of frames are joined into one write.
const WRITE_BYTES: usize = 256 * 1024;

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
        let shared = Arc::new(Shared { outgoing, n_waiting_bytes: AtomicUsize::new(0), state: Mutex::new(state) });
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
        Ok(Channel::new(Arc::clone(&self.shared), id, conversation))
    }

    /// Whether it has ended.
    pub(super) fn is_lost(&self) -> bool {
        self.shared.lock().lost.is_some()
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

/// What the tasks and all channels share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Unbounded in itself, so that nobody waits here; a guest for which too much waits is given up.
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    n_waiting_bytes: AtomicUsize,
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

    pub(super) fn send(&self, channel: u32, message: &ToGuest<'_>) {
        let mut bytes = Vec::new();
        message.encode(channel, &mut bytes);
        let n_bytes = bytes.len() + FRAME_OVERHEAD;
        if self.n_waiting_bytes.fetch_add(n_bytes, Ordering::Relaxed) > MAX_WAITING_BYTES {
            return self.lose("its guest does not read what it is sent");
        }
        // When nobody takes it the link is lost, and every conversation is told so by its end.
        drop(self.outgoing.send(bytes));
    }

    pub(super) fn why_lost(&self) -> Option<String> {
        self.lock().lost.clone()
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
            // Those that came and went again wait as well until somebody takes them.
            let n_tunnels = state.n_tunnels.max(listener.n_waiting());
            if state.lost.is_some() || id < GUEST_CHANNELS || n_tunnels >= MAX_TUNNELS {
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
        listener.push(Event::Accepted(Channel::new(Arc::clone(self), id, conversation)));
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
        let mut n_bytes = bytes.len() + FRAME_OVERHEAD;
        while bytes.len() < WRITE_BYTES
            && let Ok(next) = frames.try_recv()
        {
            n_bytes += next.len() + FRAME_OVERHEAD;
            bytes.extend_from_slice(&next);
        }
        let written = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        if let Err(error) = written.await {
            return shared.lose(&why_broken(&error));
        }
        shared.n_waiting_bytes.fetch_sub(n_bytes, Ordering::Relaxed);
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
