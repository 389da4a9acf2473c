//! The edge's half of one connection: its socket, its layer, and the bytes that are between two states.
//!
//! Owns reading packets out of a byte stream and writing an outbox into a socket, both without waiting and for a bounded
//! time. It holds no buffer while nothing is under way: reads go through the shard's scratch buffers.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use causeway_core::{ConnectionId, Millis, OutboxMut, Shard};
use causeway_protocol::{ProtocolVersion, decode, frame};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::budget::TurnBudget;
use crate::auth::Exchange;
use crate::listener::ConnectionPermit;
use crate::transport::{Flow, Layer};

/// Bytes of the shared read buffer.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Up to this size, the beginning of a packet is copied in front of the next read; a larger one gathers on its own.
const PARTIAL_COPIED_BYTES_MAX: usize = 16 * 1024;
/// More than this of the layer's own (answers to WebSocket pings, above all), and the peer is not read until it takes some.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// Slices of one vectored write.
const SLICES: usize = 32;
/// Plain bytes that are given to a layer at a time.
const LAYER_BYTES_MAX: usize = 64 * 1024;

/// Buffers that all connections of a shard use in turn.
pub(super) struct Scratch {
    read: Box<[u8]>,
    plain: Vec<u8>,
    wire: Vec<u8>,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch { read: vec![0; READ_BUFFER_BYTES].into_boxed_slice(), plain: Vec::new(), wire: Vec::new() }
    }
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The shard asked for it: what is in the outbox still goes out.
    Asked,
    /// The peer has closed its half, and all it sent was read: what is ready may still go out.
    Closed,
    /// The peer ended its layer, or broke it: what is ready may still go out.
    Peer(String),
    /// The socket is of no use any more.
    Lost(String),
}

/// See the module.
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) peer: SocketAddr,
    pub(super) exchange: Option<Box<Exchange>>,
    pub(super) stream: TcpStream,
    /// Wakes the task that reads.
    pub(super) waker: Option<Waker>,
    /// Decided by somebody else than the reader, who carries it out.
    pub(super) end: Option<Box<End>>,
    /// Whether its task waits until the shard wants to hear more.
    pub(super) paused: bool,
    /// Whether its task waits until the log has caught up.
    pub(super) held: bool,
    /// The socket was full at the last write: nothing is written until it says otherwise.
    pub(super) blocked: bool,
    /// Since when the socket has taken nothing, though there is something to write.
    pub(super) stalled_since: Option<Millis>,
    /// Bytes the layer made and the socket has not taken.
    pub(super) unsent: Vec<u8>,
    version: ProtocolVersion,
    layer: Layer,
    /// The beginning of a packet.
    partial: Vec<u8>,
    /// The place in the listener's bound; given back when dropped.
    _permit: Option<ConnectionPermit>,
    /// How long `partial` must be before there is a packet in it; 0 where that is not known.
    partial_needed: usize,
    /// Whether `partial` may hold whole packets, for which the last turn had no time.
    backlog: bool,
    /// The layer ended behind the bytes in `partial`: carried out once they are dealt with.
    ended: Option<Box<End>>,
    /// Whether its socket had bytes when a pause of the process was noticed, and none of them have been read since.
    pub(super) unheard: bool,
}

