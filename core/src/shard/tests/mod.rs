//! The shard under a fake clock: clients are real bytes, time is a number, and what goes out is compared as text.

mod authority;
mod commands;
mod connection;
mod disk;
mod durability;
mod fleet;
mod flow;
mod history;
mod messages;
mod mounting;
mod origin;
mod peers;
mod policy;
mod presence;
mod robustness;
mod shadow;
mod shared;
mod world;
