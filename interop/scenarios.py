"""The scenarios of the interoperability matrix, for clients driven from Python.

Owns what is asked of a broker, and the printing of verdicts: one line of JSON
for each scenario. A client is an `Adapter`, and each of its connections a
`Connection`; neither decides whether a scenario passed. Nothing here sleeps:
whatever must come has a deadline, and what must not come is shown by a later
message that arrives without it.
"""

import argparse
import contextlib
import json
import queue
import sys
import time
import uuid
from dataclasses import dataclass, field

DEADLINE_SECONDS = 10


class Failure(Exception):
    """The broker did not do what the scenario asks."""


class Unsupported(Exception):
    """The client's library cannot take part."""


@dataclass
class Message:
    """A message, sent or received. The lower fields exist in MQTT 5 only."""

    topic: str
    payload: str
    qos: int = 0
    retain: bool = False
    user_properties: list = field(default_factory=list)
    response_topic: str | None = None
    correlation: str | None = None
    expiry_seconds: int | None = None
    subscription_ids: list = field(default_factory=list)


class Connection:
    """One connection of a client. What it receives lands in its inbox."""

    def __init__(self, inbox=None):
        self.inbox = inbox if inbox is not None else queue.Queue()
        # None when the client does not tell.
        self.session_present = None

    def subscribe(self, topic_filter, qos, identifier=None):
        """Subscribe and return when the broker has acknowledged."""
        raise NotImplementedError

    def publish(self, message):
        """Publish and return when the broker has acknowledged, QoS 0 aside."""
        raise NotImplementedError

    def publish_aliased(self, topic, payloads):
        """Publish with QoS 1: the first names topic and alias, the others the alias alone."""
        raise Unsupported("the client cannot send topic aliases")

    def disconnect(self):
        """Say goodbye."""
        raise NotImplementedError

    def cut(self):
        """Drop the connection without a word."""
        raise NotImplementedError

    def receive(self):
        """The next message, before the deadline."""
        try:
            return self.inbox.get(timeout=DEADLINE_SECONDS)
        except queue.Empty:
            raise Failure(f"no message within {DEADLINE_SECONDS} s") from None


class Adapter:
    """A client library, bound to a broker's address, a transport and a version."""

    def __init__(self, options):
        self.options = options
        self.opened = []

    def open(self, client_id=None, clean=True, will=None, inbox=None):
        """Connect. Without `clean`, the session outlives the connection."""
        connection = self.connect(client_id, clean, will, inbox)
        self.opened.append(connection)
        return connection

    def connect(self, client_id, clean, will, inbox):
        """Make the client's connection."""
        raise NotImplementedError

    def close_all(self):
        """Cut what a scenario left open, so that it troubles no other."""
        for connection in self.opened:
            # Most are closed already, and their libraries say so.
            with contextlib.suppress(Exception):
                connection.cut()
        self.opened.clear()


@dataclass
class Stage:
    """What a scenario plays on: the client, and a topic of its own."""

    adapter: Adapter
    topic: str

    def client_id(self):
        """A client identifier nobody had before."""
        return "interop-" + uuid.uuid4().hex[:12]


def expect(actual, wanted, what):
    """Fail when `actual` is not what is wanted."""
    if actual != wanted:
        raise Failure(f"{what}: {actual!r} instead of {wanted!r}")


def expect_message(connection, topic, payload, qos=None):
    """Receive the next message, which must be this one."""
    message = connection.receive()
    expect(message.topic, topic, "topic")
    if message.payload != payload:
        raise Failure(f"payload of {topic}: {message.payload[:60]!r} instead of {payload[:60]!r}")
    if qos is not None:
        expect(message.qos, qos, f"QoS of {topic}")
    return message


def round_trip(stage, qos):
    payloads = ["hello", "", "Grüße ☃ 車", "x" * 20_000]
    connection = stage.adapter.open()
    connection.subscribe(stage.topic, qos)
    for payload in payloads:
        connection.publish(Message(stage.topic, payload, qos))
    for payload in payloads:
        message = expect_message(connection, stage.topic, payload, qos)
        expect(message.retain, False, "retain flag of a live message")
    # One more, alone: an exactly-once message that came twice would show up here.
    connection.publish(Message(stage.topic, "last", qos))
    expect_message(connection, stage.topic, "last", qos)
    connection.disconnect()


def qos0(stage):
    round_trip(stage, 0)


