//! The same conversation over every transport, and what each transport refuses.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;

use causeway_broker::config::{ClientCertificate, Listener, Network, ProxyProtocol, Transport};
use rustls::version::{TLS12, TLS13};
use support::*;

static ONLY_TLS12: Versions = &[&TLS12];
static ONLY_TLS13: Versions = &[&TLS13];

/// Longer than any buffer on the way, and shorter than the longest packet.
fn large_payload() -> Vec<u8> {
    (0..900_000u32).map(|n| n as u8).collect()
}

#[test]
fn plain_tcp_in_one_write_and_byte_by_byte() {
    let broker = Broker::plain();
    let conversation = [connect("one", 60), subscribe("a/+", 1), publish("a/b", 7, b"hello"), vec![0xC0, 0]].concat();
    for step in [1, 5, usize::MAX] {
        let mut client = broker.dial();
        for piece in conversation.chunks(step) {
            client.send(piece);
        }
        client.expect_connack(0);
        client.expect(0x90, &[0, 1, 0, 1]);
        // The broker may acknowledge the PUBLISH before or after it delivers it.
        let mut seen = [client.read_packet(), client.read_packet(), client.read_packet()];
        seen.sort();
        assert_eq!(seen[0].0, 0x32);
        assert!(seen[0].1.starts_with(b"\x00\x03a/b") && seen[0].1.ends_with(b"hello"));
        assert_eq!((seen[1].0, &seen[1].1[..2]), (0x40, &[0, 7][..]));
        assert_eq!(seen[2], (0xD0, vec![]));
    }
}

#[test]
fn plain_tcp_with_long_packets() {
    let broker = Broker::plain();
    check_round_trip(&mut broker.client("long"), &large_payload());
}

#[test]
fn tls_of_both_versions() {
    let authority = Authority::new();
    let tls = Some(authority.settings(ClientCertificate::None));
    let broker = Broker::start(vec![Listener { tls, ..listener(Transport::Tls) }]);
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        let mut client = Client::new(authority.dial(broker.addresses[0], versions, false));
        client.connect("tls");
        check_round_trip(&mut client, b"small");
        check_round_trip(&mut client, &large_payload());
        client.send(&[0xE0, 0]);
        client.expect_end();
    }
}

#[test]
fn tls_asks_for_certificates_where_it_should() {
    let authority = Authority::new();
    let tls = Some(authority.settings(ClientCertificate::Required));
    let broker = Broker::start(vec![Listener { tls, ..listener(Transport::Tls) }]);
    let address = broker.addresses[0];

    let mut client = Client::new(authority.dial(address, ONLY_TLS13, true));
    client.connect("certified");
    check_round_trip(&mut client, b"payload");

    let mut stranger = authority.dial(address, ONLY_TLS13, false);
    // The client learns of the refusal when it reads.
    let _ = stranger.write_all(&connect("stranger", 0));
    assert!(stranger.read(&mut [0]).is_err());
    eventually("the failure is counted", || broker.observed.edge().tls_failures.get() == 1);
}

/// Clients of AWS IoT ask for their own protocol at port 443, and go away where it is not chosen.
#[test]
fn tls_agrees_on_a_protocol_where_one_is_asked_for() {
    let authority = Authority::new();
    let tls = Some(authority.settings(ClientCertificate::Required));
    let broker = Broker::start(vec![Listener { tls, ..listener(Transport::Tls) }]);
    for protocol in [&b"mqtt"[..], b"x-amzn-mqtt-ca"] {
        let asking = authority.client("asking", &[], ONLY_TLS13);
        let mut config = rustls::ClientConfig::clone(&asking.config);
        config.alpn_protocols = vec![protocol.to_vec()];
        let asking = ClientOf { config: config.into(), ..asking };
        let mut client = Client::new(asking.dial(broker.addresses[0]));
        client.connect("asking");
        assert_eq!(client.stream.conn.alpn_protocol(), Some(protocol));
    }
}

#[test]
fn certificates_are_replaced_while_running() {
    let authority = Authority::new();
    let tls = Some(authority.settings(ClientCertificate::None));
    let broker = Broker::start(vec![Listener { tls, ..listener(Transport::Tls) }]);
    let mut before = Client::new(authority.dial(broker.addresses[0], ONLY_TLS13, false));
    before.connect("before");

    authority.settings(ClientCertificate::None);
    assert!(broker.wait_for(broker.running().reload_certificates()).is_empty());

    let mut after = Client::new(authority.dial(broker.addresses[0], ONLY_TLS13, false));
    after.connect("after");
    let shown = |client: &Client<TlsStream>| client.stream.conn.peer_certificates().unwrap()[0].clone();
    assert_ne!(shown(&before), shown(&after));
    check_round_trip(&mut before, b"still here");
}

#[test]
fn plain_bytes_on_a_tls_listener_are_refused() {
    let authority = Authority::new();
    let tls = Some(authority.settings(ClientCertificate::None));
    let broker = Broker::start(vec![Listener { tls, ..listener(Transport::Tls) }]);
    let mut client = broker.dial();
    client.send(&connect("lost", 0));
    let mut alert = [0; 7];
    client.stream.read_exact(&mut alert).unwrap();
    assert_eq!(alert[0], 0x15);
    client.expect_end();
}

