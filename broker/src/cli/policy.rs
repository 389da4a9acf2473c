//! `causewayd policy`: what a policy decides, and why.
//!
//! Owns what is asked and what is printed. The decision is the one that the broker makes.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use causeway_fleet::calls::{self, What};
use causeway_fleet::policy::{Action, Decision, Denial, Policy, Rights, Subject};
use causeway_fleet::{Groups, Mount, Principal};
use causeway_protocol::{check_topic_filter, check_topic_name, parse_shared};
use clap::{ArgGroup, Args, Subcommand};

use crate::config::{Depth, Problem, load_to, read_policy};

/// The answer is no.
const DENIED: u8 = 1;
/// There is no answer: something was asked that cannot be, or the policy is wrong.
const NO_ANSWER: u8 = 2;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causewayd policy check policy.toml
  causewayd policy explain --policy policy.toml --as vehicle:1M8GDM9AXKP042788 publish telemetry/speed")]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether somebody may do something, and which rule decides
    #[command(after_help = "\
Topics are as the client says them: those of a vehicle are mounted, and the full names are shown. Exit code 0: allowed, 1: denied,
2: there is no answer.

Examples:
  causewayd policy explain --policy policy.toml --as vehicle:1M8GDM9AXKP042788 publish telemetry/speed --qos 1
  causewayd policy explain --policy policy.toml --as vehicle:1M8GDM9AXKP042788,group=eu subscribe 'cmd/#'
  causewayd policy explain --config causeway.toml --as service:analytics receive vehicles/1M8GDM9AXKP042788/telemetry/speed")]
    Explain(Explain),
    /// Check policies: fails where one is wrong, or has a rule that can never decide anything
    #[command(after_help = "\
Example:
  causewayd policy check policy.toml")]
    Check {
        /// The policies
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["policy", "config"]))]
struct Explain {
    /// The policy
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The configuration that names the policy
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who asks: vehicle:VIN[,group=NAME...], service:NAME, operator:NAME or anonymous
    #[arg(long = "as", value_name = "WHO", value_parser = parse_who)]
    who: Who,
    /// What for: publish, subscribe, receive, retain, will or command
    #[arg(value_parser = parse_action)]
    action: Action,
    /// The topic, or the filter to subscribe to
    topic: String,
    /// The QoS of a message or a subscription
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// The message is to be retained
    #[arg(long)]
    retain: bool,
    /// The topic is a full name already, though a vehicle asks
    #[arg(long)]
    full: bool,
}

/// Whoever asks.
#[derive(Debug, Clone)]
struct Who {
    principal: Principal,
    groups: Groups,
}

fn parse_who(text: &str) -> Result<Who, String> {
    let of = |principal| Ok(Who { principal, groups: Groups::default() });
    match text.split_once(':') {
        None if text == "anonymous" => of(Principal::Anonymous),
        Some(("service", name)) if !name.is_empty() => of(Principal::service(name)),
        Some(("operator", name)) if !name.is_empty() => of(Principal::operator(name)),
        Some(("vehicle", rest)) => {
            let mut parts = rest.split(",group=");
            let vin = parts.next().unwrap_or_default().parse().map_err(|error| format!("{error}"))?;
            let groups = Groups::new(parts).map_err(|error| error.to_string())?;
            Ok(Who { principal: Principal::Vehicle(vin), groups })
        }
        _ => Err("nobody: vehicle:VIN[,group=NAME...], service:NAME, operator:NAME or anonymous".to_owned()),
    }
}

fn parse_action(text: &str) -> Result<Action, String> {
    let all: Vec<&str> = Action::ALL.into_iter().map(Action::word).collect();
    Action::of_word(text).ok_or_else(|| format!("no action: there are {}", all.join(", ")))
}

