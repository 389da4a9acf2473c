//! One MQTT connection of the load.
//!
//! Owns a socket and the bytes read ahead. It holds no timers: who uses it
//! sets the deadlines.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::wire::{self, Connack, Connect, Version, first};

/// What these connections speak.
pub(crate) const VERSION: Version = Version::V311;

/// A packet as it came: its first byte, and what follows the fixed header.
#[derive(Debug)]
pub(crate) struct Packet {
    /// One of the constants of [`first`].
    pub(crate) kind: u8,
    /// Everything behind the fixed header.
    pub(crate) body: Vec<u8>,
}

/// A connection that has seen its CONNACK.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    read_ahead: Vec<u8>,
}

impl Client {
    /// Opens a TCP connection from address number `source` and an MQTT session on it.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub(crate) async fn connect(
        target: SocketAddr,
        source: usize,
        client_id: &str,
        keep_alive_seconds: u16,
    ) -> Result<Self> {
        let socket = match target {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(address) = source_address(target, source) {
            socket.bind(address)?;
        }
        socket.set_nodelay(true)?;
        let stream = socket.connect(target).await?;
        let mut client = Self { stream, read_ahead: Vec::new() };
        let mut packet = Vec::new();
        let connect = Connect { version: VERSION, client_id, keep_alive_seconds, ..Connect::default() };
        connect.write(&mut packet);
        client.send(&packet).await?;
        Connack::read(VERSION, &client.expect(first::CONNACK).await?)?;
        Ok(client)
    }

    /// Writes a whole packet.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn send(&mut self, packet: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(packet).await?)
    }

    /// Reads the next packet. Cancelling it loses nothing.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn receive(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.take_packet() {
                return Ok(packet);
            }
            // Small: an idle connection of a load of thousands keeps no buffer.
            let mut chunk = [0; 512];
            let length = self.stream.read(&mut chunk).await?;
            if length == 0 {
                bail!("the broker closed the connection");
            }
            self.read_ahead.extend(&chunk[..length]);
        }
    }

    /// Reads the next packet, which must be of this kind, and returns its body.
    ///
    /// # Errors
    /// When the connection is gone or another packet comes.
    pub(crate) async fn expect(&mut self, kind: u8) -> Result<Vec<u8>> {
        let packet = self.receive().await?;
        ensure!(packet.kind == kind, "a packet {:#04x} instead of {kind:#04x}", packet.kind);
        Ok(packet.body)
    }

    /// Subscribes to one filter with QoS 0.
    ///
    /// # Errors
    /// When the connection is gone or the broker refuses.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> Result<()> {
        let mut packet = Vec::new();
        wire::subscribe(VERSION, &mut packet, filter, 0);
        self.send(&packet).await?;
        let answer = self.expect(first::SUBACK).await?;
        ensure!(answer.get(2).is_some_and(|code| *code < 0x80), "the broker refuses to subscribe: SUBACK {answer:?}");
        Ok(())
    }

    /// Asks for a sign of life and waits for it.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        self.send(wire::PINGREQ).await?;
        self.expect(first::PINGRESP).await?;
        Ok(())
    }

    /// Says goodbye and closes.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub(crate) async fn disconnect(mut self) -> Result<()> {
        self.send(wire::DISCONNECT).await?;
        self.stream.shutdown().await.context("cannot close")
    }

    fn take_packet(&mut self) -> Option<Packet> {
        let (body, header) = wire::header(&self.read_ahead)?;
        if self.read_ahead.len() < header + body {
            return None;
        }
        let packet = Packet { kind: self.read_ahead[0], body: self.read_ahead[header..header + body].to_vec() };
        self.read_ahead.drain(..header + body);
        if self.read_ahead.is_empty() {
            self.read_ahead = Vec::new();
        }
        Some(packet)
    }
}

/// One address of the loopback network for each `source`: every address has
/// ports of its own, so that closed connections, which block theirs for a
/// minute, do not stop the load. Elsewhere the system chooses.
fn source_address(target: SocketAddr, source: usize) -> Option<SocketAddr> {
    let IpAddr::V4(ip) = target.ip() else {
        return None;
    };
    if !ip.is_loopback() {
        return None;
    }
    // The remainder fits a byte, and 127.0.x.0 is left out.
    let third = (source / 254 % 254) as u8;
    let fourth = (source % 254) as u8 + 1;
    Some(SocketAddr::from((Ipv4Addr::new(127, 0, third, fourth), 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_differ_on_loopback_only() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
        assert_eq!(source_address(loopback, 0), Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
        assert_ne!(source_address(loopback, 1), source_address(loopback, 255));
        let elsewhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1883));
        assert_eq!(source_address(elsewhere, 0), None);
    }
}
