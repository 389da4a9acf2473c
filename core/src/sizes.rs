//! How much memory every connection and every session costs.
//!
//! Owns the bounds of what there is one of for each of very many clients, so that it does not grow unnoticed. What few of them
//! need belongs behind a box. Never a test of anything else.

use std::mem::size_of;

use crate::connection::Connection;
use crate::record::{PublishRecord, Record};
use crate::session::Session;
use crate::subscriptions::Subscriptions;

#[test]
fn what_every_client_costs_stays_small() {
    // A hundred thousand clients with one subscription each: 8 more bytes in one of these are 800 KB.
    assert!(size_of::<Connection>() <= 312, "{}", size_of::<Connection>());
    assert!(size_of::<Session>() <= 304, "{}", size_of::<Session>());
    assert_eq!(size_of::<Subscriptions>(), 24);
}

#[test]
fn a_record_is_hardly_larger_than_the_message_in_it() {
    // A start moves millions of them about.
    let (record, message) = (size_of::<Record<'_>>(), size_of::<PublishRecord<'_>>());
    assert!(record <= message + 32, "{record} bytes, {message} of them the message");
}
