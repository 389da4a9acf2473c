//! Owns the tests of sections 3.15 and 4.12: AUTH and enhanced authentication. Never tests user names and passwords (3.1).

use anyhow::{Context, Result, bail, ensure};

use super::common::{closes_on, refused, subscriber};
use super::flows::payloads;
use crate::client::{Client, Event};
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::scram::{METHOD, Proof, Scram};
use crate::wire::Version::V5;
use crate::wire::build::{self, Connect, Props, Publish, frame};
use crate::wire::read::{Connack, Notice, Packet, Properties};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.15",
    title: "AUTH and enhanced authentication",
    tests: {
        wrong_fixed_flags_close => ["MQTT-3.15.1-1"],
        auth_without_method_in_connect_closes => ["MQTT-4.13.1-1"],
        auth_without_method_property_closes => ["MQTT-4.13.1-1"],
        unknown_method_is_refused => ["MQTT-4.12.0-1"],
        empty_method_is_refused => ["MQTT-4.12.0-1"],
        no_auth_without_method => ["MQTT-4.12.0-6"],
        server_asks_with_continue => ["MQTT-4.12.0-2", "MQTT-3.15.2-1"],
        scram_succeeds => ["MQTT-4.12.0-2", "MQTT-4.12.0-5"],
        method_is_repeated => ["MQTT-4.12.0-5"],
        wrong_password_is_refused => ["MQTT-4.12.0-4"],
        unknown_user_is_refused => ["MQTT-4.12.0-4"],
        tampered_nonce_is_refused => ["MQTT-4.12.0-4"],
        garbage_is_refused => ["MQTT-4.12.0-4"],
        another_method_in_the_second_auth_is_refused => ["MQTT-4.12.0-5", "MQTT-4.12.0-4"],
        unknown_reason_code_in_auth_closes => ["MQTT-3.15.2-1"],
        success_claimed_by_the_client_is_refused => ["MQTT-3.15.2-1", "MQTT-4.12.0-4"],
        other_packets_during_authentication_close => ["MQTT-4.13.1-1"],
        small_auths_leave_out_the_reason_string => ["MQTT-3.15.2-2"],
        small_auths_leave_out_user_properties => ["MQTT-3.15.2-3"],
        reauthentication_succeeds => ["MQTT-4.12.0-2", "MQTT-4.12.0-5", "MQTT-3.15.2-1"],
        reauthentication_can_be_repeated => ["MQTT-4.12.0-2"],
        messages_flow_during_reauthentication => ["MQTT-4.12.0-2"],
        failed_reauthentication_closes => ["MQTT-4.12.1-2"],
        reauthentication_with_another_method_closes => ["MQTT-4.12.1-2", "MQTT-4.12.0-5"],
        reauthentication_without_authentication_closes => ["MQTT-4.13.1-1"],
    },
    unobservable: {},
};

fn method(name: &str, data: impl AsRef<[u8]>) -> Props {
    Props::new().text(prop::AUTH_METHOD, name).text(prop::AUTH_DATA, data)
}

fn wrong_fixed_flags_close(ctx: &Ctx) -> Result<()> {
    for flags in [1, 2, 4, 8, 15] {
        closes_on(ctx, &frame(first::AUTH | flags, &[])).with_context(|| format!("flags {flags:04b}"))?;
    }
    Ok(())
}

fn auth_without_method_in_connect_closes(ctx: &Ctx) -> Result<()> {
    for reason in [0x18, 0x19] {
        closes_on(ctx, &build::auth(reason, &method(METHOD, "n,,n=user,r=abc")))?;
    }
    Ok(())
}

fn auth_without_method_property_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &build::auth(0x19, &Props::new()))?;
    closes_on(ctx, &frame(first::AUTH, &[])).map(drop)
}

fn refused_as_unknown(ctx: &Ctx, name: &str) -> Result<()> {
    let refusal = refused(ctx, &ctx.v5("unknown").props(method(name, "data")))?;
    let reason = refusal.map_or(0x8C, |connack| connack.reason);
    ensure!(
        matches!(reason, 0x8C | 0x87),
        "CONNACK {reason:#04x} for an unknown method, only 0x8C and 0x87 are foreseen"
    );
    Ok(())
}

