//! WebSocket as a transformation of bytes.
//!
//! Owns the upgrade request, its answer, and the frames after it, on top of tungstenite's protocol machine. It never
//! touches a socket: the machine reads from and writes to memory, and "no more bytes yet" is `WouldBlock`.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;

use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::HeaderValue;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use super::{Flow, LayerError};

/// An upgrade request may have this many bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// A server's frame head is never longer.
pub(super) const FRAME_HEAD_BYTES_MAX: usize = 10;
/// An idle connection keeps a buffer of this size.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// The subprotocols that carry MQTT, the one we prefer first.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// The server's end of one WebSocket.
pub(crate) struct WebSocketLayer {
    stage: Stage,
    path: Arc<str>,
    message_bytes_max: usize,
}

enum Stage {
    /// The bytes of the request so far.
    Upgrading(Vec<u8>),
    Open(Box<WebSocketContext>),
    Over,
}

impl WebSocketLayer {
    /// A connection that waits for a request to upgrade at `path` (or at `/`). Messages and frames of more than
    /// `message_bytes_max` bytes end it.
    pub(crate) fn new(path: Arc<str>, message_bytes_max: usize) -> WebSocketLayer {
        WebSocketLayer { stage: Stage::Upgrading(Vec::new()), path, message_bytes_max }
    }

    /// Changes the limit given to [`WebSocketLayer::new`].
    pub(crate) fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
        if let Stage::Open(context) = &mut self.stage {
            context.set_config(|config| {
                config.max_message_size = Some(message_bytes_max);
                config.max_frame_size = Some(message_bytes_max);
            });
        }
    }

    /// See [`super::Layer::receive`].
    pub(crate) fn receive(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        wire_out: &mut Vec<u8>,
    ) -> Result<Flow, LayerError> {
        match &mut self.stage {
            Stage::Over => return Ok(Flow::Ended),
            Stage::Open(_) => {}
            Stage::Upgrading(head) => {
                head.extend_from_slice(wire);
                let head = std::mem::take(head);
                if !self.upgrade(head, wire_out)? {
                    return Ok(Flow::Open);
                }
                // Frames that came along with the request are already inside the context.
                return self.frames(&[], plain, wire_out);
            }
        }
        self.frames(wire, plain, wire_out)
    }

    /// See [`super::Layer::send`]: one binary message.
    pub(crate) fn send(&mut self, plain: &[IoSlice<'_>], wire_out: &mut Vec<u8>) -> Result<(), LayerError> {
        let Stage::Open(context) = &self.stage else {
            return Err(LayerError::WebSocket("not open".into()));
        };
        if !context.can_write() {
            return Err(LayerError::WebSocket("already closing".into()));
        }
        let bytes: usize = plain.iter().map(|slice| slice.len()).sum();
        if bytes == 0 {
            return Ok(());
        }
        wire_out.reserve(bytes + FRAME_HEAD_BYTES_MAX);
        // A server's frame is its head and the payload as it is: writing it here saves the machine's two copies. The
        // machine never holds back half a frame, because writing into memory does not block.
        let head = FrameHeader { opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
        head.format(bytes as u64, wire_out).map_err(failure)?;
        plain.iter().for_each(|slice| wire_out.extend_from_slice(slice));
        Ok(())
    }

    /// See [`super::Layer::close`].
    pub(crate) fn close(&mut self, wire_out: &mut Vec<u8>) {
        self.fail(CloseCode::Normal, "", wire_out);
    }

    /// Whether the request is complete and was granted; `wire_out` gets the answer either way.
    fn upgrade(&mut self, mut head: Vec<u8>, wire_out: &mut Vec<u8>) -> Result<bool, LayerError> {
        let parsed = Request::try_parse(&head);
        let incomplete = matches!(parsed, Ok(None));
        if incomplete && head.len() <= HEAD_BYTES_MAX {
            self.stage = Stage::Upgrading(head);
            return Ok(false);
        }
        self.stage = Stage::Over;
        let granted = match parsed {
            Ok(Some((head_bytes, request))) if head_bytes <= HEAD_BYTES_MAX => {
                grant(&request, &self.path, wire_out).map(|()| head_bytes)
            }
            Ok(_) => Err(bad(format!("request of more than {HEAD_BYTES_MAX} bytes"))),
            Err(error) => Err(bad(error)),
        };
        let head_bytes = granted.map_err(|refusal| refuse(refusal, wire_out))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(self.message_bytes_max))
            .max_frame_size(Some(self.message_bytes_max));
        let rest = head.split_off(head_bytes);
        let context = WebSocketContext::from_partially_read(rest, Role::Server, Some(config));
        self.stage = Stage::Open(Box::new(context));
        Ok(true)
    }

    fn frames(&mut self, wire: &[u8], plain: &mut Vec<u8>, wire_out: &mut Vec<u8>) -> Result<Flow, LayerError> {
        let Stage::Open(context) = &mut self.stage else {
            return Ok(Flow::Ended);
        };
        let mut memory = Memory { incoming: wire, outgoing: wire_out };
        let error = loop {
            match context.read(&mut memory) {
                Ok(Message::Binary(payload)) => plain.extend_from_slice(&payload),
                Ok(Message::Text(_)) => break None,
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Flow::Open);
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    self.stage = Stage::Over;
                    return Ok(Flow::Ended);
                }
                Err(error) => break Some(error),
            }
        };
        let (code, why) = match error {
            None => (CloseCode::Unsupported, "only binary messages carry MQTT".to_owned()),
            Some(error @ Error::Capacity(_)) => (CloseCode::Size, error.to_string()),
            Some(error) => (CloseCode::Protocol, error.to_string()),
        };
        self.fail(code, &why, wire_out);
        Err(LayerError::WebSocket(why))
    }

    /// Appends a close frame, if one may still be sent, and forgets everything.
    fn fail(&mut self, code: CloseCode, why: &str, wire_out: &mut Vec<u8>) {
        if let Stage::Open(mut context) = std::mem::replace(&mut self.stage, Stage::Over)
            && context.can_write()
        {
            // Control frames have at most 125 bytes, two of them the code.
            let reason: String = why.chars().filter(char::is_ascii).take(120).collect();
            let frame = CloseFrame { code, reason: reason.into() };
            let mut memory = Memory { incoming: &[], outgoing: wire_out };
            // Whatever the machine thinks of its own state now, the connection is over.
            let _ = context.close(&mut memory, Some(frame));
        }
    }
}

