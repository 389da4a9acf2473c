//! AUTH on a connection that is open: the client proves again who it is.
//!
//! Owns the order of packets (MQTT 5.0 section 4.12.1). The method's own steps are the edge's.

use causeway_protocol::{Auth, Packet, ReasonCode};

use super::Shard;
use crate::effect::Effect;
use crate::handshake::Verdict;
use crate::{ConnectionId, Millis};

impl Shard {
    pub(super) fn on_auth(&mut self, now: Millis, id: ConnectionId, auth: &Auth<'_>) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let continues = match auth.reason {
            ReasonCode::ReAuthenticate => false,
            ReasonCode::ContinueAuthentication => true,
            _ => return self.protocol_error(now, id, "AUTH with a reason only a server may give"),
        };
        //= [MQTT-4.12.0-7] without a method in CONNECT there is no AUTH
        let Some(method) = connection.authentication_method.clone() else {
            return self.protocol_error(now, id, "AUTH where CONNECT named no authentication method");
        };
        //= [MQTT-4.12.1-1] the method is the one of the CONNECT
        if auth.authentication_method != Some(method.as_str()) {
            return self.protocol_error(now, id, "AUTH with another method than CONNECT");
        }
        if continues != connection.reauthenticating {
            return self.protocol_error(now, id, "AUTH out of order");
        }
        connection.reauthenticating = true;
        let data = auth.authentication_data.unwrap_or_default().to_vec();
        self.effects.push_back(Effect::Reauthenticate { connection: id, method, data });
    }

    /// Goes on with the edge's answer to [`Effect::Reauthenticate`].
    pub fn reauthenticated(&mut self, now: Millis, id: ConnectionId, verdict: Verdict) {
        let Some(connection) = self.open_connection(id) else {
            return;
        };
        let Some(method) = connection.authentication_method.clone() else {
            return;
        };
        let (reason, data) = match verdict {
            Verdict::Continue { data } => (ReasonCode::ContinueAuthentication, data),
            Verdict::Allow { identity, data } if identity.principal == connection.identity.principal => {
                connection.reauthenticating = false;
                self.extend_authority(id, identity);
                (ReasonCode::Success, data)
            }
            Verdict::Allow { identity, .. } => {
                let why = format!("re-authentication as {}, who is somebody else", identity.principal);
                return self.disconnect(now, id, ReasonCode::NotAuthorized, &why);
            }
            //= [MQTT-4.12.1-2] a failed re-authentication ends the connection
            Verdict::Deny { reason, why } => return self.disconnect(now, id, reason, &why),
        };
        let auth = Auth {
            reason,
            authentication_method: Some(&method),
            authentication_data: Some(data.as_slice()).filter(|data| !data.is_empty()),
            ..Auth::default()
        };
        self.write(id, Packet::Auth(auth));
    }
}
