//! Outcomes that are larger than a client accepts.
//!
//! Owns what such a client is sent in their place, so that it has an outcome whatever its Maximum Packet Size. That is decided as it is sent: a client
//! that comes back may accept less than before, or more. It never changes what became of the command.

use causeway_fleet::command;
use causeway_protocol::{ForwardedBuilder, ForwardedProperties};

use crate::Millis;
use crate::connection::{Connection, Outgoing, Payload, TooLarge};

/// What was written of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) enum Written {
    Whole,
    /// What stands for an outcome, with so many bytes of payload.
    Stub(usize),
}

/// Writes a message to a client, or what stands for it where it is an outcome and too large.
#[inline]
pub(in crate::shard) fn write_publish(
    now: Millis,
    connection: &mut Connection,
    outgoing: &Outgoing<'_>,
) -> Result<Written, TooLarge> {
    match connection.write_publish(now, outgoing) {
        Ok(()) => Ok(Written::Whole),
        Err(TooLarge) => write_stub(now, connection, outgoing),
    }
}

/// Writes what stands for an outcome to a client that does not accept it. Any other message is not sent.
//= [MQTT-3.1.2-25] a message that is too large is discarded; its client is told that there was one
#[cold]
pub(in crate::shard) fn write_stub(
    now: Millis,
    connection: &mut Connection,
    outgoing: &Outgoing<'_>,
) -> Result<Written, TooLarge> {
    let stub = stubs(outgoing).into_iter().find(|stub| connection.accepts(now, &stub.outgoing(outgoing)));
    let stub = stub.ok_or(TooLarge)?;
    connection.write_publish(now, &stub.outgoing(outgoing))?;
    Ok(Written::Stub(stub.payload.len()))
}

/// Whether a client accepts what stands for a message, if it is an outcome.
pub(in crate::shard) fn accepts_stub(connection: &Connection, now: Millis, outgoing: &Outgoing<'_>) -> bool {
    stubs(outgoing).iter().any(|stub| connection.accepts(now, &stub.outgoing(outgoing)))
}

/// What stands for an outcome.
struct Stub {
    properties: Vec<u8>,
    payload: Vec<u8>,
}

impl Stub {
    fn outgoing<'a>(&'a self, outcome: &Outgoing<'a>) -> Outgoing<'a> {
        Outgoing {
            forwarded: ForwardedProperties::from_forwarded_bytes(&self.properties).unwrap_or_default(),
            payload: Payload::Borrowed(&self.payload),
            // Without the document, every byte counts.
            provenance: outcome.provenance.filter(|_| !self.payload.is_empty()),
            ..*outcome
        }
    }
}

/// What may stand for a message: nothing, if it is no outcome. The longest first; what is synthesised already only loses its document.
fn stubs(outgoing: &Outgoing<'_>) -> Vec<Stub> {
    let property = |wanted: &str| {
        let mut properties = outgoing.forwarded.user_properties();
        properties.find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    if outgoing.forwarded.is_empty() {
        return Vec::new();
    }
    let (Some(outcome), Some(id)) = (property(command::OUTCOME), property(command::COMMAND)) else { return Vec::new() };
    let told = |outcome: &str, payload: Vec<u8>| {
        let mut builder = ForwardedBuilder::new();
        if !payload.is_empty() {
            builder = builder.payload_format_indicator(true).content_type("application/json");
        }
        if let Some(data) = outgoing.forwarded.correlation_data() {
            builder = builder.correlation_data(data);
        }
        let builder = builder.user_property(command::OUTCOME, outcome).user_property(command::COMMAND, id);
        // All of it came in properties, or is short.
        Stub { properties: builder.build().unwrap_or_default(), payload }
    };
    if outcome != command::Outcome::Replied.word() {
        return vec![told(outcome, Vec::new())];
    }
    let document = command::too_large_document(id, outgoing.payload.len());
    vec![told(command::TOO_LARGE, document), told(command::TOO_LARGE, Vec::new())]
}
