//! What is worth a line of the audit log.
//!
//! Owns the words. Whether it happened, and why, is decided where it happens.

use std::net::SocketAddr;

use causeway_core::{Event, EventLevel};
use causeway_protocol::ReasonCode;

/// What happened. The word in the line is [`What::word`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// The broker serves from now on.
    Start,
    /// The broker was told to stop.
    Stop,
    /// A client wanted to connect.
    Connect,
    /// The broker ended a connection for want of rights.
    Disconnect,
    /// A message was to be published.
    Publish,
    /// A filter was to be subscribed to.
    Subscribe,
    /// A message was to be sent to a client.
    Receive,
    /// A will was to be left.
    Will,
    /// Rights were taken away.
    Revoke,
    /// Somebody is not let in for a while.
    Ban,
    /// A ban was taken back.
    Unban,
    /// The registry of vehicles was changed.
    Registry,
    /// A shadow was changed by somebody who is no MQTT client.
    Shadow,
    /// Something that is done to many vehicles.
    Job,
    /// A command was sent by somebody who is no MQTT client.
    Command,
    /// A certificate was asked for.
    Enrol,
    /// The policy was read again.
    Policy,
    /// Certificates and revocation lists were read again.
    Certificates,
    /// The password file or keys were read again.
    Credentials,
    /// Events had no room here, or the disk failed: so many are not in the log.
    Lost,
    /// A crash left something that is no line: see [`super::Torn`].
    Torn,
    /// A file was begun.
    Rotate,
}

impl What {
    /// All of them.
    pub const ALL: [What; 22] = [
        What::Start,
        What::Stop,
        What::Connect,
        What::Disconnect,
        What::Publish,
        What::Subscribe,
        What::Receive,
        What::Will,
        What::Revoke,
        What::Ban,
        What::Unban,
        What::Registry,
        What::Shadow,
        What::Job,
        What::Command,
        What::Enrol,
        What::Policy,
        What::Certificates,
        What::Credentials,
        What::Lost,
        What::Torn,
        What::Rotate,
    ];

    /// One word for the line.
    pub const fn word(self) -> &'static str {
        match self {
            What::Start => "start",
            What::Stop => "stop",
            What::Connect => "connect",
            What::Disconnect => "disconnect",
            What::Publish => "publish",
            What::Subscribe => "subscribe",
            What::Receive => "receive",
            What::Will => "will",
            What::Revoke => "revoke",
            What::Ban => "ban",
            What::Unban => "unban",
            What::Registry => "registry",
            What::Shadow => "shadow",
            What::Job => "job",
            What::Command => "command",
            What::Enrol => "enrol",
            What::Policy => "policy",
            What::Certificates => "certificates",
            What::Credentials => "credentials",
            What::Lost => "lost",
            What::Torn => "torn",
            What::Rotate => "rotate",
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It was allowed, and happened.
    Allow,
    /// It was refused.
    Deny,
    /// Nobody had to decide.
    Note,
    /// It was allowed, and did not succeed.
    Fail,
}

impl Decision {
    /// One word for the line.
    pub const fn word(self) -> &'static str {
        match self {
            Decision::Allow => "allow",
            Decision::Deny => "deny",
            Decision::Note => "note",
            Decision::Fail => "fail",
        }
    }
}

/// One event. Texts of any length and content are welcome: they are cut and escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// What happened.
    pub what: What,
    /// What became of it.
    pub decision: Decision,
    /// The principal, such as `vehicle:VIN` or `operator:NAME`; empty where nobody has been proven.
    pub who: String,
    /// The client identifier; empty where there is none.
    pub client: String,
    /// Where from.
    pub peer: Option<SocketAddr>,
    /// What the client was told.
    pub reason: Option<ReasonCode>,
    /// The rule of the policy, or the limit, that decided; empty where none did.
    pub rule: String,
    /// For people; may be empty.
    pub detail: String,
    /// How many of these there were, at least 1.
    pub count: u64,
}

impl AuditEvent {
    /// One of nobody in particular, to be completed.
    pub fn new(what: What, decision: Decision, detail: impl Into<String>) -> AuditEvent {
        let (who, client, rule) = Default::default();
        AuditEvent { what, decision, who, client, peer: None, reason: None, rule, detail: detail.into(), count: 1 }
    }

    /// What a shard tells, where it is about rights.
    pub(crate) fn of_shard(event: &Event, peer: Option<SocketAddr>) -> Option<AuditEvent> {
        if event.level != EventLevel::Warn {
            return None;
        }
        let of_rights = event.reason.is_some_and(is_of_rights);
        let what = match event.what {
            "refused connection" if event.detail.starts_with("will: ") => What::Will,
            "refused connection" => What::Connect,
            "refused publish" if of_rights => What::Publish,
            "refused subscription" if of_rights => What::Subscribe,
            "subscription ended: not authorised" => What::Subscribe,
            "refused delivery" => What::Receive,
            "will not left: not authorised" => What::Will,
            // Clients of MQTT 3.x can be told in no other way.
            "disconnected client" if of_rights && event.detail.starts_with("publish refused: ") => What::Publish,
            "disconnected client" if of_rights => What::Disconnect,
            _ => return None,
        };
        Some(AuditEvent {
            who: event.principal.clone(),
            client: event.client.clone(),
            peer,
            reason: event.reason,
            rule: rule_of(&event.detail),
            ..AuditEvent::new(what, Decision::Deny, event.detail.clone())
        })
    }
}

/// The rule that decided, as `ROLE/RULE`. It is named behind the topic, whose quotes are escaped: no topic is taken for one.
fn rule_of(detail: &str) -> String {
    let why = detail.rsplit_once("\": ").map_or(detail, |(_, why)| why);
    let mut quoted = why.split("rule \"").nth(1).into_iter().flat_map(|rest| rest.split('"'));
    match (quoted.next(), quoted.next(), quoted.next()) {
        (Some(rule), Some(" of role "), Some(role)) => format!("{role}/{rule}"),
        _ => String::new(),
    }
}

/// Whether a client is told this because of who it is.
fn is_of_rights(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::NotAuthorized
            | ReasonCode::AdministrativeAction
            | ReasonCode::Banned
            | ReasonCode::BadUserNameOrPassword
            | ReasonCode::BadAuthenticationMethod
            | ReasonCode::ConnectionRateExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_the_one_that_decided_whatever_the_topic_says() {
        for (topic, why, rule) in [
            ("a", "denied by rule \"x\" of role \"y\"", "y/x"),
            ("a", "rule \"x\" of role \"y\" allows it up to QoS 1", "y/x"),
            ("a", "no rule allows it to publish", ""),
            ("rule \"a\" of role \"b\"", "no rule allows it to publish", ""),
            ("\": rule \"a\" of role \"b\"", "no rule allows it to publish", ""),
            ("rule ", "no rule allows it to publish", ""),
        ] {
            assert_eq!(rule_of(&format!("{topic:?}: {why}")), rule, "{topic:?}");
            assert_eq!(rule_of(&format!("publish refused: {topic:?}: {why}")), rule, "{topic:?}");
        }
        assert_eq!(rule_of("will: denied by rule \"x\" of role \"y\""), "y/x");
    }
}
