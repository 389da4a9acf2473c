//! From the first byte of a connection to an accepted CONNECT.
//!
//! Owns the order of packets before CONNACK, the checks of CONNECT that need no session, and what a refused client is
//! told. It never checks a password itself: it asks the edge with [`Step::Verify`] or [`Step::Exchange`] and goes on
//! with [`Handshake::verdict`].

use std::sync::Arc;

use bytes::BytesMut;
use causeway_fleet::{Identity, Mount, MountError, Principal, Vin};
use causeway_protocol::{
    Auth, ConnAck, ConnAckProperties, Connect, DecodeError, Packet, PropertyHolder, ProtocolVersion, ReasonCode,
    check_topic_name, encode,
};

use crate::connection::KeptWill;
use crate::crossing::LINK_WINDOW;
use crate::message::Message;
use crate::{Bound, Limits, Overflow};

/// What the client identifiers of other shards begin with.
const PEER_PREFIX: &str = "$shard/";

/// What a listener accepts as proof of identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HandshakePolicy {
    /// Whether a client without credentials is let in.
    pub anonymous_allowed: bool,
    /// Whether user name and password are checked. Where they are not, a user name is ignored if anonymous clients are
    /// welcome: some SDKs always send one.
    pub password_allowed: bool,
    /// Methods of enhanced authentication on offer, such as `SCRAM-SHA-256`.
    pub methods: Vec<String>,
    /// Whether vehicles can prove who they are somewhere: then client identifiers that begin with a VIN are theirs alone.
    pub vehicle_ids_reserved: bool,
    /// What becomes of messages that the queue of a session from here has no room for.
    pub overflow: Overflow,
}

/// A user name and password to check.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Credentials {
    pub client_id: String,
    pub username: String,
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials {{ client_id: {:?}, username: {:?} }}", self.client_id, self.username)
    }
}

/// What the edge does next.
#[derive(Debug)]
pub enum Step {
    /// Check these, then call [`Handshake::verdict`].
    Verify(Credentials),
    /// The transport has proven who the client is: look whether that still holds, then call [`Handshake::verdict`].
    Confirm {
        /// The client identifier, for the log.
        client_id: String,
    },
    /// Take the next step of this method, then call [`Handshake::verdict`].
    Exchange {
        /// The client identifier, for the log.
        client_id: String,
        /// One of [`HandshakePolicy::methods`].
        method: String,
        /// What the client sent.
        data: Vec<u8>,
    },
    /// Write this and read on.
    Send(BytesMut),
    /// Write this if there is anything, close, and log one line.
    Refuse {
        /// A CONNACK, or nothing where the peer may not even speak MQTT.
        bytes: BytesMut,
        /// What the CONNACK says, in 5.0 terms.
        reason: ReasonCode,
        /// Empty where it is not known.
        client_id: String,
        /// For the log.
        why: String,
        /// The bound that was reached, if it is one.
        bound: Option<Bound>,
    },
    /// Hand the connection to its home shard.
    Accept(Box<ConnectRequest>),
}

/// The edge's answer to [`Step::Verify`], [`Step::Confirm`] and [`Step::Exchange`].
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Proven.
    Allow {
        /// Who it is, and by what right.
        identity: Identity,
        /// Last data of the method; empty for a password.
        data: Vec<u8>,
    },
    /// The method needs another round.
    Continue {
        /// What the client needs for it.
        data: Vec<u8>,
    },
    /// Not proven.
    Deny {
        /// What the client is told.
        reason: ReasonCode,
        /// For the log.
        why: String,
    },
}

/// A CONNECT that may become a connection.
#[derive(Debug)]
pub struct ConnectRequest {
    /// As sent, or as assigned.
    pub client_id: String,
    /// What the client speaks.
    pub version: ProtocolVersion,
    /// Who it is proven to be.
    pub identity: Identity,
    /// The number of the last notice (see [`crate::Shard::notice`]) that was told before the edge began to prove it.
    pub rights_as_of: u64,
    pub(crate) client_id_assigned: bool,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) session_expiry_seconds: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) response_information_wanted: bool,
    pub(crate) problem_information: bool,
    pub(crate) authentication_method: Option<String>,
    pub(crate) authentication_data: Vec<u8>,
    pub(crate) will: Option<Box<KeptWill>>,
    pub(crate) overflow: Overflow,
}