fn unknown_method_is_refused(ctx: &Ctx) -> Result<()> {
    refused_as_unknown(ctx, "CONFORMANCE-UNKNOWN")?;
    refused(ctx, &ctx.v5("unknown").props(Props::new().text(prop::AUTH_METHOD, "CONFORMANCE-UNKNOWN"))).map(drop)
}

fn empty_method_is_refused(ctx: &Ctx) -> Result<()> {
    refused(ctx, &ctx.v5("unknown").props(method("", ""))).map(drop)
}

/// The audit looks at every connection for the same.
fn no_auth_without_method(ctx: &Ctx) -> Result<()> {
    let client = ctx.client("plain")?;
    for id in [prop::AUTH_METHOD, prop::AUTH_DATA] {
        ensure!(!client.connack.props.has(id), "property {id:#04x} in CONNACK although CONNECT named no method");
    }
    client.disconnect()
}

// SCRAM.

/// The valid name and password, or the test is skipped.
fn account(ctx: &Ctx) -> Result<(String, String)> {
    match &ctx.setup().scram {
        Some(account) => Ok(account.clone()),
        None => skip("no --scram-username and --scram-password"),
    }
}

fn valid(ctx: &Ctx) -> Result<Scram> {
    let (name, password) = account(ctx)?;
    Ok(Scram::new(&name, &password, &ctx.client_id("nonce")))
}

fn scram_connect(ctx: &Ctx, scram: &Scram) -> Connect {
    ctx.v5("scram").props(method(METHOD, scram.first()))
}

fn check_method(what: &str, props: &Properties) -> Result<()> {
    let found = props.text(prop::AUTH_METHOD);
    ensure!(found == Some(METHOD), "{what} names the method {found:?}, CONNECT named {METHOD:?}");
    Ok(())
}

/// Expects the server's AUTH with its challenge.
fn challenge(client: &mut Client) -> Result<Notice> {
    let auth = client.expect_auth().context("waiting for the server's challenge")?;
    ensure!(auth.reason == 0x18, "the server asks for more with AUTH {:#04x} instead of 0x18", auth.reason);
    check_method("AUTH", &auth.props)?;
    Ok(auth)
}

fn proof(scram: &Scram, challenge: &Notice) -> Result<Proof> {
    scram.answer(challenge.props.binary(prop::AUTH_DATA).context("AUTH without Authentication Data")?)
}

fn check_verdict(proof: &Proof, props: &Properties) -> Result<()> {
    let data = String::from_utf8_lossy(props.binary(prop::AUTH_DATA).unwrap_or_default()).into_owned();
    ensure!(data == proof.expected, "the server proves itself with {data:?}, expected {:?}", proof.expected);
    Ok(())
}

/// Sends the CONNECT and returns the client with the server's challenge.
fn challenged(ctx: &Ctx, scram: &Scram) -> Result<(Client, Notice)> {
    let mut client = ctx.open(V5)?;
    client.send_connect(&scram_connect(ctx, scram))?;
    let challenge = challenge(&mut client)?;
    Ok((client, challenge))
}

fn authenticated(ctx: &Ctx) -> Result<(Client, Connack)> {
    let scram = valid(ctx)?;
    let (mut client, challenge) = challenged(ctx, &scram)?;
    let proof = proof(&scram, &challenge)?;
    client.send(&build::auth(0x18, &method(METHOD, &proof.message)))?;
    let connack = client.expect_accepted()?;
    check_verdict(&proof, &connack.props)?;
    Ok((client, connack))
}

fn server_asks_with_continue(ctx: &Ctx) -> Result<()> {
    challenged(ctx, &valid(ctx)?).map(drop)
}

fn scram_succeeds(ctx: &Ctx) -> Result<()> {
    let (mut client, _) = authenticated(ctx)?;
    client.expect_silence()?;
    client.disconnect()
}

