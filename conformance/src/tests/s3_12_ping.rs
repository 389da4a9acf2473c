//! Owns the tests of sections 3.12 and 3.13: PINGREQ and PINGRESP. Never tests the keep alive (3.1).

use anyhow::{Result, bail};

use super::common::subscriber;
use super::flows::need_qos;
use crate::client::Event;
use crate::context::Ctx;
use crate::registry::{Section, section};
use crate::wire::build::{self, Publish};
use crate::wire::first;
use crate::wire::read::Packet;

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.12",
    title: "PINGREQ and PINGRESP",
    tests: {
        pingreq_is_answered => ["MQTT-3.12.4-1"],
        every_one_of_many_pingreqs_is_answered => ["MQTT-3.12.4-1"],
        pingreq_is_answered_without_keep_alive => ["MQTT-3.12.4-1"],
        pingreq_is_answered_within_a_handshake => ["MQTT-3.12.4-1"],
        pingreq_is_answered_among_messages => ["MQTT-3.12.4-1"],
        pingreq_is_answered_in_mqtt311 => ["MQTT-3.12.4-1"],
    },
    unobservable: {},
};

fn pingreq_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("ping")?;
    for _ in 0..3 {
        client.send(&build::pingreq())?;
        client.expect_pingresp()?;
    }
    Ok(())
}

fn every_one_of_many_pingreqs_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("ping")?;
    client.send(&build::pingreq().repeat(25))?;
    for _ in 0..25 {
        client.expect_pingresp()?;
    }
    client.expect_quiet_for(super::common::GRACE)
}

fn pingreq_is_answered_without_keep_alive(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.connect(&ctx.v5("ping").keep_alive(0))?;
    client.send(&build::pingreq())?;
    client.expect_pingresp()
}

fn pingreq_is_answered_within_a_handshake(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut client = ctx.client("ping")?;
    client.send_publish(&Publish::new(ctx.topic("ping"), "x").qos(2, 1))?;
    client.expect_ack(first::PUBREC, 1)?.successful()?;
    client.send(&build::pingreq())?;
    client.expect_pingresp()?;
    client.send(&build::ack(first::PUBREL, 1))?;
    client.expect_ack(first::PUBCOMP, 1)?.successful()
}

fn pingreq_is_answered_among_messages(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("ping");
    let mut client = subscriber(ctx, "ping", &topic, 0)?;
    let round = [Publish::new(&topic, "x").bytes(crate::wire::Version::V5), build::pingreq()].concat();
    client.send(&round.repeat(10))?;
    let (mut messages, mut answers) = (0, 0);
    while messages < 10 || answers < 10 {
        match client.next_event()? {
            Event::Packet(Packet::Publish(_)) => messages += 1,
            Event::Packet(Packet::Pingresp) => answers += 1,
            other => bail!("expected PUBLISH or PINGRESP, got {other:02x?}"),
        }
    }
    client.expect_silence()
}

fn pingreq_is_answered_in_mqtt311(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.connect(&ctx.v311("ping"))?;
    client.send(&build::pingreq())?;
    client.expect_pingresp()
}