impl ConnectRequest {
    /// The connection of another shard of this broker, whose session never ends.
    pub(crate) fn of_peer(shard: u16) -> ConnectRequest {
        ConnectRequest {
            client_id: format!("{PEER_PREFIX}{shard}"),
            version: ProtocolVersion::V5,
            identity: Principal::Shard(shard).into(),
            rights_as_of: u64::MAX,
            client_id_assigned: false,
            clean_start: false,
            keep_alive_seconds: 0,
            session_expiry_seconds: Some(u32::MAX),
            receive_maximum: LINK_WINDOW,
            packet_bytes_max: u32::MAX,
            topic_alias_maximum: 0,
            response_information_wanted: false,
            problem_information: true,
            authentication_method: None,
            authentication_data: Vec::new(),
            overflow: Overflow::RefuseNew,
            will: None,
        }
    }
}

#[derive(Debug)]
enum State {
    AwaitConnect,
    AwaitVerdict(Box<ConnectRequest>),
    AwaitAuth(Box<ConnectRequest>),
    Done,
}

/// The machine; one for each connection.
#[derive(Debug)]
pub struct Handshake {
    limits: Arc<Limits>,
    policy: HandshakePolicy,
    assigned_client_id: String,
    /// Whether the transport has proven who the client is.
    proven: bool,
    version: Option<ProtocolVersion>,
    problem_information: bool,
    /// Maximum Packet Size of the client.
    packet_bytes_max: u32,
    state: State,
}

impl Handshake {
    /// A machine that waits for CONNECT. `assigned_client_id` is given to a client that sends none: it must be unique
    /// and hard to guess.
    pub fn new(limits: Arc<Limits>, policy: HandshakePolicy, assigned_client_id: String) -> Handshake {
        Handshake {
            limits,
            policy,
            assigned_client_id,
            proven: false,
            version: None,
            problem_information: true,
            packet_bytes_max: u32::MAX,
            state: State::AwaitConnect,
        }
    }

    /// The transport has proven who the client is, by its certificate: user name and password are ignored.
    pub fn proven(mut self) -> Handshake {
        self.proven = true;
        self
    }

    /// What the peer speaks, for decoding its next packet; 5.0 until its CONNECT said.
    pub fn version(&self) -> ProtocolVersion {
        self.version.unwrap_or(ProtocolVersion::V5)
    }

    /// Takes the next packet of the peer.
    pub fn handle(&mut self, packet: &Packet<'_>) -> Step {
        match (std::mem::replace(&mut self.state, State::Done), packet) {
            (State::AwaitConnect, Packet::Connect(connect)) => self.on_connect(connect),
            //= [MQTT-3.1.0-1] the first packet must be CONNECT; whoever sends another is told nothing
            (State::AwaitConnect, _) => self.silent("first packet is not CONNECT", ReasonCode::ProtocolError),
            (State::AwaitAuth(request), Packet::Auth(auth)) => self.on_auth(request, auth),
            (State::AwaitAuth(request), Packet::Disconnect(_)) => {
                self.silent_as(request.client_id, "client gave up authentication", ReasonCode::Success)
            }
            //= [MQTT-3.1.2-30] until CONNACK only AUTH and DISCONNECT may follow
            (State::AwaitAuth(request) | State::AwaitVerdict(request), _) => {
                self.refuse(&request.client_id, ReasonCode::ProtocolError, "packet out of order before CONNACK")
            }
            (State::Done, _) => self.silent("packet after the end of the handshake", ReasonCode::ProtocolError),
        }
    }

    /// The peer's bytes are no packet; `seen` starts at the packet that is not one.
    pub fn malformed(&mut self, error: DecodeError, seen: &[u8]) -> Step {
        let reason = error.reason();
        let client_id = match std::mem::replace(&mut self.state, State::Done) {
            State::AwaitVerdict(request) | State::AwaitAuth(request) => request.client_id,
            State::AwaitConnect | State::Done => String::new(),
        };
        if self.version.is_none() {
            self.version = announced_version(seen, reason);
            // Its properties were not read, so nothing is sent that they might forbid.
            self.problem_information = false;
        }
        //= [MQTT-3.1.4-1] a malformed CONNECT is answered only where it is clear what the peer speaks
        if self.version.is_some() {
            return self.refuse(&client_id, reason, &error.to_string());
        }
        self.silent_as(client_id, &error.to_string(), reason)
    }

