//! What happened last, for whoever looks into a failure, and the digest of all that happened.
//!
//! Owns their form. Decides nothing.

use std::collections::VecDeque;
use std::fmt;

/// How many events a failure shows.
const KEPT: usize = 1500;

/// One thing that happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) step: u32,
    pub(crate) now: u64,
    pub(crate) what: &'static str,
    pub(crate) numbers: [u64; 3],
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, two, three] = self.numbers;
        write!(f, "step {:5} {:10} ms  {} {one} {two} {three}", self.step, self.now, self.what)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    events: VecDeque<Event>,
    digest: u64,
}

impl Trace {
    pub(crate) fn note(&mut self, event: Event) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.mix(event.now ^ event.what.len() as u64);
        event.numbers.into_iter().for_each(|number| self.mix(number));
        self.events.push_back(event);
    }

    /// Takes bytes of the wire into the digest.
    pub(crate) fn wire(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn mix(&mut self, word: u64) {
        self.digest = (self.digest.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.events.iter().map(Event::to_string).collect()
    }
}
