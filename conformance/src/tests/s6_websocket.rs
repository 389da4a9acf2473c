//! Owns the tests of section 6: MQTT over WebSocket, with a WebSocket client of its own that can be made to misbehave.
//! Never tests MQTT itself.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::common::{nothing_but_marker, subscriber};
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::transport::Stream;
use crate::wire::Version::V5;
use crate::wire::build::{self, Publish, Subscribe, Will};
use crate::wire::packet_line;
use crate::wire::read::{Packet, decode, frame_length};

/// The section.
pub const SECTION: Section = section! {
    prefix: "6",
    title: "WebSocket",
    tests: {
        handshake_is_accepted_with_mqtt => ["MQTT-6.0.0-4"],
        mqtt_is_chosen_among_others => ["MQTT-6.0.0-4"],
        packets_come_in_binary_frames => ["MQTT-6.0.0-1"],
        connect_in_a_text_frame_closes => ["MQTT-6.0.0-1"],
        publish_in_a_text_frame_closes => ["MQTT-6.0.0-1"],
        connect_may_be_split_at_every_byte => ["MQTT-6.0.0-2"],
        packets_may_come_byte_by_byte => ["MQTT-6.0.0-2"],
        packets_may_share_a_frame => ["MQTT-6.0.0-2"],
        a_frame_may_end_within_the_next_packet => ["MQTT-6.0.0-2"],
        frames_may_be_empty => ["MQTT-6.0.0-2"],
        frames_may_be_fragmented => ["MQTT-6.0.0-2"],
        a_ping_frame_may_come_between_fragments => ["MQTT-6.0.0-2"],
        large_packets_pass_in_both_directions => ["MQTT-6.0.0-2"],
        messages_pass_between_websocket_and_tcp => ["MQTT-6.0.0-1"],
        lost_websocket_publishes_the_will => ["MQTT-3.1.2-8"],
        closed_websocket_publishes_the_will => ["MQTT-3.1.2-8"],
    },
    unobservable: {},
};

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FINAL: u8 = 0x80;

/// A WebSocket connection that carries MQTT 5.
struct Socket<'a> {
    ctx: &'a Ctx,
    stream: Stream,
    raw: Vec<u8>,
    mqtt: Vec<u8>,
    protocol: Option<String>,
    within_message: bool,
    opened: Instant,
}

/// A masked frame as clients send it; `head` is FIN and opcode.
fn ws_frame(head: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5A, 0x01, 0xFE, 0x33];
    let mut out = vec![head];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        medium @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

fn binary(payload: &[u8]) -> Vec<u8> {
    ws_frame(FINAL | BINARY, payload)
}

impl<'a> Socket<'a> {
    /// Opens a connection and upgrades it, offering `protocols`.
    fn open(ctx: &'a Ctx, protocols: &str) -> Result<Socket<'a>> {
        let Some((target, host)) = &ctx.setup().websocket else {
            return skip("no --ws-target");
        };
        let stream = target.open(ctx.step())?;
        let mut socket = Socket {
            ctx,
            stream,
            raw: Vec::new(),
            mqtt: Vec::new(),
            protocol: None,
            within_message: false,
            opened: Instant::now(),
        };
        let key = STANDARD.encode(format!("{:0>16.16}", ctx.client_id("ws")));
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {protocols}\r\n\r\n"
        );
        socket.stream.write_all(request.as_bytes())?;
        socket.read_upgrade(&key)?;
        Ok(socket)
    }

