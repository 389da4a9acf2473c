//! Vehicles and a backend that do what they are told about shadows, and tell what they were told.
//!
//! Owns a vehicle that speaks MQTT by itself, one that is a program made with the AWS IoT device SDK, and the service that wishes things of
//! them. They decide nothing: what a vehicle does about a delta is the caller's.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::fleet::{Certified, Heard, Session};
use super::garage::{Garage, SERVICE};
use super::shadow_aws::Sdk;

/// What is wanted of a vehicle, as it is told.
#[derive(Debug, Clone)]
pub(super) struct Delta {
    /// Its number, where the vehicle's program can see it.
    pub(super) sequence: Option<u64>,
    pub(super) state: Value,
}

/// A vehicle's connection, and how it speaks of its shadow.
pub(super) trait Vehicle {
    /// Connects, and is subscribed to deltas when this returns.
    fn come(&mut self, garage: &Garage) -> Result<()>;
    /// Its connection is cut, without a word.
    fn cut(&mut self) -> Result<()>;
    /// The broker went and came back: the vehicle connects again, if it does not do so by itself.
    fn recover(&mut self, garage: &Garage) -> Result<()> {
        self.cut()?;
        self.come(garage)
    }
    /// Reports some of its state; the broker has it when this returns.
    fn report(&mut self, state: &Value) -> Result<()>;
    /// Likewise, and says that it handled a delta. Not every program can.
    fn settle(&mut self, state: Option<&Value>, handled: u64) -> Result<()>;
    /// All deltas that came, before the broker answered a question that was asked now.
    fn deltas(&mut self) -> Result<Vec<Delta>>;
}

/// The numbers of packets, one after the other.
#[derive(Debug, Default)]
struct PacketIds(u16);

impl PacketIds {
    fn next(&mut self) -> u16 {
        self.0 = self.0 % 60_000 + 1;
        self.0
    }
}

/// A vehicle that speaks MQTT 5 by itself, with short topics.
pub(super) struct Plain {
    vin: String,
    /// Whether its session outlives its connection.
    is_kept: bool,
    session: Option<Session>,
    ids: PacketIds,
    /// What came while something else was waited for.
    deltas: Vec<Delta>,
    answers: Vec<(String, Value)>,
}

impl Plain {
    pub(super) fn new(vin: &str, is_kept: bool) -> Plain {
        let (ids, deltas, answers) = (PacketIds::default(), Vec::new(), Vec::new());
        Plain { vin: vin.to_owned(), is_kept, session: None, ids, deltas, answers }
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().context("the vehicle is not connected")
    }

    /// Reads until the broker says this; deltas and answers on the way are kept.
    fn wait_for(&mut self, is_it: impl Fn(&Heard) -> bool) -> Result<()> {
        loop {
            let heard = self.session()?.heard()?;
            let is_over = is_it(&heard);
            match heard {
                Heard::Message(topic, payload) if topic == "shadow/delta" => self.deltas.push(delta_of(&payload)?),
                Heard::Message(topic, payload) => self.answers.push((topic, serde_json::from_slice(&payload)?)),
                Heard::Acknowledged(_, reason) | Heard::Granted(_, reason) => {
                    ensure!(reason < 0x80, "the broker refuses with {reason:#x}");
                }
            }
            if is_over {
                return Ok(());
            }
        }
    }

    fn publish(&mut self, topic: &str, document: &Value) -> Result<()> {
        let id = self.ids.next();
        self.session()?.publish(topic, id, document.to_string().as_bytes())?;
        self.wait_for(|heard| matches!(heard, Heard::Acknowledged(of, _) if *of == id))
    }

    /// Publishes a request, and reads until it is answered: others are told of answers, too. Returns the topic of the answer.
    fn ask(&mut self, verb: &str, mut document: Value) -> Result<String> {
        self.answers.clear();
        let token = format!("{}", self.ids.next());
        document["clientToken"] = token.as_str().into();
        self.publish(&format!("shadow/{verb}"), &document)?;
        loop {
            if let Some((topic, _)) = self.answers.iter().find(|(_, answer)| answer["clientToken"] == *token) {
                return Ok(topic.clone());
            }
            self.wait_for(|heard| matches!(heard, Heard::Message(..)))?;
        }
    }

