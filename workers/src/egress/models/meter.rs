//! What an answer cost in tokens, read from the answer itself while it flows by.
//!
//! The last count of an answer is the one that holds: streams begin with one and end with another. What breaks off before
//! its end is estimated from what was seen of it, and says that it is an estimate. An answer without any count is
//! unmeasured, which is never taken for nothing.

use memchr::memmem;
use serde_json::Value;
use tasks::Tokens;

use super::protocol::Counting;

/// An answer that is one JSON text is read whole up to this size, a line of a stream too.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Bytes of text that make about one token.
const BYTES_PER_TOKEN: u64 = 4;

/// Reads one answer.
#[derive(Debug)]
pub(super) struct Meter {
    counting: Counting,
    stream: bool,
    /// The part of a line, or of the whole answer, that came so far.
    pending: Vec<u8>,
    overlong: bool,
    counts: Option<Tokens>,
    /// A count came that only the end of an answer has.
    final_count: bool,
    /// What was asked, in bytes, for an estimate.
    n_asked: u64,
    /// What was written, in bytes of text, since the last count.
    n_written: u64,
}

/// What is known of the tokens of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::egress) enum Measured {
    /// As the provider counted.
    Exactly(Tokens),
    /// The answer broke off: at least about this.
    About(Tokens),
    /// Nothing.
    Not,
}

impl Meter {
    /// For an answer to a request of so many bytes. `stream`: it comes as events.
    pub(super) fn new(counting: Counting, stream: bool, n_asked: usize) -> Self {
        Self {
            counting,
            stream,
            pending: Vec::new(),
            overlong: false,
            counts: None,
            final_count: false,
            n_asked: n_asked as u64,
            n_written: 0,
        }
    }

    /// Takes a piece of the answer.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        if !self.stream {
            self.overlong |= self.pending.len() + bytes.len() > MAX_TEXT_BYTES;
            if !self.overlong {
                self.pending.extend_from_slice(bytes);
            }
            return;
        }
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.pending.is_empty() {
                self.line(line);
            } else {
                self.pending.extend_from_slice(line);
                let line = std::mem::take(&mut self.pending);
                self.line(&line);
            }
        }
        if self.pending.len() + bytes.len() <= MAX_TEXT_BYTES {
            self.pending.extend_from_slice(bytes);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(event) = line.strip_prefix(b"data:") else { return };
        if memmem::find(event, b"\"usage").is_some()
            && let Ok(event) = serde_json::from_slice::<Value>(event)
        {
            self.take(&event);
        }
        self.n_written += text_bytes(event);
    }

    fn take(&mut self, value: &Value) {
        let Some(counts) = counts(self.counting, value, self.counts) else { return };
        self.counts = Some(counts);
        self.n_written = 0;
        self.final_count = match self.counting {
            // The first event of a message has a count too, of what was read.
            Counting::Messages => value["type"] != "message_start",
            Counting::Responses => value["type"] != "response.created" && value["type"] != "response.in_progress",
            // Each event may have the count until then.
            Counting::Gemini => value.pointer("/candidates/0/finishReason").is_some(),
            Counting::Chat | Counting::Free => true,
        };
    }

    /// What it comes to by now, at least about.
    pub(super) fn so_far(&self) -> Tokens {
        let mut counts =
            self.counts.unwrap_or(Tokens { input: self.n_asked.div_ceil(BYTES_PER_TOKEN), ..Tokens::default() });
        counts.output += self.n_written.div_ceil(BYTES_PER_TOKEN);
        counts
    }

    /// The result. `whole`: the answer came to its end.
    pub(super) fn end(mut self, whole: bool) -> Measured {
        if !self.stream && !self.overlong {
            let text = std::mem::take(&mut self.pending);
            if let Ok(value) = serde_json::from_slice::<Value>(&text) {
                // Gemini streams an array where no events are asked for.
                let values = value.as_array().map_or(std::slice::from_ref(&value), Vec::as_slice);
                values.iter().for_each(|value| self.take(value));
                self.final_count = self.counts.is_some();
            } else {
                self.n_written += text.len() as u64;
            }
        } else if self.stream && !self.pending.is_empty() {
            let line = std::mem::take(&mut self.pending);
            self.line(&line);
        }
        match self.counts {
            Some(counts) if self.final_count => Measured::Exactly(counts),
            None if whole => Measured::Not,
            _ => Measured::About(self.so_far()),
        }
    }
}

