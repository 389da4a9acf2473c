//! From the text of a policy to its rules.
//!
//! Owns the words and bounds of the file. All that is wrong is reported at once, each with its place.

use std::collections::HashMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::member::{Member, Members};
use super::problem::{Problem, place};
use super::rule::{Action, Role, Rule, RuleId, Terms};
use super::template::Template;
use super::tree::Tree;
use super::{Policy, Rules, doubts};

/// The longest text, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;
const ROLES_MAX: usize = 1024;
const RULES_MAX: usize = 4096;
const MEMBERS_MAX: usize = 4096;
const TOPICS_MAX: usize = 64;
/// The longest name of a role or a rule, in bytes.
const NAME_BYTES_MAX: usize = 64;

impl Policy {
    /// Reads a policy; also what in it is probably not meant: rules that can never decide anything.
    ///
    /// # Errors
    /// All that is wrong with it, in the order of the text.
    pub fn parse(text: &str) -> Result<(Policy, Vec<Problem>), Vec<Problem>> {
        if text.len() > TEXT_BYTES_MAX {
            let message = format!("a policy has at most {TEXT_BYTES_MAX} bytes, not {}", text.len());
            return Err(vec![Problem::at(text, 0..0, message)]);
        }
        let mut reader = Reader { text, problems: Vec::new(), roles: Vec::new(), rules: Vec::new() };
        reader.read();
        let Reader { mut problems, roles, rules, .. } = reader;
        let mut warnings = Vec::new();
        if problems.is_empty() {
            let doubts = doubts::find(text, &roles, &rules);
            (problems, warnings) = (doubts.contradictions, doubts.warnings);
        }
        if problems.is_empty() {
            return Ok((Policy::of(roles, rules), warnings));
        }
        problems.sort_by_key(|problem| problem.bytes.start);
        problems.dedup();
        Err(problems)
    }

    fn of(roles: Vec<Role>, rules: Vec<Rule>) -> Policy {
        let (mut members, mut tree) = (Members::default(), Tree::default());
        for (at, role) in roles.iter().enumerate() {
            role.members.iter().for_each(|member| members.add(at as u16, member));
        }
        for (at, rule) in rules.iter().enumerate() {
            rule.topics.iter().for_each(|(topic, _)| tree.insert(topic, RuleId(at as u16)));
        }
        let first = |role: usize| rules.partition_point(|rule| usize::from(rule.terms.role) < role);
        let of_role = (0..roles.len()).map(|role| first(role)..first(role + 1)).collect();
        let terms = rules.iter().map(|rule| rule.terms).collect();
        Policy { rules: Some(Box::new(Rules { roles, members, rules, of_role, terms, tree })) }
    }
}

