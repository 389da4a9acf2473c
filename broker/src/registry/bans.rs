//! Bans: who is not let in for a while, or for good.
//!
//! Owns their number and their end. Whom a subject names is the front door's to know.

use std::net::IpAddr;
use std::sync::Arc;

use super::codec::{Read, Reader, Writer, key, kind, name_of};
use super::index::Effect;
use super::subject::Subject;
use super::{Changed, Listed, Page, Registry, RegistryError, Staged};

/// Every one takes memory, and those of networks are looked at one by one.
const BANS_MAX: usize = 100_000;

/// A ban. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// When it ends. None: never.
    pub until_ms: Option<u64>,
    /// When it was made.
    pub made_ms: u64,
    /// Why, for people.
    pub why: Arc<str>,
}

impl Ban {
    /// What somebody is told who is banned.
    pub fn told(&self, subject: &Subject) -> String {
        if self.why.is_empty() { format!("{subject} is banned") } else { format!("{subject} is banned: {}", self.why) }
    }

    pub(super) fn stands(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| now_ms < until)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        Writer::new().number(self.until_ms.unwrap_or(0)).number(self.made_ms).text(&self.why).done()
    }

    pub(super) fn decode(value: &[u8]) -> Read<Ban> {
        let mut reader = Reader::new(value)?;
        let (until, made_ms, why) = (reader.number()?, reader.number()?, reader.text()?.into());
        reader.end()?;
        Ok(Ban { until_ms: (until != 0).then_some(until), made_ms, why })
    }
}

impl Registry {
    /// Whether a subject is banned now; the ban. Asks memory only, never the disk.
    pub fn is_banned(&self, subject: &Subject, now_ms: u64) -> Option<Ban> {
        self.index().ban(subject, now_ms).cloned()
    }

    /// Whether an address is banned now, itself or with a network; the ban.
    pub fn is_address_banned(&self, address: IpAddr, now_ms: u64) -> Option<Ban> {
        self.index().address_ban(address, now_ms).cloned()
    }

    /// Bans a subject, in place of the ban it may have.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] where it would end at once, [`RegistryError::Limit`], [`RegistryError::Storage`].
    pub fn ban(&self, subject: &Subject, until_ms: Option<u64>, why: &str, now_ms: u64) -> Result<Ban, RegistryError> {
        super::check_text("the reason", why)?;
        if until_ms.is_some_and(|until| until <= now_ms) {
            return Err(RegistryError::Invalid("the ban would end before it begins".to_owned()));
        }
        let ban = Ban { until_ms, made_ms: now_ms, why: why.into() };
        self.write(|staged| {
            self.drop_ended(staged, now_ms);
            if self.index().bans() >= BANS_MAX && staged.read(&ban_key(subject))?.is_none() {
                return Err(RegistryError::Limit(format!("there are {BANS_MAX} bans already")));
            }
            staged.put(ban_key(subject), ban.encode());
            staged.effect(Effect::Ban(subject.clone(), Some(ban.clone())));
            staged.tell(Changed::Banned(subject.clone(), ban.clone()));
            Ok(())
        })?;
        Ok(ban)
    }

    /// Ends a ban.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] where there is none, [`RegistryError::Storage`].
    pub fn unban(&self, subject: &Subject, now_ms: u64) -> Result<(), RegistryError> {
        self.write(|staged| {
            let ban = staged.read(&ban_key(subject))?.map(|value| Ban::decode(&value));
            if !ban.is_some_and(|ban| ban.is_ok_and(|ban| ban.stands(now_ms))) {
                return Err(RegistryError::Unknown(format!("there is no ban of {subject}")));
            }
            self.drop_ended(staged, now_ms);
            staged.remove(ban_key(subject));
            staged.effect(Effect::Ban(subject.clone(), None));
            staged.tell(Changed::Unbanned(subject.clone()));
            Ok(())
        })
    }

    /// The bans that stand, in order; and whether more may follow.
    ///
    /// # Errors
    /// [`RegistryError::Storage`], [`RegistryError::Damaged`].
    pub fn bans(&self, page: &Page, now_ms: u64) -> Result<Listed<(Subject, Ban)>, RegistryError> {
        self.page(kind::BAN, None, page, |name, value| {
            let ban = Ban::decode(value)?;
            let subject = name.parse().map_err(|_| "its subject is none")?;
            Ok(ban.stands(now_ms).then_some((subject, ban)))
        })
    }

    /// Nobody asks for those again.
    fn drop_ended(&self, staged: &mut Staged<'_>, now_ms: u64) {
        for subject in self.index().ended_bans(now_ms) {
            staged.remove(ban_key(&subject));
            staged.effect(Effect::Ban(subject, None));
        }
    }
}

fn ban_key(subject: &Subject) -> Vec<u8> {
    key(kind::BAN, &subject.to_string())
}

/// What stands in the file, for the index.
pub(super) fn load(key: &[u8], value: &[u8]) -> Read<Effect> {
    let subject = name_of(key, None).and_then(|name| name.parse().ok()).ok_or("its subject is none")?;
    Ok(Effect::Ban(subject, Some(Ban::decode(value)?)))
}