fn method_is_repeated(ctx: &Ctx) -> Result<()> {
    let (client, connack) = authenticated(ctx)?;
    check_method("CONNACK", &connack.props)?;
    client.disconnect()
}

/// Authenticates with `scram`, sends the proof made by `spoil` from the right one, and expects a refusal.
fn refused_with(ctx: &Ctx, scram: &Scram, spoil: impl FnOnce(Proof) -> Vec<u8>) -> Result<()> {
    let mut client = ctx.open(V5)?;
    client.send_connect(&scram_connect(ctx, scram))?;
    let challenge = match client.next_event()? {
        Event::Packet(Packet::Auth(auth)) => auth,
        Event::Packet(Packet::Connack(connack)) => {
            ensure!(connack.reason != 0, "accepted without any proof");
            return client.expect_closed().map(drop);
        }
        Event::Closed => return Ok(()),
        other => bail!("expected AUTH or a refusal, got {other:02x?}"),
    };
    client.send(&spoil(proof(scram, &challenge)?))?;
    client.expect_refused().map(drop)
}

fn second_auth(message: impl AsRef<[u8]>) -> Vec<u8> {
    build::auth(0x18, &method(METHOD, message))
}

fn wrong_password_is_refused(ctx: &Ctx) -> Result<()> {
    let (name, password) = account(ctx)?;
    let wrong = Scram::new(&name, &format!("{password}x"), &ctx.client_id("nonce"));
    refused_with(ctx, &wrong, |proof| second_auth(proof.message))
}

fn unknown_user_is_refused(ctx: &Ctx) -> Result<()> {
    let (_, password) = account(ctx)?;
    let wrong = Scram::new(&ctx.client_id("nobody"), &password, &ctx.client_id("nonce"));
    refused_with(ctx, &wrong, |proof| second_auth(proof.message))
}

fn tampered_nonce_is_refused(ctx: &Ctx) -> Result<()> {
    refused_with(ctx, &valid(ctx)?, |proof| second_auth(proof.message.replacen(",r=", ",r=x", 1)))
}

fn garbage_is_refused(ctx: &Ctx) -> Result<()> {
    let scram = valid(ctx)?;
    for garbage in [&b""[..], b"garbage", b"\xFF\0\xFF", b"c=biws,r=,p=", b"n,,", b"n,,n=,r="] {
        let mut client = ctx.open(V5)?;
        client.send_connect(&ctx.v5("scram").props(method(METHOD, garbage)))?;
        client.expect_refused().with_context(|| format!("first message {garbage:02x?}"))?;
        refused_with(ctx, &scram, |_| second_auth(garbage))
            .with_context(|| format!("second message {garbage:02x?}"))?;
    }
    Ok(())
}

fn another_method_in_the_second_auth_is_refused(ctx: &Ctx) -> Result<()> {
    let scram = valid(ctx)?;
    for other in ["SCRAM-SHA-1", "scram-sha-256", ""] {
        refused_with(ctx, &scram, |proof| build::auth(0x18, &method(other, proof.message))).context(other)?;
    }
    Ok(())
}

fn unknown_reason_code_in_auth_closes(ctx: &Ctx) -> Result<()> {
    let scram = valid(ctx)?;
    for reason in [0x01, 0x17, 0x80, 0xFF] {
        refused_with(ctx, &scram, |proof| build::auth(reason, &method(METHOD, proof.message)))?;
    }
    Ok(())
}

/// 0x00 is the server's code.
fn success_claimed_by_the_client_is_refused(ctx: &Ctx) -> Result<()> {
    refused_with(ctx, &valid(ctx)?, |proof| build::auth(0x00, &method(METHOD, proof.message)))?;
    refused_with(ctx, &valid(ctx)?, |_| frame(first::AUTH, &[]))
}

fn other_packets_during_authentication_close(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("early");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    for packet in [build::pingreq(), Publish::new(&topic, "x").bytes(V5), ctx.v5("scram").bytes()] {
        refused_with(ctx, &valid(ctx)?, |_| packet)?;
    }
    watcher.expect_silence()
}