def qos1(stage):
    round_trip(stage, 1)


def qos2(stage):
    round_trip(stage, 2)


def retained(stage):
    topic, later = f"{stage.topic}/state", f"{stage.topic}/later"
    publisher = stage.adapter.open()
    publisher.publish(Message(topic, "on", 1, retain=True))

    reader = stage.adapter.open()
    reader.subscribe(f"{stage.topic}/#", 1)
    message = expect_message(reader, topic, "on", 1)
    expect(message.retain, True, "retain flag for a new subscription")
    publisher.publish(Message(topic, "off", 1, retain=True))
    message = expect_message(reader, topic, "off", 1)
    expect(message.retain, False, "retain flag for a subscription that was there before")
    publisher.publish(Message(topic, "", 1, retain=True))
    expect_message(reader, topic, "", 1)
    reader.disconnect()

    reader = stage.adapter.open()
    reader.subscribe(f"{stage.topic}/#", 1)
    publisher.publish(Message(later, "sentinel", 1))
    expect_message(reader, later, "sentinel", 1)
    reader.disconnect()
    publisher.disconnect()


def will(stage):
    topic = f"{stage.topic}/will"
    watcher = stage.adapter.open()
    watcher.subscribe(f"{stage.topic}/#", 1)

    polite = stage.adapter.open(will=Message(topic, "polite", 1))
    polite.subscribe(f"{stage.topic}-unused", 0)
    polite.disconnect()
    victim = stage.adapter.open(will=Message(topic, "gone", 1))
    victim.subscribe(f"{stage.topic}-unused", 0)
    victim.cut()
    expect_message(watcher, topic, "gone", 1)
    watcher.disconnect()


def resume(stage):
    client_id = stage.client_id()
    topic_filter = f"{stage.topic}/#"
    sleeper = stage.adapter.open(client_id, clean=False)
    if sleeper.session_present is not None:
        expect(sleeper.session_present, False, "session present at first")
    sleeper.subscribe(topic_filter, 2)
    sleeper.disconnect()

    publisher = stage.adapter.open()
    sent = [(number % 2 + 1, f"offline {number}") for number in range(10)]
    for qos, payload in sent:
        publisher.publish(Message(f"{stage.topic}/queue", payload, qos))

    sleeper = stage.adapter.open(client_id, clean=False)
    if sleeper.session_present is not None:
        expect(sleeper.session_present, True, "session present after the pause")
    received = [sleeper.receive() for _ in sent]
    # Some clients hand over QoS 2 later than QoS 1, so order holds within each.
    for level in (1, 2):
        expect(
            [message.payload for message in received if message.qos == level],
            [payload for qos, payload in sent if qos == level],
            f"messages queued with QoS {level}",
        )
    publisher.publish(Message(f"{stage.topic}/live", "live", 2))
    expect_message(sleeper, f"{stage.topic}/live", "live", 2)
    publisher.disconnect()
    sleeper.disconnect()
    # A clean start ends the session, so that nothing stays behind.
    end = stage.adapter.open(client_id, clean=True)
    if end.session_present is not None:
        expect(end.session_present, False, "session present after a clean start")
    end.disconnect()


def user_properties(stage):
    properties = [("vin", "A"), ("unit", "km/h"), ("vin", "B")]
    connection = stage.adapter.open()
    connection.subscribe(stage.topic, 1)
    connection.publish(Message(stage.topic, "x", 1, user_properties=properties))
    message = expect_message(connection, stage.topic, "x", 1)
    received = [tuple(pair) for pair in message.user_properties]
    expect(received, properties, "user properties")
    connection.disconnect()


def request_response(stage):
    request, response = f"{stage.topic}/request", f"{stage.topic}/response"
    asker = stage.adapter.open()
    asker.subscribe(response, 1)
    answerer = stage.adapter.open()
    answerer.subscribe(request, 1)
    asker.publish(
        Message(request, "speed?", 1, response_topic=response, correlation="command-42")
    )
    asked = expect_message(answerer, request, "speed?", 1)
    expect(asked.response_topic, response, "response topic")
    expect(asked.correlation, "command-42", "correlation data of the request")
    answerer.publish(Message(asked.response_topic, "88", 1, correlation=asked.correlation))
    answer = expect_message(asker, response, "88", 1)
    expect(answer.correlation, "command-42", "correlation data of the response")
    asker.disconnect()
    answerer.disconnect()


