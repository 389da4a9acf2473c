//! The real program as a child, and its administration listener.
//!
//! Owns starting it, asking it over HTTP and by the command line, and its end. Nothing here waits without a deadline.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Client, DEADLINE, connect_as, dial, eventually, publish, publish_body};

pub const A: &str = "1M8GDM9AXKP042788";
pub const B: &str = "WVWZZZ1JZ3W386752";
pub const JSON: &str = "Content-Type: application/json\r\n";

/// A running broker of several shards, with a data directory.
pub struct Causewayd {
    pub child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

/// What was answered.
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

impl Causewayd {
    /// With a configuration file that says this, too; nobody may connect.
    pub fn start_file(folder: &Path, more: &str) -> Causewayd {
        let file = folder.join("causeway.toml");
        let text = "[[listener]]\nbind = '127.0.0.1:0'\n[admin]\nbind = '127.0.0.1:0'\n[log]\nformat = 'json'\n";
        std::fs::write(&file, format!("{text}{more}")).unwrap();
        let mut child = program().arg("run").arg("--config").arg(&file).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        // The listener for clients is the last.
        let mut listening = |target: &str| {
            let address = lines.by_ref().find_map(|line| {
                let line: Value = serde_json::from_str(&line).ok()?;
                let is_it = line["target"] == target && line.to_string().contains("listening");
                is_it.then(|| line["address"].as_str().unwrap_or_default().parse().unwrap())
            });
            address.expect("it starts")
        };
        let (admin, address) = (listening("causeway::admin"), listening("causeway::listener"));
        std::thread::spawn(move || lines.for_each(drop));
        Causewayd { child, address, admin }
    }

    pub fn start(folder: &Path) -> Causewayd {
        Causewayd::start_with(folder, &[])
    }

    pub fn start_with(folder: &Path, environment: &[(&str, &str)]) -> Causewayd {
        let users = users(folder);
        let mut command = program();
        command.args(["dev", "--port", "0", "--admin-port", "0", "--data"]).arg(folder.join("data"));
        command.env("CAUSEWAY_BROKER__SHARDS", "3").env("CAUSEWAY_AUTHENTICATION__PASSWORD_FILE", users);
        command.envs(environment.iter().copied());
        let (child, address, admin) = start_dev(command);
        Causewayd { child, address, admin }
    }

    pub fn terminate(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually("it ends", || self.child.try_wait().unwrap().is_some());
    }

    pub fn send(&self, headers: &str, method: &str, target: &str, body: &[u8]) -> Reply {
        let mut stream = dial(self.admin);
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an answer");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: answer[end + 4..].to_vec() }
    }

    #[track_caller]
    pub fn ask(&self, headers: &str, method: &str, target: &str, body: Value, status: u16) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = self.send(headers, method, target, body.as_bytes());
        assert_eq!(reply.status, status, "{method} {target}: {}", String::from_utf8_lossy(&reply.body));
        reply
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Value {
        self.ask("", "GET", target, Value::Null, 200).json()
    }

    /// All metrics, as text.
    #[track_caller]
    pub fn metrics(&self) -> String {
        String::from_utf8(self.ask("", "GET", "/metrics", Value::Null, 200).body).unwrap()
    }

    /// A stream of events, once it has begun.
    pub fn follow(&self, target: &str) -> Events {
        self.follow_from(target, "")
    }

    /// Likewise, of a reader that says where it was.
    pub fn follow_from(&self, target: &str, headers: &str) -> Events {
        let mut stream = dial(self.admin);
        write!(stream, "GET {target} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").unwrap();
        let mut events = Events(BufReader::new(stream));
        assert!(events.line().contains("200"), "{target}");
        while events.line() != "retry: 3000" {}
        events
    }

    pub fn cli(&self, arguments: &[&str]) -> Output {
        program().args(arguments).args(["--admin", &format!("http://{}", self.admin)]).output().unwrap()
    }
}

impl Drop for Causewayd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Events(pub BufReader<TcpStream>);

impl Events {
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the stream goes on");
        line.trim_end().to_owned()
    }

    /// The next event that tells of a change: its id and its data.
    pub fn next(&mut self) -> (String, Value) {
        loop {
            let (kind, id, data) = self.next_of_any_kind();
            if kind == "shadow" {
                return (id, data);
            }
        }
    }

    /// The next event: its kind, its id and its data.
    pub fn next_of_any_kind(&mut self) -> (String, String, Value) {
        let (mut kind, mut id) = (String::new(), String::new());
        loop {
            let line = self.line();
            match line.split_once(": ") {
                Some(("event", named)) => kind = named.to_owned(),
                Some(("id", said)) => id = said.to_owned(),
                Some(("data", data)) => return (kind, id, serde_json::from_str(data).unwrap()),
                _ => {}
            }
        }
    }
}

/// Starts `causewayd dev` as it is told: the child, its listener for clients, and that for its administration.
pub fn start_dev(mut command: Command) -> (Child, SocketAddr, SocketAddr) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let source = child.stdout.take().unwrap();
    let (sender, lines) = mpsc::channel();
    // The thread reads on, so that there is somebody to print to.
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let after = |prefix: &str, suffix: &str| loop {
        let line = lines.recv_timeout(DEADLINE).expect("it starts");
        if let Some(said) = line.trim().strip_prefix(prefix).and_then(|said| said.strip_suffix(suffix)) {
            break said.parse().unwrap();
        }
    };
    let (address, admin) = (after("mqtt://", ""), after("http://", "/metrics"));
    (child, address, admin)
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causewayd"));
    command.stdin(Stdio::null());
    command
}

#[track_caller]
pub fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A password file in which both vehicles are users, unless there is one.
pub fn users(folder: &Path) -> String {
    let path = folder.join("users").display().to_string();
    if !Path::new(&path).exists() {
        add_users(folder, &[A, B].map(|vin| format!("vehicle:{vin}")));
    }
    path
}

/// Users whose password is `secret`.
pub fn add_users(folder: &Path, users: &[String]) {
    let path = folder.join("users").display().to_string();
    for user in users {
        let mut command = program();
        command.args(["passwd", &path, "add", user, "--password-stdin", "--no-scram"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"secret").unwrap();
        assert!(child.wait().unwrap().success());
    }
}

pub fn vehicle(broker: &Causewayd, vin: &str) -> Client<TcpStream> {
    let mut client = Client::new(dial(broker.address));
    client.send(&connect_as(vin, &format!("vehicle:{vin}"), "secret"));
    client.expect_connack(0);
    client
}

/// The payload of the next message on a topic. Others go by.
pub fn message(client: &mut Client<TcpStream>, topic: &str) -> Value {
    loop {
        let (first, body) = client.read_packet();
        let head = publish_body(topic, b"");
        if first & 0xF6 == 0x30 && body.starts_with(&head[..head.len() - 1]) {
            let begin = body.iter().position(|byte| *byte == b'{').unwrap();
            return serde_json::from_slice(&body[begin..]).unwrap();
        }
    }
}

/// Publishes with QoS 1, and waits for the acknowledgement.
pub fn report(client: &mut Client<TcpStream>, topic: &str, payload: &Value) {
    client.send(&publish(topic, 7, payload.to_string().as_bytes()));
    while client.read_packet().0 != 0x40 {}
}