/// The audit measures each packet. The challenge itself needs room, so this finds the least in which it fits.
fn small_auths(ctx: &Ctx) -> Result<()> {
    for bytes in (80..=400).step_by(20) {
        let scram = valid(ctx)?;
        let mut client = ctx.open(V5)?;
        let connect = scram_connect(ctx, &scram);
        let props = connect.props.clone().four(prop::MAXIMUM_PACKET_SIZE, bytes);
        client.send_connect(&connect.props(props))?;
        if let Event::Packet(Packet::Auth(challenge)) = client.next_event()? {
            client.send(&second_auth(proof(&scram, &challenge)?.message))?;
            if let Event::Packet(Packet::Connack(Connack { reason: 0, .. })) = client.next_event()? {
                return client.disconnect();
            }
        }
    }
    bail!("no authentication with a Maximum Packet Size of 400 or less")
}

fn small_auths_leave_out_the_reason_string(ctx: &Ctx) -> Result<()> {
    small_auths(ctx)
}

fn small_auths_leave_out_user_properties(ctx: &Ctx) -> Result<()> {
    small_auths(ctx)
}

/// Authenticates again; messages that arrive in between are returned.
fn reauthenticate(client: &mut Client, scram: &Scram) -> Result<()> {
    client.send(&build::auth(0x19, &method(METHOD, scram.first())))?;
    let challenge = challenge(client)?;
    let proof = proof(scram, &challenge)?;
    client.send(&second_auth(&proof.message))?;
    let success = client.expect_auth()?;
    ensure!(success.reason == 0, "re-authentication ends with AUTH {:#04x} instead of 0x00", success.reason);
    check_method("AUTH", &success.props)?;
    check_verdict(&proof, &success.props)
}

fn reauthentication_succeeds(ctx: &Ctx) -> Result<()> {
    let (mut client, _) = authenticated(ctx)?;
    reauthenticate(&mut client, &valid(ctx)?)?;
    client.expect_silence()?;
    client.disconnect()
}

fn reauthentication_can_be_repeated(ctx: &Ctx) -> Result<()> {
    let (mut client, _) = authenticated(ctx)?;
    for _ in 0..3 {
        reauthenticate(&mut client, &valid(ctx)?)?;
    }
    client.disconnect()
}

fn messages_flow_during_reauthentication(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("flow");
    let scram = valid(ctx)?;
    let (mut client, _) = authenticated(ctx)?;
    client.subscribe(&topic, 0)?;
    client.send(&build::auth(0x19, &method(METHOD, scram.first())))?;
    let challenge = challenge(&mut client)?;
    client.publish(&topic, 0, "between")?;
    let between = client.expect_publish()?;
    ensure!(payloads(&[between]) == ["between"], "another message came");
    let proof = proof(&scram, &challenge)?;
    client.send(&second_auth(&proof.message))?;
    let success = client.expect_auth()?;
    ensure!(success.reason == 0, "re-authentication ends with AUTH {:#04x} instead of 0x00", success.reason);
    client.disconnect()
}

fn failed_reauthentication_closes(ctx: &Ctx) -> Result<()> {
    let (name, password) = account(ctx)?;
    let (mut client, _) = authenticated(ctx)?;
    let wrong = Scram::new(&name, &format!("{password}x"), &ctx.client_id("again"));
    client.send(&build::auth(0x19, &method(METHOD, wrong.first())))?;
    let challenge = challenge(&mut client)?;
    client.send(&second_auth(proof(&wrong, &challenge)?.message))?;
    client.expect_closed().map(drop)
}

fn reauthentication_with_another_method_closes(ctx: &Ctx) -> Result<()> {
    let (mut client, _) = authenticated(ctx)?;
    client.send(&build::auth(0x19, &method("CONFORMANCE-UNKNOWN", "data")))?;
    client.expect_closed().map(drop)
}

fn reauthentication_without_authentication_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &build::auth(0x19, &method(METHOD, Scram::new("user", "password", "nonce").first()))).map(drop)
}
