//! A client of this load: MQTT 5 with the properties that requests and answers need.
//!
//! Owns packet identifiers, and that each message is acknowledged. It waits for nothing by itself: who uses it takes what came.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::timeout;

use crate::link::Link;
use crate::wire::{self, Connect, first};

const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;
/// How long nothing may come before something that was waited for counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// Reason codes from here on are refusals.
const REFUSED: u8 = 0x80;
/// QoS 1 in the first byte of a PUBLISH.
const QOS_1: u8 = 0x02;

/// A connection of a session.
#[derive(Debug)]
pub(super) struct Session {
    link: Link,
    last_id: u16,
}

/// What the broker sent.
#[derive(Debug)]
pub(super) enum Came {
    /// A PUBACK for the message of this packet identifier; or it was refused.
    Acknowledged(u16, bool),
    /// A message; it is acknowledged already.
    Message(Message),
}

/// A message.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Message {
    pub(super) topic: String,
    /// Empty where there is none.
    pub(super) response_topic: String,
    /// Empty where there are none.
    pub(super) correlation: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Session {
    /// Opens a connection with a session of its own.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub(super) async fn open(target: SocketAddr, connect: &Connect<'_>) -> Result<Self> {
        let (link, _) = Link::open(target, connect).await?;
        Ok(Self { link, last_id: 0 })
    }

    /// Subscribes with QoS 1.
    ///
    /// # Errors
    /// When the connection is gone or the broker refuses.
    pub(super) async fn subscribe(&mut self, filter: &str) -> Result<()> {
        self.link.subscribe(filter, 1).await.with_context(|| format!("cannot subscribe to {filter}"))
    }

    /// Puts a message of QoS 1 behind what is to be written; its packet identifier. `answer_to`: response topic and correlation data; either
    /// may be empty.
    pub(super) fn publish(&mut self, topic: &str, answer_to: (&str, &[u8]), payload: &[u8]) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        write_publish(&mut self.link.outgoing, topic, self.last_id, answer_to, payload);
        self.last_id
    }

    /// What has been read already, without waiting.
    ///
    /// # Errors
    /// When it is nothing that a broker sends then.
    pub(super) fn take(&mut self) -> Result<Option<Came>> {
        let Some((kind, body)) = self.link.incoming.next() else { return Ok(None) };
        if kind == first::PUBACK {
            let (id, code) = wire::read_ack(body).context("a PUBACK cut short")?;
            return Ok(Some(Came::Acknowledged(id, code < REFUSED)));
        }
        ensure!(kind & 0xF0 == first::PUBLISH, "a packet {kind:#04x}: {body:x?}");
        let (id, message) = read_publish(kind, body).context("a PUBLISH that cannot be read")?;
        if id != 0 {
            wire::ack(&mut self.link.outgoing, first::PUBACK, id);
        }
        Ok(Some(Came::Message(message)))
    }

    /// Writes what is to be written, and waits until something has come.
    ///
    /// # Errors
    /// When the connection is gone, or nothing comes for very long.
    pub(super) async fn turn(&mut self) -> Result<()> {
        timeout(PATIENCE, self.link.turn()).await.context("nothing comes")?
    }

    /// Likewise, for however long it takes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) async fn wait(&mut self) -> Result<()> {
        self.link.turn().await
    }

    /// The next that comes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) async fn next(&mut self) -> Result<Came> {
        loop {
            if let Some(came) = self.take()? {
                return Ok(came);
            }
            self.turn().await?;
        }
    }

    /// The message with these correlation data, and the acknowledgement of the request, in either order. Nothing else may be under way.
    ///
    /// # Errors
    /// When the connection is gone, the request was refused, or another message comes.
    pub(super) async fn answer(&mut self, correlation: &[u8]) -> Result<Message> {
        let (mut is_acknowledged, mut answer) = (false, None);
        loop {
            match self.next().await? {
                Came::Acknowledged(_, is_taken) => {
                    ensure!(is_taken, "the request was refused");
                    is_acknowledged = true;
                }
                Came::Message(message) => {
                    ensure!(message.correlation == correlation, "an answer to something else: {message:?}");
                    answer = Some(message);
                }
            }
            if let Some(message) = answer.take_if(|_| is_acknowledged) {
                return Ok(message);
            }
        }
    }

    /// Waits until the message of this identifier is acknowledged; nothing else may come.
    ///
    /// # Errors
    /// When the connection is gone, or the message was refused.
    pub(super) async fn acknowledged(&mut self, id: u16) -> Result<()> {
        match self.next().await? {
            Came::Acknowledged(of, true) if of == id => Ok(()),
            other => anyhow::bail!("{other:?} instead of an acknowledgement of {id}"),
        }
    }

    /// Says goodbye and closes.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub(super) async fn disconnect(self) -> Result<()> {
        self.link.disconnect().await
    }
}