pub(super) fn run(
    options: &Options,
    environment: &[(String, String)],
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    match &options.command {
        Command::Check { files } => check(files, out, errors),
        Command::Explain(explain) => match explain.run(environment, out) {
            Ok(true) => Ok(ExitCode::SUCCESS),
            Ok(false) => Ok(ExitCode::from(DENIED)),
            Err(error) => {
                writeln!(errors, "causewayd: {error:#}")?;
                Ok(ExitCode::from(NO_ANSWER))
            }
        },
    }
}

fn check(files: &[PathBuf], out: &mut dyn Write, errors: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let problems = doubts(file);
        super::check::print(&problems, errors)?;
        match problems.is_empty() {
            true => writeln!(out, "{}: ok", file.display())?,
            false => code = ExitCode::FAILURE,
        }
    }
    Ok(code)
}

/// All that is wrong with a policy, rules that never decide anything among it: whoever wrote them believes they do.
pub(super) fn doubts(file: &std::path::Path) -> Vec<Problem> {
    use crate::config::{Place, PolicyError, Severity};
    match read_policy(file) {
        Ok((_, warnings)) => {
            warnings.into_iter().map(|problem| Problem { severity: Severity::Error, ..problem }).collect()
        }
        Err(PolicyError::Wrong(problems)) => problems,
        Err(PolicyError::Io { source, .. }) => {
            let place = Place::File(file.display().to_string());
            vec![Problem { severity: Severity::Error, place, message: source.to_string() }]
        }
    }
}

impl Explain {
    /// Prints the answer; whether it is yes.
    fn run(&self, environment: &[(String, String)], out: &mut dyn Write) -> anyhow::Result<bool> {
        let (policy, file) = self.policy(environment)?;
        self.check_topic()?;
        let Who { principal, groups } = &self.who;
        let rights = policy.rights(principal, groups);
        let subject = Subject { principal, groups, rights: &rights };
        self.head(&policy, &rights, out)?;
        let names = match self.full_names() {
            Ok(names) => names,
            Err(why) => {
                writeln!(out, "  denied: {why}")?;
                return Ok(false);
            }
        };
        let mut is_allowed = None;
        for name in &names {
            let decision = self.decide(&policy, subject, name);
            writeln!(out, "  {name}")?;
            writeln!(out, "    {}", told(&policy, decision, file.as_deref()))?;
            if self.action == Action::Subscribe && decision.is_allowed() {
                let all = policy.receives_all(subject, inner(name));
                writeln!(
                    out,
                    "    {}",
                    if all { "all that matches may be received" } else { "each delivery is looked at" }
                )?;
            }
            // What follows from a vehicle's own filter never decides about it.
            is_allowed.get_or_insert(decision.is_allowed());
        }
        Ok(is_allowed == Some(true))
    }

    fn policy(&self, environment: &[(String, String)]) -> anyhow::Result<(Policy, Option<PathBuf>)> {
        let file = match (&self.policy, &self.config) {
            (Some(file), _) => Some(file.clone()),
            (None, Some(config)) => {
                let loaded = load_to(config, environment.to_vec(), Depth::Meaning);
                let loaded = loaded.map_err(|problems| match problems.first() {
                    Some(problem) => anyhow!("{}{}", problem.place, problem.message),
                    None => anyhow!("{}: wrong", config.display()),
                })?;
                loaded.config.policy.file
            }
            (None, None) => bail!("which policy? --policy FILE or --config FILE"),
        };
        match file {
            None => Ok((Policy::open(), None)),
            Some(file) => {
                let (policy, _) = read_policy(&file).context("there is no policy to ask")?;
                Ok((policy, Some(file)))
            }
        }
    }

    fn check_topic(&self) -> anyhow::Result<()> {
        let levels_max = usize::from(u16::MAX);
        match self.action {
            Action::Subscribe => check_topic_filter(&self.topic, levels_max).context("no topic filter"),
            _ => check_topic_name(&self.topic, levels_max).context("no topic name"),
        }
    }