/// What reading needs to know beside the connection.
pub(super) struct Reading<'a> {
    /// Called once there is something to do; returns the time.
    pub(super) begin_turn: &'a dyn Fn() -> Millis,
    pub(super) packet_bytes_max: u32,
    pub(super) budget: TurnBudget,
    pub(super) shard: &'a mut Shard,
    pub(super) scratch: &'a mut Scratch,
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        version: ProtocolVersion,
        stream: TcpStream,
        layer: Layer,
        peer: SocketAddr,
        exchange: Option<Box<Exchange>>,
        permit: Option<ConnectionPermit>,
    ) -> Connection {
        Connection {
            id,
            peer,
            exchange,
            _permit: permit,
            stream,
            waker: None,
            paused: false,
            held: false,
            end: None,
            blocked: false,
            stalled_since: None,
            unsent: Vec::new(),
            version,
            layer,
            partial: Vec::new(),
            partial_needed: 0,
            backlog: false,
            ended: None,
            unheard: false,
        }
    }

    /// Ends the connection, unless it is ending already, and has its task see to it.
    pub(super) fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(Box::new(end));
        }
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Whether what waits for the peer leaves room for more of it.
    pub(super) fn may_read(&self, shard: &Shard) -> bool {
        self.unsent.len() <= UNSENT_BYTES_MAX && shard.wants_input(self.id)
    }

    /// Reads once and hands all complete packets to the shard. `Ready` has the number of bytes read, or the end.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        reading: &mut Reading<'_>,
    ) -> Poll<Result<usize, End>> {
        if !self.layer.is_plain() {
            return self.poll_read_layer(context, reading);
        }
        let gathered = self.partial.len();
        let copied = if gathered <= PARTIAL_COPIED_BYTES_MAX { gathered } else { 0 };
        reading.scratch.read[..copied].copy_from_slice(&self.partial[..copied]);
        let mut buffer = ReadBuf::new(&mut reading.scratch.read[copied..]);
        let read = match poll_socket(&mut self.stream, context, &mut buffer) {
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
            Poll::Pending => return Poll::Pending,
        };
        self.unheard = false;
        if copied == gathered {
            // Taken out for as long as it is read from: the rest of `reading` is needed, too.
            let buffer = std::mem::take(&mut reading.scratch.read);
            let taken = self.feed(reading, &buffer[..copied + read]);
            let rest = &buffer[taken..copied + read];
            self.partial.clear();
            if rest.is_empty() {
                self.partial = Vec::new();
            } else {
                self.partial.extend_from_slice(rest);
            }
            reading.scratch.read = buffer;
            self.heard(reading, taken);
        } else {
            self.partial.extend_from_slice(&reading.scratch.read[..read]);
            let partial = std::mem::take(&mut self.partial);
            let gathered = partial.len();
            self.feed_gathered(reading, partial);
            self.heard(reading, gathered - self.partial.len());
        }
        Poll::Ready(Ok(read))
    }

    fn poll_read_layer(&mut self, context: &mut Context<'_>, reading: &mut Reading<'_>) -> Poll<Result<usize, End>> {
        let mut buffer = ReadBuf::new(&mut reading.scratch.read);
        let read = match poll_socket(&mut self.stream, context, &mut buffer) {
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
            Poll::Pending => return Poll::Pending,
        };
        // A long packet gathers in its own buffer, a short one goes through the shared one.
        let gathering = self.partial.len() > PARTIAL_COPIED_BYTES_MAX;
        let mut plain = match gathering {
            true => std::mem::take(&mut self.partial),
            false => std::mem::take(&mut reading.scratch.plain),
        };
        plain.append(&mut self.partial);
        let known = plain.len();
        self.unheard = false;
        (reading.begin_turn)();
        let received = self.layer.receive(&reading.scratch.read[..read], &mut plain, &mut self.unsent);
        let taken = match self.partial_needed <= plain.len() {
            true => self.feed(reading, &plain),
            false => 0,
        };
        if plain.len() > known {
            self.heard(reading, taken);
        }
        if gathering && taken == 0 {
            self.partial = plain;
        } else {
            self.partial = plain[taken..].to_vec();
            plain.clear();
            if !gathering && plain.capacity() <= 2 * READ_BUFFER_BYTES {
                reading.scratch.plain = plain;
            }
        }
        let end = match received {
            Ok(Flow::Open) => return Poll::Ready(Ok(read)),
            Ok(Flow::Ended) => End::Peer("closed by the client".to_owned()),
            Err(error) => End::Peer(error.to_string()),
        };
        if self.backlog {
            // What came before the end counts, above all a DISCONNECT.
            self.ended = Some(Box::new(end));
            return Poll::Ready(Ok(read));
        }
        Poll::Ready(Err(end))
    }

    /// Bytes came of which `taken` were dealt with. Where they are no packet yet, they are a sign of life all the same: a
    /// large packet on a slow line takes longer than a keep alive.
    fn heard(&self, reading: &mut Reading<'_>, taken: usize) {
        if taken == 0 {
            reading.shard.heard((reading.begin_turn)(), self.id);
        }
    }

    /// Whether there is something to do without reading: [`Connection::feed_backlog`].
    pub(super) fn has_backlog(&self) -> bool {
        self.backlog
    }

    /// Goes on with the packets for which the last turn had no time.
    ///
    /// # Errors
    /// Where they were the last.
    pub(super) fn feed_backlog(&mut self, reading: &mut Reading<'_>) -> Result<(), End> {
        self.unheard = false;
        let gathered = std::mem::take(&mut self.partial);
        self.feed_gathered(reading, gathered);
        match self.backlog {
            true => Ok(()),
            false => self.ended.take().map_or(Ok(()), |end| Err(*end)),
        }
    }

    /// MQTT bytes that were read before the connection came to its shard.
    pub(super) fn feed_unread(&mut self, reading: &mut Reading<'_>, unread: Vec<u8>) {
        self.feed_gathered(reading, unread);
    }

    fn feed_gathered(&mut self, reading: &mut Reading<'_>, mut gathered: Vec<u8>) {
        if self.partial_needed <= gathered.len() {
            let taken = self.feed(reading, &gathered);
            gathered = gathered[taken..].to_vec();
        }
        self.partial = gathered;
    }

    /// Hands the packets at the start of `bytes` to the shard, for as long as the turn may take; returns how many bytes are
    /// dealt with.
    fn feed(&mut self, reading: &mut Reading<'_>, bytes: &[u8]) -> usize {
        let now = (reading.begin_turn)();
        let shard = &mut *reading.shard;
        self.partial_needed = 0;
        self.backlog = false;
        let mut taken = 0;
        loop {
            if !shard.is_open(self.id) {
                return bytes.len();
            }
            let rest = &bytes[taken..];
            if !rest.is_empty() && (reading.budget.is_spent() || shard.is_corked(self.id)) {
                self.backlog = true;
                return taken;
            }
            let frame = match frame(rest, reading.packet_bytes_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => return taken,
                Err(error) => {
                    shard.malformed(now, self.id, error);
                    return bytes.len();
                }
            };
            let Some(packet) = rest.get(..frame.total_bytes()) else {
                self.partial_needed = frame.total_bytes();
                return taken;
            };
            match decode(&frame, &packet[frame.header_bytes..], self.version) {
                Ok(packet) => shard.handle(now, self.id, &packet),
                Err(error) => shard.malformed(now, self.id, error),
            }
            taken += frame.total_bytes();
            reading.budget.packet();
        }
    }

    /// Writes what the socket takes. `Ok(true)`: there is nothing more to write. `written` gets the wire bytes.
    pub(super) fn write(&mut self, shard: &mut Shard, scratch: &mut Scratch, written: &mut u64) -> io::Result<bool> {
        loop {
            if !self.write_unsent(written)? {
                shard.outbox(self.id).into_iter().for_each(|mut outbox| outbox.keep());
                return Ok(false);
            }
            let Some(mut outbox) = shard.outbox(self.id).filter(|outbox| !outbox.is_empty()) else {
                return Ok(true);
            };
            let took = match self.layer.is_plain() {
                true => self.write_plain(&mut outbox)?,
                false => self.write_layer(&mut outbox, &mut scratch.wire)?,
            };
            match took {
                Some(bytes) => *written += bytes as u64,
                None => {
                    outbox.keep();
                    return Ok(false);
                }
            }
        }
    }

    /// Whether all of `unsent` is written.
    fn write_unsent(&mut self, written: &mut u64) -> io::Result<bool> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            let Some(bytes) = taken(self.stream.try_write(&self.unsent[sent..]))? else {
                break;
            };
            sent += bytes;
        }
        *written += sent as u64;
        if sent == self.unsent.len() {
            self.unsent = Vec::new();
            return Ok(true);
        }
        self.unsent.drain(..sent);
        Ok(false)
    }

    /// The bytes written; `None` where the socket takes nothing.
    fn write_plain(&mut self, outbox: &mut OutboxMut<'_>) -> io::Result<Option<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let bytes = match outbox.chunks(&mut slices) {
            1 => taken(self.stream.try_write(&slices[0]))?,
            used => taken(self.stream.try_write_vectored(&slices[..used]))?,
        };
        outbox.advance(bytes.unwrap_or(0));
        Ok(bytes)
    }

    /// Likewise, through the layer: what the socket does not take becomes `unsent`.
    fn write_layer(&mut self, outbox: &mut OutboxMut<'_>, wire: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let used = outbox.chunks(&mut slices);
        wire.clear();
        let bytes = match fitting(&slices[..used], LAYER_BYTES_MAX) {
            (0, _) => {
                let part = &slices[0][..LAYER_BYTES_MAX];
                self.layer.send(&[IoSlice::new(part)], wire).map(|()| part.len())
            }
            (count, bytes) => self.layer.send(&slices[..count], wire).map(|()| bytes),
        };
        let bytes = bytes.map_err(io::Error::other)?;
        outbox.advance(bytes);
        let sent = taken(self.stream.try_write(wire))?;
        self.unsent.extend_from_slice(&wire[sent.unwrap_or(0)..]);
        Ok(sent)
    }

    /// Whether its layer has nothing to say, not even a farewell.
    pub(super) fn owes_nothing(&self) -> bool {
        self.layer.is_plain() && self.unsent.is_empty()
    }

    /// Puts the layer's farewell behind what waits.
    pub(super) fn say_farewell(&mut self) {
        self.layer.close(&mut self.unsent);
    }
}

/// How many of the first slices have together at most `bytes_max` bytes, and how many bytes that is.
fn fitting(slices: &[IoSlice<'_>], bytes_max: usize) -> (usize, usize) {
    let mut bytes = 0;
    for (count, slice) in slices.iter().enumerate() {
        if bytes + slice.len() > bytes_max {
            return (count, bytes);
        }
        bytes += slice.len();
    }
    (slices.len(), bytes)
}

/// `None` where the socket takes nothing now.
fn taken(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(ErrorKind::WriteZero.into()),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads into `buffer`. Tokio knows from a short read that the socket is drained, which saves the read that would say
/// so; that is why this is `poll_read` and not `readable` and `try_read`.
fn poll_socket(
    stream: &mut TcpStream,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<Result<usize, End>> {
    match Pin::new(stream).poll_read(context, buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(End::Closed)),
        Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(End::Lost(error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_costs_no_more_than_it_must() {
        // The largest that is allocated in 224 bytes: there is one for each client, and the next size is 256.
        assert!(size_of::<Connection>() <= 224, "{}", size_of::<Connection>());
    }
}
