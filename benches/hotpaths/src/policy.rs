//! Who may do what: one decision among few and many rules.
//!
//! Owns the rules and who asks. The topics are those of one vehicle: most rules are about something else.

use std::hint::black_box;

use anyhow::{Result, anyhow, ensure};
use causeway_fleet::policy::{DecisionCache, Policy, Rights, Subject};
use causeway_fleet::{Groups, Principal};

use crate::HotPath;
use crate::client::vin;
use crate::measure::{Meter, Run};

/// Decisions of one run, each about another topic.
const DECISIONS: u64 = 100;
/// Rules of one role.
const RULES_OF_ROLE: usize = 50;

pub(crate) const PATHS: &[HotPath] = &[
    path("policy-open", "whether a vehicle may publish, without a policy file", || decides(None, true)),
    path("policy-cached-10", "the same with 10 rules, decided before", || decides(Some(10), true)),
    path("policy-cached-1000", "the same with 1,000 rules, decided before", || decides(Some(1_000), true)),
    path("policy-10", "the same with 10 rules, decided anew", || decides(Some(10), false)),
    path("policy-100", "the same with 100 rules, decided anew", || decides(Some(100), false)),
    path("policy-1000", "the same with 1,000 rules, decided anew", || decides(Some(1_000), false)),
];

const fn path(name: &'static str, operation: &'static str, prepare: fn() -> Result<Run>) -> HotPath {
    HotPath { name, operation, operations: DECISIONS, runs: 200, prepare }
}

/// A role of all vehicles, and as many of services as it takes to have so many rules; one rule in ten denies.
fn rules(count: usize) -> String {
    let mut text = String::new();
    for rule in 0..count {
        let role = rule / RULES_OF_ROLE;
        if rule % RULES_OF_ROLE == 0 {
            let members = if role == 0 { "vehicle:*".to_owned() } else { format!("service:s{role}") };
            text += &format!("[[role]]\nname = \"role-{role}\"\nmembers = [{members:?}]\n");
        }
        let level = if role == 0 { "{vin}" } else { "+" };
        let (effect, below) = if rule % 10 == 9 { ("deny", "/secret/#") } else { ("allow", "/#") };
        text += &format!(
            "[[role.rule]]\nname = \"rule-{rule}\"\neffect = {effect:?}\nactions = [\"publish\"]\n\
             topics = [\"vehicles/{level}/area-{}{below}\"]\n",
            rule % RULES_OF_ROLE
        );
    }
    text
}

fn decides(count: Option<usize>, is_cached: bool) -> Result<Run> {
    let policy = match count {
        None => Policy::open(),
        Some(count) => Policy::parse(&rules(count)).map_err(|problems| anyhow!("{}", problems[0]))?.0,
    };
    let principal = Principal::Vehicle(vin(7).parse()?);
    let groups = Groups::new(["eu", "ring-1"])?;
    let rights = policy.rights(&principal, &groups);
    let topics: Vec<String> =
        (0..DECISIONS).map(|at| format!("vehicles/{}/area-{}/engine/speed-{at}", vin(7), at % 5)).collect();
    ensure!(policy.is_open() || rights != Rights::default(), "the vehicle has no role");
    let mut cache = DecisionCache::new(42);
    let run = move |meter: &Meter| {
        let subject = Subject { principal: &principal, groups: &groups, rights: &rights };
        let mut allowed = 0;
        meter.measure(|| {
            for topic in &topics {
                let decision = match is_cached {
                    true => cache.publish(&policy, black_box(subject), topic, 1, false),
                    false => policy.publish(black_box(subject), topic, 1, false),
                };
                allowed += u64::from(decision.is_allowed());
            }
        });
        allowed
    };
    Ok(Box::new(run))
}