struct Reader<'a> {
    text: &'a str,
    problems: Vec<Problem>,
    roles: Vec<Role>,
    rules: Vec<Rule>,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn wrong(&mut self, bytes: Range<usize>, message: impl Into<String>) {
        self.problems.push(Problem::at(self.text, bytes, message));
    }

    fn read(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.wrong(error.span().unwrap_or_default(), error.message());
        }
        // What follows a wrong line is guesswork.
        if !errors.is_empty() {
            return;
        }
        let table = table.get_ref();
        self.check_keys(table, &["role"], "the file", "each role begins with [[role]]");
        match table.get("role") {
            Some(roles) => self.read_roles(roles),
            None => self.wrong(0..0, "a policy needs at least one [[role]]: without any, nobody may do anything"),
        }
    }

    fn read_roles(&mut self, roles: &Value<'_>) {
        let Some(roles) = self.tables(roles, "[[role]]") else { return };
        if roles.len() > ROLES_MAX {
            self.wrong(roles[ROLES_MAX].span(), format!("there are at most {ROLES_MAX} roles"));
            return;
        }
        let mut names = HashMap::new();
        for role in roles.iter() {
            let DeValue::Table(table) = role.get_ref() else { continue };
            self.check_keys(table, &["name", "members", "rule"], "[[role]]", "it has name, members and [[role.rule]]");
            let name = self.name(table, role.span(), "[[role]]");
            let members = self.members(table, role.span());
            if let Some((name, bytes)) = &name
                && let Some(line) = names.insert(name.clone(), place(self.text, bytes.start).0)
            {
                let message = format!("the role {name:?} stands in line {line} already: merge the two, or rename one");
                self.wrong(bytes.clone(), message);
            }
            let number = self.roles.len() as u16;
            self.roles.push(Role { name: name.map_or_else(Box::default, |(name, _)| name), members });
            match table.get("rule") {
                Some(rules) => self.read_rules(number, rules),
                None => self.wrong(role.span(), "a role needs at least one [[role.rule]]"),
            }
        }
    }

    fn members(&mut self, table: &DeTable<'_>, role: Range<usize>) -> Vec<Member> {
        let Some(members) = self.texts(table, "members", (role, MEMBERS_MAX)) else { return Vec::new() };
        let mut read = Vec::new();
        for (text, bytes) in members {
            match Member::parse(&text) {
                Ok(member) => read.push(member),
                Err(message) => self.wrong(bytes, message),
            }
        }
        read
    }

    fn read_rules(&mut self, role: u16, rules: &Value<'_>) {
        let Some(rules) = self.tables(rules, "[[role.rule]]") else { return };
        let mut names = HashMap::new();
        for rule in rules.iter() {
            let DeValue::Table(table) = rule.get_ref() else { continue };
            if self.rules.len() >= RULES_MAX {
                self.wrong(rule.span(), format!("there are at most {RULES_MAX} rules"));
                return;
            }
            let read = self.rule(role, table, rule.span());
            if let Some(line) = names.insert(read.name.clone(), read.line)
                && !read.name.is_empty()
            {
                let message = format!("the role has a rule {:?} in line {line} already: rename one of them", read.name);
                self.wrong(read.place.clone(), message);
            }
            self.rules.push(read);
        }
    }

    fn rule(&mut self, role: u16, table: &DeTable<'_>, span: Range<usize>) -> Rule {
        const KEYS: &[&str] = &["name", "effect", "actions", "topics", "qos_max"];
        self.check_keys(table, KEYS, "[[role.rule]]", "it has name, effect, actions, topics and qos_max");
        let (name, place_of_name) =
            self.name(table, span.clone(), "[[role.rule]]").unwrap_or((Box::default(), span.clone()));
        let is_allow = self.effect(table, span.clone());
        let actions = self.actions(table, span.clone());
        let topics = self.topics(table, span.clone());
        let qos_max = self.qos_max(table, is_allow, actions);
        let line = place(self.text, span.start).0;
        Rule { name, line, place: place_of_name, terms: Terms { role, actions, is_allow, qos_max }, topics }
    }

    fn effect(&mut self, table: &DeTable<'_>, span: Range<usize>) -> bool {
        let Some(effect) = table.get("effect") else {
            self.wrong(span, "the rule needs effect = \"allow\" or effect = \"deny\"");
            return true;
        };
        match effect.get_ref().as_str() {
            Some("allow") => true,
            Some("deny") => false,
            _ => {
                self.wrong(effect.span(), "effect is \"allow\" or \"deny\"");
                true
            }
        }
    }

    fn actions(&mut self, table: &DeTable<'_>, span: Range<usize>) -> u8 {
        let Some(words) = self.texts(table, "actions", (span, Action::ALL.len())) else { return 0 };
        let mut bits = 0;
        for (word, bytes) in words {
            match Action::of_word(&word) {
                Some(action) => bits |= action.bit(),
                None => {
                    let all: Vec<&str> = Action::ALL.into_iter().map(Action::word).collect();
                    self.wrong(bytes, format!("{word:?} is no action: there are {}", all.join(", ")));
                }
            }
        }
        bits
    }

    fn topics(&mut self, table: &DeTable<'_>, span: Range<usize>) -> Vec<(Template, Range<usize>)> {
        let Some(texts) = self.texts(table, "topics", (span, TOPICS_MAX)) else { return Vec::new() };
        let mut topics = Vec::new();
        for (text, bytes) in texts {
            match Template::parse(&text) {
                Ok(template) => topics.push((template, bytes)),
                Err(message) => self.wrong(bytes, message),
            }
        }
        topics
    }

    fn qos_max(&mut self, table: &DeTable<'_>, is_allow: bool, actions: u8) -> u8 {
        let Some(value) = table.get("qos_max") else { return 2 };
        let has_qos = Action::ALL.into_iter().any(|action| action.has_qos() && actions & action.bit() != 0);
        if !is_allow {
            let message =
                "a rule that denies does so at any QoS: leave qos_max out, and say it where the topic is allowed";
            self.wrong(value.span(), message);
        } else if !has_qos && actions != 0 {
            let message = "qos_max is for publish, subscribe, retain and will: what is received was limited when it was subscribed to";
            self.wrong(value.span(), message);
        }
        match value.get_ref() {
            DeValue::Integer(number) if ["0", "1", "2"].contains(&number.as_str()) => {
                number.as_str().parse().unwrap_or(2)
            }
            _ => {
                self.wrong(value.span(), "qos_max is 0, 1 or 2");
                2
            }
        }
    }

    fn name(&mut self, table: &DeTable<'_>, span: Range<usize>, whose: &str) -> Option<(Box<str>, Range<usize>)> {
        let Some(value) = table.get("name") else {
            self.wrong(span, format!("{whose} needs a name: decisions are told by it"));
            return None;
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        match value.get_ref().as_str() {
            Some(name) if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) => {
                Some((name.into(), value.span()))
            }
            _ => {
                let message =
                    format!("a name is a string of 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -");
                self.wrong(value.span(), message);
                None
            }
        }
    }

    /// A list of strings that must be there, with their places.
    fn texts(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        (owner, count_max): (Range<usize>, usize),
    ) -> Option<Vec<(String, Range<usize>)>> {
        let Some(value) = table.get(key) else {
            self.wrong(owner, format!("{key} is missing: a list of strings"));
            return None;
        };
        let DeValue::Array(values) = value.get_ref() else {
            self.wrong(value.span(), format!("{key} is a list of strings, in brackets"));
            return None;
        };
        if values.is_empty() || values.len() > count_max {
            self.wrong(value.span(), format!("{key} has 1 to {count_max} entries, not {}", values.len()));
            return None;
        }
        let mut texts = Vec::new();
        for value in values.iter() {
            match value.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), value.span())),
                None => self.wrong(value.span(), format!("{key} is a list of strings")),
            }
        }
        Some(texts)
    }

    fn tables<'v, 'a>(&mut self, value: &'v Value<'a>, name: &str) -> Option<&'v DeArray<'a>> {
        match value.get_ref() {
            DeValue::Array(values) if values.iter().all(|value| value.get_ref().is_table()) => Some(values),
            _ => {
                self.wrong(value.span(), format!("each begins with {name}, in double brackets"));
                None
            }
        }
    }

    fn check_keys(&mut self, table: &DeTable<'_>, known: &[&str], place: &str, hint: &str) {
        for key in table.keys().filter(|key| !known.contains(&&**key.get_ref())) {
            self.wrong(key.span(), format!("unknown key {:?} in {place}: {hint}", key.get_ref()));
        }
    }
}
