//! Each line, decided by the rules alone: names, mounts and the policy, with no broker.

use causeway_core::{Identity, Limits, Principal, vehicle_of_client};
use causeway_fleet::policy::{Policy, Rights, Subject};
use causeway_fleet::{Groups, Mount, MountError, mount};
use causeway_protocol::{check_topic_filter, check_topic_name, filter_matches, parse_shared};

use super::fleet::VEHICLES;
use super::rows::{Row, path};

pub struct Rules {
    policy: Policy,
    levels_max: usize,
}

/// Somebody who is known, with the roles that follow.
struct Who {
    identity: Identity,
    mount: Option<Mount>,
    rights: Rights,
}

impl Who {
    fn subject(&self) -> Subject<'_> {
        Subject { principal: &self.identity.principal, groups: &self.identity.groups, rights: &self.rights }
    }
}

impl Rules {
    pub fn load() -> Rules {
        let text = std::fs::read_to_string(path("policy.toml")).unwrap();
        let (policy, warnings) = Policy::parse(&text).expect("a policy without mistakes");
        assert!(warnings.is_empty(), "{warnings:?}");
        Rules { policy, levels_max: Limits::default().topic_levels_max }
    }

    pub fn decide(&self, row: &Row) -> String {
        let who = self.who(&row.who);
        match row.tried.as_str() {
            "publish" => self.sent(&who, row, Policy::publish),
            "will" => self.sent(&who, row, Policy::will),
            "respond" => format!("as {}", full_name(&who, &row.with).unwrap()),
            "subscribe" => match self.filters(&who, &row.subject) {
                Ok((granted, _)) => granted,
                Err(outcome) => outcome.to_owned(),
            },
            "receive" | "retained" => self.received(&who, row),
            "connect" => connected(&who, &row.subject).to_owned(),
            other => panic!("line {}: {other}?", row.line),
        }
    }

    fn who(&self, who: &str) -> Who {
        let mut identity = Identity::from(match who {
            "guest" => Principal::Anonymous,
            "olga" => Principal::operator("olga"),
            service => Principal::service(service),
        });
        if let Some((_, vin, groups)) = VEHICLES.iter().find(|(name, ..)| *name == who) {
            identity = Principal::Vehicle(vin.parse().unwrap()).into();
            identity.groups = Groups::new(groups.iter().copied()).unwrap();
        }
        let rights = self.policy.rights(&identity.principal, &identity.groups);
        Who { mount: Mount::of(&identity.principal), identity, rights }
    }

    fn sent(
        &self,
        who: &Who,
        row: &Row,
        decide: fn(&Policy, Subject<'_>, &str, u8, bool) -> causeway_fleet::policy::Decision,
    ) -> String {
        if check_topic_name(&row.subject, self.levels_max).is_err() {
            return "invalid".to_owned();
        }
        match full_name(who, &row.subject) {
            Err(outcome) => outcome.to_owned(),
            Ok(full) if decide(&self.policy, who.subject(), &full, row.qos(), row.has("retain")).is_allowed() => {
                format!("as {full}")
            }
            Ok(_) => "refused".to_owned(),
        }
    }

    /// What is granted, and all full filters that are subscribed to; else what comes of it.
    fn filters(&self, who: &Who, filter: &str) -> Result<(String, Vec<String>), &'static str> {
        check_topic_filter(filter, self.levels_max).map_err(|_| "invalid")?;
        let own = match &who.mount {
            Some(mount) => mount.own(filter).map_err(of_mount)?,
            None => filter.to_owned(),
        };
        let plain = |full: &str| {
            let shared = parse_shared(full).unwrap();
            (shared.map_or(full, |shared| shared.filter).to_owned(), shared.is_some())
        };
        let (own, is_shared) = plain(&own);
        let granted = self.policy.subscribe(who.subject(), &own, is_shared).granted().map_err(|_| "refused")?;
        let mut filters = vec![own];
        if who.mount.is_some() && !is_shared {
            let allowed = |full: &String| self.policy.subscribe(who.subject(), full, false).is_allowed();
            filters.extend(mount::broadcasts(filter, &who.identity.groups).filter(allowed));
        }
        Ok((format!("granted {}", granted.qos_max), filters))
    }

    fn received(&self, who: &Who, row: &Row) -> String {
        let filters = match self.filters(who, &row.subject) {
            Ok((_, filters)) => filters,
            Err(outcome) => return outcome.to_owned(),
        };
        // What is retained is never sent because of a shared subscription.
        let is_shared = row.subject.starts_with("$share/");
        let matches = filters.iter().any(|filter| filter_matches(filter, &row.with));
        let is_sent = matches && !(row.tried == "retained" && is_shared);
        if !is_sent || !self.policy.receive(who.subject(), &row.with).is_allowed() {
            return "nothing".to_owned();
        }
        format!("as {}", if who.mount.is_some() { mount::received(&row.with) } else { &row.with })
    }
}

fn of_mount(error: MountError) -> &'static str {
    match error {
        MountError::Brokers | MountError::NotItsShadow => "refused",
        MountError::TooLong | MountError::SharedIncomplete => "invalid",
    }
}

fn full_name(who: &Who, topic: &str) -> Result<String, &'static str> {
    match &who.mount {
        Some(mount) => mount.publish(topic, &mut String::new()).map(str::to_owned).map_err(of_mount),
        None => Ok(topic.to_owned()),
    }
}

fn connected(who: &Who, client_id: &str) -> &'static str {
    let named = vehicle_of_client(client_id);
    let is_own = client_id.is_empty() && who.mount.is_some() || named.as_ref() == who.identity.principal.vin();
    if is_own && !client_id.starts_with("$shard/") { "accepted" } else { "refused" }
}