/// Has the broker keep what is published below `filter`, for somebody who is away; forgets what was kept for it before.
///
/// # Errors
/// When the broker cannot be reached or refuses.
pub(super) async fn keep_for_absent(target: SocketAddr, client_id: &str, filter: &str) -> Result<()> {
    let mut session = Session::open(target, &lasting(client_id)).await?;
    session.subscribe(filter).await?;
    session.disconnect().await
}

/// Ends the session of [`keep_for_absent`], and what waits in it.
///
/// # Errors
/// When the broker cannot be reached or refuses.
pub(super) async fn forget(target: SocketAddr, client_id: &str) -> Result<()> {
    Session::open(target, &Connect { client_id, ..Connect::default() }).await?.disconnect().await
}

/// A new session that outlives its connection.
pub(super) fn lasting(client_id: &str) -> Connect<'_> {
    Connect { client_id, session_expiry_seconds: 3_600, receive_maximum: 1_000, ..Connect::default() }
}

fn write_publish(
    out: &mut Vec<u8>,
    topic: &str,
    id: u16,
    (response_topic, correlation): (&str, &[u8]),
    payload: &[u8],
) {
    let property_bytes = |length: usize| if length == 0 { 0 } else { 3 + length };
    let properties = property_bytes(response_topic.len()) + property_bytes(correlation.len());
    // As many as one byte says, or two.
    let properties_head = if properties < 128 { 1 } else { 2 };
    out.push(first::PUBLISH | QOS_1);
    wire::push_varint(out, 2 + topic.len() + 2 + properties_head + properties + payload.len());
    wire::push_text(out, topic);
    out.extend(id.to_be_bytes());
    wire::push_varint(out, properties);
    if !response_topic.is_empty() {
        out.push(RESPONSE_TOPIC);
        wire::push_text(out, response_topic);
    }
    if !correlation.is_empty() {
        out.push(CORRELATION_DATA);
        // Correlation data here are a few bytes.
        out.extend((correlation.len() as u16).to_be_bytes());
        out.extend(correlation);
    }
    out.extend(payload);
}

/// Identifier (0 for QoS 0) and message of a PUBLISH. `None`: it makes no sense.
fn read_publish(kind: u8, body: &[u8]) -> Option<(u16, Message)> {
    let (topic, mut rest) = text(body)?;
    let mut id = 0;
    if kind & 0x06 != 0 {
        let (bytes, behind) = rest.split_first_chunk::<2>()?;
        (id, rest) = (u16::from_be_bytes(*bytes), behind);
    }
    let (length, used) = wire::varint(rest)?;
    let (mut properties, payload) = rest.get(used..)?.split_at_checked(length)?;
    let mut message = Message { topic: utf8(topic)?, payload: payload.to_vec(), ..Message::default() };
    while let Some((property, behind)) = properties.split_first() {
        properties = match property {
            0x01 => behind.get(1..)?,
            0x02 => behind.get(4..)?,
            0x23 => behind.get(2..)?,
            0x0B => behind.get(wire::varint(behind)?.1..)?,
            0x26 => text(text(behind)?.1)?.1,
            &RESPONSE_TOPIC => {
                let (topic, behind) = text(behind)?;
                message.response_topic = utf8(topic)?;
                behind
            }
            &CORRELATION_DATA => {
                let (data, behind) = text(behind)?;
                message.correlation = data.to_vec();
                behind
            }
            0x03 => text(behind)?.1,
            _ => return None,
        };
    }
    Some((id, message))
}

/// What has its length in two bytes before it, and what is behind.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

fn utf8(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_reads_back() {
        for (response_topic, correlation) in [("", &b""[..]), ("a/b", b"7"), (&"long".repeat(50), b"")] {
            let mut bytes = Vec::new();
            write_publish(&mut bytes, "t", 258, (response_topic, correlation), b"payload");
            let (body, header) = wire::header(&bytes).unwrap();
            assert_eq!(bytes.len(), header + body);
            let expected = Message {
                topic: "t".to_owned(),
                response_topic: response_topic.to_owned(),
                correlation: correlation.to_vec(),
                payload: b"payload".to_vec(),
            };
            assert_eq!(read_publish(bytes[0], &bytes[header..]), Some((258, expected)));
        }
    }

    #[test]
    fn what_is_not_looked_for_is_skipped() {
        let properties =
            [&[1, 1, 2, 0, 0, 0, 9, 0x0B, 0x80, 1, 0x26, 0, 1, b'a', 0, 0, 3, 0, 1, b'x', 9, 0, 1, b'c'][..]].concat();
        let body = [&[0, 1, b't', properties.len() as u8][..], &properties, b"p"].concat();
        let (id, message) = read_publish(first::PUBLISH, &body).unwrap();
        assert_eq!((id, &message.correlation[..], &message.payload[..]), (0, &b"c"[..], &b"p"[..]));
        assert_eq!(read_publish(first::PUBLISH, &body[..8]), None);
    }
}