    /// Opens a connection and completes an MQTT CONNECT.
    fn connected(ctx: &'a Ctx, connect: &build::Connect) -> Result<Socket<'a>> {
        let mut socket = Socket::open(ctx, "mqtt")?;
        socket.send_mqtt(&connect.bytes())?;
        socket.expect_accepted()?;
        Ok(socket)
    }

    fn read_upgrade(&mut self, key: &str) -> Result<()> {
        let end = loop {
            if let Some(at) = self.raw.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            ensure!(self.fill()? > 0, "closed during the WebSocket handshake");
        };
        let rest = self.raw.split_off(end + 4);
        let head = String::from_utf8_lossy(&std::mem::replace(&mut self.raw, rest)).into_owned();
        ensure!(head.starts_with("HTTP/1.1 101"), "no switch to WebSocket: {:?}", head.lines().next());
        let header = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
        };
        let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
        let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()));
        ensure!(header("Sec-WebSocket-Accept") == Some(accept), "Sec-WebSocket-Accept does not fit the key");
        self.protocol = header("Sec-WebSocket-Protocol");
        Ok(())
    }

    fn send(&mut self, frames: &[u8]) -> Result<()> {
        self.stream.write_all(frames)
    }

    /// Sends MQTT bytes in one binary frame.
    fn send_mqtt(&mut self, bytes: &[u8]) -> Result<()> {
        self.ctx.transcript().note(packet_line("ws", '>', bytes, self.opened.elapsed()));
        self.send(&binary(bytes))
    }

    /// Reads more bytes; 0 means closed.
    fn fill(&mut self) -> Result<usize> {
        let mut chunk = [0; 16 * 1024];
        self.stream.set_read_timeout(self.ctx.step())?;
        let count = self.stream.read_some(&mut chunk)?.context("nothing arrived on the WebSocket in time")?;
        self.raw.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    /// The next frame of the server, as head and payload; None when the connection is closed.
    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some((head, payload, used)) = parse(&self.raw)? {
                self.raw.drain(..used);
                return Ok(Some((head, payload)));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next MQTT packet; None when the connection is closed, by a close frame or without.
    fn packet(&mut self) -> Result<Option<Packet>> {
        loop {
            if let Some(length) = frame_length(&self.mqtt)?.filter(|length| *length <= self.mqtt.len()) {
                let rest = self.mqtt.split_off(length);
                let raw = std::mem::replace(&mut self.mqtt, rest);
                self.ctx.transcript().note(packet_line("ws", '<', &raw, self.opened.elapsed()));
                return decode(V5, &raw).map(Some);
            }
            let Some((head, payload)) = self.frame()? else {
                return Ok(None);
            };
            match head & 0x0F {
                PING => self.send(&ws_frame(FINAL | PONG, &payload))?,
                PONG => {}
                CLOSE => return Ok(None),
                kind => {
                    let expected = if self.within_message { CONTINUATION } else { BINARY };
                    ensure!(kind == expected, "[MQTT-6.0.0-1] MQTT in a frame of type {kind}, expected {expected}");
                    self.within_message = head & FINAL == 0;
                    self.mqtt.extend(payload);
                }
            }
        }
    }

    fn expect_packet(&mut self, wanted: &str) -> Result<Packet> {
        let packet = self.packet().with_context(|| format!("waiting for {wanted}"))?;
        packet.with_context(|| format!("the broker closed instead of sending {wanted}"))
    }

    fn expect_accepted(&mut self) -> Result<()> {
        match self.expect_packet("CONNACK")? {
            Packet::Connack(connack) if connack.reason == 0 => Ok(()),
            other => bail!("expected CONNACK 0x00, got {other:02x?}"),
        }
    }

    fn expect_pingresp(&mut self) -> Result<()> {
        match self.expect_packet("PINGRESP")? {
            Packet::Pingresp => Ok(()),
            other => bail!("expected PINGRESP, got {other:02x?}"),
        }
    }

    fn expect_message(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        match self.expect_packet("PUBLISH")? {
            Packet::Publish(message) => {
                ensure!(message.topic == topic && message.payload == payload, "another message on {:?}", message.topic);
                Ok(())
            }
            other => bail!("expected PUBLISH, got {other:02x?}"),
        }
    }

    fn subscribe(&mut self, topic: &str) -> Result<()> {
        self.send_mqtt(&Subscribe::new(1).filter(topic, 0).bytes(V5))?;
        match self.expect_packet("SUBACK")? {
            Packet::Suback(answer) if answer.reasons == [0] => Ok(()),
            other => bail!("expected SUBACK with 0x00, got {other:02x?}"),
        }
    }

    /// Expects the end, at most a refusal before it.
    fn expect_closed(&mut self) -> Result<()> {
        loop {
            match self.packet().context("waiting for the broker to close the WebSocket")? {
                None => return Ok(()),
                Some(Packet::Disconnect(notice)) if notice.reason >= 0x80 => {}
                Some(Packet::Connack(connack)) if connack.reason >= 0x80 => {}
                Some(other) => bail!("expected the end, got {other:02x?}"),
            }
        }
    }
}

/// Takes the first frame off `raw`: head, payload and bytes used; None while it is not all there.
fn parse(raw: &[u8]) -> Result<Option<(u8, Vec<u8>, usize)>> {
    let [head, short, rest @ ..] = raw else {
        return Ok(None);
    };
    ensure!(head & 0x70 == 0, "reserved WebSocket bits are set: {head:#04x}");
    ensure!(short & 0x80 == 0, "a server must not mask its frames");
    let wide = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(wide_length) = rest.get(..wide) else {
        return Ok(None);
    };
    let length = match wide {
        0 => usize::from(*short),
        _ => wide_length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
    };
    ensure!(length <= 1 << 28, "a WebSocket frame of {length} bytes");
    Ok(rest.get(wide..wide + length).map(|payload| (*head, payload.to_vec(), 2 + wide + length)))
}

fn handshake_is_accepted_with_mqtt(ctx: &Ctx) -> Result<()> {
    let socket = Socket::open(ctx, "mqtt")?;
    ensure!(socket.protocol.as_deref() == Some("mqtt"), "sub-protocol {:?} instead of mqtt", socket.protocol);
    Ok(())
}

fn mqtt_is_chosen_among_others(ctx: &Ctx) -> Result<()> {
    for offer in ["chat, mqtt", "mqtt, chat", "mqttv3.1, mqtt"] {
        let socket = Socket::open(ctx, offer).with_context(|| format!("offering {offer:?}"))?;
        ensure!(socket.protocol.as_deref() == Some("mqtt"), "offering {offer:?}: {:?} is chosen", socket.protocol);
    }
    Ok(())
}

/// `packet` looks at each frame's type.
fn packets_come_in_binary_frames(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("ws");
    let mut socket = Socket::connected(ctx, &ctx.v5("ws"))?;
    socket.subscribe(&topic)?;
    socket.send_mqtt(&Publish::new(&topic, "text that could be in a text frame").bytes(V5))?;
    socket.expect_message(&topic, b"text that could be in a text frame")?;
    socket.send_mqtt(&build::pingreq())?;
    socket.expect_pingresp()
}

fn connect_in_a_text_frame_closes(ctx: &Ctx) -> Result<()> {
    let mut socket = Socket::open(ctx, "mqtt")?;
    socket.send(&ws_frame(FINAL | TEXT, &ctx.v5("ws").bytes()))?;
    socket.expect_closed()
}

/// The packet consists of ASCII only, so that it is a good text frame but for MQTT.
fn publish_in_a_text_frame_closes(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("t");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let mut socket = Socket::connected(ctx, &ctx.v5("ws"))?;
    let packet = Publish::new(&topic, "x").bytes(V5);
    ensure!(packet.is_ascii(), "the packet of this test has to be ASCII");
    socket.send(&ws_frame(FINAL | TEXT, &packet))?;
    socket.expect_closed()?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut watcher, &topic)
}

