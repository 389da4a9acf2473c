//! `POST /v1/backup`: a backup of the broker that runs, in a folder of its machine.
//!
//! Owns what is asked and answered. The backup itself is made elsewhere.

use std::io::ErrorKind;
use std::path::PathBuf;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use causeway_storage::backup::BackupError;
use serde::Deserialize;

use super::Told;
use super::api::{Needs, Problem};
use super::asker::Asker;
use super::registry::{check_kind, respond};
use crate::server::{Made, NoBackup};

/// The most that a request may say beside its headers: a path has no more than 4096 bytes.
pub(super) const BODY_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// A folder that does not exist, or is empty.
    to: PathBuf,
}

/// Answers once the backup is there, is checked, and has its name. Whoever does not wait for the answer gets the backup all the same.
pub(super) async fn make(
    State(told): State<Told>,
    ConnectInfo(asker): ConnectInfo<Asker>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let operator = asker.operator(&told.config.identity, told.source.registry().as_deref());
    let caller = match told.access.admit(&headers, operator.as_deref(), Needs::Write) {
        Ok(caller) => caller,
        Err(problem) => return respond(problem.into_answer()),
    };
    if let Err(problem) = check_kind(&headers) {
        return respond(problem.into_answer());
    }
    let to = match serde_json::from_slice::<Request>(&body) {
        Ok(request) if request.to.is_absolute() => request.to,
        Ok(_) => return refuse(StatusCode::BAD_REQUEST, "\"to\" has to be an absolute path"),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("no {{\"to\": \"/a/folder\"}}: {error}")),
    };
    if told.config.storage.data_directory.is_none() {
        let why = "this broker keeps nothing on disk: it has no storage.data_directory";
        return refuse(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    let backups = told.source.backups();
    asker.patience.begin();
    let made = tokio::task::spawn_blocking(move || {
        let made = backups.make(&to);
        match &made {
            Ok(made) => {
                let (bytes, milliseconds) = (made.bytes, made.milliseconds);
                tracing::info!(target: "causeway::admin", to = %to.display(), bytes, milliseconds, caller, "backed up");
            }
            Err(error) => tracing::warn!(target: "causeway::admin", to = %to.display(), "no backup was made: {error}"),
        }
        made
    });
    match made.await {
        Ok(Ok(made)) => json(&made),
        Ok(Err(error)) => refuse(status(&error), &error.to_string()),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the thread that made the backup failed"),
    }
}

fn status(error: &NoBackup) -> StatusCode {
    match error {
        NoBackup::UnderWay | NoBackup::Copy(BackupError::Target { .. }) => StatusCode::CONFLICT,
        NoBackup::NotServing | NoBackup::Copy(BackupError::Busy) => StatusCode::SERVICE_UNAVAILABLE,
        NoBackup::SeveralShards => StatusCode::NOT_IMPLEMENTED,
        NoBackup::NoRoom => StatusCode::INSUFFICIENT_STORAGE,
        NoBackup::Copy(error) if error.is_full() => StatusCode::INSUFFICIENT_STORAGE,
        NoBackup::Copy(BackupError::Inside { .. }) => StatusCode::BAD_REQUEST,
        NoBackup::Copy(BackupError::File { source, .. }) => match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::ReadOnlyFilesystem => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn json(made: &Made) -> Response {
    match serde_json::to_string(made) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refuse(status: StatusCode, why: &str) -> Response {
    respond(Problem::new(status.as_u16(), why).into_answer())
}

#[cfg(test)]
mod tests {
    use std::io;

    use causeway_storage::{LogError, StateError};

    use super::*;

    #[test]
    fn a_disk_without_room_is_told_as_that_whatever_found_none() {
        let full = || io::Error::from(ErrorKind::StorageFull);
        let path = || PathBuf::from("/to");
        let causes = [
            BackupError::File { path: path(), source: full() },
            BackupError::State(StateError::Io(full())),
            BackupError::Log(LogError::Full { wanted: 1, cause: full() }),
            BackupError::Log(LogError::Io(full())),
            BackupError::Open(full().into()),
        ];
        for cause in causes {
            assert_eq!(status(&NoBackup::Copy(cause)), StatusCode::INSUFFICIENT_STORAGE);
        }
        let failed = BackupError::State(StateError::Io(ErrorKind::Other.into()));
        assert_eq!(status(&NoBackup::Copy(failed)), StatusCode::INTERNAL_SERVER_ERROR);
        let inside = BackupError::Inside { to: path(), folder: path() };
        assert_eq!(status(&NoBackup::Copy(inside)), StatusCode::BAD_REQUEST);
    }
}
