//! Questions of the rest of the broker, about vehicles that live here.
//!
//! Owns what each becomes, and that no answer is seen before what it says is durable.

use causeway_fleet::Principal;
use causeway_fleet::shadow::{Format, Rejection, Request, Section, Shadow, answer, write};
use causeway_protocol::{ForwardedBuilder, ForwardedProperties, QoS};

use super::deliver::Origin;
use super::shadow::{Kept, Whose, no_shadow};
use super::{Release, Shard};
use crate::message::{Publication, Step};
use crate::{Answer, Ask, AskId, Effect, Lsn, Millis, PublishAsk, ShadowAsk, ShadowTold, ShadowWhat};

impl Shard {
    /// Takes a question. Its answer comes as [`Effect::Answer`], here and now or later.
    pub fn ask(&mut self, now: Millis, ask: AskId, question: &Ask) {
        let (answer, after) = match question {
            Ask::Command(asked) => return self.ask_command(now, ask, asked),
            Ask::Publish(asked) => self.ask_publish(now, asked),
            Ask::CommandState { id, when_over } => return self.ask_progress(now, ask, (*id, *when_over)),
            Ask::Shadow(asked) => {
                let (told, after) = self.ask_shadow(now, asked);
                (Answer::Shadow(told), after)
            }
            Ask::Fleet(asked) => (Answer::Fleet(self.ask_fleet(asked)), self.recorder.last()),
            Ask::History(range) => (Answer::History(self.history_pending(range)), self.recorder.last()),
            Ask::Shadows(vin) => {
                let exists = |kept: &&Kept| kept.shadow().exists();
                let kept = self.shadows.of(vin).iter().filter(exists);
                let names = kept.map(|kept| (kept.name().map(Into::into), kept.shadow().version())).collect();
                (Answer::Shadows(names), self.shadows.of(vin).iter().map(Kept::lsn).max().unwrap_or_default())
            }
        };
        self.answer_ask(now, ask, after, answer);
    }

    /// Answers a question once a record is durable.
    pub(super) fn answer_ask(&mut self, now: Millis, ask: AskId, after: Lsn, answer: Answer) {
        let answer = Effect::Answer { ask, answer: Box::new(answer) };
        self.when_durable(now, after, Release::Told(Box::new(answer)));
    }

    /// Publishes for the rest of the broker: it waits where the disk has no room.
    fn ask_publish(&mut self, now: Millis, asked: &PublishAsk) -> (Answer, Lsn) {
        if self.storage_low {
            return (Answer::NoRoom, Lsn(0));
        }
        let mut properties = ForwardedBuilder::new().payload_format_indicator(true).content_type(asked.content_type);
        if let Some(data) = &asked.to.correlation_data {
            properties = properties.correlation_data(data);
        }
        for (name, value) in &asked.user_properties {
            properties = properties.user_property(name, value);
        }
        let properties = properties.build().unwrap_or_default();
        let mut publication = Publication::plain(&asked.to.response_topic, &asked.payload, QoS::AtLeastOnce);
        publication.forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap_or_default();
        publication.provenance = self.own_origin(now);
        publication.step = Step::Told(&asked.meant_for);
        let routed = self.route(now, &mut publication, Origin::Service { after: Lsn(0) });
        // Only a client can be refused.
        (Answer::Published, routed.map_or(Lsn(0), |routed| routed.durable_at))
    }

    fn ask_shadow(&mut self, now: Millis, asked: &ShadowAsk) -> (Result<ShadowTold, Rejection>, Lsn) {
        let whose = (asked.vin, asked.name.as_deref());
        let by = (&asked.by, Origin::Broker);
        let seen = self.shadows.get(whose).map(Kept::lsn).unwrap_or_default();
        match &asked.what {
            ShadowWhat::Get => {
                let shadow = self.shadows.get(whose).map(Kept::shadow).filter(Shadow::exists);
                (shadow.map(|shadow| told(now, &shadow)).ok_or_else(|| no_shadow(whose)), seen)
            }
            ShadowWhat::Update { payload, format, version } => {
                let updated = self.ask_update(now, whose, by, (payload, *format, *version));
                self.told_now(updated)
            }
            ShadowWhat::Delete { version } => {
                let request = Request::delete(*version, None, Format::Json);
                let deleted = self.check_shadow(now, whose, &request).map(|()| {
                    let version = self.change_shadow(now, whose, by, (None, &request)).0.version;
                    ShadowTold {
                        version,
                        document: write(&answer::accepted_delete(version, now.0, None), Format::Json),
                    }
                });
                self.told_now(deleted)
            }
        }
    }

    fn ask_update(
        &mut self,
        now: Millis,
        whose: Whose<'_>,
        by: (&Principal, Origin),
        (payload, format, version): (&[u8], Format, Option<u64>),
    ) -> Result<ShadowTold, Rejection> {
        let mut request = self.parse_update(payload, format, Section::Whole).map_err(|(rejection, _)| rejection)?;
        if version.is_some_and(|version| request.expected_version.replace(version).is_some_and(|said| said != version))
        {
            return Err(Rejection::conflict());
        }
        self.check_shadow(now, whose, &request)?;
        self.change_shadow(now, whose, by, (None, &request));
        Ok(told(now, &self.shadows.get(whose).map(Kept::shadow).unwrap_or_default()))
    }

    /// With the record that an answer waits for: the newest, for it may tell of any.
    fn told_now(&mut self, told: Result<ShadowTold, Rejection>) -> (Result<ShadowTold, Rejection>, Lsn) {
        if told.is_err() {
            self.counters.shadow_rejections += 1;
        }
        (told, self.recorder.last())
    }
}

fn told(now: Millis, shadow: &Shadow) -> ShadowTold {
    ShadowTold { version: shadow.version(), document: write(&shadow.document(now.0), Format::Json) }
}