fn failure(error: Error) -> LayerError {
    LayerError::WebSocket(error.to_string())
}

/// Why there is no upgrade: the HTTP status, and words for whoever debugs the client.
struct Refusal {
    status: &'static str,
    why: String,
}

fn bad(why: impl ToString) -> Refusal {
    Refusal { status: "400 Bad Request", why: why.to_string() }
}

/// Answers 101, with the subprotocol where the client offered any.
fn grant(request: &Request, path: &str, wire_out: &mut Vec<u8>) -> Result<(), Refusal> {
    let asked = request.uri().path();
    if asked != path && asked != "/" {
        let why = format!("the path is {path}");
        return Err(Refusal { status: "404 Not Found", why });
    }
    let mut response = create_response(request).map_err(bad)?;
    if let Some(subprotocol) = choose_subprotocol(request)? {
        let value = HeaderValue::from_static(subprotocol);
        response.headers_mut().insert("Sec-WebSocket-Protocol", value);
    }
    write_response(wire_out, &response).map_err(bad)
}

fn choose_subprotocol(request: &Request) -> Result<Option<&'static str>, Refusal> {
    let mut offered = false;
    let mut chosen: Option<usize> = None;
    for value in request.headers().get_all("Sec-WebSocket-Protocol") {
        offered = true;
        for name in value.to_str().map_err(bad)?.split(',') {
            let known = SUBPROTOCOLS.iter().position(|ours| ours.eq_ignore_ascii_case(name.trim()));
            chosen = match (chosen, known) {
                (Some(before), Some(now)) => Some(before.min(now)),
                (before, now) => before.or(now),
            };
        }
    }
    match chosen {
        None if offered => Err(bad("none of the offered subprotocols is `mqtt`")),
        chosen => Ok(chosen.map(|position| SUBPROTOCOLS[position])),
    }
}

