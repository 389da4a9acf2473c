//! The messages of a run, each recognisable by its payload.
//!
//! Owns topics, filters, and what a payload must look like byte for byte, so that wrong data is never taken for right.

use causeway_protocol::{QoS, filter_matches, parse_shared};
use smallvec::SmallVec;

use crate::fleet::said_topic;

/// Where messages are published.
pub(crate) const TOPICS: [&str; 18] = [
    "a",
    "a/b",
    "a/c",
    "b",
    "b/c",
    "c/b/d",
    "w/1",
    "w/2",
    "vehicles/1M8GDM9AXKP042788/a",
    "vehicles/1M8GDM9AXKP042788/b/c",
    "vehicles/WVWZZZ1JZ3W386752/a",
    "vehicles/WVWZZZ1JZ3W386752/b/c",
    "groups/g/a",
    "groups/g/b/c",
    "groups/h/a",
    "groups/h/b/c",
    "fleet/a",
    "fleet/b/c",
];

/// So many are behind no mount; `fleet` knows the others.
pub(crate) const PLAIN_TOPICS: usize = 8;

/// What clients subscribe to.
pub(crate) const FILTERS: [&str; 39] = [
    "a",
    "a/#",
    "+/b",
    "#",
    "a/+",
    "b/#",
    "w/+",
    "c/b/d",
    "b",
    "$share/g/a/#",
    "$share/h/#",
    "$share/g/b/#",
    "vehicles/1M8GDM9AXKP042788/a",
    "vehicles/WVWZZZ1JZ3W386752/a",
    "groups/g/a",
    "groups/h/a",
    "fleet/a",
    "vehicles/1M8GDM9AXKP042788/#",
    "vehicles/WVWZZZ1JZ3W386752/#",
    "groups/g/#",
    "groups/h/#",
    "fleet/#",
    "vehicles/1M8GDM9AXKP042788/+",
    "vehicles/WVWZZZ1JZ3W386752/+",
    "groups/g/+",
    "groups/h/+",
    "fleet/+",
    "vehicles/1M8GDM9AXKP042788/b/#",
    "vehicles/WVWZZZ1JZ3W386752/b/#",
    "groups/g/b/#",
    "groups/h/b/#",
    "fleet/b/#",
    "$share/g/vehicles/1M8GDM9AXKP042788/#",
    "$share/g/vehicles/WVWZZZ1JZ3W386752/#",
    "vehicles/+/a",
    "vehicles/#",
    "groups/+/+",
    "$share/g/groups/#",
    "$share/h/vehicles/+/b/c",
];

/// So many are over no mount; `fleet` knows the others.
pub(crate) const PLAIN_FILTERS: usize = 12;

/// Names a message; its place in the [`Registry`].
pub(crate) type MessageId = u32;

/// What was published, as its publisher meant it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: usize,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Zero for a message that clears a retained one.
    pub(crate) payload_bytes: usize,
    pub(crate) expiry_seconds: Option<u32>,
    /// Who published it keeps to the specification.
    pub(crate) is_careful: bool,
    pub(crate) is_will: bool,
    /// The sessions it was accepted from. A client that does not learn that its session ended publishes it once more.
    pub(crate) accepted_from: SmallVec<[u64; 1]>,
    /// How often it was accepted.
    pub(crate) copies: u32,
}

/// All messages of a run.
#[derive(Debug)]
pub(crate) struct Registry {
    messages: Vec<Message>,
    matches: [[bool; TOPICS.len()]; FILTERS.len()],
}

/// Length of what makes a payload recognisable.
const HEAD_BYTES: usize = 12;

