//! Each line, tried over a real connection.

use std::collections::HashMap;

use super::client::{Client, Heard, Publish};
use super::fleet::Fleet;
use super::rows::Row;

/// The connections that lines are tried over. One that the broker closed is made anew.
pub struct Tries<'a> {
    fleet: &'a Fleet,
    clients: HashMap<String, Client>,
    /// An operator who is sent everything.
    observer: Client,
}

impl Tries<'_> {
    pub fn new(fleet: &Fleet) -> Tries<'_> {
        let mut observer = fleet.dial("olga");
        assert_eq!(observer.connect("observer", None), Heard::ConnAck(0));
        assert_eq!(observer.subscribe("#", 0), Heard::SubAck(0));
        Tries { fleet, clients: HashMap::new(), observer }
    }

    /// What comes of a line, in its own words.
    pub fn outcome(&mut self, row: &Row) -> String {
        let outcome = match row.tried.as_str() {
            "publish" => self.publish(row),
            "subscribe" => self.subscribe(row),
            "receive" => self.receive(row, false),
            "retained" => self.receive(row, true),
            "will" => self.will(row),
            "respond" => self.respond(row),
            "connect" => self.connect(row),
            other => panic!("line {}: {other}?", row.line),
        };
        self.observer.fence();
        self.observer.messages.clear();
        outcome
    }

    fn client(&mut self, who: &str) -> &mut Client {
        if self.clients.get(who).is_none_or(|client| client.is_over) {
            let mut client = self.fleet.dial(who);
            let id = self.fleet.client_id(who, "tries");
            assert_eq!(client.connect(&id, None), Heard::ConnAck(0), "{who}");
            self.clients.insert(who.to_owned(), client);
        }
        self.clients.get_mut(who).unwrap()
    }

    /// The message of this line, as the observer saw it.
    fn seen(&mut self, payload: &[u8]) -> Option<Heard> {
        assert!(self.observer.fence());
        let is_it = |heard: &Heard| matches!(heard, Heard::Publish { payload: seen, .. } if seen == payload);
        self.observer.messages.iter().find(|heard| is_it(heard)).cloned()
    }

    fn publish(&mut self, row: &Row) -> String {
        let payload = format!("line {}", row.line);
        let mut publish = Publish {
            topic: &row.subject,
            qos: row.qos(),
            retain: row.has("retain"),
            payload: payload.as_bytes(),
            ..Publish::default()
        };
        let client = self.client(&row.who);
        if row.has("alias") {
            publish.alias = Some(7);
            client.publish(&Publish { payload: b"first", ..publish.clone() });
            publish.topic = "";
        }
        client.publish(&publish);
        let told = if publish.qos > 0 { client.answer() } else { Heard::PubAck(0) };
        if let Heard::PubRec(0x00 | 0x10) = told {
            client.send(&[0x62, 2, 0, 1]);
        }
        let is_open = client.fence();
        let seen = self.seen(payload.as_bytes());
        if row.has("retain") {
            self.forget_retained(seen.as_ref());
        }
        match (told, seen) {
            (Heard::PubAck(0x00 | 0x10) | Heard::PubRec(0x00 | 0x10), Some(Heard::Publish { topic, .. })) => {
                format!("as {topic}")
            }
            (_, Some(seen)) => format!("refused, but sent on: {seen:?}"),
            (Heard::PubAck(0x90) | Heard::PubRec(0x90), None) => "invalid".to_owned(),
            (_, None) if !is_open => "invalid".to_owned(),
            (Heard::PubAck(0x87) | Heard::PubRec(0x87), None) => "refused".to_owned(),
            (Heard::PubAck(0), None) if publish.qos == 0 => "refused".to_owned(),
            (told, None) => format!("{told:?}, and nothing seen"),
        }
    }

    fn forget_retained(&mut self, seen: Option<&Heard>) {
        if let Some(Heard::Publish { topic, .. }) = seen {
            let topic = topic.clone();
            self.order(&topic, b"", true);
        }
    }

    /// An operator publishes, and is told that it is done.
    fn order(&mut self, topic: &str, payload: &[u8], retain: bool) {
        let operator = self.client("olga");
        operator.publish(&Publish { topic, qos: 1, retain, payload, ..Publish::default() });
        let told = operator.answer();
        assert!(matches!(told, Heard::PubAck(0x00 | 0x10)), "{topic}: {told:?}");
    }

    fn subscribe(&mut self, row: &Row) -> String {
        let client = self.client(&row.who);
        let outcome = granted(&client.subscribe(&row.subject, 2));
        if outcome.starts_with("granted") {
            client.unsubscribe(&row.subject);
            client.fence();
            client.messages.clear();
        }
        outcome
    }

    fn receive(&mut self, row: &Row, retained: bool) -> String {
        let payload = format!("line {}", row.line);
        if retained {
            self.order(&row.with, payload.as_bytes(), true);
        }
        let outcome = granted(&self.client(&row.who).subscribe(&row.subject, 1));
        if !retained && outcome.starts_with("granted") {
            self.order(&row.with, payload.as_bytes(), false);
        }
        let client = self.client(&row.who);
        // Twice: what waits for the log leaves with the first answer at the latest.
        client.fence();
        client.fence();
        let mut came = client.messages.drain(..).filter_map(|heard| match heard {
            Heard::Publish { topic, payload: seen, .. } if seen == payload.as_bytes() => Some(topic),
            _ => None,
        });
        let (first, more) = (came.next(), came.next());
        drop(came);
        client.unsubscribe(&row.subject);
        client.fence();
        client.messages.clear();
        if retained {
            self.order(&row.with, b"", true);
        }
        match (first, more) {
            (Some(topic), None) => format!("as {topic}"),
            (Some(topic), Some(_)) => format!("as {topic}, twice"),
            (None, _) if outcome.starts_with("granted") => "nothing".to_owned(),
            (None, _) => outcome,
        }
    }

    fn will(&mut self, row: &Row) -> String {
        let payload = format!("line {}", row.line);
        let will = Publish {
            topic: &row.subject,
            qos: row.qos(),
            retain: row.has("retain"),
            payload: payload.as_bytes(),
            ..Publish::default()
        };
        let mut client = self.fleet.dial(&row.who);
        match client.connect(&self.fleet.client_id(&row.who, "will"), Some(&will)) {
            Heard::ConnAck(0) => {}
            Heard::ConnAck(0x87) => return "refused".to_owned(),
            _ => return "invalid".to_owned(),
        }
        drop(client);
        let mut seen = None;
        crate::support::eventually("the will", || {
            seen = self.seen(payload.as_bytes());
            seen.is_some()
        });
        if row.has("retain") {
            self.forget_retained(seen.as_ref());
        }
        let Some(Heard::Publish { topic, .. }) = seen else { unreachable!() };
        format!("as {topic}")
    }

    fn respond(&mut self, row: &Row) -> String {
        let payload = format!("line {}", row.line);
        let publish = Publish {
            topic: &row.subject,
            response_topic: Some(&row.with),
            payload: payload.as_bytes(),
            ..Publish::default()
        };
        let client = self.client(&row.who);
        client.publish(&publish);
        client.fence();
        match self.seen(payload.as_bytes()) {
            Some(Heard::Publish { response_topic: Some(topic), .. }) => format!("as {topic}"),
            other => format!("{other:?}"),
        }
    }

    fn connect(&mut self, row: &Row) -> String {
        match self.fleet.dial(&row.who).connect(&row.subject, None) {
            Heard::ConnAck(0) => "accepted".to_owned(),
            Heard::ConnAck(0x85) => "refused".to_owned(),
            told => format!("{told:?}"),
        }
    }
}

fn granted(told: &Heard) -> String {
    match told {
        Heard::SubAck(qos @ 0..=2) => format!("granted {qos}"),
        Heard::SubAck(0x87) => "refused".to_owned(),
        Heard::SubAck(0x8F) | Heard::Disconnect(_) | Heard::End => "invalid".to_owned(),
        other => format!("{other:?}"),
    }
}
