//! Who has to wait, and who is not let in at all: limits by what somebody is.
//!
//! Owns rates, flapping and the question whether somebody is banned. It proves nobody, and never delays a message by itself: the front
//! door asks before a client is let in, and a shard before it reads from one that is limited.

mod bucket;
mod reading;
mod recent;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use std::net::IpAddr;

use causeway_core::ConnectRequest;
use causeway_fleet::Principal;
use causeway_protocol::ReasonCode;

use crate::audit::{Audit, AuditEvent, Decision, What};
use crate::config::{ClassLimits, LimitSettings};
use crate::registry::{Ban, Registry, Subject};
use crate::server::EdgeCounters;
use bucket::{Bucket, Rate};
use recent::{Often, Recent, Said};

pub(crate) use reading::Allowances;

/// What limits are by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Vehicle,
    Service,
    Operator,
    Anonymous,
}

impl Class {
    pub(crate) const ALL: [Class; 4] = [Class::Vehicle, Class::Service, Class::Operator, Class::Anonymous];

    pub(crate) fn of(principal: &Principal) -> Class {
        match principal {
            Principal::Vehicle(_) => Class::Vehicle,
            // Shards never come in by the door.
            Principal::Service(_) | Principal::Shard(_) => Class::Service,
            Principal::Operator(_) => Class::Operator,
            Principal::Anonymous => Class::Anonymous,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Class::Vehicle => "vehicle",
            Class::Service => "service",
            Class::Operator => "operator",
            Class::Anonymous => "anonymous",
        }
    }

    pub(crate) fn limits(self, limits: &LimitSettings) -> &ClassLimits {
        match self {
            Class::Vehicle => &limits.vehicle,
            Class::Service => &limits.service,
            Class::Operator => &limits.operator,
            Class::Anonymous => &limits.anonymous,
        }
    }

    /// Whether it goes before vehicles and strangers where a shard has more arrivals than it takes.
    pub(crate) fn goes_first(self) -> bool {
        matches!(self, Class::Service | Class::Operator)
    }
}

/// Why somebody is not let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: ReasonCode,
    pub(crate) why: String,
}

/// See the module.
pub(crate) struct Turnstile {
    registry: Arc<Registry>,
    audit: Audit,
    counters: Arc<EdgeCounters>,
    /// In the order of [`Class::ALL`].
    classes: [Option<Rate>; 4],
    often: [Often; 4],
    state: Mutex<State>,
}

struct State {
    classes: [Option<Bucket>; 4],
    recent: [Recent; 4],
}

impl Turnstile {
    pub(crate) fn new(
        limits: &LimitSettings,
        registry: Arc<Registry>,
        audit: Audit,
        counters: Arc<EdgeCounters>,
    ) -> Turnstile {
        let of = |class: Class| class.limits(limits);
        let classes =
            Class::ALL.map(|class| Rate::per_second(of(class).connects_per_second.into(), of(class).burst_seconds));
        let often = Class::ALL.map(|class| Often {
            rate: Rate::per_minute(of(class).own_connects_per_minute),
            flapping_connects: of(class).flapping_connects as usize,
            flapping_window_ms: u64::from(of(class).flapping_window_seconds) * 1000,
            ban_ms: u64::from(of(class).flapping_ban_seconds) * 1000,
        });
        let now_ms = now_ms();
        let full = |rate: Option<Rate>| rate.map(|rate| Bucket::full(rate, now_ms));
        let state = State { classes: classes.map(full), recent: Default::default() };
        Turnstile { registry, audit, counters, classes, often, state: Mutex::new(state) }
    }