    fn update(&mut self, document: Value) -> Result<()> {
        let answer = self.ask("update", document)?;
        ensure!(answer == "shadow/update/accepted", "an update was answered on {answer}");
        Ok(())
    }
}

impl Vehicle for Plain {
    fn come(&mut self, garage: &Garage) -> Result<()> {
        let mut session = garage.certified("vehicles", &self.vin)?.dial(garage.port())?;
        let is_resumed = session.come_back(&self.vin, self.is_kept)?;
        self.session = Some(session);
        if is_resumed {
            // What it has subscribed to, it has; doing so again would bring the delta again.
            return Ok(());
        }
        for filter in ["shadow/get/+", "shadow/update/+", "shadow/delta"] {
            let id = self.ids.next();
            self.session()?.ask_for(filter, id)?;
            self.wait_for(|heard| matches!(heard, Heard::Granted(of, _) if *of == id))?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<()> {
        self.session.take().map(drop).context("the vehicle is not connected")
    }

    fn report(&mut self, state: &Value) -> Result<()> {
        self.publish("shadow/state", state)
    }

    fn settle(&mut self, state: Option<&Value>, handled: u64) -> Result<()> {
        match state {
            Some(state) => self.update(json!({ "state": { "reported": state }, "delta": handled })),
            None => self.update(json!({ "delta": handled })),
        }
    }

    fn deltas(&mut self) -> Result<Vec<Delta>> {
        self.ask("get", json!({}))?;
        Ok(std::mem::take(&mut self.deltas))
    }
}

fn delta_of(payload: &[u8]) -> Result<Delta> {
    let message: Value = serde_json::from_slice(payload).context("a delta is no JSON")?;
    let state = message.get("state").cloned().context("a delta without a state")?;
    Ok(Delta { sequence: message.get("sequence").and_then(Value::as_u64), state })
}

/// A vehicle whose program was made with the AWS IoT device SDK. Its connection is cut by the end of the program.
pub(super) struct OfSdk<'a> {
    sdk: &'a Sdk,
    vin: String,
    client: &'static str,
    mqtt: &'static str,
    program: Option<(Child, BufReader<ChildStdout>)>,
    /// What came while something else was waited for.
    deltas: Vec<Delta>,
}

impl<'a> OfSdk<'a> {
    pub(super) fn new(sdk: &'a Sdk, vin: &str, client: &'static str, mqtt: &'static str) -> OfSdk<'a> {
        OfSdk { sdk, vin: vin.to_owned(), client, mqtt, program: None, deltas: Vec::new() }
    }

    /// Reads until something is done; deltas on the way are kept.
    fn until_done(&mut self) -> Result<()> {
        let (_, output) = self.program.as_mut().context("the vehicle is not connected")?;
        loop {
            let mut line = String::new();
            ensure!(output.read_line(&mut line)? > 0, "the SDK's program ended by itself");
            let said: Value = serde_json::from_str(&line).with_context(|| format!("the SDK's program said {line}"))?;
            match (said.get("delta"), said.get("failed")) {
                (Some(state), _) => self.deltas.push(Delta { sequence: None, state: state.clone() }),
                (None, Some(why)) => bail!("the SDK's program failed: {why}"),
                (None, None) => return Ok(()),
            }
        }
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let (program, _) = self.program.as_mut().context("the vehicle is not connected")?;
        Ok(writeln!(program.stdin.as_mut().context("the SDK's program reads nothing")?, "{line}")?)
    }

    fn end(&mut self) -> Result<()> {
        let (mut program, _) = self.program.take().context("the vehicle is not connected")?;
        program.kill()?;
        program.wait()?;
        Ok(())
    }
}

impl Vehicle for OfSdk<'_> {
    fn come(&mut self, garage: &Garage) -> Result<()> {
        let mut command = self.sdk.command("vehicle.py", garage.port(), &garage.pki());
        command.args(["--vin", &self.vin, "--client", self.client, "--mqtt", self.mqtt]);
        let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run python")?;
        let output = BufReader::new(program.stdout.take().context("python has no output")?);
        self.program = Some((program, output));
        self.until_done()
    }