fn connect_may_be_split_at_every_byte(ctx: &Ctx) -> Result<()> {
    let connect = ctx.v5("ws").session_expiry(0).will(Will::new(ctx.topic("will"), "x")).bytes();
    for at in 1..connect.len() {
        let mut socket = Socket::open(ctx, "mqtt")?;
        let (front, back) = connect.split_at(at);
        socket.send(&binary(front))?;
        socket.send(&binary(back))?;
        socket.expect_accepted().with_context(|| format!("a frame ends behind byte {at}"))?;
        socket.send_mqtt(&build::disconnect())?;
        socket.expect_closed()?;
    }
    Ok(())
}

fn packets_may_come_byte_by_byte(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("ws");
    let mut socket = Socket::open(ctx, "mqtt")?;
    for byte in ctx.v5("ws").bytes() {
        socket.send(&binary(&[byte]))?;
    }
    socket.expect_accepted()?;
    socket.subscribe(&topic)?;
    for byte in Publish::new(&topic, "slowly").bytes(V5) {
        socket.send(&binary(&[byte]))?;
    }
    socket.expect_message(&topic, b"slowly")
}

fn packets_may_share_a_frame(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("ws");
    let mut socket = Socket::open(ctx, "mqtt")?;
    let connect = ctx.v5("ws").bytes();
    socket.send_mqtt(&build::join(&[&connect, &build::pingreq(), &build::pingreq()]))?;
    socket.expect_accepted()?;
    socket.expect_pingresp()?;
    socket.expect_pingresp()?;
    socket.subscribe(&topic)?;
    let (one, two) = (Publish::new(&topic, "one").bytes(V5), Publish::new(&topic, "two").bytes(V5));
    socket.send_mqtt(&build::join(&[&one, &two]))?;
    socket.expect_message(&topic, b"one")?;
    socket.expect_message(&topic, b"two")
}

