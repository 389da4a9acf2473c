//! Questions from the rest of the broker, while the shard answers them.
//!
//! Owns who waits for which answer, and that nobody is kept in mind who went away. It never answers by itself.

use std::collections::{HashMap, HashSet};

use causeway_core::{Answer, Ask, AskId, GroupRequest, Millis, Shard, TwinEvent};
use causeway_protocol::ReasonCode;
use tokio::sync::{mpsc, oneshot};

use crate::server::{AskError, Asked, Twins};

/// Questions that a shard answers in its own time.
const PENDING_MAX: usize = 4096;
/// Questions that wait for a vehicle, perhaps for long. They are counted apart, so that nobody else finds no place because of them. It is as many
/// as commands are pending on a shard where nobody says otherwise.
const WAITING_MAX: usize = 100_000;

type Waiting = oneshot::Sender<Result<Box<Answer>, AskError>>;

/// See the module.
pub(super) struct Asking {
    pending: HashMap<AskId, Waiting>,
    /// Those that wait for a vehicle.
    waiting: HashMap<AskId, Waiting>,
    last: u64,
    twins: Twins,
    requests: mpsc::Sender<Box<GroupRequest>>,
    tells_twins: bool,
}

impl Asking {
    pub(super) fn new(twins: Twins, requests: mpsc::Sender<Box<GroupRequest>>) -> Asking {
        Asking { pending: HashMap::new(), waiting: HashMap::new(), last: 0, twins, requests, tells_twins: false }
    }

    /// Asks the shard, which answers in its own time.
    pub(super) fn begin(&mut self, shard: &mut Shard, now: Millis, asked: Asked) {
        match asked {
            // Whoever went away before it was begun wants nothing to be done.
            Asked::Question(_, waiting) if waiting.is_closed() => {}
            Asked::Question(ask, waiting) => {
                let waits = matches!(ask, Ask::CommandState { when_over: true, .. });
                if !self.has_room(waits) {
                    self.forget_gone(shard);
                }
                if !self.has_room(waits) {
                    let _ = waiting.send(Err(AskError::Busy));
                    return;
                }
                self.last += 1;
                let id = AskId(self.last);
                let places = if waits { &mut self.waiting } else { &mut self.pending };
                places.insert(id, waiting);
                shard.ask(now, id, &ask);
            }
            Asked::GroupTaken(whose, taken) => shard.group_command_taken(now, whose, taken),
            Asked::Watched(told) => {
                self.tells_twins = true;
                shard.tell_twins(true);
                let _ = told.send(());
            }
        }
    }

    fn has_room(&self, waits: bool) -> bool {
        if waits { self.waiting.len() < WAITING_MAX } else { self.pending.len() < PENDING_MAX }
    }

    pub(super) fn answer(&mut self, ask: AskId, answer: Box<Answer>) {
        if let Some(waiting) = self.pending.remove(&ask).or_else(|| self.waiting.remove(&ask)) {
            // It may have gone away at this moment.
            let _ = waiting.send(Ok(answer));
        }
    }

    /// Hands on what a client requests of a group.
    ///
    /// # Errors
    /// What the client is told in place of that.
    pub(super) fn request(&self, request: Box<GroupRequest>) -> Result<(), (ReasonCode, String)> {
        let refused = |_| (ReasonCode::QuotaExceeded, "too many commands to groups wait to be taken".to_owned());
        self.requests.try_send(request).map_err(refused)
    }

    pub(super) fn tell(&self, event: TwinEvent) {
        self.twins.tell(event);
    }

    /// Forgets who waits no more, and ends what nobody listens to. Called now and then.
    pub(super) fn look_around(&mut self, shard: &mut Shard) {
        self.forget_gone(shard);
        if self.tells_twins && !self.twins.is_watched() {
            self.tells_twins = false;
            shard.tell_twins(false);
        }
    }

    fn forget_gone(&mut self, shard: &mut Shard) {
        let is_gone = |_: &AskId, waiting: &mut Waiting| waiting.is_closed();
        let gone = self.pending.extract_if(is_gone).chain(self.waiting.extract_if(is_gone));
        let gone: HashSet<AskId> = gone.map(|(ask, _)| ask).collect();
        if !gone.is_empty() {
            shard.forget_asks(&gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_core::{Effect, Vin};

    use super::*;

    fn question(asking: &mut Asking, shard: &mut Shard) -> oneshot::Receiver<Result<Box<Answer>, AskError>> {
        let vin: Vin = "1M8GDM9AXKP042788".parse().unwrap();
        let (answer, answered) = oneshot::channel();
        asking.begin(shard, Millis(0), Asked::Question(Ask::Shadows(vin), answer));
        answered
    }

    fn answer(asking: &mut Asking, shard: &mut Shard) {
        while let Some(effect) = shard.poll_effect() {
            let Effect::Answer { ask, answer } = effect else { panic!("nothing else happens") };
            asking.answer(ask, answer);
        }
    }

    #[test]
    fn everybody_gets_the_own_answer_once() {
        let mut shard = Shard::new(Millis(0), Default::default(), "test", 1);
        let mut asking = Asking::new(Twins::new(), mpsc::channel(1).0);
        let mut asked = [question(&mut asking, &mut shard), question(&mut asking, &mut shard)];
        assert!(asked.iter_mut().all(|asked| asked.try_recv().is_err()));
        answer(&mut asking, &mut shard);
        for asked in &mut asked {
            assert_eq!(asked.try_recv().unwrap(), Ok(Box::new(Answer::Shadows(Vec::new()))));
        }
        assert!(asking.pending.is_empty());
    }

    #[test]
    fn who_went_away_has_no_place_and_who_finds_none_is_told() {
        let mut shard = Shard::new(Millis(0), Default::default(), "test", 1);
        let mut asking = Asking::new(Twins::new(), mpsc::channel(1).0);
        drop(question(&mut asking, &mut shard));
        let kept: Vec<_> = (1..PENDING_MAX).map(|_| question(&mut asking, &mut shard)).collect();
        assert_eq!(asking.pending.len(), PENDING_MAX);
        let last = question(&mut asking, &mut shard);
        assert_eq!(question(&mut asking, &mut shard).try_recv().unwrap(), Err(AskError::Busy));
        // Who waits for a vehicle has another place.
        let (told, mut tell) = oneshot::channel();
        let when_over = Ask::CommandState { id: "c000000000001".parse().unwrap(), when_over: true };
        asking.begin(&mut shard, Millis(0), Asked::Question(when_over, told));
        answer(&mut asking, &mut shard);
        assert_eq!(tell.try_recv().unwrap(), Ok(Box::new(Answer::Command(None))));
        assert!(kept.into_iter().chain([last]).all(|mut asked| asked.try_recv().is_ok()));
    }

    #[test]
    fn shards_tell_of_shadows_while_somebody_listens() {
        let mut shard = Shard::new(Millis(0), Default::default(), "test", 1);
        let twins = Twins::new();
        let mut asking = Asking::new(twins.clone(), mpsc::channel(1).0);
        let watch = twins.subscribe();
        let (tell, mut told) = oneshot::channel();
        asking.begin(&mut shard, Millis(0), Asked::Watched(tell));
        assert!(told.try_recv().is_ok());
        asking.look_around(&mut shard);
        assert!(asking.tells_twins);
        drop(watch);
        asking.look_around(&mut shard);
        assert!(!asking.tells_twins);
    }
}
