//! Owns the scenes that many tests begin or end with. Never a whole test.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::client::Client;
use crate::context::Ctx;
use crate::wire::Version;
use crate::wire::build::{Connect, Props, Publish};
use crate::wire::read::{Connack, Notice};

/// Byte sequences that are not UTF-8, each with its name.
pub const ILL_FORMED: &[(&str, &[u8])] = &[
    ("a byte that never occurs", b"a\xFFb"),
    ("a lone continuation byte", b"a\x80b"),
    ("a sequence cut short", b"a\xE2\x82"),
    ("an overlong slash", b"a\xC0\xAFb"),
    ("a code point above U+10FFFF", b"a\xF4\x90\x80\x80b"),
];

/// Encoded surrogates, each with its name.
pub const SURROGATES: &[(&str, &[u8])] =
    &[("U+D800", b"a\xED\xA0\x80b"), ("U+DFFF", b"a\xED\xBF\xBFb"), ("a pair", b"a\xED\xA0\xBD\xED\xB8\x80b")];

/// A string with U+0000.
pub const NUL: &[(&str, &[u8])] = &[("U+0000", b"a\0b")];

/// How long a broker gets to send something it must not send, where no later packet could prove it silent.
pub const GRACE: Duration = Duration::from_millis(300);

/// Runs `check` for each row and names the row that fails.
pub fn each(rows: &[(&str, &[u8])], mut check: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    rows.iter().try_for_each(|(name, bytes)| check(bytes).with_context(|| (*name).to_owned()))
}

/// Sends `connect`, expects that it is refused and the connection closed; returns the CONNACK if there was one.
pub fn refused(ctx: &Ctx, connect: &Connect) -> Result<Option<Connack>> {
    let mut client = ctx.open(connect.version)?;
    client.send_connect(connect)?;
    client.expect_refused()
}

/// The same for the bytes of a CONNECT written by hand.
pub fn refused_bytes(ctx: &Ctx, bytes: &[u8]) -> Result<Option<Connack>> {
    let mut client = ctx.open(Version::V5)?;
    client.send(bytes)?;
    client.expect_refused()
}

/// Sends `bytes` on an established MQTT 5 connection and expects that the broker closes it; returns the DISCONNECT if any.
pub fn closes_on(ctx: &Ctx, bytes: &[u8]) -> Result<Option<Notice>> {
    let mut client = ctx.client("offender")?;
    client.send(bytes)?;
    client.expect_closed()
}

/// A connected MQTT 5 client subscribed to `filter` with `qos`.
pub fn subscriber(ctx: &Ctx, tag: &str, filter: &str, qos: u8) -> Result<Client> {
    let mut client = ctx.client(tag)?;
    client.subscribe(filter, qos)?;
    Ok(client)
}

/// Publishes a marker from `publisher` and expects that it is the next message of `subscriber`, and nothing behind it:
/// whatever was sent before, the subscriber did not get it. `topic` has to match a subscription of its own.
pub fn nothing_but_marker(publisher: &mut Client, subscriber: &mut Client, topic: &str) -> Result<()> {
    publisher.publish(topic, 0, "marker")?;
    publisher.expect_silence()?;
    subscriber.expect_message(topic, "marker")?;
    subscriber.expect_silence()
}

/// Deletes the retained message of a topic, so that the broker is left as it was found.
pub fn clear_retained(ctx: &Ctx, topic: &str) -> Result<()> {
    let mut client = ctx.client("sweeper")?;
    client.send_publish(&Publish::new(topic, "").retain())?;
    client.expect_silence()?;
    client.disconnect()
}

/// A property set of one user property.
pub fn user_property(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Props {
    Props::new().pair(name, value)
}
