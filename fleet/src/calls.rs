//! Calls: messages that the broker itself is asked something with, about one vehicle.
//!
//! Owns which topics they are, by full names. A call is handled where the vehicle lives, and nobody is subscribed to it. What comes of it is said
//! in `shadow` and in `command`.
//!
//! | Topic | Asks for |
//! |---|---|
//! | `vehicles/{vin}/shadow[/name/{n}]/{state,get,update,delete}` | the shadow |
//! | `$aws/things/{vin}/shadow[/name/{n}]/{get,update,delete}` | likewise, by the names of AWS IoT |
//! | `vehicles/{vin}/cmd/{name}`, with a Response Topic | a command |
//! | `groups/{g}/cmd/{name}`, with a Response Topic | a command to each vehicle of a group |
//! | `vehicles/{vin}/status/…`, by the vehicle | perhaps the reply to one |

use std::borrow::Cow;

use crate::Vin;

const VEHICLES: &str = "vehicles/";
const GROUPS: &str = "groups/";
/// Where commands to all vehicles would be.
const OF_FLEET: &str = "fleet/cmd/";
/// Where things are by the names of AWS IoT.
const THINGS: &str = "$aws/things/";
/// Where the slash behind the VIN is.
const BEHIND_VIN: usize = VEHICLES.len() + Vin::LENGTH;
/// The longest name of a shadow, and of a command, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// A message about one vehicle that the broker itself takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'t> {
    /// What stands where a VIN is: seventeen bytes. Looked at only where it matters, because hardly any message is a call.
    said_vin: &'t str,
    /// What for.
    pub what: What<'t>,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'t> {
    /// A shadow; without a name, the classic one.
    Shadow(Option<&'t str>, Verb, Names),
    /// A command of this name.
    Command(&'t str),
    /// Perhaps a reply to a command: the levels behind `status/`.
    Reply(&'t str),
    /// Only the broker publishes that.
    Brokers,
}

/// What is asked of a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// To take the reported state, which is the whole payload.
    State,
    /// To tell it.
    Get,
    /// To change it.
    Update,
    /// To delete it.
    Delete,
}

/// By which names somebody speaks of shadows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Causeway's.
    Own,
    /// Those of AWS IoT.
    Aws,
}

/// What the broker says about a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the topics' names")]
pub enum Told {
    GetAccepted,
    GetRejected,
    UpdateAccepted,
    UpdateRejected,
    DeleteAccepted,
    DeleteRejected,
    Delta,
    Documents,
    Expired,
}

impl Verb {
    /// Where it is told that it was done.
    pub fn accepted(self) -> Told {
        match self {
            Verb::Get => Told::GetAccepted,
            Verb::State | Verb::Update => Told::UpdateAccepted,
            Verb::Delete => Told::DeleteAccepted,
        }
    }

    /// Where it is told that it was not.
    pub fn rejected(self) -> Told {
        match self {
            Verb::Get => Told::GetRejected,
            Verb::State | Verb::Update => Told::UpdateRejected,
            Verb::Delete => Told::DeleteRejected,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Verb::State => "state",
            Verb::Get => "get",
            Verb::Update => "update",
            Verb::Delete => "delete",
        }
    }

    fn of(word: &str) -> Option<Verb> {
        [Verb::State, Verb::Get, Verb::Update, Verb::Delete].into_iter().find(|verb| verb.word() == word)
    }
}

impl Told {
    /// Everything.
    pub const ALL: [Told; 9] = [
        Told::GetAccepted,
        Told::GetRejected,
        Told::UpdateAccepted,
        Told::UpdateRejected,
        Told::DeleteAccepted,
        Told::DeleteRejected,
        Told::Delta,
        Told::Documents,
        Told::Expired,
    ];

    /// The levels of its topic behind those of the shadow.
    pub fn words(self, names: Names) -> &'static str {
        match (self, names) {
            (Told::GetAccepted, _) => "get/accepted",
            (Told::GetRejected, _) => "get/rejected",
            (Told::UpdateAccepted, _) => "update/accepted",
            (Told::UpdateRejected, _) => "update/rejected",
            (Told::DeleteAccepted, _) => "delete/accepted",
            (Told::DeleteRejected, _) => "delete/rejected",
            (Told::Delta, Names::Own) => "delta",
            (Told::Delta, Names::Aws) => "update/delta",
            (Told::Documents, Names::Own) => "documents",
            (Told::Documents, Names::Aws) => "update/documents",
            (Told::Expired, _) => "expired",
        }
    }
}

