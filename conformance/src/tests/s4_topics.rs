//! Owns the tests of section 4.7: topic names, filters, and which matches which. Never tests how subscriptions are made.

use anyhow::{Context, Result, bail, ensure};

use super::common::{ILL_FORMED, NUL, SURROGATES, closes_on, each};
use super::flows::{need_wildcards, receive_until};
use crate::client::{Client, Event};
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{Publish, Subscribe, Will};
use crate::wire::read::Packet;

/// The section.
pub const SECTION: Section = section! {
    prefix: "4.7",
    title: "topic names and filters",
    tests: {
        wildcard_in_a_topic_name_closes => ["MQTT-4.7.0-1"],
        wildcard_in_a_will_topic_is_no_topic => ["MQTT-4.7.0-1"],
        hash_in_the_wrong_place_is_refused => ["MQTT-4.7.1-1"],
        plus_within_a_level_is_refused => ["MQTT-4.7.1-2"],
        hash_matches_the_level_above_and_all_below => ["MQTT-4.7.1-1"],
        plus_matches_one_level => ["MQTT-4.7.1-2"],
        wildcards_may_be_combined => ["MQTT-4.7.1-1", "MQTT-4.7.1-2"],
        lone_hash_matches_everything => ["MQTT-4.7.1-1"],
        leading_hash_matches_no_dollar_topic => ["MQTT-4.7.2-1"],
        leading_plus_matches_no_dollar_topic => ["MQTT-4.7.2-1"],
        leading_wildcards_match_no_topic_of_the_broker => ["MQTT-4.7.2-1"],
        dollar_within_a_topic_is_nothing_special => ["MQTT-4.7.2-1"],
        empty_topic_name_closes => ["MQTT-4.7.3-1"],
        empty_filter_is_refused => ["MQTT-4.7.3-1"],
        one_character_is_enough => ["MQTT-4.7.3-1"],
        nul_in_a_topic_name_closes => ["MQTT-4.7.3-2"],
        nul_in_a_filter_closes => ["MQTT-4.7.3-2"],
        ill_formed_topic_name_closes => ["MQTT-4.7.3-3"],
        ill_formed_filter_closes => ["MQTT-4.7.3-3"],
        longest_topic_is_not_cut => ["MQTT-4.7.3-3"],
        empty_levels_count => ["MQTT-4.7.3-4"],
        case_and_blanks_count => ["MQTT-4.7.3-4"],
        characters_are_not_normalized => ["MQTT-4.7.3-4"],
        topic_arrives_as_it_was_sent => ["MQTT-4.7.3-4"],
    },
    unobservable: {},
};

fn wildcard_in_a_topic_name_closes(ctx: &Ctx) -> Result<()> {
    for topic in ["a/#", "a/+", "#", "+", "a+b", "a#/b"] {
        for qos in 0..=ctx.limits().maximum_qos {
            let packet = Publish::new(topic, "x").qos(qos, 1).bytes(V5);
            closes_on(ctx, &packet).with_context(|| format!("topic {topic:?}, QoS {qos}"))?;
        }
    }
    Ok(())
}

/// The broker may notice at CONNECT or when the will is due; a subscriber must not see it either way (the reader refuses
/// such a name).
fn wildcard_in_a_will_topic_is_no_topic(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let mut watcher = super::common::subscriber(ctx, "watcher", &ctx.topic("#"), 0)?;
    let mut client = ctx.open(V5)?;
    client.send_connect(&ctx.v5("doomed").will(Will::new(ctx.topic("+"), "gone")))?;
    client.next_event()?;
    client.cut()?;
    watcher.expect_quiet_for(super::common::GRACE)
}

/// Expects that each filter is refused: by SUBACK >= 0x80 or by closing.
fn filters_are_refused(ctx: &Ctx, filters: &[&str]) -> Result<()> {
    for filter in filters {
        let mut client = ctx.client("filter")?;
        client.send(&Subscribe::new(1).filter(filter, 0).bytes(V5))?;
        match client.next_event()? {
            Event::Packet(Packet::Suback(answer)) => {
                let refused = answer.reasons.len() == 1 && answer.reasons.iter().all(|reason| *reason >= 0x80);
                ensure!(refused, "filter {filter:?} is granted: {:02x?}", answer.reasons);
            }
            Event::Closed | Event::Packet(Packet::Disconnect(_)) => {}
            Event::Packet(other) => bail!("filter {filter:?} is answered with {other:02x?}"),
        }
    }
    Ok(())
}

