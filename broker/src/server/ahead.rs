//! A thread for the handshakes of listeners that do not wait for others.
//!
//! Owns its start and its end. What runs on it is the same as elsewhere.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A runtime with a thread of its own, which is as nice as the one that starts it. Dropped, it ends with all that runs there.
pub(super) struct Ahead {
    pub(super) runtime: Handle,
    _stop: oneshot::Sender<()>,
}

impl Ahead {
    /// Starts it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start() -> io::Result<Ahead> {
        let own = Builder::new_current_thread().enable_all().build()?;
        let (runtime, (stop, stopped)) = (own.handle().clone(), oneshot::channel::<()>());
        std::thread::Builder::new().name("handshakes".to_owned()).spawn(move || {
            // Told by being dropped.
            let _ = own.block_on(stopped);
            own.shutdown_background();
        })?;
        Ok(Ahead { runtime, _stop: stop })
    }
}
