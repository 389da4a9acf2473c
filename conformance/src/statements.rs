//! Owns the list of normative statements and the question which tests speak about which. Never runs a test.

use crate::registry::{Section, Test};

const MQTT5: &str = include_str!("../spec/mqtt5-normative.tsv");
const MQTT311: &str = include_str!("../spec/mqtt311-statement-ids.tsv");

/// Whom a statement binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppliesTo {
    /// Clients only: no broker can break it (though it has to react when a client does).
    Client,
    /// Servers only.
    Server,
    /// Both ends.
    Both,
}

/// A normative statement of MQTT 5.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// `MQTT-3.1.0-1`.
    pub id: &'static str,
    /// `3.1.0 CONNECT`.
    pub section: &'static str,
    /// Whom it binds.
    pub applies_to: AppliesTo,
    /// What it says, in our words.
    pub paraphrase: &'static str,
}

/// All statements of MQTT 5, in the order of the specification.
pub fn mqtt5() -> Vec<Statement> {
    MQTT5.lines().skip(1).filter_map(parse).collect()
}

fn parse(line: &'static str) -> Option<Statement> {
    let mut fields = line.split('\t');
    let (id, section) = (fields.next()?, fields.next()?);
    let applies_to = match fields.next()? {
        "client" => AppliesTo::Client,
        "server" => AppliesTo::Server,
        _ => AppliesTo::Both,
    };
    Some(Statement { id, section, applies_to, paraphrase: fields.next()? })
}

/// The ids of the statements of MQTT 3.1.1, written `MQTT311-3.1.0-1`.
pub fn mqtt311() -> Vec<String> {
    let ids = MQTT311.lines().skip(1).filter_map(|line| line.split('\t').next());
    ids.filter_map(|id| Some(format!("MQTT311-{}", id.strip_prefix("MQTT-")?))).collect()
}

/// The tests that name `id`.
pub fn tests_of(sections: &[Section], id: &str) -> Vec<Test> {
    let all = sections.iter().flat_map(|section| section.tests);
    all.filter(|test| test.ids.contains(&id)).copied().collect()
}

/// Why `id` cannot be judged from outside, if so.
pub fn unobservable(sections: &[Section], id: &str) -> Option<&'static str> {
    let mut all = sections.iter().flat_map(|section| section.unobservable);
    all.find_map(|(each, reason)| (*each == id).then_some(*reason))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::tests::SECTIONS;

    #[test]
    fn every_server_statement_has_a_test_or_a_reason() {
        let bare = |statement: &Statement| {
            statement.applies_to != AppliesTo::Client
                && tests_of(SECTIONS, statement.id).is_empty()
                && unobservable(SECTIONS, statement.id).is_none()
        };
        let missing: Vec<&str> = mqtt5().iter().filter(|each| bare(each)).map(|each| each.id).collect();
        assert!(missing.is_empty(), "neither test nor reason: {missing:?}");
    }

    #[test]
    fn every_named_statement_exists() {
        let statements = mqtt5();
        assert_eq!(statements.len(), 251);
        let old = mqtt311();
        let known: HashSet<&str> =
            statements.iter().map(|each| each.id).chain(old.iter().map(String::as_str)).collect();
        let tested = SECTIONS.iter().flat_map(|section| section.tests).flat_map(|test| test.ids);
        let excused = SECTIONS.iter().flat_map(|section| section.unobservable).map(|(id, _)| id);
        let unknown: Vec<&&str> = tested.chain(excused).filter(|id| !known.contains(**id)).collect();
        assert!(unknown.is_empty(), "unknown statements: {unknown:?}");
    }

    #[test]
    fn a_statement_is_either_tested_or_excused() {
        let excused = SECTIONS.iter().flat_map(|section| section.unobservable);
        let both: Vec<&str> = excused.filter(|(id, _)| !tests_of(SECTIONS, id).is_empty()).map(|(id, _)| *id).collect();
        assert!(both.is_empty(), "tested although called unobservable: {both:?}");
    }

    #[test]
    fn test_names_are_unique() {
        let mut seen = HashSet::new();
        let twice: Vec<&str> = SECTIONS
            .iter()
            .flat_map(|section| section.tests)
            .map(|test| test.name)
            .filter(|name| !seen.insert(*name))
            .collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