    /// What the topic means to the broker; the first one decides.
    fn full_names(&self) -> Result<Vec<String>, String> {
        let mount = Mount::of(&self.who.principal).filter(|_| !self.full);
        let is_sent = !matches!(self.action, Action::Subscribe | Action::Receive);
        // By the names of AWS IoT, shadows are asked for as they stand there.
        if let (true, Some(call)) = (is_sent && self.topic.starts_with('$'), calls::of(&self.topic))
            && mount.as_ref().is_none_or(|mount| call.is_of(mount.vin()))
        {
            return Ok(vec![call.canonical(&self.topic).into_owned()]);
        }
        let Some(mount) = mount else { return Ok(vec![self.topic.clone()]) };
        match self.action {
            Action::Subscribe | Action::Receive => mount.subscribe(&self.topic, &self.who.groups),
            Action::Publish | Action::Retain | Action::Will | Action::Command => {
                mount.publish(&self.topic, &mut String::new()).map(|name| vec![name.to_owned()])
            }
        }
        .map_err(|error| error.to_string())
    }

    fn decide(&self, policy: &Policy, subject: Subject<'_>, name: &str) -> Decision {
        let call = calls::of(name).map(|call| call.what);
        match (self.action, call) {
            // Beside requests, and for wills, what is below a shadow is the broker's.
            (Action::Publish | Action::Retain | Action::Will, Some(What::Brokers))
            | (Action::Will, Some(What::Shadow(..))) => return Decision::Deny(Denial::Broker),
            _ => {}
        }
        match self.action {
            Action::Publish => policy.publish(subject, name, self.qos, self.retain),
            Action::Retain => policy.publish(subject, name, self.qos, true),
            Action::Will => policy.will(subject, name, self.qos, self.retain),
            Action::Subscribe => policy.subscribe(subject, inner(name), inner(name) != name),
            Action::Receive => policy.receive(subject, name),
            Action::Command => policy.command(subject, name),
        }
    }

    fn head(&self, policy: &Policy, rights: &Rights, out: &mut dyn Write) -> io::Result<()> {
        let roles: Vec<&str> = policy.role_names(rights).collect();
        let roles = match (policy.is_open(), roles.is_empty()) {
            (true, _) => "there is no policy file".to_owned(),
            (false, true) => "no role".to_owned(),
            (false, false) => format!("roles: {}", roles.join(", ")),
        };
        let how = match self.action {
            Action::Publish | Action::Retain | Action::Will => {
                let retained = if self.retain || self.action == Action::Retain { ", retained" } else { "" };
                format!(" at QoS {}{retained}", self.qos)
            }
            Action::Subscribe => format!(" at QoS {}", self.qos),
            Action::Receive | Action::Command => String::new(),
        };
        writeln!(out, "{} ({roles}): {} {:?}{how}", self.who.principal, self.action, self.topic)
    }
}

/// The filter inside of a shared subscription, or the whole.
fn inner(filter: &str) -> &str {
    parse_shared(filter).ok().flatten().map_or(filter, |shared| shared.filter)
}

fn told(policy: &Policy, decision: Decision, file: Option<&std::path::Path>) -> String {
    let rule = match decision {
        Decision::Allow(grant) => grant.rule,
        Decision::Deny(Denial::Rule(rule) | Denial::QoS(rule, _)) => Some(rule),
        Decision::Deny(_) => None,
    };
    let rule = rule.and_then(|id| policy.rule(id));
    let place = match (rule, file) {
        (Some(rule), Some(file)) => format!(" ({}:{})", file.display(), rule.line),
        _ => String::new(),
    };
    match (decision, rule) {
        (Decision::Allow(grant), Some(rule)) => format!("allowed by {rule}{place}, up to QoS {}", grant.qos_max),
        (Decision::Allow(_), None) => "allowed: everybody may do everything".to_owned(),
        (Decision::Deny(denial), _) => match policy.why(denial) {
            why if why.starts_with("denied") => format!("{why}{place}"),
            why => format!("denied: {why}{place}"),
        },
    }
}
