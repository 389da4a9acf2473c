//! A message on its way: borrowed while it is routed, shared once it must be kept.
//!
//! Owns both shapes and the step from one to the other. It never knows who gets it.

use std::sync::Arc;

use bytes::Bytes;
use causeway_fleet::Principal;
use causeway_fleet::command::{CommandId, Outcome};
use causeway_fleet::{Mount, MountError};
use causeway_protocol::{ForwardedProperties, Publish, QoS, Will};

use crate::Millis;
use crate::provenance::{Provenance, without_claims};
use crate::record::{PublishRecord, RefusedRecord, TermsRecord, WillRecord};

/// A message that is kept: queued, in flight, retained or a will.
#[derive(Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) topic: Box<str>,
    /// Encoded once; the bytes of [`ForwardedProperties`].
    forwarded: Box<[u8]>,
    pub(crate) payload: Bytes,
    /// As published.
    pub(crate) qos: QoS,
    /// As published.
    pub(crate) retain: bool,
    pub(crate) expires_at: Option<Millis>,
    /// See [`PublishRecord::stamp`].
    pub(crate) stamp: u64,
    /// Who published it; none where that is not told, and for a will that still waits.
    pub(crate) provenance: Option<Provenance>,
    /// The command that it brings to a vehicle.
    pub(crate) command: Option<CommandId>,
}

impl Message {
    /// What stands for a retained message that was removed.
    pub(crate) fn removal(topic: &str, stamp: u64) -> Message {
        let (forwarded, payload) = (Box::default(), Bytes::new());
        let (qos, retain, expires_at) = (QoS::AtMostOnce, true, None);
        let (topic, provenance, command) = (topic.into(), None, None);
        Message { topic, forwarded, payload, qos, retain, expires_at, stamp, provenance, command }
    }

    /// What travels on with the message. The bytes were checked when they came in.
    pub(crate) fn forwarded(&self) -> ForwardedProperties<'_> {
        ForwardedProperties::from_forwarded_bytes(&self.forwarded).unwrap_or_default()
    }

    /// The will of a vehicle, which said it in its own words.
    ///
    /// # Errors
    /// A name in it is none of the vehicle's.
    pub(crate) fn mount(&mut self, mount: Mount) -> Result<(), MountError> {
        self.topic = mount.publish(&self.topic, &mut String::new())?.into();
        let mut mounted = Vec::new();
        if mounted_properties(mount, self.forwarded(), &mut mounted)? {
            self.forwarded = mounted.into_boxed_slice();
        }
        Ok(())
    }

    /// What the message counts against limits in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.topic.len() + self.forwarded.len() + self.payload.len()
    }

    pub(crate) fn is_expired(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// As a record.
    pub(crate) fn as_record(&self) -> PublishRecord<'_> {
        PublishRecord {
            qos: self.qos,
            retain: self.retain,
            urgent: false,
            expires_at: self.expires_at,
            publisher: None,
            packet_id: None,
            stamp: self.stamp,
            provenance: self.provenance.clone(),
            topic: &self.topic,
            forwarded: self.forwarded(),
            payload: &self.payload,
            skipped_sessions: Vec::new(),
            skipped_groups: Vec::new(),
        }
    }

    /// The message of a record, kept.
    pub(crate) fn of_record(record: &PublishRecord<'_>) -> Message {
        Message {
            topic: record.topic.into(),
            forwarded: forwarded_bytes(record.forwarded),
            payload: Bytes::copy_from_slice(record.payload),
            qos: record.qos,
            retain: record.retain,
            expires_at: record.expires_at,
            stamp: record.stamp,
            provenance: record.provenance.clone(),
            command: None,
        }
    }

    /// The message that brings a command to a vehicle.
    pub(crate) fn of_command(id: CommandId, record: &PublishRecord<'_>) -> Message {
        Message { command: Some(id), ..Message::of_record(record) }
    }

    /// The will of a record.
    pub(crate) fn of_will_record(will: &WillRecord<'_>) -> Message {
        Message {
            topic: will.topic.into(),
            forwarded: forwarded_bytes(will.forwarded),
            payload: Bytes::copy_from_slice(will.payload),
            qos: will.qos,
            retain: will.retain,
            expires_at: None,
            stamp: 0,
            provenance: None,
            command: None,
        }
    }

    /// The will of a CONNECT. Its expiry counts from when it is published, so none is set here.
    pub(crate) fn of_will(will: &Will<'_>) -> Message {
        Message {
            topic: will.topic.into(),
            forwarded: forwarded_bytes(without_claims(will.forwarded, &mut Vec::new())),
            payload: Bytes::copy_from_slice(will.payload),
            qos: will.qos,
            retain: will.retain,
            expires_at: None,
            stamp: 0,
            provenance: None,
            command: None,
        }
    }
}

/// For whom a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum CopyFor {
    /// For all who subscribe now, and for those who will.
    #[default]
    Everybody,
    /// For those who subscribe now, and for those who will until the other one is here: it keeps its place among other messages of
    /// QoS 0, and may be lost.
    Present,
    /// Only for those who will: it is never lost.
    Later,
    /// No message for subscribers: for the home shard of the vehicle below whose mount it is.
    Home,
}

