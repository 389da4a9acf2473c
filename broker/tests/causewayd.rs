//! The program itself: what it prints, how it exits, and what signals do.
//!
//! Owns running it as a child, on ports the system chose. What it speaks is tested elsewhere.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

const DEADLINE: Duration = Duration::from_secs(20);

fn causewayd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causewayd"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = causewayd(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A broker that is killed when dropped.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits until the system has stopped it, as SIGSTOP asks for.
    fn until_stopped(&self) {
        let start = Instant::now();
        let is_stopped = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
            stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
        };
        while !is_stopped() {
            assert!(start.elapsed() < DEADLINE, "it does not stop");
            std::thread::yield_now();
        }
    }

    /// Waits for its end.
    #[track_caller]
    fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            match self.0.try_wait().unwrap() {
                Some(status) => return status.code(),
                None => assert!(start.elapsed() < DEADLINE, "it does not end"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The return code of the CONNACK to an MQTT 3.1.1 client.
fn connect(address: &str, credentials: Option<(&str, &str)>) -> u8 {
    let string = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
    let mut body = [string("MQTT"), vec![4, if credentials.is_some() { 0xC2 } else { 2 }, 0, 60], string("c")].concat();
    if let Some((user, password)) = credentials {
        body.extend([string(user), string(password)].concat());
    }
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&[0x10, body.len() as u8]).unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..2], [0x20, 2]);
    answer[3]
}