def subscription_id(stage):
    connection = stage.adapter.open()
    connection.subscribe(stage.topic, 1, identifier=268_435_455)
    connection.publish(Message(stage.topic, "x", 1))
    message = expect_message(connection, stage.topic, "x", 1)
    expect(message.subscription_ids, [268_435_455], "subscription identifiers")
    connection.disconnect()


def expiry(stage):
    long, short = f"{stage.topic}/long", f"{stage.topic}/short"
    later = f"{stage.topic}/later"
    publisher = stage.adapter.open()
    publisher.publish(Message(long, "kept", 1, retain=True, expiry_seconds=600))
    publisher.publish(Message(short, "gone", 1, retain=True, expiry_seconds=1))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        reader = stage.adapter.open()
        reader.subscribe(f"{stage.topic}/#", 1)
        publisher.publish(Message(later, "sentinel", 1))
        seen = {}
        while later not in seen:
            message = reader.receive()
            seen[message.topic] = message
        reader.disconnect()
        if long not in seen:
            raise Failure("a message with 600 s to live is gone")
        remaining = seen[long].expiry_seconds
        if remaining is None or not 600 - DEADLINE_SECONDS <= remaining <= 600:
            raise Failure(f"remaining expiry of {remaining} s instead of almost 600 s")
        if short not in seen:
            break
        if time.monotonic() > deadline:
            raise Failure(f"a message with 1 s to live is delivered after {DEADLINE_SECONDS} s")
    publisher.publish(Message(long, "", 1, retain=True))
    publisher.disconnect()


def topic_alias(stage):
    reader = stage.adapter.open()
    reader.subscribe(stage.topic, 1)
    publisher = stage.adapter.open()
    publisher.publish_aliased(stage.topic, ["first", "second", "third"])
    for payload in ["first", "second", "third"]:
        expect_message(reader, stage.topic, payload, 1)
    publisher.disconnect()
    reader.disconnect()


def shared(stage):
    inbox = queue.Queue()
    members = [stage.adapter.open(inbox=inbox) for _ in range(2)]
    for member in members:
        member.subscribe(f"$share/workers/{stage.topic}", 1)
    observer = stage.adapter.open()
    observer.subscribe(stage.topic, 1)
    payloads = [f"job {number}" for number in range(10)]
    for payload in payloads:
        observer.publish(Message(stage.topic, payload, 1))
    for payload in payloads:
        expect_message(observer, stage.topic, payload, 1)
    received = sorted(members[0].receive().payload for _ in payloads)
    expect(received, sorted(payloads), "what the members received together")
    # A message that went to both members would still be waiting before this one.
    observer.publish(Message(stage.topic, "last", 1))
    expect_message(members[0], stage.topic, "last", 1)
    for connection in [*members, observer]:
        connection.disconnect()


ANY_VERSION = {
    "qos0": qos0,
    "qos1": qos1,
    "qos2": qos2,
    "retained": retained,
    "will": will,
    "resume": resume,
}

VERSION_5 = {
    "user-properties": user_properties,
    "request-response": request_response,
    "subscription-id": subscription_id,
    "expiry": expiry,
    "topic-alias": topic_alias,
    "shared": shared,
}


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--transport", required=True, choices=["tcp", "tls", "ws", "wss"])
    parser.add_argument("--version", required=True, type=int, choices=[4, 5])
    parser.add_argument("--authority", required=True, help="the certificate to trust")
    parser.add_argument("--scenario", help="only this one")
    return parser.parse_args()


def main(adapter_class):
    """Play every scenario and print a verdict for each."""
    options = parse_options()
    adapter = adapter_class(options)
    scenarios = ANY_VERSION | (VERSION_5 if options.version == 5 else {})
    for name, play in scenarios.items():
        if options.scenario not in (None, name):
            continue
        verdict, detail = "pass", ""
        try:
            play(Stage(adapter, f"interop/{name}/{uuid.uuid4().hex[:12]}"))
        except Unsupported as reason:
            verdict, detail = "unsupported", str(reason)
        except Exception as error:  # whatever a library throws is a failure
            verdict, detail = "fail", f"{type(error).__name__}: {error}"
        finally:
            adapter.close_all()
        print(json.dumps({"scenario": name, "verdict": verdict, "detail": detail}), flush=True)
    sys.stdout.flush()
