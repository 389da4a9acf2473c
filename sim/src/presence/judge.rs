//! Who is right.
//!
//! Owns the two promises: at a quiet moment everybody's largest epoch is the truth, and no vehicle that is there, or was back in time, is
//! mourned. It looks at nothing but connections and what clients were sent.

use super::consumer::Habit;
use super::vehicle::{Client, Left, WillState, vin};
use super::world::World;
use crate::broker::Broker;
use crate::part::Outcome;

impl<B: Broker> World<B> {
    /// Whether a vehicle has a connection.
    fn is_online(&mut self, vehicle: usize) -> bool {
        let home = self.home(vehicle);
        let of_it = self.clients.iter().filter(|client| client.vehicle == vehicle);
        let open: Vec<_> = of_it.filter_map(|client| client.connection.as_ref().map(|open| open.id)).collect();
        open.into_iter().any(|id| self.shard(home).is_open(id))
    }

    /// Compares what every consumer believes with what is.
    pub(super) fn judge_beliefs(&mut self) -> Outcome<()> {
        self.tally.quiet_moments += 1;
        for vehicle in 0..self.vehicles {
            let (online, name) = (self.is_online(vehicle), vin(vehicle));
            for consumer in self.consumers.iter().filter(|consumer| consumer.habit != Habit::Wills) {
                let belief = consumer.belief(name.as_str());
                self.tally.beliefs += 1;
                if belief.is_some_and(|belief| belief.online) != online {
                    return Err(format!(
                        "{} (QoS {}, {:?}) is wrong about {name}: it is {}, and was told {belief:?}",
                        consumer.name,
                        consumer.qos as u8,
                        consumer.habit,
                        if online { "online" } else { "offline" },
                    ));
                }
            }
        }
        Ok(())
    }

    /// A will was published.
    pub(super) fn judge_will(&mut self, payload: &[u8]) -> Outcome<()> {
        let number = payload.try_into().map(u32::from_be_bytes).map_err(|_| "a will that nobody left".to_owned())?;
        self.tally.wills += 1;
        let is_left = |client: &Client| client.left.iter().any(|left| left.will == number && left.due <= self.now);
        match self.wills.get(number as usize) {
            Some(WillState::Free) => Ok(()),
            Some(WillState::Waits) if self.clients.iter().any(is_left) => Ok(()),
            other => Err(format!("will {number} was published at {}, though it is {other:?}", self.now)),
        }
    }

    /// The connection of a client ended without a farewell: its will may be due some time.
    pub(super) fn bereave(&mut self, at: usize, persists: bool) {
        let Some(open) = self.clients[at].connection.take() else { return };
        let Some((will, delay)) = open.will else { return };
        if delay == 0 || !persists {
            self.wills[will as usize] = WillState::Free;
        } else {
            self.clients[at].left.push(Left { will, due: self.now + u64::from(delay) * 1000 });
        }
    }

    /// A client began anew: nothing keeps its wills back.
    pub(super) fn free_wills(&mut self, at: usize) {
        for left in std::mem::take(&mut self.clients[at].left) {
            self.wills[left.will as usize] = WillState::Free;
        }
    }

    /// CONNACK reached a vehicle, which goes on with its session: what is not yet due never will be.
    pub(super) fn forestall(&mut self, at: usize) {
        for left in std::mem::take(&mut self.clients[at].left) {
            let is_in_time = self.now < left.due;
            self.wills[left.will as usize] = if is_in_time { WillState::Forestalled } else { WillState::Free };
            self.tally.wills_forestalled += u64::from(is_in_time);
        }
    }
}
