//! The connections to the other shards.
//!
//! Owns that they are there before any client is. From then on they are served like any other connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use causeway_protocol::ProtocolVersion;
use tokio::net::TcpStream;

use super::ShardLoop;
use super::connection::Connection;
use crate::transport::Layer;

/// What lines about a link have in the place of an address.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl ShardLoop {
    /// Makes the connections, by the numbers of the shards at their other ends. Clients may come once `linking` is over.
    ///
    /// # Errors
    /// Where the runtime cannot watch a socket.
    pub(super) fn link(self: &Rc<Self>, links: Vec<(u32, std::net::TcpStream)>) -> io::Result<()> {
        self.linking.set(!links.is_empty());
        for (shard, stream) in links {
            let stream = TcpStream::from_std(stream)?;
            let now = self.begin_turn();
            let world = &mut *self.world.borrow_mut();
            // The check of a configuration has its range.
            let id = world.shard.open_peer(now, shard as u16);
            let connection = Connection::new(id, ProtocolVersion::V5, stream, Layer::Plain, NOWHERE, None, None);
            self.install(world, Box::new(connection));
        }
        Ok(())
    }
}
