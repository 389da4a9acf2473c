//! One connection of a session that lasts, made for many messages.
//!
//! Owns a socket and both buffers: packets are written in bulk and taken
//! apart where they were read. It knows no session and no message.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;

use crate::wire::{self, Connack, Connect, Version, first};

/// Bytes read at once.
const READ_BYTES: usize = 128 * 1024;

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    /// What has been read and not looked at.
    pub(crate) incoming: Incoming,
    /// What is to be written at the next [`Link::turn`].
    pub(crate) outgoing: Vec<u8>,
}

/// Bytes that have been read.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    /// How many of them have been taken.
    taken: usize,
}

impl Incoming {
    /// The next whole packet: its first byte, and what follows the fixed header.
    pub(crate) fn next(&mut self) -> Option<(u8, &[u8])> {
        let rest = self.bytes.get(self.taken..)?;
        let (body, header) = wire::header(rest)?;
        let packet = rest.get(..header + body)?;
        self.taken += packet.len();
        Some((packet[0], &packet[header..]))
    }

    /// Whole packets are to be taken next, again.
    fn put_back(&mut self, mut packets: Vec<u8>) {
        if !packets.is_empty() {
            packets.extend_from_slice(self.bytes.get(self.taken..).unwrap_or_default());
            (self.bytes, self.taken) = (packets, 0);
        }
    }

    /// Makes room: forgets what has been taken.
    fn compact(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
    }
}

impl Link {
    /// Opens a TCP connection and a session on it.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub(crate) async fn open(target: SocketAddr, connect: &Connect<'_>) -> Result<(Self, Connack)> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let mut link = Self { stream, incoming: Incoming::default(), outgoing: Vec::new() };
        connect.write(&mut link.outgoing);
        let connack = Connack::read(connect.version, &link.expect(first::CONNACK).await?)?;
        Ok((link, connack))
    }

    /// Subscribes to one filter and expects that just this QoS is granted.
    ///
    /// # Errors
    /// When the connection is gone or the broker does otherwise.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<()> {
        self.subscribe_as(Version::V5, filter, qos).await
    }

    /// Likewise, in the words of a version.
    ///
    /// # Errors
    /// See [`Link::subscribe`].
    pub(crate) async fn subscribe_as(&mut self, version: Version, filter: &str, qos: u8) -> Result<()> {
        wire::subscribe(version, &mut self.outgoing, filter, qos);
        // Messages may come before it (MQTT 5, 3.8.4): they are put back, for whoever looks at messages.
        let mut messages = Vec::new();
        let answer = loop {
            match self.incoming.next() {
                Some((first::SUBACK, body)) => break body.to_vec(),
                Some((kind, body)) if kind & 0xF0 == first::PUBLISH => wire::push_packet(&mut messages, kind, body),
                Some((kind, _)) => bail!("a packet {kind:#04x} instead of SUBACK"),
                None => self.turn().await?,
            }
        };
        self.incoming.put_back(messages);
        ensure!(answer.last() == Some(&qos), "SUBACK {answer:?} for QoS {qos}");
        Ok(())
    }

    /// Writes all that is outgoing, and waits until something has been read. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`std::io::Error`] when the connection is gone. What came before can still be taken.
    pub(crate) async fn turn(&mut self) -> Result<()> {
        self.incoming.compact();
        loop {
            self.write_some()?;
            let interest =
                if self.outgoing.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let ready = self.stream.ready(interest).await?;
            if ready.is_readable() && self.read_some()? {
                return Ok(());
            }
        }
    }

    /// Says goodbye and closes.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub(crate) async fn disconnect(mut self) -> Result<()> {
        wire::push_packet(&mut self.outgoing, first::DISCONNECT, &[]);
        self.stream.write_all(&self.outgoing).await?;
        self.stream.shutdown().await.context("cannot close")
    }

    fn write_some(&mut self) -> Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.try_write(&self.outgoing) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether anything was there to be read.
    fn read_some(&mut self) -> Result<bool> {
        self.incoming.bytes.reserve(READ_BYTES);
        match self.stream.try_read_buf(&mut self.incoming.bytes) {
            Ok(0) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn expect(&mut self, kind: u8) -> Result<Vec<u8>> {
        loop {
            if let Some((first, body)) = self.incoming.next() {
                ensure!(first == kind, "a packet {first:#04x} instead of {kind:#04x}");
                return Ok(body.to_vec());
            }
            self.turn().await?;
        }
    }
}
