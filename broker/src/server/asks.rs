//! What the rest of the broker asks the shards: a question about a vehicle goes to the vehicle's home.
//!
//! Owns the way there and back, and its bounds. It never looks into a question or an answer, and it holds no thread while it waits.

use std::sync::Arc;

use causeway_core::{Answer, Ask, ConnectionId, GroupRequest, ShadowWhat, Vin};
use causeway_protocol::{PacketId, ReasonCode};
use tokio::sync::{mpsc, oneshot};

use super::twins::{TwinWatch, Twins};
use crate::home_shard::home_shard;

/// Questions that wait for a shard, of each kind. Whoever asks more waits.
const WAITING_MAX: usize = 64;

/// What a shard hears from those who ask.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A question, and who waits for the answer.
    Question(Ask, oneshot::Sender<Result<Box<Answer>, AskError>>),
    /// What a client requested of a group is on the disk, or is not taken.
    GroupTaken((ConnectionId, PacketId), Result<(), (ReasonCode, String)>),
    /// Somebody listens to what happens to shadows. Answered once the shard tells it.
    Watched(oneshot::Sender<()>),
}

/// Where a shard hears what it is asked.
pub(crate) struct AskInbox {
    /// What changes nothing.
    pub(crate) reads: mpsc::Receiver<Asked>,
    /// What makes records: it waits while clients do.
    pub(crate) writes: mpsc::Receiver<Asked>,
}

/// Where a shard is asked.
#[derive(Debug, Clone)]
pub(crate) struct AskSender {
    reads: mpsc::Sender<Asked>,
    writes: mpsc::Sender<Asked>,
}

/// Why there is no answer. Whatever was asked may be done all the same, unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nothing was done.
    #[error("too many questions wait for an answer")]
    Busy,
    /// The shard has ended, or there is none of that number.
    #[error("the broker is stopping")]
    Ended,
}

/// Where shards are asked. Clones ask the same shards.
#[derive(Debug, Clone)]
pub struct Asks {
    shards: Arc<[AskSender]>,
    twins: Twins,
}

/// Both ends for one shard.
pub(crate) fn ask_channel() -> (AskSender, AskInbox) {
    let ((reads, read), (writes, written)) = (mpsc::channel(WAITING_MAX), mpsc::channel(WAITING_MAX));
    (AskSender { reads, writes }, AskInbox { reads: read, writes: written })
}

impl Asks {
    pub(super) fn new(shards: Vec<AskSender>, twins: Twins) -> Asks {
        Asks { shards: shards.into(), twins }
    }

    /// Asks the home of a vehicle. Waits for as long as it takes: whoever does not want to, drops it, and is forgotten.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn of(&self, vin: &Vin, ask: Ask) -> Result<Box<Answer>, AskError> {
        self.at(self.home(vin), ask).await
    }

    /// The shard that a vehicle lives on.
    pub fn home(&self, vin: &Vin) -> u32 {
        home_shard(vin.as_str(), self.shards())
    }

    /// Asks the shard of this number.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn at(&self, shard: u32, ask: Ask) -> Result<Box<Answer>, AskError> {
        self.begin(shard, ask).await?.await.unwrap_or(Err(AskError::Ended))
    }

    /// Asks all shards at the same time. The answers stand in the order of the shards.
    ///
    /// # Errors
    /// That of the first shard which has one.
    pub async fn all(&self, ask: &Ask) -> Result<Vec<Box<Answer>>, AskError> {
        let (mut asked, mut answers) = (Vec::with_capacity(self.shards.len()), Vec::with_capacity(self.shards.len()));
        for shard in 0..self.shards() {
            asked.push(self.begin(shard, ask.clone()).await?);
        }
        for answered in asked {
            answers.push(answered.await.unwrap_or(Err(AskError::Ended))?);
        }
        Ok(answers)
    }

    /// The shard has the question, or will have it once it takes what waits.
    async fn begin(&self, shard: u32, ask: Ask) -> Result<oneshot::Receiver<Result<Box<Answer>, AskError>>, AskError> {
        let sender = self.shards.get(shard as usize).ok_or(AskError::Ended)?;
        let (answer, answered) = oneshot::channel();
        let way = if writes(&ask) { &sender.writes } else { &sender.reads };
        way.send(Asked::Question(ask, answer)).await.map_err(|_| AskError::Ended)?;
        Ok(answered)
    }

    /// Tells a client that what it requested of a group is on the disk, or is not taken.
    pub(crate) async fn tell_taken(&self, request: &GroupRequest, taken: Result<(), (ReasonCode, String)>) {
        if let Some(shard) = self.shards.get(usize::from(request.shard)) {
            // A shard that has ended has no clients.
            let _ = shard.reads.send(Asked::GroupTaken((request.connection, request.packet_id), taken)).await;
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u32 {
        self.shards.len() as u32
    }

    /// What happens to the shadows of all vehicles, from now on. One who is too slow misses some, and is told how many.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn watch(&self) -> Result<TwinWatch, AskError> {
        // Before the shards are told: they look whether anybody is there.
        let watch = self.twins.subscribe();
        for shard in self.shards.iter() {
            let (tell, told) = oneshot::channel();
            shard.reads.send(Asked::Watched(tell)).await.map_err(|_| AskError::Ended)?;
            told.await.map_err(|_| AskError::Ended)?;
        }
        Ok(watch)
    }

    /// Nobody is told anything any more: the broker stops.
    pub(super) fn close(&self) {
        self.twins.close();
    }
}

/// Whether records are made for it.
fn writes(ask: &Ask) -> bool {
    match ask {
        Ask::Shadow(asked) => !matches!(asked.what, ShadowWhat::Get),
        Ask::Command(_) | Ask::Publish(_) => true,
        Ask::Shadows(_) | Ask::History(_) | Ask::Fleet(_) | Ask::CommandState { .. } => false,
    }
}