impl Registry {
    pub(crate) fn new() -> Registry {
        let inner = FILTERS.map(inner);
        let matches = inner.map(|filter| TOPICS.map(|topic| filter_matches(filter, topic)));
        let mut registry = Registry { messages: Vec::new(), matches };
        for topic in 0..TOPICS.len() {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][topic % 3];
            let (payload_bytes, expiry_seconds, accepted_from) = (0, None, SmallVec::new());
            let (retain, is_careful, is_will) = (true, false, false);
            let clearing = Message {
                topic,
                qos,
                retain,
                payload_bytes,
                expiry_seconds,
                is_careful,
                is_will,
                accepted_from,
                copies: 0,
            };
            registry.add(clearing);
        }
        registry
    }

    /// The message that clears what is retained. It has no payload, so there is one for each topic.
    pub(crate) fn clearing(topic: usize) -> MessageId {
        topic as MessageId
    }

    pub(crate) fn add(&mut self, mut message: Message) -> MessageId {
        if message.payload_bytes > 0 {
            message.payload_bytes = message.payload_bytes.max(HEAD_BYTES);
        }
        self.messages.push(message);
        (self.messages.len() - 1) as MessageId
    }

    pub(crate) fn get(&self, id: MessageId) -> &Message {
        &self.messages[id as usize]
    }

    pub(crate) fn accepted(&mut self, id: MessageId, epoch: u64) {
        let message = &mut self.messages[id as usize];
        message.copies += 1;
        let from = &mut message.accepted_from;
        if !from.contains(&epoch) {
            from.push(epoch);
        }
    }

    pub(crate) fn matches(&self, filter: usize, topic: usize) -> bool {
        self.matches[filter][topic]
    }

    /// How many shared subscriptions there are to a topic.
    pub(crate) fn groups_of(&self, topic: usize) -> usize {
        (0..FILTERS.len()).filter(|filter| is_shared(*filter) && self.matches(*filter, topic)).count()
    }

    /// What the broker counts against its bounds, in bytes.
    pub(crate) fn bytes(&self, id: MessageId) -> usize {
        let message = self.get(id);
        TOPICS[message.topic].len() + message.payload_bytes
    }

    pub(crate) fn payload(&self, id: MessageId) -> Vec<u8> {
        let message = self.get(id);
        let mut bytes = Vec::with_capacity(message.payload_bytes);
        if message.payload_bytes == 0 {
            return bytes;
        }
        bytes.extend_from_slice(if message.is_will { b"SIW" } else { b"SIM" });
        bytes.push(b'0' + message.qos as u8);
        bytes.extend_from_slice(&u64::from(id).to_be_bytes());
        bytes.extend((HEAD_BYTES..message.payload_bytes).map(|at| filler(id, at)));
        bytes
    }

    /// The full topic of what a vehicle got, if it got it by the right name.
    pub(crate) fn full_topic(&self, said: &str, payload: &[u8]) -> Option<&'static str> {
        let id = payload.get(4..HEAD_BYTES).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)?;
        let topic = self.messages.get(usize::try_from(id).ok()?)?.topic;
        (said_topic(topic) == said).then_some(TOPICS[topic])
    }

    /// The message whose payload this is, if it is one and intact. An empty payload names none.
    pub(crate) fn recognise(&self, topic: &str, payload: &[u8]) -> Result<Option<MessageId>, String> {
        if payload.is_empty() {
            return Ok(None);
        }
        let id =
            payload.get(4..HEAD_BYTES).and_then(|bytes| bytes.try_into().ok()).map_or(u64::MAX, u64::from_be_bytes);
        let Some(message) = usize::try_from(id).ok().and_then(|at| self.messages.get(at)) else {
            return Err(format!("a payload nobody published, on {topic}"));
        };
        let id = id as MessageId;
        let intact = payload.len() == message.payload_bytes
            && payload[HEAD_BYTES..].iter().zip(HEAD_BYTES..).all(|(byte, at)| *byte == filler(id, at))
            && topic == TOPICS[message.topic];
        if intact { Ok(Some(id)) } else { Err(format!("message {id} came altered, on {topic}")) }
    }
}

fn filler(id: MessageId, at: usize) -> u8 {
    (id as usize).wrapping_mul(31).wrapping_add(at * 7) as u8
}

/// The filter without its `$share/name/`.
fn inner(filter: &'static str) -> &'static str {
    match parse_shared(filter) {
        Ok(Some(shared)) => shared.filter,
        Ok(None) | Err(_) => filter,
    }
}

/// Whether the filter is that of a shared subscription.
pub(crate) fn is_shared(filter: usize) -> bool {
    FILTERS[filter].starts_with("$share/")
}