    /// Goes on with the edge's answer.
    pub fn verdict(&mut self, verdict: Verdict) -> Step {
        let State::AwaitVerdict(mut request) = std::mem::replace(&mut self.state, State::Done) else {
            return self.silent("verdict nobody asked for", ReasonCode::ImplementationSpecificError);
        };
        match verdict {
            Verdict::Allow { identity, data } => {
                request.identity = identity;
                request.authentication_data = data;
                self.accept(request)
            }
            Verdict::Continue { data } => {
                let mut bytes = BytesMut::new();
                //= [MQTT-4.12.0-2] [MQTT-4.12.0-5] AUTH 0x18 with the method of the CONNECT
                let auth = Packet::Auth(Auth {
                    reason: ReasonCode::ContinueAuthentication,
                    authentication_method: request.authentication_method.as_deref(),
                    authentication_data: Some(&data),
                    ..Auth::default()
                });
                if encode(&auth, ProtocolVersion::V5, &mut bytes).is_err() {
                    return self.refuse(&request.client_id, ReasonCode::UnspecifiedError, "challenge too long");
                }
                if bytes.len() > self.packet_bytes_max as usize {
                    //= [MQTT-3.1.2-24] a challenge the client can't take ends the handshake
                    let why = "the challenge is larger than the client's Maximum Packet Size";
                    return self.refuse(&request.client_id, ReasonCode::PacketTooLarge, why);
                }
                self.state = State::AwaitAuth(request);
                Step::Send(bytes)
            }
            //= [MQTT-4.12.0-1] [MQTT-4.12.0-4] a refused method or proof gets a CONNACK with its reason
            Verdict::Deny { reason, why } => self.refuse(&request.client_id, reason, &why),
        }
    }

    fn on_connect(&mut self, connect: &Connect<'_>) -> Step {
        self.version = Some(connect.version);
        self.problem_information = connect.properties.request_problem_information.unwrap_or(true);
        self.packet_bytes_max = connect.properties.maximum_packet_size_bytes.unwrap_or(u32::MAX);
        if let Err((reason, why)) = check_connect(&self.limits, connect) {
            return self.refuse(connect.client_id, reason, &why);
        }
        let request = Box::new(self.request(connect));
        let client_id = request.client_id.clone();
        if let Some(method) = connect.properties.authentication_method {
            if !self.policy.methods.iter().any(|offered| offered == method) {
                let why = format!("authentication method {method:?} is not on offer");
                return self.refuse(&client_id, ReasonCode::BadAuthenticationMethod, &why);
            }
            let data = connect.properties.authentication_data.unwrap_or_default().to_vec();
            self.state = State::AwaitVerdict(request);
            return Step::Exchange { client_id, method: method.to_owned(), data };
        }
        match connect.username {
            _ if self.proven => {
                self.state = State::AwaitVerdict(request);
                Step::Confirm { client_id }
            }
            // MQTT 5 clients may have a password, such as a token, and no user name.
            username if self.policy.password_allowed && (username.is_some() || connect.password.is_some()) => {
                let username = username.unwrap_or_default().to_owned();
                let password = connect.password.unwrap_or_default().to_vec();
                self.state = State::AwaitVerdict(request);
                Step::Verify(Credentials { client_id, username, password })
            }
            _ if self.policy.anonymous_allowed => self.accept(request),
            _ => {
                self.refuse(&client_id, ReasonCode::NotAuthorized, "no credentials, and anonymous clients are refused")
            }
        }
    }

    /// Lets the client in, where its identifier is one that it may use.
    /// Refuses after all what was accepted: there is no room for such a client now.
    pub fn decline(&mut self, request: &ConnectRequest, reason: ReasonCode, why: &str) -> Step {
        self.refuse(&request.client_id, reason, why)
    }

    fn accept(&mut self, mut request: Box<ConnectRequest>) -> Step {
        if let Err(why) = bind_client_id(&self.policy, &mut request) {
            return self.refuse(&request.client_id, ReasonCode::ClientIdentifierNotValid, &why);
        }
        // Before anything is decided about it: from here on, everybody knows the will by its full name.
        if let (Some(will), Some(mount)) = (&mut request.will, Mount::of(&request.identity.principal))
            && let Err(error) = will.message.mount(mount)
        {
            return self.refuse(&request.client_id, refusal_of_name(error), &format!("will: {error}"));
        }
        Step::Accept(request)
    }

