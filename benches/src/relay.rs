//! The scenario `relay`: something that looks like a broker and copies bytes.
//!
//! Owns the least that the load needs to be let in. It decodes no message,
//! so what passes through it is what the load itself can do at most. It
//! bounds nothing: the load's own window does.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::wire::{self, first};

/// The listener's token; connections have the numbers of their places.
const LISTENER: Token = Token(usize::MAX);

/// Bytes read at once.
const READ_BYTES: usize = 128 * 1024;

/// Where to listen.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The address to listen on; port 0 takes a free one, which is printed
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Relays until the process is ended.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut relay = Relay::bind(options.listen)?;
    println!("mqtt://{}", relay.address()?);
    loop {
        relay.turn()?;
    }
}

/// The relay.
#[derive(Debug)]
pub(crate) struct Relay {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    peers: Vec<Peer>,
    /// Which peers each peer's bytes go to; laid anew at the first message after somebody came.
    routes: Vec<Vec<usize>>,
    /// Peers with bytes to be written.
    waiting: Vec<usize>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Peer {
    /// Nothing once it has left.
    stream: Option<TcpStream>,
    is_5: bool,
    is_subscriber: bool,
    /// The length of each of its messages, told by the first; 0 before.
    packet_bytes: usize,
    /// The beginning of a packet whose end has not come.
    carry: Vec<u8>,
    outgoing: Vec<u8>,
    is_waiting: bool,
}

impl Relay {
    /// Listens.
    ///
    /// # Errors
    /// When the address is taken.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let events = Events::with_capacity(1024);
        Ok(Self {
            poll,
            events,
            listener,
            peers: Vec::new(),
            routes: Vec::new(),
            waiting: Vec::new(),
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Waits for bytes and copies them.
    ///
    /// # Errors
    /// When a connection does what the load never would.
    pub(crate) fn turn(&mut self) -> Result<()> {
        match self.poll.poll(&mut self.events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let mut result = Ok(());
        for event in &events {
            let Token(index) = event.token();
            result = result.and_then(|()| match event.token() {
                LISTENER => self.accept(),
                _ if event.is_readable() => self.read(index, event.is_read_closed()),
                _ => Ok(()),
            });
            if event.is_writable() && self.peers.get(index).is_some_and(|peer| !peer.outgoing.is_empty()) {
                self.wait_to_write(index);
            }
        }
        self.events = events;
        result?;
        while let Some(index) = self.waiting.pop() {
            self.peers[index].write();
        }
        if self.peers.iter().all(|peer| peer.stream.is_none()) {
            // The next load begins anew.
            self.peers.clear();
            self.routes.clear();
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            self.routes.clear();
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(self.peers.len()), interest)?;
            self.peers.push(Peer {
                stream: Some(stream),
                is_5: false,
                is_subscriber: false,
                packet_bytes: 0,
                carry: Vec::new(),
                outgoing: Vec::new(),
                is_waiting: false,
            });
        }
    }

    /// Reads until there is no more; until the end where the other side `has_closed`.
    fn read(&mut self, index: usize, has_closed: bool) -> Result<()> {
        loop {
            let Some(peer) = self.peers.get_mut(index) else { return Ok(()) };
            let Some(stream) = &mut peer.stream else { return Ok(()) };
            let carried = peer.carry.len();
            self.buffer[..carried].copy_from_slice(&peer.carry);
            let length = match stream.read(&mut self.buffer[carried..]) {
                Ok(0) => 0,
                Ok(length) => carried + length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => 0,
            };
            if length == 0 {
                peer.stream = None;
                return Ok(());
            }
            // A short read says that nothing is left: the next bytes bring an event of their own, but an end that came along with these does not.
            let is_drained = length < self.buffer.len() && !has_closed;
            let taken = self.pass_on(index, length)?;
            let rest = &self.buffer[taken..length];
            let carry = &mut self.peers[index].carry;
            carry.clear();
            carry.extend_from_slice(rest);
            if is_drained {
                return Ok(());
            }
        }
    }

    /// Passes the first `length` bytes of the buffer on, or answers them. How many were taken.
    fn pass_on(&mut self, index: usize, length: usize) -> Result<usize> {
        let mut taken = 0;
        while self.peers[index].packet_bytes == 0 {
            let bytes = &self.buffer[taken..length];
            let Some((body, header)) = wire::header(bytes) else { return Ok(taken) };
            let Some(packet) = bytes.get(..header + body) else { return Ok(taken) };
            taken += self.peers[index].answer(packet, header)?;
            self.wait_to_write(index);
        }
        if self.routes.is_empty() {
            self.lay_routes();
        }
        let whole = length - (length - taken) % self.peers[index].packet_bytes;
        for route in 0..self.routes[index].len() {
            let to = self.routes[index][route];
            self.peers[to].outgoing.extend_from_slice(&self.buffer[taken..whole]);
            self.wait_to_write(to);
        }
        Ok(whole)
    }

    /// Who is served by whom, by the order in which they came: each its own where there are as many of both.
    fn lay_routes(&mut self) {
        let of_kind = |is_subscriber| {
            let peers = self.peers.iter().enumerate();
            let peers = peers.filter(move |(_, peer)| peer.stream.is_some() && peer.is_subscriber == is_subscriber);
            peers.map(|(index, _)| index).collect::<Vec<_>>()
        };
        let (publishers, subscribers) = (of_kind(false), of_kind(true));
        self.routes = vec![Vec::new(); self.peers.len()];
        for (number, publisher) in publishers.iter().enumerate() {
            let own = subscribers.iter().enumerate();
            let own = own.filter(|(other, _)| other % publishers.len() == number % subscribers.len());
            self.routes[*publisher] = own.map(|(_, index)| *index).collect();
        }
    }

    fn wait_to_write(&mut self, index: usize) {
        if !std::mem::replace(&mut self.peers[index].is_waiting, true) {
            self.waiting.push(index);
        }
    }
}

impl Peer {
    /// Does what a whole packet asks for. How many bytes of it are dealt with: none of a message.
    fn answer(&mut self, packet: &[u8], header: usize) -> Result<usize> {
        let body = &packet[header..];
        match packet[0] {
            first::CONNECT => {
                self.is_5 = body.get(6) == Some(&5);
                // Only MQTT 5 has properties: none.
                let connack: &[u8] = if self.is_5 { &[first::CONNACK, 3, 0, 0, 0] } else { &[first::CONNACK, 2, 0, 0] };
                self.outgoing.extend(connack);
            }
            first::SUBSCRIBE => {
                self.is_subscriber = true;
                let id = body.get(..2).context("a SUBSCRIBE cut short")?;
                self.outgoing.extend([first::SUBACK, 3 + u8::from(self.is_5)]);
                self.outgoing.extend(id);
                self.outgoing.extend(if self.is_5 { &[0, 0][..] } else { &[0] });
            }
            first::PUBLISH => {
                self.packet_bytes = packet.len();
                return Ok(0);
            }
            first::DISCONNECT => self.stream = None,
            other => bail!("the relay knows no packet {other:#04x}"),
        }
        Ok(packet.len())
    }

    fn write(&mut self) {
        self.is_waiting = false;
        let Some(stream) = &mut self.stream else { return };
        while !self.outgoing.is_empty() {
            match stream.write(&self.outgoing) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                // The poll says when there is room again.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.stream = None;
                    return;
                }
            }
        }
    }
}
