//! Enrolment tokens: with one, a vehicle gets its first certificate, once.
//!
//! Owns their making and their use. Of a token only a hash is kept: it is shown when it is made, and never again.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use causeway_fleet::Vin;
use ring::digest::{SHA256, digest};

use super::codec::{self, Read, Reader, Writer, key, kind, name_of};
use super::vehicle::State;
use super::{Registry, RegistryError, vehicles};
use crate::auth::hashing::random;

/// The longest that a token may be good for, in milliseconds: 90 days.
const LIFETIME_MS_MAX: u64 = 90 * 24 * 60 * 60 * 1000;
/// Said to whoever shows a token that is of no use. Which of them it is, is nobody's business.
const OF_NO_USE: &str = "the enrolment token is unknown, used or expired";

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The secret: `VIN.RANDOM`.
    pub token: String,
    /// When it ends.
    pub expires_ms: u64,
}

/// What is kept of a token. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    hash: [u8; 32],
    /// When it was made.
    pub made_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
    /// When it was used.
    pub used_ms: Option<u64>,
}

impl EnrolmentToken {
    fn encode(&self) -> Vec<u8> {
        let writer = Writer::new().bytes(&self.hash).number(self.made_ms).number(self.expires_ms);
        writer.number(self.used_ms.unwrap_or(0)).done()
    }

    fn decode(value: &[u8]) -> Read<EnrolmentToken> {
        let mut reader = Reader::new(value)?;
        let (hash, made_ms, expires_ms) = (reader.array()?, reader.number()?, reader.number()?);
        let used_ms = Some(reader.number()?).filter(|time| *time != 0);
        reader.end()?;
        Ok(EnrolmentToken { hash, made_ms, expires_ms, used_ms })
    }

    fn is_good(&self, text: &str, now_ms: u64) -> bool {
        // Hashes are compared: how long that takes says nothing about the token.
        self.used_ms.is_none() && now_ms < self.expires_ms && self.hash == hash(text)
    }
}

impl Registry {
    /// Makes a token for a vehicle, in the place of the one it may have.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`]; [`RegistryError::Conflict`] for a vehicle that is suspended or retired; [`RegistryError::Invalid`] for a
    /// lifetime of nothing or more than 90 days; [`RegistryError::Storage`].
    pub fn issue_token(&self, vin: &Vin, lifetime_ms: u64, now_ms: u64) -> Result<IssuedToken, RegistryError> {
        if lifetime_ms == 0 || lifetime_ms > LIFETIME_MS_MAX {
            return Err(RegistryError::Invalid(
                "an enrolment token is good for more than nothing, and 90 days at most".to_owned(),
            ));
        }
        let secret = random::<32>().map_err(RegistryError::Limit)?;
        let token = format!("{vin}.{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
        let expires_ms = now_ms.saturating_add(lifetime_ms);
        let kept = EnrolmentToken { hash: hash(&token), made_ms: now_ms, expires_ms, used_ms: None };
        self.write(|staged| {
            let vehicle = vehicles::get(staged, vin)?;
            let vehicle = vehicle.ok_or_else(|| RegistryError::Unknown(format!("{vin} is not in the registry")))?;
            if !may_enrol(vehicle.state) {
                return Err(RegistryError::Conflict(format!("{vin} is {}, and may not enrol", vehicle.state)));
            }
            staged.put(key(kind::TOKEN, vin.as_str()), kept.encode());
            Ok(())
        })?;
        Ok(IssuedToken { token, expires_ms })
    }

    /// The token that a vehicle has, or had last.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`], [`RegistryError::Storage`].
    pub fn token(&self, vin: &Vin) -> Result<Option<EnrolmentToken>, RegistryError> {
        let key = key(kind::TOKEN, vin.as_str());
        let token = self.map.get(&key)?.map(|value| EnrolmentToken::decode(&value)).transpose();
        token.map_err(|detail| RegistryError::damaged(&key, detail))
    }

    /// The vehicle that a token is for, where it is good now.
    ///
    /// # Errors
    /// [`RegistryError::Refused`]; [`RegistryError::Damaged`], [`RegistryError::Storage`].
    pub fn check_token(&self, token: &str, now_ms: u64) -> Result<Vin, RegistryError> {
        let vin = vin_of(token)?;
        let may = self.standing(&vin).is_some_and(|standing| may_enrol(standing.state));
        match self.token(&vin)? {
            Some(kept) if may && kept.is_good(token, now_ms) => Ok(vin),
            _ => Err(RegistryError::Refused(OF_NO_USE)),
        }
    }

    /// Uses a token: from then on it is of no use. Of two who try at the same time, one succeeds.
    ///
    /// # Errors
    /// As [`check_token`](Registry::check_token).
    pub fn redeem_token(&self, token: &str, now_ms: u64) -> Result<Vin, RegistryError> {
        let vin = vin_of(token)?;
        self.write(|staged| {
            self.check_token(token, now_ms)?;
            let key = key(kind::TOKEN, vin.as_str());
            let kept = staged.read(&key)?.ok_or(RegistryError::Refused(OF_NO_USE))?;
            let kept = EnrolmentToken::decode(&kept).map_err(|detail| RegistryError::damaged(&key, detail))?;
            staged.put(key, EnrolmentToken { used_ms: Some(now_ms), ..kept }.encode());
            Ok(vin)
        })
    }
}

/// A vehicle that is active may enrol anew: its unit was replaced.
fn may_enrol(state: State) -> bool {
    matches!(state, State::Provisioned | State::Active)
}

fn vin_of(token: &str) -> Result<Vin, RegistryError> {
    let vin = token.split_once('.').and_then(|(vin, _)| vin.parse().ok());
    vin.ok_or(RegistryError::Refused(OF_NO_USE))
}

fn hash(text: &str) -> [u8; 32] {
    digest(&SHA256, text.as_bytes()).as_ref().try_into().unwrap_or_default()
}

/// Looks whether what stands in the file makes sense.
pub(super) fn load(key: &[u8], value: &[u8]) -> Read<()> {
    codec::vin(name_of(key, None).unwrap_or_default())?;
    EnrolmentToken::decode(value).map(drop)
}