    fn on_auth(&mut self, request: Box<ConnectRequest>, auth: &Auth<'_>) -> Step {
        //= [MQTT-4.12.0-3] [MQTT-4.12.0-5] every AUTH names the same method, and goes on with 0x18
        if auth.reason != ReasonCode::ContinueAuthentication
            || auth.authentication_method != request.authentication_method.as_deref()
        {
            return self.refuse(&request.client_id, ReasonCode::ProtocolError, "AUTH does not continue the exchange");
        }
        let step = Step::Exchange {
            client_id: request.client_id.clone(),
            method: request.authentication_method.clone().unwrap_or_default(),
            data: auth.authentication_data.unwrap_or_default().to_vec(),
        };
        self.state = State::AwaitVerdict(request);
        step
    }

    fn request(&mut self, connect: &Connect<'_>) -> ConnectRequest {
        let properties = &connect.properties;
        let v5 = connect.version == ProtocolVersion::V5;
        let client_id_assigned = connect.client_id.is_empty();
        let session_expiry_seconds = match (v5, connect.clean_start) {
            (true, _) => properties.session_expiry_interval_seconds,
            //= [MQTT-3.1.2-6] a clean 3.x session ends with its connection
            (false, true) => Some(0),
            (false, false) => Some(self.limits.session_expiry_v3_seconds),
        };
        ConnectRequest {
            //= [MQTT-3.1.3-6] [MQTT-3.1.3-7] an empty client identifier is replaced by a unique one
            client_id: if client_id_assigned {
                std::mem::take(&mut self.assigned_client_id)
            } else {
                connect.client_id.to_owned()
            },
            version: connect.version,
            identity: Principal::Anonymous.into(),
            rights_as_of: u64::MAX,
            client_id_assigned,
            clean_start: connect.clean_start,
            keep_alive_seconds: connect.keep_alive_seconds,
            session_expiry_seconds,
            receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
            packet_bytes_max: properties.maximum_packet_size_bytes.unwrap_or(u32::MAX),
            topic_alias_maximum: properties.topic_alias_maximum.unwrap_or(0),
            response_information_wanted: properties.request_response_information.unwrap_or(false),
            problem_information: properties.request_problem_information.unwrap_or(true),
            authentication_method: properties.authentication_method.map(str::to_owned),
            authentication_data: Vec::new(),
            overflow: self.policy.overflow,
            will: connect.will.as_ref().map(|will| {
                Box::new(KeptWill {
                    message: Message::of_will(will),
                    delay_seconds: will.delay_interval_seconds.unwrap_or(0),
                    expiry_seconds: will.message_expiry_interval_seconds,
                })
            }),
        }
    }

    fn refuse(&mut self, client_id: &str, reason: ReasonCode, why: &str) -> Step {
        let reason = reason.fitting(PropertyHolder::ConnAck);
        let mut bytes = BytesMut::new();
        let properties = ConnAckProperties {
            //= [MQTT-3.1.2-29] CONNACK may explain, if the client wants to know
            reason_string: Some(why).filter(|_| self.problem_information),
            ..ConnAckProperties::default()
        };
        //= [MQTT-3.2.2-6] session present is 0 in a refusal
        let mut connack = ConnAck { session_present: false, reason, properties };
        let fits = |bytes: &BytesMut| bytes.len() <= self.packet_bytes_max as usize;
        if encode(&Packet::ConnAck(Box::new(connack.clone())), self.version(), &mut bytes).is_err() || !fits(&bytes) {
            //= [MQTT-3.2.2-19] no reason string that makes the packet larger than the client accepts
            bytes.clear();
            connack.properties.reason_string = None;
            let encoded = encode(&Packet::ConnAck(Box::new(connack)), self.version(), &mut bytes);
            if encoded.is_err() || !fits(&bytes) {
                bytes.clear();
            }
        }
        let bound = match reason {
            ReasonCode::PacketTooLarge => Some(Bound::PacketBytes),
            ReasonCode::ClientIdentifierNotValid if client_id.len() > self.limits.client_id_bytes_max => {
                Some(Bound::ClientIdBytes)
            }
            _ => None,
        };
        Step::Refuse { bytes, reason, client_id: client_id.to_owned(), why: why.to_owned(), bound }
    }

    fn silent(&mut self, why: &str, reason: ReasonCode) -> Step {
        self.silent_as(String::new(), why, reason)
    }

    fn silent_as(&mut self, client_id: String, why: &str, reason: ReasonCode) -> Step {
        Step::Refuse { bytes: BytesMut::new(), reason, client_id, why: why.to_owned(), bound: None }
    }
}