fn hash_in_the_wrong_place_is_refused(ctx: &Ctx) -> Result<()> {
    filters_are_refused(ctx, &["a#", "a/b#", "#a", "a/#b", "a/#/b", "#/a", "#/", "##", "a/##", "#/#", "+#", "a/+#"])
}

fn plus_within_a_level_is_refused(ctx: &Ctx) -> Result<()> {
    filters_are_refused(ctx, &["a+", "+a", "a/b+", "a/+b", "a/b+/c", "a/+b/c", "++", "a/++", "++/a", "+a/#"])
}

/// One row of a table: a filter, topics that match it, topics that do not.
type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

/// Publishes to all topics of a row and compares what comes with what has to. All names are below this test's own topic.
fn table(ctx: &Ctx, rows: &[Row<'_>]) -> Result<()> {
    let marker = ctx.client_id("marker");
    let mut sender = ctx.client("sender")?;
    let mut receiver = ctx.client("receiver")?;
    receiver.subscribe(&marker, 0)?;
    for (filter, matching, other) in rows {
        row(ctx, (&mut sender, &mut receiver), &marker, (filter, matching, other))
            .with_context(|| format!("filter {filter:?}"))?;
    }
    Ok(())
}

fn row(ctx: &Ctx, ends: (&mut Client, &mut Client), marker: &str, row: Row<'_>) -> Result<()> {
    let (sender, receiver) = ends;
    let (filter, matching, other) = row;
    let base = ctx.topic("");
    receiver.subscribe(format!("{base}{filter}"), 0)?;
    for topic in matching.iter().chain(other) {
        sender.publish(format!("{base}{topic}"), 0, "x")?;
    }
    sender.publish(marker, 0, "")?;
    let messages = receive_until(receiver, marker)?;
    let found: Vec<&str> = messages.iter().map(|each| each.topic.strip_prefix(&base).unwrap_or(&each.topic)).collect();
    ensure!(found == matching, "has to match {matching:?}, and not {other:?}; it matched {found:?}");
    receiver.unsubscribe(format!("{base}{filter}")).map(drop)
}

fn hash_matches_the_level_above_and_all_below(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    table(
        ctx,
        &[
            ("a/#", &["a", "a/", "a/b", "a/b/c", "a//", "a/b/c/d/e/f/g"], &["ab", "b", "b/a", "ab/c", "/a", "A/b"]),
            ("a/b/#", &["a/b", "a/b/c", "a/b/"], &["a", "a/c", "a/bc", "b/a/b"]),
            ("a//#", &["a/", "a//", "a//b"], &["a", "a/b"]),
            ("#", &["a", "", "a/b", "/"], &[]),
        ],
    )
}

fn plus_matches_one_level(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    table(
        ctx,
        &[
            ("a/+", &["a/b", "a/", "a/c c"], &["a", "a/b/c", "a//", "b/c", "ab"]),
            ("+", &["a", "", "$a"], &["a/b", "/", "a/"]),
            ("+/b", &["a/b", "/b", "b/b"], &["b", "a/b/c", "a/c", "a/a/b"]),
            ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/b/c", "a/b/c/", "a/b"]),
            ("+/+", &["a/b", "/finance", "/", "a/"], &["a", "a/b/c", "//"]),
            ("/+", &["/finance", "/"], &["finance", "a/finance", "//"]),
        ],
    )
}

fn wildcards_may_be_combined(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    table(
        ctx,
        &[
            ("+/#", &["a", "a/b", "/", "a/b/c", ""], &[]),
            ("+/b/#", &["a/b", "a/b/c", "/b"], &["b", "a", "a/c", "b/a/b"]),
            ("a/+/#", &["a/b", "a/", "a/b/c"], &["a", "b/b"]),
            ("+/tennis/+/#", &["sport/tennis/x", "sport/tennis/x/y"], &["sport/tennis", "tennis/x", "sport/golf/x"]),
            ("+/+/+", &["a/b/c", "//"], &["a/b", "a/b/c/d"]),
        ],
    )
}

/// Whatever else comes by, the message of this test must be there.
fn lone_hash_matches_everything(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let topic = ctx.topic("any");
    let mut receiver = everything(ctx)?;
    for own in [topic.clone(), ctx.client_id("top"), format!("/{topic}")] {
        ctx.client("sender")?.publish(&own, 0, "x")?;
        receive_until(&mut receiver, &own)?;
    }
    Ok(())
}

/// A subscriber to everything, without what is retained.
fn everything(ctx: &Ctx) -> Result<Client> {
    let mut receiver = ctx.client("everything")?;
    let answer = receiver.subscribe_packet(&Subscribe::new(1).filter("#", 0x20))?;
    if answer.reasons != [0] {
        return skip(format!("server grants no subscription to '#': {:02x?}", answer.reasons));
    }
    Ok(receiver)
}

/// Publishes to a topic beginning with '$' that a subscriber naming it gets; skips if the broker distributes none such.
fn dollar_topic(ctx: &Ctx) -> Result<String> {
    let topic = format!("${}", ctx.topic("dollar"));
    let mut named = ctx.client("named")?;
    let id = named.next_id();
    named.send(&Subscribe::new(id).filter(&topic, 0).bytes(V5))?;
    let granted = matches!(named.next_event()?, Event::Packet(Packet::Suback(answer)) if answer.reasons == [0]);
    if granted {
        let mut sender = ctx.client("dollar")?;
        sender.publish(&topic, 0, "secret")?;
        if sender.expect_silence().is_ok() && named.next_within(super::common::GRACE).is_ok() {
            return Ok(topic);
        }
    }
    skip("server distributes no topic of a client that begins with '$'")
}

fn leading_hash_matches_no_dollar_topic(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let mut receiver = everything(ctx)?;
    let topic = dollar_topic(ctx)?;
    let marker = ctx.topic("marker");
    ctx.client("sender")?.publish(&marker, 0, "")?;
    let messages = receive_until(&mut receiver, &marker)?;
    ensure!(messages.iter().all(|message| message.topic != topic), "'#' matched {topic:?}");
    ensure!(messages.iter().all(|message| !message.topic.starts_with('$')), "'#' matched a topic beginning with '$'");
    Ok(())
}

fn leading_plus_matches_no_dollar_topic(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let rest = ctx.topic("");
    let (_, rest) = rest.split_once('/').context("topics have levels")?;
    let mut receiver = ctx.client("receiver")?;
    for filter in [format!("+/{rest}#"), format!("+/{rest}dollar"), format!("+/{rest}+")] {
        receiver.subscribe(filter, 0)?;
    }
    dollar_topic(ctx)?;
    receiver.expect_quiet_for(super::common::GRACE).context("'+' matched a first level beginning with '$'")
}

fn leading_wildcards_match_no_topic_of_the_broker(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let mut receiver = ctx.client("receiver")?;
    for filter in ["+/broker/#", "+/broker/version", "+/brokers/#"] {
        receiver.subscribe(filter, 0)?;
    }
    receiver.expect_quiet_for(std::time::Duration::from_secs(1))
}

fn dollar_within_a_topic_is_nothing_special(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    table(ctx, &[("#", &["$a", "a/$b", "$share/g/a"], &[]), ("+/b", &["$a/b"], &[]), ("$a", &["$a"], &["a"])])
}

fn empty_topic_name_closes(ctx: &Ctx) -> Result<()> {
    for qos in 0..=ctx.limits().maximum_qos {
        closes_on(ctx, &Publish::new("", "x").qos(qos, 1).bytes(V5))?;
    }
    Ok(())
}

fn empty_filter_is_refused(ctx: &Ctx) -> Result<()> {
    filters_are_refused(ctx, &[""])
}

/// Other tests do not use these topics, other users of the broker may.
fn one_character_is_enough(ctx: &Ctx) -> Result<()> {
    for topic in ["/", "€", " "] {
        let payload = ctx.client_id("one");
        let mut client = ctx.client("one")?;
        let id = client.next_id();
        let answer = client.subscribe_packet(&Subscribe::new(id).filter(topic, 0x20))?;
        ensure!(answer.reasons == [0], "filter {topic:?} is refused: {:02x?}", answer.reasons);
        client.publish(topic, 0, &payload)?;
        while client.expect_publish().with_context(|| format!("topic {topic:?}"))?.payload != payload.as_bytes() {}
    }
    Ok(())
}

fn in_topic_name(ctx: &Ctx, rows: &[(&str, &[u8])]) -> Result<()> {
    each(rows, |topic| closes_on(ctx, &Publish::new(topic, "x").bytes(V5)).map(drop))
}

fn in_filter(ctx: &Ctx, rows: &[(&str, &[u8])]) -> Result<()> {
    each(rows, |filter| closes_on(ctx, &Subscribe::new(1).filter(filter, 0).bytes(V5)).map(drop))
}

fn nul_in_a_topic_name_closes(ctx: &Ctx) -> Result<()> {
    in_topic_name(ctx, NUL)?;
    in_topic_name(ctx, &[("alone", b"\0"), ("in front", b"\0a"), ("behind", b"a\0")])
}

fn nul_in_a_filter_closes(ctx: &Ctx) -> Result<()> {
    in_filter(ctx, NUL)?;
    in_filter(ctx, &[("alone", b"\0"), ("behind", b"a\0"), ("before a wildcard", b"a\0/#")])
}

fn ill_formed_topic_name_closes(ctx: &Ctx) -> Result<()> {
    in_topic_name(ctx, ILL_FORMED)?;
    in_topic_name(ctx, SURROGATES)
}

fn ill_formed_filter_closes(ctx: &Ctx) -> Result<()> {
    in_filter(ctx, ILL_FORMED)?;
    in_filter(ctx, SURROGATES)
}

/// A broker may have no use for 65,535 bytes, but it must not deliver something else.
fn longest_topic_is_not_cut(ctx: &Ctx) -> Result<()> {
    let start = ctx.topic("");
    let topic = start.clone() + &"x".repeat(65_535 - start.len());
    let mut client = ctx.client("long")?;
    client.send(&Subscribe::new(1).filter(&topic, 0).bytes(V5))?;
    match client.next_event()? {
        Event::Packet(Packet::Suback(answer)) if answer.reasons == [0] => {}
        Event::Closed | Event::Packet(Packet::Suback(_) | Packet::Disconnect(_)) => {
            return skip("server refuses a filter of 65,535 bytes");
        }
        other => bail!("expected SUBACK, got {other:02x?}"),
    }
    client.publish(&topic, 0, "x")?;
    match client.next_event()? {
        Event::Packet(Packet::Publish(message)) => {
            ensure!(message.topic == topic, "a topic of 65,535 bytes came with {}", message.topic.len());
            Ok(())
        }
        Event::Closed | Event::Packet(Packet::Disconnect(_)) => skip("server refuses a topic of 65,535 bytes"),
        other => bail!("expected the message, got {other:02x?}"),
    }
}

fn empty_levels_count(ctx: &Ctx) -> Result<()> {
    table(
        ctx,
        &[
            ("a", &["a"], &["a/", "/a", "a//"]),
            ("a/", &["a/"], &["a", "a//", "/a/"]),
            ("/a", &["/a"], &["a", "//a"]),
            ("a//b", &["a//b"], &["a/b", "a///b"]),
            ("/", &["/"], &["", "//"]),
        ],
    )
}

fn case_and_blanks_count(ctx: &Ctx) -> Result<()> {
    table(
        ctx,
        &[
            ("Accounts", &["Accounts"], &["ACCOUNTS", "accounts", "Accounts "]),
            ("Accounts payable", &["Accounts payable"], &["Accountspayable", "Accounts%20payable"]),
            (" a ", &[" a "], &["a", " a", "a "]),
            ("ä/Ä", &["ä/Ä"], &["ä/ä", "Ä/Ä", "a/A"]),
        ],
    )
}

/// Letters that look the same: composed and decomposed, and a zero-width no-break space, which is never a byte order mark.
fn characters_are_not_normalized(ctx: &Ctx) -> Result<()> {
    table(
        ctx,
        &[
            ("caf\u{e9}", &["caf\u{e9}"], &["cafe\u{301}", "cafe"]),
            ("cafe\u{301}", &["cafe\u{301}"], &["caf\u{e9}"]),
            ("\u{feff}a", &["\u{feff}a"], &["a"]),
            ("\u{212b}", &["\u{212b}"], &["\u{c5}", "A\u{30a}"]),
            ("\u{ff21}", &["\u{ff21}"], &["A"]),
            ("a\\b", &["a\\b"], &["a/b", "ab"]),
            ("a.b*c", &["a.b*c"], &["axbxc", "a.bc"]),
        ],
    )
}

fn topic_arrives_as_it_was_sent(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let odd: &[&str] = &[
        "a b",
        " ",
        "%2F",
        "a//b/",
        "é\u{301}",
        "\u{feff}",
        "日本語/😀",
        "a?b=c&d",
        "..",
        "../a",
        ".",
        "~",
        "'\"`",
        "\u{a0}",
    ];
    table(ctx, &[("#", odd, &[])])
}