/// The call that a message of this full topic is, if it is one, and [`Call::vin`] is a VIN. A message for a command needs a Response Topic, and a reply is the vehicle's: for
/// others these are plain messages.
#[inline]
pub fn of(topic: &str) -> Option<Call<'_>> {
    // It is asked about every message, and hardly any is one.
    let bytes = topic.as_bytes();
    match bytes.first() {
        Some(b'v') if bytes.get(BEHIND_VIN..).is_some_and(begins_like_a_call) => of_vehicle(topic),
        Some(b'$') => of_thing(topic),
        _ => None,
    }
}

/// Whether a message of this topic, with a Response Topic, would be a command to many vehicles.
#[inline]
pub fn is_of_group(topic: &str) -> bool {
    // It is asked about every message, and hardly any is one.
    matches!(topic.as_bytes().first(), Some(b'g' | b'f')) && (of_group(topic).is_some() || topic.starts_with(OF_FLEET))
}

/// The group and the name of the command, of a topic such as `groups/eu/cmd/get_location`.
pub fn of_group(topic: &str) -> Option<(&str, &str)> {
    let (group, said) = topic.strip_prefix(GROUPS)?.split_once('/')?;
    let name = said.strip_prefix("cmd/").filter(|name| is_name(name))?;
    (!group.is_empty()).then_some((group, name))
}

/// Whether what stands behind a VIN begins with one of the words of [`of_vehicle`].
#[inline]
fn begins_like_a_call(said: &[u8]) -> bool {
    said.starts_with(b"/shadow") || said.starts_with(b"/status/") || said.starts_with(b"/cmd/")
}

#[inline(never)]
fn of_vehicle(topic: &str) -> Option<Call<'_>> {
    let said_vin = topic.strip_prefix(VEHICLES)?.get(..Vin::LENGTH)?;
    let said = topic.get(BEHIND_VIN + 1..)?;
    let what = if let Some(rest) = said.strip_prefix("status/") {
        What::Reply(rest)
    } else if let Some(name) = said.strip_prefix("cmd/") {
        What::Command(Some(name).filter(|name| is_name(name))?)
    } else if let Some(rest) = said.strip_prefix("shadow/") {
        of_shadow(rest, Names::Own)
    } else if said == "shadow" {
        What::Brokers
    } else {
        return None;
    };
    Some(Call { said_vin, what })
}

#[inline(never)]
fn of_thing(topic: &str) -> Option<Call<'_>> {
    let (vin, rest) = topic.strip_prefix(THINGS)?.split_once('/')?;
    let shadow = rest.strip_prefix("shadow/").filter(|_| vin.len() == Vin::LENGTH)?;
    Some(Call { said_vin: vin, what: of_shadow(shadow, Names::Aws) })
}

fn of_shadow(rest: &str, names: Names) -> What<'_> {
    let (name, word) = match rest.strip_prefix("name/").and_then(|named| named.split_once('/')) {
        Some((name, word)) if is_name(name) => (Some(name), word),
        Some(_) => return What::Brokers,
        None => (None, rest),
    };
    match Verb::of(word) {
        Some(Verb::State) if names == Names::Aws => What::Brokers,
        Some(verb) => What::Shadow(name, verb, names),
        None => What::Brokers,
    }
}

/// Whether a shadow or a command may be called so: letters, digits, `:`, `_`, `-` and `.`, up to 64 bytes.
pub fn is_name(name: &str) -> bool {
    let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-' | b'.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_of_it)
}

impl<'t> Call<'t> {
    /// Whose it is. Where this is no VIN, the message is no call.
    pub fn vin(&self) -> Option<Vin> {
        self.said_vin.parse().ok()
    }

    /// Whether it is this vehicle's.
    pub fn is_of(&self, vin: &Vin) -> bool {
        self.said_vin == vin.as_str()
    }