/// What a vehicle is told that names what it can't.
pub(crate) fn refusal_of_name(error: MountError) -> ReasonCode {
    match error {
        MountError::Brokers | MountError::NotItsShadow => ReasonCode::NotAuthorized,
        MountError::TooLong => ReasonCode::TopicNameInvalid,
        MountError::SharedIncomplete => ReasonCode::TopicFilterInvalid,
    }
}

/// A vehicle's identifier is its VIN, or begins with it and a slash; nobody else's does where vehicles can connect.
fn bind_client_id(policy: &HandshakePolicy, request: &mut ConnectRequest) -> Result<(), String> {
    if request.client_id.starts_with(PEER_PREFIX) {
        return Err("client identifiers that begin with $shard/ belong to the broker".to_owned());
    }
    let owner = vehicle_of_client(&request.client_id);
    match &request.identity.principal {
        Principal::Vehicle(vin) if request.client_id_assigned => {
            request.client_id = format!("{vin}/{}", request.client_id);
            Ok(())
        }
        Principal::Vehicle(vin) if owner.as_ref() == Some(vin) => Ok(()),
        Principal::Vehicle(vin) => {
            Err(format!("the client identifier of vehicle {vin} is {vin} or {vin}/..., nothing else"))
        }
        _ if policy.vehicle_ids_reserved && owner.is_some() => {
            Err("client identifiers that begin with a VIN belong to vehicles".to_owned())
        }
        _ => Ok(()),
    }
}

/// The vehicle that a client identifier names: `{VIN}`, or `{VIN}/{suffix}` for one of several clients in one vehicle.
pub fn vehicle_of_client(client_id: &str) -> Option<Vin> {
    let (vin, suffix) = client_id.split_once('/').map_or((client_id, None), |(vin, suffix)| (vin, Some(suffix)));
    vin.parse().ok().filter(|_| suffix != Some(""))
}

/// What can be wrong with a well-formed CONNECT whoever sends it.
fn check_connect(limits: &Limits, connect: &Connect<'_>) -> Result<(), (ReasonCode, String)> {
    let refuse = |reason, why: &str| Err((reason, why.to_owned()));
    if connect.client_id.len() > limits.client_id_bytes_max {
        return refuse(ReasonCode::ClientIdentifierNotValid, "client identifier is too long");
    }
    //= [MQTT-3.1.3-8] MQTT 3 gives an identifier only to a clean session; 3.1 never does
    let may_be_empty = match connect.version {
        ProtocolVersion::V5 => true,
        ProtocolVersion::V311 => connect.clean_start,
        ProtocolVersion::V31 => false,
    };
    if connect.client_id.is_empty() && !may_be_empty {
        return refuse(ReasonCode::ClientIdentifierNotValid, "client identifier is empty");
    }
    let Some(will) = &connect.will else {
        return Ok(());
    };
    //= [MQTT-3.2.2-12] a will above the Maximum QoS is refused
    if will.qos > limits.maximum_qos {
        return refuse(ReasonCode::QoSNotSupported, "QoS of the will is above the maximum");
    }
    //= [MQTT-3.2.2-13] a retained will where retained messages are not on offer is refused
    if will.retain && !limits.retain_available {
        return refuse(ReasonCode::RetainNotSupported, "retained messages are not on offer");
    }
    if let Err(error) = check_topic_name(will.topic, limits.topic_levels_max) {
        return Err((ReasonCode::TopicNameInvalid, format!("will: {error}")));
    }
    Ok(())
}

/// What a packet that failed to decode says it speaks, if it is recognisably a CONNECT.
fn announced_version(seen: &[u8], reason: ReasonCode) -> Option<ProtocolVersion> {
    let (&first, rest) = seen.split_first()?;
    let length_bytes = 1 + rest.iter().take(3).take_while(|byte| **byte & 0x80 != 0).count();
    let body = rest.get(length_bytes..)?;
    let level = match body {
        [0, 4, b'M', b'Q', b'T', b'T', level, ..] | [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', level, ..] => *level,
        _ => return None,
    };
    if first >> 4 != 1 {
        return None;
    }
    match level {
        5 => Some(ProtocolVersion::V5),
        //= [MQTT-3.1.2-2] a level nobody knows is told so, in 5.0 if it is above and in 3.1.1 if it is below
        _ if reason != ReasonCode::UnsupportedProtocolVersion => None,
        6.. => Some(ProtocolVersion::V5),
        _ => Some(ProtocolVersion::V311),
    }
}