fn get(url: &str) -> String {
    let (address, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn dev_says_where_it_listens_serves_and_stops() {
    let arguments = ["dev", "--port", "0", "--admin-port", "0"];
    let mut running = Running(causewayd(&arguments).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut line = |start: &str| lines.by_ref().find_map(|line| line.trim().strip_prefix(start).map(str::to_owned));
    let mqtt = line("mqtt://").unwrap();
    let metrics = line("http://").unwrap();
    assert!(line("mosquitto_sub -p ").unwrap().starts_with(mqtt.split_once(':').unwrap().1));

    assert_eq!(connect(&mqtt, None), 0);
    assert!(get(&metrics).contains("causeway_build_info{version="));
    assert!(get(&metrics.replace("/metrics", "/ready")).contains("200 OK"));

    running.signal(Signal::TERM);
    assert_eq!(running.exit_code(), Some(0));
    assert!(TcpStream::connect(&mqtt).is_err());
}

#[test]
fn a_log_nobody_can_write_stops_nobody() {
    let arguments = ["dev", "--port", "0"];
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut running = Running(causewayd(&arguments).stderr(full).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| line.trim().strip_prefix("mqtt://").map(str::to_owned)).unwrap();
    for _ in 0..20 {
        assert_eq!(connect(&address, None), 0);
        // A second CONNECT is a protocol error, which is worth a line.
        let twice = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x".repeat(2);
        let mut answer = Vec::new();
        dial(&address, &twice).read_to_end(&mut answer).unwrap();
        assert_eq!(answer[..4], [0x20, 2, 0, 0]);
    }
    running.signal(Signal::TERM);
    assert_eq!(running.exit_code(), Some(0));
}

/// A connection that spoke `bytes` first.
fn dial(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

#[test]
fn clients_that_kept_alive_while_the_process_stood_still_stay() {
    const PINGREQ: &[u8] = &[0xC0, 0];
    // More than the system tells of at a time.
    const CLIENTS: u16 = 2500;
    let descriptors = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: descriptors, maximum: descriptors }).unwrap();
    let arguments = ["dev", "--port", "0"];
    let mut running = Running(causewayd(&arguments).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| line.trim().strip_prefix("mqtt://").map(str::to_owned)).unwrap();

    // Keep alive of three seconds: after four and a half without a word, a client is given up. All must have come by then.
    let mut clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|number| {
            let id = format!("{number:04}");
            let connect = [b"\x10\x10\x00\x04MQTT\x04\x02\x00\x03\x00\x04", id.as_bytes()].concat();
            let mut stream = dial(&address, &connect);
            stream.read_exact(&mut [0; 4]).unwrap();
            stream
        })
        .collect();
    running.signal(Signal::STOP);
    running.until_stopped();
    clients.iter_mut().for_each(|client| client.write_all(PINGREQ).unwrap());
    // Nobody is answered for more than those four and a half seconds.
    clients[0].set_read_timeout(Some(Duration::from_millis(5500))).unwrap();
    assert!(clients[0].read_exact(&mut [0; 2]).is_err());
    clients[0].set_read_timeout(Some(DEADLINE)).unwrap();
    running.signal(Signal::CONT);
    for (number, client) in clients.iter_mut().enumerate() {
        let mut answer = [0; 2];
        client.read_exact(&mut answer).unwrap_or_else(|error| panic!("client {number}: {error}"));
        assert_eq!(answer, [0xD0, 0]);
    }
    // Who says nothing more is given up all the same.
    assert_eq!(clients[0].read(&mut [0; 2]).unwrap(), 0);
}

fn set_password(file: &Path, user: &str, password: &str) {
    let mut command = causewayd(&["passwd", file.to_str().unwrap(), "add", user, "--password-stdin"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn users_log_in_and_a_hangup_reads_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let (file, users) = (folder.path().join("c.toml"), folder.path().join("users"));
    set_password(&users, "alice", "pencil");
    let text = "[[listener]]\nbind = '127.0.0.1:0'\nanonymous = 'never'\n\
                [authentication]\npassword_file = 'users'\n[log]\nformat = 'json'\n";
    std::fs::write(&file, text).unwrap();
    let arguments = ["run", "--config", file.to_str().unwrap()];
    let mut running = Running(causewayd(&arguments).stdout(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut logged = |part: &str| lines.by_ref().find(|line| line.contains(part)).unwrap();

    let listening: serde_json::Value = serde_json::from_str(&logged("\"listener\":\"mqtt\"")).unwrap();
    let address = listening["address"].as_str().unwrap();
    assert_eq!(connect(address, Some(("alice", "pencil"))), 0);
    assert_eq!(connect(address, Some(("alice", "eraser"))), 4);
    assert_eq!(connect(address, None), 5);

    set_password(&users, "alice", "eraser");
    assert_eq!(connect(address, Some(("alice", "eraser"))), 4);
    running.signal(Signal::HUP);
    logged("read the password file again");
    assert_eq!(connect(address, Some(("alice", "eraser"))), 0);

    // What is wrong does not replace what is right.
    std::fs::write(&users, "nonsense").unwrap();
    running.signal(Signal::HUP);
    logged("the password file is wrong");
    assert_eq!(connect(address, Some(("alice", "eraser"))), 0);

    running.signal(Signal::INT);
    assert_eq!(running.exit_code(), Some(0));
}

#[test]
fn mistakes_are_told_with_their_place_before_anything_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "[[lisener]]\n[log]\nlevel = 'loud'\n").unwrap();
    let name = file.to_str().unwrap();
    for arguments in [["check", name].as_slice(), &["run", "--config", name]] {
        let (code, out, errors) = output(arguments);
        assert_eq!((code, out.as_str()), (1, ""), "{errors}");
        assert!(
            errors.contains("c.toml:1:3: unknown key \"lisener\" in the file, did you mean \"listener\"?"),
            "{errors}"
        );
        assert!(errors.contains("c.toml:3:9: log.level must be one of "), "{errors}");
    }
}

#[test]
fn an_address_in_use_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, errors) = output(&["dev", "--port", &port]);
    assert_eq!(code, 1);
    assert!(errors.contains(&format!("cannot bind 127.0.0.1:{port}: Address already in use")), "{errors}");
    assert_eq!(errors.matches("Address already in use").count(), 1, "{errors}");
}

#[test]
fn the_schema_is_printed_and_the_command_line_checked() {
    let (code, out, _) = output(&["schema"]);
    assert_eq!(code, 0);
    assert!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["properties"]["listener"].is_object());
    assert_eq!(output(&["--help"]).0, 0);
    assert_eq!(output(&["nonsense"]).0, 2);
}
