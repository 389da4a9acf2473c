//! What a decision of the policy costs, by the clock.
//!
//! Owns the rules and who asks; `cargo xtask bench-check` counts the instructions of the same. It needs no broker.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use causeway_fleet::policy::{DecisionCache, Policy, Subject};
use causeway_fleet::{Groups, Principal};
use clap::Args;

/// Rules of one role.
const RULES_OF_ROLE: usize = 50;
/// Topics of each vehicle.
const TOPICS: usize = 5;
/// As many as make decisions that are remembered.
const VEHICLES: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of rules
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    rules: Vec<usize>,
    /// Rounds over all topics; the fastest of ten parts of them counts
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// Fail where a remembered decision takes longer than so many nanoseconds
    #[arg(long, value_name = "NANOSECONDS")]
    limit: Option<f64>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    println!("{:>6}  {:>12}  {:>12}  {:>14}", "rules", "remembered", "anew", "filter, anew");
    for &count in &options.rules {
        let measured = Measured::of(count, options.rounds)?;
        let Measured { remembered, anew, filter } = measured;
        println!("{count:>6}  {remembered:>9.1} ns  {anew:>9.1} ns  {:>11.1} us", filter / 1e3);
        let limit = options.limit.unwrap_or(f64::INFINITY);
        ensure!(
            remembered <= limit,
            "with {count} rules a remembered decision takes {remembered:.1} ns, more than {limit} ns"
        );
    }
    Ok(())
}

/// Nanoseconds of one decision.
struct Measured {
    remembered: f64,
    anew: f64,
    filter: f64,
}

impl Measured {
    fn of(rules: usize, rounds: usize) -> Result<Measured> {
        let (policy, _) = Policy::parse(&text(rules)).map_err(|problems| anyhow!("{}", problems[0]))?;
        let groups = Groups::new(["eu", "ring-1"])?;
        let mut asked = Vec::new();
        for vehicle in 0..VEHICLES {
            let vin = format!("WVWZZZ1KZ{vehicle:08}");
            let principal = Principal::Vehicle(vin.parse()?);
            let rights = policy.rights(&principal, &groups);
            let topics = (0..TOPICS).map(|topic| format!("vehicles/{vin}/area-{topic}/engine/speed"));
            asked.push((principal, rights, topics.collect::<Vec<_>>()));
        }
        let mut cache = DecisionCache::new(42);
        let remembered = fastest(rounds, &asked, &groups, |subject, topic| {
            cache.publish(&policy, subject, topic, 1, false).is_allowed()
        });
        let anew =
            fastest(rounds, &asked, &groups, |subject, topic| policy.publish(subject, topic, 1, false).is_allowed());
        let filter = fastest(rounds.div_ceil(5), &asked, &groups, |subject, topic| {
            !policy.subscribe(subject, topic, false).is_allowed()
        });
        Ok(Measured { remembered: remembered?, anew: anew?, filter: filter? })
    }
}

type Asked = (Principal, causeway_fleet::policy::Rights, Vec<String>);

/// Nanoseconds of one call, in the fastest tenth of the rounds: what else the machine does is not what is measured.
fn fastest(
    rounds: usize,
    asked: &[Asked],
    groups: &Groups,
    mut decide: impl FnMut(Subject<'_>, &str) -> bool,
) -> Result<f64> {
    let part = rounds.div_ceil(10);
    let mut fastest = f64::INFINITY;
    for _ in 0..10 {
        let (started, mut right) = (Instant::now(), 0);
        for _ in 0..part {
            for (principal, rights, topics) in asked {
                let subject = black_box(Subject { principal, groups, rights });
                right += topics.iter().filter(|topic| decide(subject, topic)).count();
            }
        }
        let decisions = part * asked.len() * TOPICS;
        ensure!(right == decisions, "{right} of {decisions} decisions are right");
        fastest = fastest.min(started.elapsed().as_nanos() as f64 / decisions as f64);
    }
    Ok(fastest)
}

/// A role of all vehicles, and as many of services as it takes to have so many rules; one rule in ten denies.
fn text(count: usize) -> String {
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