/// Of which step of a command the record of a message is the record, too.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Step<'a> {
    /// Of none.
    #[default]
    None,
    /// Of its beginning; whether it is sent with it.
    Requested(&'a TermsRecord<'a>, bool),
    /// It is sent.
    Sent(CommandId),
    /// It is over.
    Ended(CommandId, Outcome),
    /// It was over before it began.
    Refused(&'a RefusedRecord<'a>),
    /// Of none: it is about all that somebody requested of a group, who gets it though others would be refused.
    Told(&'a Principal),
}

/// A message that is being routed, borrowed from wherever it came.
pub(crate) struct Publication<'a> {
    pub(crate) topic: &'a str,
    pub(crate) forwarded: ForwardedProperties<'a>,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expires_at: Option<Millis>,
    /// See [`PublishRecord::stamp`].
    pub(crate) stamp: u64,
    /// Who published it; none where that is not told, and for a will that still waits.
    pub(crate) provenance: Option<Provenance>,
    /// Whom it is for: all but a call, or a retained QoS 0 message of another shard, which comes twice.
    pub(crate) copy: CopyFor,
    /// The command that it brings to a vehicle.
    pub(crate) command: Option<CommandId>,
    pub(crate) step: Step<'a>,
    kept: Option<Arc<Message>>,
}

impl<'a> Publication<'a> {
    /// A PUBLISH as it came in; `topic` is its topic with any alias resolved.
    pub(crate) fn of_publish(now: Millis, publish: &Publish<'a>, topic: &'a str) -> Self {
        Publication {
            topic,
            forwarded: publish.properties.forwarded,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expires_at: publish.properties.message_expiry_interval_seconds.map(|seconds| now.plus_seconds(seconds)),
            stamp: 0,
            provenance: None,
            copy: CopyFor::Everybody,
            command: None,
            step: Step::None,
            kept: None,
        }
    }

    /// A message of a record that is replayed.
    pub(crate) fn of_record(record: &PublishRecord<'a>) -> Self {
        Publication {
            topic: record.topic,
            forwarded: record.forwarded,
            payload: record.payload,
            qos: record.qos,
            retain: record.retain,
            expires_at: record.expires_at,
            stamp: record.stamp,
            provenance: record.provenance.clone(),
            copy: CopyFor::Everybody,
            command: None,
            step: Step::None,
            kept: None,
        }
    }

    /// A message that was kept before, such as a will.
    pub(crate) fn of_message(message: &'a Message) -> Self {
        Publication {
            topic: &message.topic,
            forwarded: message.forwarded(),
            payload: &message.payload,
            qos: message.qos,
            retain: message.retain,
            expires_at: message.expires_at,
            stamp: message.stamp,
            provenance: message.provenance.clone(),
            copy: CopyFor::Everybody,
            command: message.command,
            step: Step::None,
            kept: None,
        }
    }

    /// A message of the broker's own.
    pub(crate) fn plain(topic: &'a str, payload: &'a [u8], qos: QoS) -> Self {
        Publication {
            topic,
            forwarded: ForwardedProperties::default(),
            payload,
            qos,
            retain: false,
            expires_at: None,
            stamp: 0,
            provenance: None,
            copy: CopyFor::Everybody,
            command: None,
            step: Step::None,
            kept: None,
        }
    }

    /// What the message counts against limits in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.topic.len() + self.forwarded.encoded_bytes() + self.payload.len()
    }

    /// The kept form; made at most once, and shared by all who keep it.
    pub(crate) fn keep(&mut self) -> Arc<Message> {
        let message = self.kept.get_or_insert_with(|| {
            Arc::new(Message {
                topic: self.topic.into(),
                forwarded: forwarded_bytes(self.forwarded),
                payload: Bytes::copy_from_slice(self.payload),
                qos: self.qos,
                retain: self.retain,
                expires_at: self.expires_at,
                stamp: self.stamp,
                provenance: self.provenance.clone(),
                command: self.command,
            })
        });
        Arc::clone(message)
    }
}

/// Puts the properties of a vehicle's message into `mounted`, whatever was there, with the full name of the Response Topic. Whether they have
/// one: else they stay as they are.
///
/// # Errors
/// It is none of the vehicle's.
pub(crate) fn mounted_properties(
    mount: Mount,
    forwarded: ForwardedProperties<'_>,
    mounted: &mut Vec<u8>,
) -> Result<bool, MountError> {
    let response_topic = if forwarded.is_empty() { None } else { forwarded.response_topic() };
    let Some(topic) = response_topic else { return Ok(false) };
    let mut name = String::new();
    mounted.clear();
    let appended = forwarded.append_with_response_topic(mount.publish(topic, &mut name)?, mounted);
    appended.map(|()| true).map_err(|_| MountError::TooLong)
}

fn forwarded_bytes(forwarded: ForwardedProperties<'_>) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(forwarded.encoded_bytes());
    forwarded.append_to(&mut bytes);
    bytes.into_boxed_slice()
}
