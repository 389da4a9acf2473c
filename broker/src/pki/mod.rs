//! A private authority for a fleet: its key, what it issued, what it revoked.
//!
//! Owns the folder that `causewayd pki init` makes, and every certificate from it. It never makes a key for a vehicle that has its own,
//! speaks no protocol, and reads no clock: `now` is an argument, in seconds since 1970 (UTC), as all times here.
//!
//! | In the folder | What it is |
//! |---|---|
//! | `ca.crt` | the authority's certificate: whom clients and servers trust |
//! | `ca.key` | its private key, which makes certificates |
//! | `crl.pem` | what it revoked |
//! | `index` | what it issued and revoked: one line each, see [`Index`] |
//! | `servers/`, `vehicles/`, `services/`, `operators/`, `claims/` | certificates and keys made by the command line |

mod authority;
mod files;
mod index;
mod request;
mod stamp;
mod subject;

use std::io;
use std::path::PathBuf;

pub use authority::{Authority, Issued};
pub use files::{Access, Overwrite, write};
pub use index::{Entry, Index, Reason, Revoked, State};
pub use request::{REQUEST_BYTES_MAX, Request, RequestError};
pub use stamp::{DAY, now, stamp};
pub use subject::Subject;

/// Why something cannot be had from an authority, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The system said no.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is none that `init` made.
    #[error("there is no authority in {0}: make one with: causewayd pki init {0}", .folder.display())]
    NoAuthority {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is not replaced unless told to.
    #[error("{} is there already: give --force to replace it", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A line of the index makes no sense.
    #[error("{}:{line}: {what}", .path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A certificate or key cannot be used.
    #[error("{}: {why}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Nobody can be called so.
    #[error("{0}")]
    Name(String),
    /// The authority is too old to sign anything.
    #[error("the authority in {} expired at {at}: make a new one in another folder, and let everybody trust both for a while", .folder.display())]
    Expired {
        /// Its folder.
        folder: PathBuf,
        /// When.
        at: String,
    },
    /// Nothing like this was issued.
    #[error("the authority in {} issued nothing to revoke for {what}: see causewayd pki list {}", .folder.display(), .folder.display())]
    NothingToRevoke {
        /// Its folder.
        folder: PathBuf,
        /// The serial number or subject.
        what: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Making(#[from] rcgen::Error),
    /// The system has no random numbers.
    #[error("{0}")]
    Random(String),
}

#[cfg(test)]
mod tests;
