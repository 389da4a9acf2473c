//! Owns the list of all sections. Every test lives in the file of the section whose statements it judges.

use crate::registry::Section;

pub mod common;
pub mod flows;
pub mod restart;
pub mod restart_messages;
pub mod s1_data;
pub mod s2_format;
pub mod s3_01_connect;
pub mod s3_01_malformed;
pub mod s3_01_will;
pub mod s3_02_connack;
pub mod s3_03_alias;
pub mod s3_03_delivery;
pub mod s3_03_properties;
pub mod s3_03_publish;
pub mod s3_03_retain;
pub mod s3_04_acks;
pub mod s3_08_subscribe;
pub mod s3_10_unsubscribe;
pub mod s3_12_ping;
pub mod s3_14_disconnect;
pub mod s3_15_auth;
pub mod s4_flow;
pub mod s4_operation;
pub mod s4_qos;
pub mod s4_shared;
pub mod s4_topics;
pub mod s6_websocket;
pub mod v311;
pub mod v311_connect;
pub mod v311_mixed;

/// All sections, in the order of the specification.
pub const SECTIONS: &[Section] = &[
    s1_data::SECTION,
    s2_format::SECTION,
    s3_01_connect::SECTION,
    s3_01_malformed::SECTION,
    s3_01_will::SECTION,
    s3_02_connack::SECTION,
    s3_03_publish::SECTION,
    s3_03_retain::SECTION,
    s3_03_properties::SECTION,
    s3_03_alias::SECTION,
    s3_03_delivery::SECTION,
    s3_04_acks::SECTION,
    s3_08_subscribe::SECTION,
    s3_10_unsubscribe::SECTION,
    s3_12_ping::SECTION,
    s3_14_disconnect::SECTION,
    s3_15_auth::SECTION,
    s4_operation::SECTION,
    s4_qos::SECTION,
    s4_topics::SECTION,
    s4_shared::SECTION,
    s4_flow::SECTION,
    s6_websocket::SECTION,
    v311_connect::SECTION,
    v311::SECTION,
    v311_mixed::SECTION,
    restart::STOPPED,
    restart::KILLED,
];
