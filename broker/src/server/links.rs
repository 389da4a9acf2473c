//! What connects the shards of a broker.
//!
//! Owns that there is one link between any two of them. It never says anything on it.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// The ends of all links, by the number of the shard that gets them; each with the number of the shard at its other end.
///
/// An end is a socket of the kernel that does not leave the machine. To the driver of connections it is a stream like any other: what it
/// does with one, reading, writing and waiting, is the same for both families.
///
/// # Errors
/// Where the system has no more descriptors.
pub(super) fn link(shards: u32) -> io::Result<Vec<Vec<(u32, TcpStream)>>> {
    let mut ends: Vec<Vec<_>> = (0..shards).map(|_| Vec::new()).collect();
    for one in 0..shards {
        for other in one + 1..shards {
            let (here, there) = UnixStream::pair()?;
            ends[one as usize].push((other, stream(here)?));
            ends[other as usize].push((one, stream(there)?));
        }
    }
    Ok(ends)
}

fn stream(socket: UnixStream) -> io::Result<TcpStream> {
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from(OwnedFd::from(socket)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn each_shard_is_linked_with_each_other_one() {
        assert!(link(1).unwrap()[0].is_empty());
        let ends = link(3).unwrap();
        let peers: Vec<Vec<u32>> = ends.iter().map(|ends| ends.iter().map(|end| end.0).collect()).collect();
        assert_eq!(peers, [vec![1, 2], vec![0, 2], vec![0, 1]]);
        let mut ends: Vec<Vec<_>> = ends
            .into_iter()
            .map(|ends| {
                ends.into_iter().map(|(peer, end)| (peer, tokio::net::TcpStream::from_std(end).unwrap())).collect()
            })
            .collect();
        for (shard, ends) in ends.iter_mut().enumerate() {
            for (peer, end) in ends {
                end.write_all(&[shard as u8, *peer as u8]).await.unwrap();
            }
        }
        for (shard, ends) in ends.iter_mut().enumerate() {
            for (peer, end) in ends {
                let mut said = [0; 2];
                end.read_exact(&mut said).await.unwrap();
                assert_eq!(said, [*peer as u8, shard as u8]);
            }
        }
    }

    #[tokio::test]
    async fn a_link_pushes_back_and_ends_as_a_connection_does() {
        let mut ends = link(2).unwrap();
        let [one, other] = [1, 0].map(|at: usize| ends.remove(at).remove(0).1);
        let [one, mut other] = [one, other].map(|end| tokio::net::TcpStream::from_std(end).unwrap());
        one.writable().await.unwrap();
        let (chunk, mut written) = ([7; 64 << 10], 0);
        let full = loop {
            match one.try_write_vectored(&[io::IoSlice::new(&chunk), io::IoSlice::new(&chunk)]) {
                Ok(bytes) => written += bytes,
                Err(error) => break error,
            }
        };
        assert!(full.kind() == io::ErrorKind::WouldBlock && written > chunk.len(), "{full} after {written}");
        drop(one);
        let mut read = Vec::new();
        other.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), written);
        assert!(other.write_all(&[0]).await.is_err(), "and no signal ends the process");
    }
}