fn refuse(Refusal { status, why }: Refusal, wire_out: &mut Vec<u8>) -> LayerError {
    let body = format!("This listener speaks MQTT over WebSocket: {why}\n");
    let bytes = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    );
    wire_out.extend_from_slice(head.as_bytes());
    wire_out.extend_from_slice(body.as_bytes());
    LayerError::Upgrade(why)
}

/// A socket made of memory: reads end in `WouldBlock`, writes always succeed.
struct Memory<'a> {
    incoming: &'a [u8],
    outgoing: &'a mut Vec<u8>,
}

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.incoming.read(buffer)
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE_BYTES_MAX: usize = 70_000;

    fn request(headers: &str) -> Vec<u8> {
        format!(
            "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )
        .into_bytes()
    }

    /// A client's frame: masked.
    fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first_byte];
        match payload.len() {
            0..=125 => frame.push(0x80 | payload.len() as u8),
            126..=0xFFFF => {
                frame.push(0x80 | 126);
                frame.extend((payload.len() as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        let mask = [0x11, 0x22, 0x33, 0x44];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    struct Seen {
        outcome: Result<Flow, LayerError>,
        plain: Vec<u8>,
        wire_out: Vec<u8>,
    }

    fn layer() -> WebSocketLayer {
        WebSocketLayer::new("/mqtt".into(), MESSAGE_BYTES_MAX)
    }

    fn feed(layer: &mut WebSocketLayer, wire: &[u8], step: usize) -> Seen {
        let mut seen = Seen { outcome: Ok(Flow::Open), plain: Vec::new(), wire_out: Vec::new() };
        for piece in wire.chunks(step) {
            seen.outcome = layer.receive(piece, &mut seen.plain, &mut seen.wire_out);
            if !matches!(seen.outcome, Ok(Flow::Open)) {
                break;
            }
        }
        seen
    }

    fn upgraded() -> WebSocketLayer {
        let mut layer = layer();
        let seen = feed(&mut layer, &request("Sec-WebSocket-Protocol: mqtt\r\n"), usize::MAX);
        assert!(seen.wire_out.starts_with(b"HTTP/1.1 101"));
        layer
    }

    #[test]
    fn everything_may_be_split_anywhere() {
        let large: Vec<u8> = (0..66_000).map(|n| n as u8).collect();
        let mut wire = request("Sec-WebSocket-Protocol: mqtt\r\n");
        wire.extend(frame(0x82, b"one"));
        wire.extend(frame(0x02, b"tw"));
        wire.extend(frame(0x89, b"ping"));
        wire.extend(frame(0x80, b"o"));
        wire.extend(frame(0x82, b""));
        wire.extend(frame(0x8A, b"unasked pong"));
        wire.extend(frame(0x82, &large));
        let expected = [b"onetwo".as_slice(), &large].concat();
        for step in [1, 2, 3, 7, 1000, usize::MAX] {
            let mut layer = layer();
            let seen = feed(&mut layer, &wire, step);
            assert!(matches!(seen.outcome, Ok(Flow::Open)), "{:?}", seen.outcome);
            assert_eq!(seen.plain, expected, "step {step}");
            let answer = String::from_utf8_lossy(&seen.wire_out);
            assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
            assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
            assert!(seen.wire_out.ends_with(b"\r\n\r\n\x8A\x04ping"), "{answer}");
        }
    }

    #[test]
    fn subprotocols() {
        let rows = [
            ("", Ok(None)),
            ("Sec-WebSocket-Protocol: mqtt\r\n", Ok(Some("mqtt"))),
            ("Sec-WebSocket-Protocol: mqttv3.1\r\n", Ok(Some("mqttv3.1"))),
            ("Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", Ok(Some("mqtt"))),
            ("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: mqtt\r\n", Ok(Some("mqtt"))),
            ("Sec-WebSocket-Protocol: chat, soap\r\n", Err(())),
        ];
        for (headers, expected) in rows {
            let seen = feed(&mut layer(), &request(headers), usize::MAX);
            let answer = String::from_utf8(seen.wire_out).unwrap();
            match expected {
                Ok(name) => {
                    assert!(answer.starts_with("HTTP/1.1 101"), "{headers}: {answer}");
                    let header = answer.to_ascii_lowercase();
                    let told = header.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
                    assert_eq!(told, name, "{headers}: {answer}");
                }
                Err(()) => {
                    assert!(matches!(seen.outcome, Err(LayerError::Upgrade(_))));
                    assert!(answer.starts_with("HTTP/1.1 400"), "{headers}: {answer}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        let endless = [b"GET /mqtt HTTP/1.1\r\nX: ".as_slice(), &[b'x'; HEAD_BYTES_MAX]].concat();
        let elsewhere = String::from_utf8(request("")).unwrap().replace("/mqtt", "/other");
        let rows: [(&[u8], &str); 6] = [
            (b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
            (b"POST /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
            (b"\x10\x0c\x00\x04MQTT", "400"),
            (b"\x16\x03\x01", "400"),
            (&endless, "400"),
            (elsewhere.as_bytes(), "404"),
        ];
        for (wire, status) in rows {
            let seen = feed(&mut layer(), wire, 100);
            assert!(matches!(seen.outcome, Err(LayerError::Upgrade(_))), "{:?}", seen.outcome);
            assert!(seen.wire_out.starts_with(format!("HTTP/1.1 {status}").as_bytes()));
        }
    }

    #[test]
    fn what_breaks_the_rules_is_closed_with_its_code() {
        let too_large = frame(0x82, &vec![0; MESSAGE_BYTES_MAX + 1]);
        let unmasked = b"\x82\x01x".to_vec();
        let rows = [
            (frame(0x81, b"text"), 1003u16),
            (too_large, 1009),
            (unmasked, 1002),
            (frame(0xF2, b"reserved bits"), 1002),
            (frame(0x80, b"nothing to continue"), 1002),
        ];
        for (wire, code) in rows {
            let mut layer = upgraded();
            let seen = feed(&mut layer, &wire, usize::MAX);
            assert!(matches!(seen.outcome, Err(LayerError::WebSocket(_))), "{:?}", seen.outcome);
            assert_eq!(seen.wire_out[0], 0x88);
            assert_eq!(seen.wire_out[2..4], code.to_be_bytes(), "{:?}", seen.outcome);
            assert!(layer.send(&[IoSlice::new(b"late")], &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn a_close_is_answered_once() {
        let mut layer = upgraded();
        let seen = feed(&mut layer, &[frame(0x82, b"last"), frame(0x88, &[0x03, 0xE8])].concat(), 1);
        assert!(matches!(seen.outcome, Ok(Flow::Ended)), "{:?}", seen.outcome);
        assert_eq!(seen.plain, b"last");
        assert_eq!(seen.wire_out, [0x88, 0x02, 0x03, 0xE8]);
        let mut wire_out = Vec::new();
        layer.close(&mut wire_out);
        assert!(wire_out.is_empty());
    }

    #[test]
    fn sending_makes_one_binary_message() {
        let mut layer = upgraded();
        let mut wire_out = Vec::new();
        layer.send(&[IoSlice::new(b"ab"), IoSlice::new(b"c")], &mut wire_out).unwrap();
        assert_eq!(wire_out, b"\x82\x03abc");
        wire_out.clear();
        layer.send(&[IoSlice::new(&[7; 300])], &mut wire_out).unwrap();
        assert_eq!(wire_out[..4], [0x82, 126, 1, 44]);
        assert_eq!(wire_out.len(), 304);
        wire_out.clear();
        layer.close(&mut wire_out);
        assert_eq!(wire_out, [0x88, 0x02, 0x03, 0xE8]);
        assert!(layer.send(&[IoSlice::new(b"late")], &mut wire_out).is_err());
    }
}