#[test]
fn websocket_with_frames_split_at_every_byte() {
    let broker = Broker::start(vec![listener(Transport::Ws)]);
    let mut stream = dial(broker.addresses[0]);
    // Two packets in the first frame, the third spread over two frames, a ping in between.
    let publish = publish("loop/back", 0, b"payload");
    let wire = [
        UPGRADE,
        &websocket_frame(0x82, &[connect("ws", 0), subscribe("loop/back", 0)].concat()),
        &websocket_frame(0x82, &publish[..6]),
        &websocket_frame(0x89, b"ping"),
        &websocket_frame(0x82, &publish[6..]),
    ]
    .concat();
    for byte in wire {
        stream.write_all(&[byte]).unwrap();
    }
    let head = read_http_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");

    // Answers come in frames of their own; the pong stands between two of them.
    let mut frames = Vec::new();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"payload") {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[1])];
        stream.read_exact(&mut payload).unwrap();
        match head[0] {
            0x82 => bytes.extend(&payload),
            other => frames.push((other, payload)),
        }
    }
    assert_eq!(frames, [(0x8A, b"ping".to_vec())]);
    assert_eq!(bytes[0], 0x20);
    assert!(bytes.windows(6).any(|window| window == [0x90, 4, 0, 1, 0, 0]), "{bytes:?}");
}

#[test]
fn websocket_plain_and_encrypted() {
    let authority = Authority::new();
    let tls = Some(authority.settings(ClientCertificate::None));
    let broker = Broker::start(vec![listener(Transport::Ws), Listener { tls, ..listener(Transport::Wss) }]);

    let mut client = Client::new(WebSocket::upgrade(dial(broker.addresses[0])));
    client.connect("ws");
    check_round_trip(&mut client, &large_payload());
    client.send(&[0xE0, 0]);
    client.expect_end();

    let mut client = Client::new(WebSocket::upgrade(authority.dial(broker.addresses[1], ONLY_TLS13, false)));
    client.connect("wss");
    check_round_trip(&mut client, &large_payload());
    client.send(&[0xE0, 0]);
    client.expect_end();
}

#[test]
fn websocket_refuses_other_subprotocols_and_text() {
    let broker = Broker::start(vec![listener(Transport::Ws)]);
    let mut stream = dial(broker.addresses[0]);
    let request = String::from_utf8(UPGRADE.to_vec()).unwrap().replace("Protocol: mqtt", "Protocol: chat");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");

    let mut before_connect = WebSocket::upgrade(dial(broker.addresses[0]));
    let mut client = Client::new(WebSocket::upgrade(dial(broker.addresses[0])));
    client.connect("text");
    for websocket in [&mut before_connect, &mut client.stream] {
        websocket.stream.write_all(&websocket_frame(0x81, b"text")).unwrap();
        let (first, payload) = websocket.read_frame().unwrap();
        assert_eq!((first, &payload[..2]), (0x88, &1003u16.to_be_bytes()[..]));
        Client::new(&mut websocket.stream).expect_end();
    }
}

#[test]
fn proxy_headers_go_before_everything() {
    let authority = Authority::new();
    let tls = Some(authority.settings(ClientCertificate::None));
    let any = ProxyProtocol::Any;
    let broker = Broker::start(vec![
        Listener { proxy_protocol: any, ..listener(Transport::Tcp) },
        Listener { proxy_protocol: any, tls, ..listener(Transport::Tls) },
    ]);
    let text = b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 1883\r\n".to_vec();
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    binary.extend([192, 0, 2, 7, 198, 51, 100, 1, 0xC8, 0x22, 0x07, 0x5B]);
    for header in [text.clone(), binary] {
        let mut client = broker.dial();
        client.send(&[header.as_slice(), &connect("behind", 0)].concat());
        client.expect_connack(0);
        check_round_trip(&mut client, b"payload");

        let mut client = broker.dial();
        for byte in [header, connect("slowly behind", 0)].concat() {
            client.send(&[byte]);
        }
        client.expect_connack(0);
    }
    let mut stream = authority.dial(broker.addresses[1], ONLY_TLS13, false);
    stream.sock.write_all(&text).unwrap();
    let mut client = Client::new(stream);
    client.connect("encrypted behind");
    check_round_trip(&mut client, b"payload");
}

#[test]
fn without_a_proxy_header_there_is_no_connection() {
    let untrusted: Network = "192.0.2.0/24".parse().unwrap();
    let broker = Broker::start(vec![
        Listener { proxy_protocol: ProxyProtocol::Any, ..listener(Transport::Tcp) },
        Listener { proxy_protocol: ProxyProtocol::Any, proxy_trusted: vec![untrusted], ..listener(Transport::Tcp) },
    ]);
    let mut client = broker.dial();
    client.send(&connect("no header", 0));
    client.expect_end();

    let mut client = Client::new(dial(broker.addresses[1]));
    // The broker may be gone before all is written.
    let _ = client.stream.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 1883\r\n");
    client.expect_end();
    eventually("both are counted", || broker.observed.edge().refused_handshake.get() == 2);
}

#[test]
fn a_half_closed_client_still_gets_its_answers() {
    let broker = Broker::plain();
    let mut client = broker.dial();
    client.send(&[connect("half", 0), publish("a", 1, b"payload")].concat());
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.expect_connack(0);
    let (first, body) = client.read_packet();
    assert_eq!((first, &body[..2]), (0x40, &[0, 1][..]));
    client.expect_end();
}