    /// Whether somebody at this address may speak at all.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn knock(&self, address: IpAddr) -> Result<(), String> {
        match self.registry.is_address_banned(address, now_ms()) {
            None => Ok(()),
            Some(ban) => {
                self.counters.refused_banned.add(1);
                Err(banned("the address", &ban))
            }
        }
    }

    /// Whether a client that has proven who it is may come in now.
    ///
    /// # Errors
    /// What it is told.
    pub(crate) fn admit(self: &Arc<Self>, request: &ConnectRequest) -> Result<(), Refusal> {
        self.admit_at(&request.identity.principal, &request.client_id, now_ms())
    }

    fn admit_at(self: &Arc<Self>, principal: &Principal, client_id: &str, now_ms: u64) -> Result<(), Refusal> {
        let client = Subject::Client(client_id.to_owned());
        let own = own_subject(principal, client_id);
        for subject in [&own, &client].into_iter().chain(subject_of(principal).as_ref()) {
            if let Some(ban) = self.registry.is_banned(subject, now_ms) {
                self.counters.refused_banned.add(1);
                return Err(Refusal { reason: ReasonCode::Banned, why: banned(&subject.to_string(), &ban) });
            }
        }
        let class = Class::of(principal);
        let at = class as usize;
        let often = self.often[at];
        if often.rate.is_some() || often.flapping_connects > 0 {
            let said = self.state().recent[at].connect(&own, often, now_ms);
            self.answer(said, class, principal, own, now_ms)?;
        }
        let of_class =
            self.state().classes[at].as_mut().zip(self.classes[at]).map(|(bucket, rate)| bucket.take(rate, now_ms));
        if of_class == Some(false) {
            self.counters.refused_rate.add(1);
            let why = format!("connects_per_second of [limits.{}] is reached", class.name());
            return Err(Refusal { reason: ReasonCode::ConnectionRateExceeded, why });
        }
        Ok(())
    }

    fn answer(
        self: &Arc<Self>,
        said: Said,
        class: Class,
        principal: &Principal,
        subject: Subject,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        match said {
            Said::Welcome => Ok(()),
            Said::TooOften => {
                self.counters.refused_rate.add(1);
                let why = format!("own_connects_per_minute of [limits.{}] is reached", class.name());
                Err(Refusal { reason: ReasonCode::ConnectionRateExceeded, why })
            }
            Said::Flapping { until_ms } => {
                self.counters.flapping_bans.add(1);
                self.counters.refused_banned.add(1);
                let often = self.often[class as usize];
                let (more_than, seconds) = (often.flapping_connects, often.flapping_window_ms / 1000);
                let why = format!("flapping: more than {more_than} connects in {seconds} s");
                self.ban(principal, subject, until_ms, &why, now_ms);
                Err(Refusal { reason: ReasonCode::Banned, why })
            }
            Said::StillBanned { .. } => {
                self.counters.refused_banned.add(1);
                Err(Refusal { reason: ReasonCode::Banned, why: "flapping".to_owned() })
            }
        }
    }

    /// Writes the ban down. Until that is done, and where it fails, it is remembered here.
    fn ban(self: &Arc<Self>, principal: &Principal, subject: Subject, until_ms: u64, why: &str, now_ms: u64) {
        tracing::warn!(target: "causeway::refused", %subject, "banned: {why}");
        let (who, rule) = (principal.to_string(), format!("limits.{}.flapping_connects", Class::of(principal).name()));
        let detail = format!("{subject} for {} s: {why}", until_ms.saturating_sub(now_ms) / 1000);
        self.audit.record(AuditEvent { who, rule, ..AuditEvent::new(What::Ban, Decision::Note, detail) });
        let (turnstile, why, class) = (self.clone(), why.to_owned(), Class::of(principal));
        tokio::task::spawn_blocking(move || match turnstile.registry.ban(&subject, Some(until_ms), &why, now_ms) {
            Ok(_) => turnstile.state().recent[class as usize].leave_ban(&subject),
            Err(error) => {
                tracing::error!(target: "causeway::refused", %subject, %error, "a ban is not in the registry");
            }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose connects are counted together. Services share a name, and strangers have none: theirs are those of a client identifier, with who
/// uses it, so that nobody is kept out by somebody else who claims the same one.
fn own_subject(principal: &Principal, client_id: &str) -> Subject {
    match (principal, subject_of(principal)) {
        (Principal::Vehicle(_) | Principal::Operator(_), Some(subject)) => subject,
        _ => Subject::Client(format!("{principal}/{client_id}")),
    }
}

fn subject_of(principal: &Principal) -> Option<Subject> {
    match principal {
        Principal::Vehicle(vin) => Some(Subject::Vehicle(*vin)),
        Principal::Service(name) => Some(Subject::Service(name.to_string())),
        Principal::Operator(name) => Some(Subject::Operator(name.to_string())),
        Principal::Anonymous | Principal::Shard(_) => None,
    }
}

fn banned(whom: &str, ban: &Ban) -> String {
    match &*ban.why {
        "" => format!("{whom} is banned"),
        why => format!("{whom} is banned: {why}"),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";

    fn turnstile(limits: &LimitSettings) -> Arc<Turnstile> {
        let registry = Arc::new(Registry::in_memory().unwrap());
        Arc::new(Turnstile::new(limits, registry, Audit::default(), Arc::default()))
    }

    fn reason(outcome: Result<(), Refusal>) -> Option<ReasonCode> {
        outcome.err().map(|refusal| refusal.reason)
    }

    #[test]
    fn by_default_everybody_comes_as_often_as_they_like() {
        let turnstile = turnstile(&LimitSettings::default());
        assert!((0..10_000).all(|_| turnstile.admit_at(&Principal::Anonymous, "a", 0).is_ok()));
    }

    #[test]
    fn each_class_has_a_rate_of_its_own() {
        let vehicle = ClassLimits { connects_per_second: 2, burst_seconds: 1, ..ClassLimits::default() };
        let turnstile = turnstile(&LimitSettings { vehicle, ..LimitSettings::default() });
        let (car, service) = (Principal::Vehicle(VIN.parse().unwrap()), Principal::service("a"));
        let now_ms = now_ms() + 1000;
        assert_eq!(reason(turnstile.admit_at(&car, VIN, now_ms)), None);
        assert_eq!(reason(turnstile.admit_at(&car, VIN, now_ms)), None);
        assert_eq!(reason(turnstile.admit_at(&car, VIN, now_ms)), Some(ReasonCode::ConnectionRateExceeded));
        assert_eq!(reason(turnstile.admit_at(&service, "a", now_ms)), None);
        assert_eq!(turnstile.counters.refused_rate.get(), 1);
    }

    #[tokio::test]
    async fn who_flaps_is_banned_in_the_registry_and_can_be_forgiven() {
        let vehicle = ClassLimits { flapping_connects: 2, ..ClassLimits::default() };
        let turnstile = turnstile(&LimitSettings { vehicle, ..LimitSettings::default() });
        let car = Principal::Vehicle(VIN.parse().unwrap());
        let subject = Subject::Vehicle(VIN.parse().unwrap());
        let now_ms = now_ms();
        assert!((0..2).all(|_| turnstile.admit_at(&car, VIN, now_ms).is_ok()));
        assert_eq!(reason(turnstile.admit_at(&car, VIN, now_ms)), Some(ReasonCode::Banned));
        let is_kept = || turnstile.registry.is_banned(&subject, now_ms).is_some();
        let is_left = || turnstile.state().recent[0].connect(&subject, turnstile.often[0], now_ms) == Said::Welcome;
        while !is_kept() || !is_left() {
            tokio::task::yield_now().await;
        }
        assert_eq!(reason(turnstile.admit_at(&car, VIN, now_ms)), Some(ReasonCode::Banned));
        turnstile.registry.unban(&subject, now_ms).unwrap();
        assert_eq!(reason(turnstile.admit_at(&car, VIN, now_ms)), None);
        assert_eq!(turnstile.counters.flapping_bans.get(), 1);
    }

    #[tokio::test]
    async fn who_flaps_keeps_nobody_else_out_who_has_the_same_client_identifier() {
        let often = ClassLimits { flapping_connects: 2, own_connects_per_minute: 3, ..ClassLimits::default() };
        let limits = LimitSettings { service: often.clone(), anonymous: often, ..LimitSettings::default() };
        let turnstile = turnstile(&limits);
        let now_ms = now_ms();
        for evil in [Principal::Anonymous, Principal::service("evil")] {
            assert!((0..2).all(|_| turnstile.admit_at(&evil, "backend", now_ms).is_ok()));
            assert_eq!(reason(turnstile.admit_at(&evil, "backend", now_ms)), Some(ReasonCode::Banned));
        }
        let bans = || turnstile.registry.counts().bans;
        while bans() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            reason(turnstile.admit_at(&Principal::service("evil"), "backend", now_ms)),
            Some(ReasonCode::Banned)
        );
        assert_eq!(reason(turnstile.admit_at(&Principal::service("good"), "backend", now_ms)), None);
    }

    #[test]
    fn addresses_clients_and_principals_can_be_banned() {
        let turnstile = turnstile(&LimitSettings::default());
        for subject in ["address:10.0.0.0/8", "client:evil", "service:bad"] {
            turnstile.registry.ban(&subject.parse().unwrap(), None, "why", now_ms()).unwrap();
        }
        assert!(turnstile.knock([10, 1, 2, 3].into()).is_err() && turnstile.knock([11, 1, 2, 3].into()).is_ok());
        let refused = |principal, client| reason(turnstile.admit_at(&principal, client, now_ms()));
        assert_eq!(refused(Principal::Anonymous, "evil"), Some(ReasonCode::Banned));
        assert_eq!(refused(Principal::service("bad"), "good"), Some(ReasonCode::Banned));
        assert_eq!(refused(Principal::service("good"), "good"), None);
        assert_eq!(turnstile.counters.refused_banned.get(), 3);
    }
}