/// The count in one JSON text, on top of an earlier one of the same answer.
fn counts(counting: Counting, value: &Value, before: Option<Tokens>) -> Option<Tokens> {
    let found = |pointers: &[&str]| {
        pointers.iter().find_map(|pointer| value.pointer(pointer).filter(|found| found.is_object()))
    };
    let before = before.unwrap_or_default();
    match counting {
        Counting::Messages => {
            let usage = found(&["/usage", "/message/usage"])?;
            let number = |name: &str| usage.get(name).and_then(Value::as_u64);
            let read = number("input_tokens").map(|fresh| {
                let (cached, written) = (number("cache_read_input_tokens"), number("cache_creation_input_tokens"));
                (fresh + cached.unwrap_or(0) + written.unwrap_or(0), cached.unwrap_or(0), written.unwrap_or(0))
            });
            let (input, cached, cache_written) = read.unwrap_or((before.input, before.cached, before.cache_written));
            let output = number("output_tokens").unwrap_or(before.output);
            (read.is_some() || number("output_tokens").is_some()).then_some(Tokens {
                // The end of a stream may count only what is new.
                input: input.max(before.input),
                cached: cached.max(before.cached),
                cache_written: cache_written.max(before.cache_written),
                output,
                reasoning: 0,
            })
        }
        Counting::Chat => {
            let usage = found(&["/usage"])?;
            let number = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
            Some(Tokens {
                input: number("/prompt_tokens")?,
                cached: number("/prompt_tokens_details/cached_tokens").unwrap_or(0),
                cache_written: 0,
                output: number("/completion_tokens").unwrap_or(0),
                reasoning: number("/completion_tokens_details/reasoning_tokens").unwrap_or(0),
            })
        }
        Counting::Responses => {
            let usage = found(&["/response/usage", "/usage"])?;
            let number = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
            Some(Tokens {
                input: number("/input_tokens")?,
                cached: number("/input_tokens_details/cached_tokens").unwrap_or(0),
                cache_written: 0,
                output: number("/output_tokens").unwrap_or(0),
                reasoning: number("/output_tokens_details/reasoning_tokens").unwrap_or(0),
            })
        }
        Counting::Gemini => {
            let usage = found(&["/usageMetadata"])?;
            let number = |name: &str| usage.get(name).and_then(Value::as_u64);
            let reasoning = number("thoughtsTokenCount").unwrap_or(0);
            Some(Tokens {
                input: number("promptTokenCount")? + number("toolUsePromptTokenCount").unwrap_or(0),
                cached: number("cachedContentTokenCount").unwrap_or(0),
                cache_written: 0,
                output: number("candidatesTokenCount").unwrap_or(0) + reasoning,
                reasoning,
            })
        }
        Counting::Free => None,
    }
}