    fn cut(&mut self) -> Result<()> {
        self.end()
    }

    fn recover(&mut self, _: &Garage) -> Result<()> {
        Ok(())
    }

    fn report(&mut self, state: &Value) -> Result<()> {
        self.tell(&format!("report {state}"))?;
        self.until_done()
    }

    fn settle(&mut self, _: Option<&Value>, _: u64) -> Result<()> {
        bail!("the SDK has no word for a delta that was handled")
    }

    fn deltas(&mut self) -> Result<Vec<Delta>> {
        self.tell("get")?;
        self.until_done()?;
        Ok(std::mem::take(&mut self.deltas))
    }
}

impl Drop for OfSdk<'_> {
    fn drop(&mut self) {
        // Already ended is as good as killed; there is nobody to tell anyway.
        let _ = self.end();
    }
}

/// The service that wishes things.
pub(super) struct Backend {
    session: Session,
    ids: PacketIds,
    /// What came while something else was waited for.
    messages: VecDeque<(String, Value)>,
}

impl Backend {
    pub(super) fn connect(garage: &Garage) -> Result<Backend> {
        let mut session = garage.certified("services", SERVICE)?.dial(garage.port())?;
        session.come_back(SERVICE, false)?;
        let mut backend = Backend { session, ids: PacketIds::default(), messages: VecDeque::new() };
        for filter in ["vehicles/+/shadow/get/+", "vehicles/+/shadow/expired"] {
            let id = backend.ids.next();
            backend.session.ask_for(filter, id)?;
            backend.wait_for(|heard| matches!(heard, Heard::Granted(of, 0..0x80) if *of == id))?;
        }
        Ok(backend)
    }

    fn wait_for(&mut self, is_it: impl Fn(&Heard) -> bool) -> Result<()> {
        loop {
            let heard = self.session.heard()?;
            let is_over = is_it(&heard);
            if let Heard::Message(topic, payload) = heard {
                self.messages.push_back((topic, serde_json::from_slice(&payload)?));
            }
            if is_over {
                return Ok(());
            }
        }
    }

    fn publish(&mut self, topic: &str, document: &Value) -> Result<()> {
        let id = self.ids.next();
        self.session.publish(topic, id, document.to_string().as_bytes())?;
        self.wait_for(|heard| matches!(heard, Heard::Acknowledged(of, 0..0x80) if *of == id))
    }

    /// Desires this of a vehicle, for so many seconds if any are given. It is durable when this returns.
    pub(super) fn desire(&mut self, vin: &str, state: &Value, ttl_seconds: Option<u64>) -> Result<()> {
        let mut document = json!({ "state": { "desired": state } });
        if let Some(seconds) = ttl_seconds {
            document["ttl"] = seconds.into();
        }
        self.publish(&format!("vehicles/{vin}/shadow/update"), &document)
    }

    /// The document of a vehicle.
    pub(super) fn document(&mut self, vin: &str) -> Result<Value> {
        self.publish(&format!("vehicles/{vin}/shadow/get"), &json!({}))?;
        self.next_on(&format!("vehicles/{vin}/shadow/get/accepted"))
    }

    /// Waits until it is told that a wish for a vehicle is too old.
    pub(super) fn expired(&mut self, vin: &str) -> Result<Value> {
        self.next_on(&format!("vehicles/{vin}/shadow/expired"))
    }

    fn next_on(&mut self, topic: &str) -> Result<Value> {
        loop {
            if let Some(at) = self.messages.iter().position(|(of, _)| of == topic) {
                return self.messages.remove(at).map(|(_, message)| message).context("no message");
            }
            self.wait_for(|heard| matches!(heard, Heard::Message(..)))?;
        }
    }
}

impl Garage {
    /// Somebody with a certificate of the authority.
    fn certified(&self, kind: &str, name: &str) -> Result<Certified> {
        let pair: PathBuf = self.pki().join(kind).join(name);
        Certified::from_files(&self.pki().join("ca.crt"), &pair)
    }
}
