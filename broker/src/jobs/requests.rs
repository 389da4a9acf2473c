//! What clients request of groups with messages, made jobs one after the other.
//!
//! Owns that one request is one job, though its message may come again after a crash, and what a client is told that cannot have one. The answer
//! goes out when the job is on the disk.

use causeway_core::GroupRequest;
use causeway_protocol::ReasonCode;
use tokio::sync::mpsc;

use super::record::Target;
use super::requested::{self, Requested};
use super::{JobError, Jobs, NO_ROOM, taken};
use crate::registry::RegistryError;

type Refusal = (ReasonCode, String);

impl Jobs {
    /// Takes what clients request, until the broker stops.
    pub(crate) fn take(&self, mut requests: mpsc::Receiver<Box<GroupRequest>>) {
        let jobs = self.clone();
        let taking = async move {
            while let Some(request) = requests.recv().await {
                match jobs.request(&request).await {
                    Ok(answer) => jobs.0.asks.tell_taken(&request, answer).await,
                    // Its message is not acknowledged, and comes again.
                    Err(()) => return,
                }
            }
        };
        if let Some(running) = &mut *taken(&self.0.running) {
            running.spawn_on(taking, &self.0.runtime);
        }
    }

    /// Makes a job of a request, unless it is one already. Outside: the broker stops.
    async fn request(&self, request: &GroupRequest) -> Result<Result<(), Refusal>, ()> {
        let (spec, mut requested) = match requested::of(request) {
            Ok(of) => of,
            Err(why) => return Ok(Err((ReasonCode::ImplementationSpecificError, why))),
        };
        // What is known is on the disk: requests are taken one after the other.
        match self.is_known(request, &requested) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(true) => return Ok(Ok(())),
            Ok(false) => {}
        }
        requested.members = match self.members(&request.group).await? {
            Ok(members) => members,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refusal) = self.check_room(&requested) {
            return Ok(Err(refusal));
        }
        match self.begin(spec, request.by.to_string(), Vec::new(), Some(Box::new(requested))).await {
            Ok(_) => Ok(Ok(())),
            Err(JobError::Stopping) => Err(()),
            Err(error @ (JobError::TooMany | JobError::Store(_))) => {
                Ok(Err((ReasonCode::QuotaExceeded, error.to_string())))
            }
            Err(error) => Ok(Err((ReasonCode::ImplementationSpecificError, error.to_string()))),
        }
    }

    /// How many vehicles are in a group.
    async fn members(&self, group: &str) -> Result<Result<u32, Refusal>, ()> {
        let (registry, group) = (self.0.registry.clone(), group.to_owned());
        let found = tokio::task::spawn_blocking(move || registry.group(&group)).await.map_err(drop)?;
        Ok(match found {
            Ok(group) => Ok(u32::try_from(group.members).unwrap_or(u32::MAX)),
            Err(error @ RegistryError::Unknown(_)) => Err((ReasonCode::TopicNameInvalid, error.to_string())),
            Err(error) => Err((ReasonCode::UnspecifiedError, error.to_string())),
        })
    }

    /// Whether a request is a job already.
    ///
    /// # Errors
    /// Its idempotency key is that of another request.
    fn is_known(&self, request: &GroupRequest, requested: &Requested) -> Result<bool, Refusal> {
        let target = Target::Group(request.group.to_string());
        for job in taken(&self.0.jobs).values().rev() {
            let record = taken(&job.record);
            let Some(known) = record.requested.as_ref().filter(|_| record.spec.target == target) else { continue };
            match known.has_key_of(requested) {
                Some(true) => return Ok(true),
                Some(false) => {
                    let why = format!("job {} has the same idempotency key, and is another request", record.id);
                    return Err((ReasonCode::ImplementationSpecificError, why));
                }
                None if request.is_again && known.is_same_message(requested) => return Ok(true),
                None => {}
            }
        }
        Ok(false)
    }

    /// Whether as many outcomes may be on their way to the requester.
    fn check_room(&self, requested: &Requested) -> Result<(), Refusal> {
        if self.0.room.is_short() {
            return Err((ReasonCode::QuotaExceeded, NO_ROOM.to_owned()));
        }
        let mut pending = u64::from(requested.members);
        for job in taken(&self.0.jobs).values() {
            let record = taken(&job.record);
            let known = record.requested.as_ref().filter(|known| record.is_open() && known.is_by_same(requested));
            pending += known.map_or(0, |known| u64::from(known.members.max(record.total)));
        }
        let max = self.0.commands_max as u64;
        if pending > max {
            let why = format!(
                "commands to groups would be {pending} for this requester, of at most {max}: POST /v1/jobs has no such bound"
            );
            return Err((ReasonCode::QuotaExceeded, why));
        }
        Ok(())
    }
}
