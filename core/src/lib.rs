//! The shard: sessions, subscriptions, retained messages, queues, quality of service and wills of MQTT, as a pure state
//! machine.
//!
//! Owns every decision a broker makes about a message. It never reads a clock, opens a socket or a file, spawns,
//! waits or draws a random number: `now` is the first argument, records come out as bytes, and what the edge must do
//! comes out of [`Shard::poll_effect`]. See `ARCHITECTURE.md`.

mod ask;
mod commons;
mod connection;
mod counters;
mod crossing;
mod effect;
mod folded;
mod group_request;
mod handshake;
pub mod history;
mod index;
pub mod inspect;
mod interest;
mod lane;
mod limits;
mod message;
mod outbox;
mod provenance;
mod queue;
mod record;
mod retained;
mod rows;
mod session;
mod shard;
mod shared;
#[cfg(test)]
mod sizes;
mod subscriptions;
mod time;

pub use ask::{
    Answer, Ask, AskId, CommandAsk, CommandProgress, CommandTold, FleetAsk, FleetWhich, PublishAsk, ReturnAddress,
    ShadowAsk, ShadowTold, ShadowWhat, TwinEvent,
};
pub use causeway_fleet::{Groups, Identity, Principal, Vin};
pub use connection::ConnectionId;
pub use counters::{Bound, Counters, Gauges};
pub use effect::{Effect, Event, EventLevel};
pub use group_request::GroupRequest;
pub use handshake::{ConnectRequest, Credentials, Handshake, HandshakePolicy, Step, Verdict, vehicle_of_client};
pub use limits::{Limits, Overflow};
pub use outbox::{OUTBOX_LOW_BYTES, OutboxMut, OutboxRef};
pub use record::{Lsn, PendingGroup, RecordError};
pub use rows::{FleetOrder, FleetPage, FleetPlace, FleetRow};
pub use shard::{Bar, Change, CheckpointEnd, Notice, Revocation, Revoked, Shard};
pub use time::Millis;
