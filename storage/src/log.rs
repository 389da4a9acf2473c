//! The promise every log makes to the shard that owns it, and the ways it can be broken.
//!
//! Owns the trait and its errors. It never writes anything itself.

/// An append-only sequence of opaque records, numbered without gaps. One shard owns one log.
///
/// After any error the log is poisoned: the caller must acknowledge nothing more and stop. A failed sync is never
/// retried, because the kernel may have dropped the pages it could not write.
pub trait Log: Send {
    /// Appends the records numbered `first`, `first + 1`, and so on. Nothing is durable before [`sync`](Log::sync).
    ///
    /// # Errors
    /// [`LogError::Gap`] where `first` does not follow the last record; [`LogError::Io`] where a write failed.
    fn append(&mut self, first: u64, records: &mut dyn Iterator<Item = &[u8]>) -> Result<(), LogError>;

    /// Makes everything appended so far durable and returns the number of the last durable record.
    ///
    /// # Errors
    /// [`LogError::Io`] where the device refused.
    fn sync(&mut self) -> Result<u64, LogError>;

    /// What this log survives, in one plain sentence for whoever starts the broker.
    fn describe(&self) -> &'static str;
}

/// Why a log can no longer keep its promise.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The caller skipped or repeated a record number.
    #[error("record {first} does not follow record {last}")]
    Gap {
        /// The last record appended.
        last: u64,
        /// The number the caller gave.
        first: u64,
    },
    /// The disk failed.
    #[error("the log cannot be written: {0}")]
    Io(#[from] std::io::Error),
}
