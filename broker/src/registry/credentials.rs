//! Credentials: what was issued to whom, and what is revoked.
//!
//! Owns their states. It never sees a key; a credential is known by its name, such as `x509:SERIAL@ISSUER`.

use causeway_fleet::Principal;

use super::codec::{Read, Reader, Writer, key, kind, name_of, pair_key};
use super::index::Effect;
use super::vehicle::State;
use super::{BULK_MAX, Changed, Listed, Page, Registry, RegistryError, check_text, vehicles};

/// Bytes of the longest name.
const NAME_BYTES_MAX: usize = 256;

/// A credential. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// As in [`causeway_fleet::Identity::credential`].
    pub name: String,
    /// Whose it is, as a principal prints. Empty where it was revoked without ever having been issued here.
    pub principal: String,
    /// Whether it is of no use any more.
    pub revoked: bool,
    /// When it ends by itself.
    pub not_after_ms: Option<u64>,
    /// When it was issued, or first heard of.
    pub made_ms: u64,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
    /// Why it was revoked, for people.
    pub why: String,
}

impl Credential {
    fn encode(&self) -> Vec<u8> {
        let Credential { principal, revoked, not_after_ms, made_ms, revoked_ms, why, .. } = self;
        let writer = Writer::new().byte(u8::from(*revoked)).number(not_after_ms.unwrap_or(0)).number(*made_ms);
        writer.number(revoked_ms.unwrap_or(0)).text(principal).text(why).done()
    }

    fn decode(name: &str, value: &[u8]) -> Read<Credential> {
        let mut reader = Reader::new(value)?;
        let revoked = match reader.byte()? {
            0 => false,
            1 => true,
            _ => return Err("it has a state that is none"),
        };
        let mut time = || Read::Ok(Some(reader.number()?).filter(|time| *time != 0));
        let (not_after_ms, made_ms, revoked_ms) = (time()?, time()?.unwrap_or(0), time()?);
        let (principal, why) = (reader.text()?.to_owned(), reader.text()?.to_owned());
        reader.end()?;
        Ok(Credential { name: name.to_owned(), principal, revoked, not_after_ms, made_ms, revoked_ms, why })
    }
}

impl Registry {
    /// Whether a credential is revoked. Asks memory only, never the disk.
    pub fn is_revoked(&self, credential: &str) -> bool {
        self.index().is_revoked(credential)
    }

    /// Notes that a credential was issued. A provisioned vehicle becomes active with it.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] where it is known, or its vehicle is suspended or retired; [`RegistryError::Invalid`],
    /// [`RegistryError::Storage`].
    pub fn issued(
        &self,
        credential: &str,
        principal: &Principal,
        not_after_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<(), RegistryError> {
        check_name(credential)?;
        self.write(|staged| {
            if staged.read(&key(kind::CREDENTIAL, credential))?.is_some() {
                return Err(RegistryError::Conflict(format!("the credential {credential:?} is known already")));
            }
            let vehicle = principal.vin().map(|vin| vehicles::get(staged, vin)).transpose()?.flatten();
            if let Some(vehicle) = vehicle {
                match vehicle.state {
                    State::Active => {}
                    State::Provisioned => {
                        let active = super::Vehicle { state: State::Active, changed_ms: now_ms, ..vehicle.clone() };
                        vehicles::put(staged, Some(&vehicle), active);
                    }
                    State::Suspended | State::Retired => {
                        return Err(RegistryError::Conflict(format!("{} is {}", vehicle.vin, vehicle.state)));
                    }
                }
            }
            let (name, principal, why) = (credential.to_owned(), principal.to_string(), String::new());
            staged.put(pair_key(kind::HOLDER, &principal, &name), Vec::new());
            let (revoked, revoked_ms, made_ms) = (false, None, now_ms);
            let credential = Credential { name, principal, revoked, not_after_ms, made_ms, revoked_ms, why };
            staged.put(key(kind::CREDENTIAL, &credential.name), credential.encode());
            Ok(())
        })
    }

    /// Revokes credentials, all or none, known or not: those of an outside authority are not known here. That cannot be undone.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`], [`RegistryError::Limit`], [`RegistryError::Storage`].
    pub fn revoke(&self, credentials: &[&str], why: &str, now_ms: u64) -> Result<(), RegistryError> {
        check_text("the reason", why)?;
        if credentials.len() > BULK_MAX {
            return Err(RegistryError::Limit(format!("no more than {BULK_MAX} credentials can be revoked at once")));
        }
        credentials.iter().try_for_each(|name| check_name(name))?;
        self.write(|staged| {
            let mut revoked = Vec::new();
            for &name in credentials {
                let key = key(kind::CREDENTIAL, name);
                let known = staged.read(&key)?.map(|value| Credential::decode(name, &value)).transpose();
                let known = known.map_err(|detail| RegistryError::damaged(&key, detail))?;
                if known.as_ref().is_some_and(|known| known.revoked) {
                    continue;
                }
                let new = || Credential {
                    name: name.to_owned(),
                    principal: String::new(),
                    revoked: true,
                    not_after_ms: None,
                    made_ms: now_ms,
                    revoked_ms: None,
                    why: String::new(),
                };
                let credential = known.unwrap_or_else(new);
                let credential =
                    Credential { revoked: true, revoked_ms: Some(now_ms), why: why.to_owned(), ..credential };
                staged.put(key, credential.encode());
                staged.effect(Effect::Credential(name.into(), true));
                revoked.push(name.into());
            }
            if !revoked.is_empty() {
                staged.tell(Changed::Revoked(revoked));
            }
            Ok(())
        })
    }

    /// A credential.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Damaged`], [`RegistryError::Storage`].
    pub fn credential(&self, name: &str) -> Result<Credential, RegistryError> {
        let key = key(kind::CREDENTIAL, name);
        let unknown = || RegistryError::Unknown(format!("there is no credential {name:?}"));
        let value = self.map.get(&key)?.ok_or_else(unknown)?;
        Credential::decode(name, &value).map_err(|detail| RegistryError::damaged(&key, detail))
    }

    /// Credentials in the order of their names, and the name to go on behind: of somebody, or of all.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`], [`RegistryError::Storage`].
    pub fn credentials(&self, principal: Option<&str>, page: &Page) -> Result<Listed<Credential>, RegistryError> {
        let Some(principal) = principal else {
            return self.page(kind::CREDENTIAL, None, page, |name, value| Credential::decode(name, value).map(Some));
        };
        let (names, next) = self.page(kind::HOLDER, Some(principal), page, |name, _| Ok(Some(name.to_owned())))?;
        let credentials = names.iter().map(|name| self.credential(name));
        Ok((credentials.collect::<Result<_, _>>()?, next))
    }
}

fn check_name(name: &str) -> Result<(), RegistryError> {
    match !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.contains(':') && !name.contains(char::is_control) {
        true => Ok(()),
        false => Err(RegistryError::Invalid(format!("{name:?} is no credential, such as x509:SERIAL@ISSUER"))),
    }
}

/// What stands in the file, for the index.
pub(super) fn load(key: &[u8], value: &[u8]) -> Read<Option<Effect>> {
    let name = name_of(key, None).ok_or("its key is not UTF-8")?;
    let credential = Credential::decode(name, value)?;
    Ok(credential.revoked.then(|| Effect::Credential(name.into(), true)))
}
