//! What is done with a socket beside reading and writing MQTT.
//!
//! Owns writing a last word and closing so that the peer can still read it. It never decides when.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// A peer that goes on sending after our farewell is heard out for this long, and no longer.
const LINGER: Duration = Duration::from_secs(1);
/// Nor for more than this many bytes.
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// A socket that was accepted just now. The runtime watches it only once it must be waited for: most clients send CONNECT at once, and
/// their shard's runtime watches them soon enough.
pub(crate) struct NewSocket {
    unwatched: Option<std::net::TcpStream>,
    watched: Option<TcpStream>,
}

impl NewSocket {
    /// `socket` must not block.
    pub(crate) fn new(socket: std::net::TcpStream) -> NewSocket {
        NewSocket { unwatched: Some(socket), watched: None }
    }

    /// Appends to `bytes` what is there, at most `BYTES` of it, without waiting; how much it was.
    ///
    /// # Errors
    /// Where the socket failed, and `WouldBlock` where nothing is there.
    pub(crate) fn try_read<const BYTES: usize>(&self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let mut buffer = [0; BYTES];
        let read = match (&self.unwatched, &self.watched) {
            (Some(socket), _) => (&mut &*socket).read(&mut buffer)?,
            (None, Some(stream)) => stream.try_read(&mut buffer)?,
            (None, None) => return Err(ErrorKind::NotConnected.into()),
        };
        bytes.extend_from_slice(&buffer[..read]);
        Ok(read)
    }

    /// The socket to wait for.
    ///
    /// # Errors
    /// Where the system cannot watch it.
    pub(crate) fn watched(&mut self) -> io::Result<&TcpStream> {
        if let Some(socket) = self.unwatched.take() {
            self.watched = Some(TcpStream::from_std(socket)?);
        }
        self.watched.as_ref().ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// The socket, watched by nobody.
    ///
    /// # Errors
    /// Where the system does not let go of it.
    pub(crate) fn into_unwatched(self) -> io::Result<std::net::TcpStream> {
        match (self.unwatched, self.watched) {
            (Some(socket), _) => Ok(socket),
            (None, Some(stream)) => stream.into_std(),
            (None, None) => Err(ErrorKind::NotConnected.into()),
        }
    }
}

/// Writes all of `bytes`. The caller bounds the time.
///
/// # Errors
/// Where the socket fails.
pub(crate) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says that nothing more will be written.
pub(crate) fn shut_down_write(stream: &TcpStream) {
    // Fails only where the peer is gone already, which is what we are after.
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
}

/// Reads and drops what still comes, for a bounded time. A socket closed with unread bytes sends RST, and the peer's
/// kernel may then throw away the farewell we wrote before.
pub(crate) async fn linger(stream: &TcpStream) {
    let heard_out = async {
        let mut discarded = Vec::with_capacity(2048);
        let mut total = 0;
        while total < LINGER_BYTES_MAX && stream.readable().await.is_ok() {
            discarded.clear();
            match stream.try_read_buf(&mut discarded) {
                Ok(0) => return,
                Ok(bytes) => total += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    // Too slow or too much: then it is RST.
    let _ = tokio::time::timeout(LINGER, heard_out).await;
}
