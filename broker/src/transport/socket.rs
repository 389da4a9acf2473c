//! What is done with a socket beside reading and writing MQTT.
//!
//! Owns writing a last word and closing so that the peer can still read it. It never decides when.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// A peer that goes on sending after our farewell is heard out for this long, and no longer.
const LINGER: Duration = Duration::from_secs(1);
/// Nor for more than this many bytes.
const LINGER_BYTES_MAX: usize = 256 * 1024;

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