/// About how many bytes of text a model wrote in one event of any of the protocols.
fn text_bytes(event: &[u8]) -> u64 {
    const KEYS: [&[u8]; 7] = [
        b"\"text\":",
        b"\"partial_json\":",
        b"\"thinking\":",
        b"\"content\":",
        b"\"reasoning_content\":",
        b"\"arguments\":",
        b"\"delta\":",
    ];
    let text_after = |start: usize| {
        let rest = event[start..].trim_ascii_start().strip_prefix(b"\"")?;
        let mut escaped = false;
        let end = rest.iter().position(|byte| match byte {
            b'\\' if !escaped => {
                escaped = true;
                false
            }
            b'"' if !escaped => true,
            _ => {
                escaped = false;
                false
            }
        });
        Some(end.unwrap_or(rest.len()) as u64)
    };
    KEYS.iter().flat_map(|key| memmem::find_iter(event, key).map(move |at| at + key.len())).filter_map(text_after).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: u64, cached: u64, cache_written: u64, output: u64, reasoning: u64) -> Tokens {
        Tokens { input, cached, cache_written, output, reasoning }
    }

    /// Measures an answer that comes in pieces of every size.
    fn measured(counting: Counting, stream: bool, answer: &str, whole: bool) -> Measured {
        let of = |size: usize| {
            let mut meter = Meter::new(counting, stream, 400);
            answer.as_bytes().chunks(size).for_each(|piece| meter.push(piece));
            meter.end(whole)
        };
        let once = of(answer.len().max(1));
        for size in [1, 2, 3, 7, 50] {
            assert_eq!(of(size), once, "in pieces of {size}");
        }
        once
    }

    const MESSAGES: &str = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,",
        "\"cache_creation_input_tokens\":20,\"cache_read_input_tokens\":300,\"output_tokens\":1}}}\n\n",
        "event: content_block_delta\ndata: {\"type\": \"content_block_delta\", \"delta\": {\"type\": \"text_delta\", \"text\": \"twelve \\\"chars\"}}\n\n",
        "event: message_delta\r\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":34}}\r\n\r\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );

    #[test]
    fn streams_of_every_protocol_are_counted_by_their_last_count() {
        assert_eq!(measured(Counting::Messages, true, MESSAGES, true), Measured::Exactly(tokens(330, 300, 20, 34, 0)));
        let chat = concat!(
            "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":50,\"completion_tokens\":9,",
            "\"prompt_tokens_details\":{\"cached_tokens\":40},\"completion_tokens_details\":{\"reasoning_tokens\":4}}}\n\ndata: [DONE]\n\n",
        );
        assert_eq!(measured(Counting::Chat, true, chat, true), Measured::Exactly(tokens(50, 40, 0, 9, 4)));
        let responses = concat!(
            "data: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n",
            "data: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\n",
            "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":60,\"output_tokens\":7,",
            "\"input_tokens_details\":{\"cached_tokens\":50},\"output_tokens_details\":{\"reasoning_tokens\":3}}}}\n\n",
        );
        assert_eq!(measured(Counting::Responses, true, responses, true), Measured::Exactly(tokens(60, 50, 0, 7, 3)));
        let gemini = concat!(
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"h\"}]}}],\"usageMetadata\":{\"promptTokenCount\":70,\"candidatesTokenCount\":1}}\n\n",
            "data: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":70,",
            "\"cachedContentTokenCount\":60,\"candidatesTokenCount\":5,\"thoughtsTokenCount\":8}}",
        );
        assert_eq!(measured(Counting::Gemini, true, gemini, true), Measured::Exactly(tokens(70, 60, 0, 13, 8)));
    }

    #[test]
    fn answers_in_one_piece_are_counted_too() {
        let of = |counting, text: &str| measured(counting, false, text, true);
        let messages =
            r#"{"type":"message","usage":{"input_tokens":10,"output_tokens":5,"cache_read_input_tokens":2}}"#;
        assert_eq!(of(Counting::Messages, messages), Measured::Exactly(tokens(12, 2, 0, 5, 0)));
        let embeddings = r#"{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
        assert_eq!(of(Counting::Chat, embeddings), Measured::Exactly(tokens(8, 0, 0, 0, 0)));
        let responses = r#"{"object":"response","usage":{"input_tokens":1,"output_tokens":2}}"#;
        assert_eq!(of(Counting::Responses, responses), Measured::Exactly(tokens(1, 0, 0, 2, 0)));
        let array = r#"[{"usageMetadata":{"promptTokenCount":3}},{"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4}}]"#;
        assert_eq!(of(Counting::Gemini, array), Measured::Exactly(tokens(3, 0, 0, 4, 0)));
    }

    #[test]
    fn what_breaks_off_is_estimated_and_what_has_no_count_is_not_taken_for_nothing() {
        let cut = &MESSAGES[..MESSAGES.find("event: message_delta").unwrap()];
        // 14 bytes of text are about 4 tokens, on top of the one that was counted.
        assert_eq!(measured(Counting::Messages, true, cut, false), Measured::About(tokens(330, 300, 20, 5, 0)));
        assert_eq!(measured(Counting::Chat, true, "", false), Measured::About(tokens(100, 0, 0, 0, 0)));
        let uncounted = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: [DONE]\n\n";
        assert_eq!(measured(Counting::Chat, true, uncounted, true), Measured::Not);
        assert_eq!(measured(Counting::Messages, false, "{}", true), Measured::Not);
        assert_eq!(measured(Counting::Messages, false, "no json", true), Measured::Not);
        assert_eq!(measured(Counting::Chat, false, r#"{"usage":{"prompt_tokens":"many"}}"#, true), Measured::Not);
    }

    #[test]
    fn what_was_written_so_far_is_known_while_it_flows() {
        let mut meter = Meter::new(Counting::Messages, true, 40);
        assert_eq!(meter.so_far(), tokens(10, 0, 0, 0, 0));
        meter.push(b"data: {\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"abcdefgh\"}}\n\n");
        assert_eq!(meter.so_far().output, 2);
    }
}
