//! Credit: how much may be on the way per channel and direction, at the guest's end.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

use guest::protocol::{MAX_PAYLOAD, ToWorker, WINDOW, cost};

/// The way to the worker, shared by the threads of the guest. A frame is written whole.
#[derive(Clone)]
pub(crate) struct Outward(Arc<Mutex<File>>);

impl Outward {
    pub(crate) fn new(stream: File) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// Sends a frame. Waits while the worker does not read, and ends the guest when it is gone: a sandbox without its
    /// worker has no purpose.
    pub(crate) fn send(&self, channel: u32, message: &ToWorker<'_>) {
        let mut bytes = Vec::new();
        message.encode(channel, &mut bytes);
        self.write(&mut bytes);
    }

    /// As [`Outward::send`], with frames that are encoded already. Takes them out.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stream.write_all(bytes).is_err() {
            crate::serve::end();
        }
        bytes.clear();
    }
}

/// What came from the worker and waits to be written to a pipe or a socket. Bounded by the worker's credit.
#[derive(Default)]
pub(crate) struct Inbox {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk is written.
    written: usize,
    /// Worked off, but not yet told to the worker.
    owed: u32,
    ended: bool,
}

impl Inbox {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.chunks.push_back(bytes.to_vec());
    }

    /// Nothing will be pushed any more.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// All that will ever come is written.
    pub(crate) fn is_finished(&self) -> bool {
        self.ended && self.chunks.is_empty()
    }

    /// Writes as much as goes without waiting.
    pub(crate) fn write_to(&mut self, sink: &mut impl Write) -> io::Result<()> {
        while let Some(chunk) = self.chunks.front() {
            match sink.write(&chunk[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if self.written == chunk.len() {
                self.owed += cost(chunk.len());
                self.written = 0;
                self.chunks.pop_front();
            }
        }
        Ok(())
    }

    /// Forgets what waits, as if it were written: nobody will read it.
    pub(crate) fn discard(&mut self) {
        self.owed += self.chunks.drain(..).map(|chunk| cost(chunk.len())).sum::<u32>();
        self.written = 0;
    }

    /// The credit to give back now, once it is worth a frame. The worker always keeps most of its window.
    pub(crate) fn take_owed(&mut self) -> Option<u32> {
        (self.owed >= WINDOW / 4).then(|| std::mem::take(&mut self.owed))
    }
}

/// How much may still be sent to the worker.
pub(crate) struct Allowance(u32);

impl Allowance {
    /// A read below this is not worth a frame.
    const WORTHWHILE: u32 = 4096;

    pub(crate) fn new() -> Self {
        Self(WINDOW)
    }

    pub(crate) fn add(&mut self, bytes: u32) {
        self.0 = self.0.saturating_add(bytes).min(WINDOW);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0 >= cost(Self::WORTHWHILE as usize)
    }

    /// Reads once, as much as fits the allowance and a frame. Do not call it when it is not open.
    pub(crate) fn read<'b>(&mut self, source: &mut impl Read, buffer: &'b mut [u8; MAX_PAYLOAD]) -> Got<'b> {
        let fits = (self.0.saturating_sub(cost(0)) as usize).min(MAX_PAYLOAD);
        if fits == 0 {
            return Got::NothingYet;
        }
        match source.read(&mut buffer[..fits]) {
            Ok(0) => Got::End,
            Ok(n) => {
                self.0 -= cost(n);
                Got::Bytes(&buffer[..n])
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Got::NothingYet,
                _ => Got::Broken,
            },
        }
    }
}

/// What a read without waiting found.
pub(crate) enum Got<'b> {
    Bytes(&'b [u8]),
    NothingYet,
    End,
    Broken,
}
