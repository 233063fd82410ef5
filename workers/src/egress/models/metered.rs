//! An answer on its way in: passed through piece by piece, counted, and cut where an allowance ends.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use hyper::{
    StatusCode,
    body::{Body as _, Frame},
};

use super::{
    Body, Speaks,
    ask::Tried,
    meter::{Measured, Meter},
    prices::Price,
};
use crate::egress::tally::{Exchange, Standing, Tally};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer. However it ends, what it was is in the tally once.
pub(super) struct Metered {
    inner: Body,
    /// `None`: it has ended.
    meter: Option<Meter>,
    stream: bool,
    ending: Ending,
}

/// What is needed to book it.
pub(super) struct Ending {
    pub(super) tally: Arc<Tally>,
    pub(super) number: u64,
    pub(super) price: Option<Price>,
    pub(super) tried: Tried,
    pub(super) started: Instant,
    pub(super) speaks: Speaks,
}

impl Metered {
    pub(super) fn new(inner: Body, meter: Meter, stream: bool, ending: Ending) -> Self {
        Self { inner, meter: Some(meter), stream, ending }
    }

    /// Books it, the first time. `whole`: it came to its end.
    fn book(&mut self, whole: bool) {
        let Some(meter) = self.meter.take() else { return };
        let measured = meter.end(whole);
        let Ending { tally, number, price, tried, started, .. } = &self.ending;
        let cost = match measured {
            Measured::Exactly(tokens) | Measured::About(tokens) => price.map(|price| price.of(tokens)),
            Measured::Not => None,
        };
        tally.closed(Some(*number), &Exchange { measured: Some(measured), cost, ..tried.exchange(started.elapsed()) });
    }

    /// Takes a piece in. Returns the last words when nothing more may come.
    fn count(&mut self, piece: &[u8]) -> Option<Bytes> {
        let meter = self.meter.as_mut()?;
        meter.push(piece);
        // What comes in one piece is paid for already.
        if !self.stream {
            return None;
        }
        let Ending { tally, number, price, speaks, .. } = &self.ending;
        let tokens = meter.so_far();
        if tally.so_far(*number, tokens, price.map(|price| price.of(tokens))) != Standing::UsedUp {
            return None;
        }
        let why = tally.stopped().unwrap_or_default();
        let error = speaks.error(StatusCode::FORBIDDEN, &format!("This task may ask no model any more: {why}."));
        self.book(false);
        // What is paid for arrives; nothing after it does.
        Some(Bytes::from([piece, format!("\n\nevent: error\ndata: {error}\n\n").as_bytes()].concat()))
    }
}

impl hyper::body::Body for Metered {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.meter.is_none() {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(last_words) = frame.data_ref().and_then(|piece| self.count(piece)) {
                    return Poll::Ready(Some(Ok(Frame::data(last_words))));
                }
            }
            Some(Err(_)) => self.book(false),
            None => self.book(true),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.meter.is_none()
    }
}

impl Drop for Metered {
    /// Whoever asked went away before the end, or had all bytes that were announced and did not ask for more.
    fn drop(&mut self) {
        self.book(self.inner.is_end_stream());
    }
}