fn a_frame_may_end_within_the_next_packet(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("ws");
    let mut socket = Socket::connected(ctx, &ctx.v5("ws"))?;
    socket.subscribe(&topic)?;
    let packets: Vec<u8> =
        (0..5).flat_map(|number| Publish::new(&topic, format!("number {number}")).bytes(V5)).collect();
    for piece in packets.chunks(17) {
        socket.send(&binary(piece))?;
    }
    (0..5).try_for_each(|number| socket.expect_message(&topic, format!("number {number}").as_bytes()))
}

fn frames_may_be_empty(ctx: &Ctx) -> Result<()> {
    let mut socket = Socket::connected(ctx, &ctx.v5("ws"))?;
    socket.send(&[binary(&[]), binary(&[0xC0]), binary(&[]), binary(&[0x00])].concat())?;
    socket.expect_pingresp()
}

/// One WebSocket message of three fragments with several packets in it.
fn fragments(ctx: &Ctx, between: &[u8]) -> Result<()> {
    let mut socket = Socket::open(ctx, "mqtt")?;
    let bytes = build::join(&[&ctx.v5("ws").bytes(), &build::pingreq()]);
    let (front, rest) = bytes.split_at(5);
    let (middle, back) = rest.split_at(9);
    let pieces = [ws_frame(BINARY, front), ws_frame(CONTINUATION, middle), ws_frame(FINAL | CONTINUATION, back)];
    socket.send(&pieces.join(between))?;
    socket.expect_accepted()?;
    socket.expect_pingresp()
}

fn frames_may_be_fragmented(ctx: &Ctx) -> Result<()> {
    fragments(ctx, &[])
}

fn a_ping_frame_may_come_between_fragments(ctx: &Ctx) -> Result<()> {
    fragments(ctx, &ws_frame(FINAL | PING, b"still there?"))
}

fn large_packets_pass_in_both_directions(ctx: &Ctx) -> Result<()> {
    let bytes = ctx.limits().packet_bytes_max.map_or(100_000, |most| (most as usize).saturating_sub(200).min(100_000));
    let topic = ctx.topic("ws");
    let mut socket = Socket::connected(ctx, &ctx.v5("ws"))?;
    socket.subscribe(&topic)?;
    let payload: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
    let packet = Publish::new(&topic, &payload).bytes(V5);
    socket.send(&binary(&packet))?;
    socket.expect_message(&topic, &payload).context("sent in one frame")?;
    for piece in packet.chunks(10_007) {
        socket.send(&binary(piece))?;
    }
    socket.expect_message(&topic, &payload).context("sent in ten frames")
}

fn messages_pass_between_websocket_and_tcp(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("ws");
    let mut socket = Socket::connected(ctx, &ctx.v5("ws"))?;
    socket.subscribe(&topic)?;
    let mut plain = subscriber(ctx, "plain", &topic, 0)?;
    plain.publish(&topic, 0, "from TCP")?;
    plain.expect_message(&topic, "from TCP")?;
    socket.expect_message(&topic, b"from TCP")?;
    socket.send_mqtt(&Publish::new(&topic, "from WebSocket").bytes(V5))?;
    plain.expect_message(&topic, "from WebSocket")?;
    socket.expect_message(&topic, b"from WebSocket")
}

fn will_comes_after(ctx: &Ctx, end: impl FnOnce(&mut Socket<'_>) -> Result<()>) -> Result<()> {
    let topic = ctx.topic("will");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let mut socket = Socket::connected(ctx, &ctx.v5("ws").will(Will::new(&topic, "gone")))?;
    end(&mut socket)?;
    watcher.expect_message(&topic, "gone").map(drop)
}

fn lost_websocket_publishes_the_will(ctx: &Ctx) -> Result<()> {
    will_comes_after(ctx, |socket| {
        socket.stream.finish_writing();
        Ok(())
    })
}

/// A close frame is no DISCONNECT.
fn closed_websocket_publishes_the_will(ctx: &Ctx) -> Result<()> {
    will_comes_after(ctx, |socket| socket.send(&ws_frame(FINAL | CLOSE, &1000_u16.to_be_bytes())))
}