    /// The name by which policies know the topic: the vehicle's, whoever says it how.
    pub fn canonical(&self, topic: &'t str) -> Cow<'t, str> {
        match self.what {
            What::Shadow(name, verb, Names::Aws) => {
                Cow::Owned(with_name(&[VEHICLES, self.said_vin, "/shadow/"].concat(), name, verb.word()))
            }
            What::Shadow(..) | What::Command(_) | What::Reply(_) | What::Brokers => Cow::Borrowed(topic),
        }
    }
}

/// The topic on which the broker says something about a shadow.
pub fn told_on(vin: &Vin, name: Option<&str>, told: Told, names: Names) -> String {
    let mount = match names {
        Names::Own => VEHICLES,
        Names::Aws => THINGS,
    };
    with_name(&[mount, vin.as_str(), "/shadow/"].concat(), name, told.words(names))
}

/// Whether a topic is one on which a vehicle is told what is wanted of it.
pub fn is_delta(topic: &str) -> bool {
    topic.ends_with("/delta") && of(topic).is_some_and(|call| call.what == What::Brokers)
}

fn with_name(shadow: &str, name: Option<&str>, word: &str) -> String {
    match name {
        Some(name) => [shadow, "name/", name, "/", word].concat(),
        None => [shadow, word].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";

    fn what(said: &str) -> Option<What<'_>> {
        of(said).filter(|call| call.vin().is_some()).map(|call| call.what)
    }

    #[test]
    fn what_is_a_call() {
        let shadow = |name, verb, names| Some(What::Shadow(name, verb, names));
        let table = [
            ("vehicles/{}/shadow/state", shadow(None, Verb::State, Names::Own)),
            ("vehicles/{}/shadow/get", shadow(None, Verb::Get, Names::Own)),
            ("vehicles/{}/shadow/name/doors/update", shadow(Some("doors"), Verb::Update, Names::Own)),
            ("vehicles/{}/shadow/name/a:b_c-d.9/delete", shadow(Some("a:b_c-d.9"), Verb::Delete, Names::Own)),
            ("$aws/things/{}/shadow/update", shadow(None, Verb::Update, Names::Aws)),
            ("$aws/things/{}/shadow/name/n/get", shadow(Some("n"), Verb::Get, Names::Aws)),
            ("$aws/things/{}/shadow/state", Some(What::Brokers)),
            ("$aws/things/{}/shadow/update/accepted", Some(What::Brokers)),
            ("vehicles/{}/shadow", Some(What::Brokers)),
            ("vehicles/{}/shadow/", Some(What::Brokers)),
            ("vehicles/{}/shadow/delta", Some(What::Brokers)),
            ("vehicles/{}/shadow/name/get", Some(What::Brokers)),
            ("vehicles/{}/shadow/name//get", Some(What::Brokers)),
            ("vehicles/{}/shadow/name/a b/get", Some(What::Brokers)),
            ("vehicles/{}/cmd/get_location", Some(What::Command("get_location"))),
            ("vehicles/{}/cmd/a/b", None),
            ("vehicles/{}/cmd/", None),
            ("vehicles/{}/status/location", Some(What::Reply("location"))),
            ("vehicles/{}/status/location/x", Some(What::Reply("location/x"))),
            ("vehicles/{}/status", None),
            ("vehicles/{}/shadows/get", None),
            ("vehicles/{}/telemetry", None),
            ("vehicles/{}", None),
            ("vehicles/1M8GDM9AXKP04278/shadow/get", None),
            ("vehicles/1M8GDM9AXKP0427888/shadow/get", None),
            ("vehicles/1M8GDM9AXKPO42788/shadow/get", None),
            ("$aws/things/nobody/shadow/get", None),
            ("$aws/things/{}/jobs/get", None),
            ("$aws/rules/x", None),
            ("$SYS/broker", None),
            ("", None),
            ("v", None),
        ];
        for (topic, expected) in table {
            let topic = topic.replace("{}", VIN);
            assert_eq!(what(&topic), expected, "{topic}");
        }
    }

    #[test]
    fn names_of_both_kinds_are_one_topic_to_policies() {
        let canonical = |topic: &str| of(topic).unwrap().canonical(topic).into_owned();
        assert_eq!(canonical(&format!("$aws/things/{VIN}/shadow/get")), format!("vehicles/{VIN}/shadow/get"));
        let named = format!("vehicles/{VIN}/shadow/name/x/update");
        assert_eq!(canonical(&format!("$aws/things/{VIN}/shadow/name/x/update")), named);
        assert_eq!(canonical(&named), named);
        let vin = VIN.parse().unwrap();
        assert_eq!(told_on(&vin, None, Told::Delta, Names::Own), format!("vehicles/{VIN}/shadow/delta"));
        let delta = format!("$aws/things/{VIN}/shadow/name/x/update/delta");
        assert_eq!(told_on(&vin, Some("x"), Told::Delta, Names::Aws), delta);
    }

    #[test]
    fn no_topic_panics() {
        for topic in
            ["vehicles/ü8GDM9AXKP042788/shadow/get", "vehicles/1M8GDM9AXKP04278ü/shadow", "$aws/things/ü/shadow/"]
        {
            for end in 0..topic.len() {
                topic.get(..end).map(of);
            }
        }
    }
}
