"""Eclipse Paho for Python as a foreign client.

Owns translating between Paho's calls and the scenarios'. It runs Paho's own
network thread, as most users do.
"""

import gc
import queue
import socket
import ssl
import uuid

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from scenarios import DEADLINE_SECONDS, Adapter, Connection, Failure, Message, main

SESSION_SECONDS = 300


class PahoConnection(Connection):
    def __init__(self, options, client_id, clean, will, inbox):
        super().__init__(inbox)
        self.is_v5 = options.version == 5
        self.answers = queue.Queue()
        client_id = client_id or "paho-" + uuid.uuid4().hex[:12]
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if self.is_v5 else clean,
            protocol=paho.MQTTv5 if self.is_v5 else paho.MQTTv311,
            transport="websockets" if options.transport in ("ws", "wss") else "tcp",
            reconnect_on_failure=False,
        )
        if options.transport in ("tls", "wss"):
            client.tls_set(options.authority, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        if will:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect = lambda _c, _u, flags, reason, _p: self.answers.put((flags, reason))
        client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.answers.put(reasons)
        client.on_message = lambda _c, _u, message: self.inbox.put(received(message))
        extra = {}
        if self.is_v5:
            extra["clean_start"] = clean
            if not clean:
                extra["properties"] = Properties(PacketTypes.CONNECT)
                extra["properties"].SessionExpiryInterval = SESSION_SECONDS
        client.connect(options.host, options.port, keepalive=60, **extra)
        client.loop_start()
        self.client = client
        flags, reason = self.answer("CONNACK")
        if reason.is_failure:
            raise Failure(f"connection refused: {reason}")
        self.session_present = bool(flags.session_present)

    def answer(self, what):
        try:
            return self.answers.get(timeout=DEADLINE_SECONDS)
        except queue.Empty:
            raise Failure(f"no {what} within {DEADLINE_SECONDS} s") from None

    def subscribe(self, topic_filter, qos, identifier=None):
        properties = None
        if identifier is not None:
            properties = Properties(PacketTypes.SUBSCRIBE)
            properties.SubscriptionIdentifier = identifier
        if self.is_v5:
            options = paho.SubscribeOptions(qos=qos)
            self.client.subscribe(topic_filter, options=options, properties=properties)
        else:
            self.client.subscribe(topic_filter, qos)
        reasons = self.answer("SUBACK")
        if any(reason.is_failure for reason in reasons):
            raise Failure(f"subscription refused: {reasons}")

    def publish(self, message):
        properties = None
        if self.is_v5:
            properties = Properties(PacketTypes.PUBLISH)
            if message.user_properties:
                properties.UserProperty = message.user_properties
            if message.response_topic is not None:
                properties.ResponseTopic = message.response_topic
            if message.correlation is not None:
                properties.CorrelationData = message.correlation.encode()
            if message.expiry_seconds is not None:
                properties.MessageExpiryInterval = message.expiry_seconds
        self.send(message, properties)

    def publish_aliased(self, topic, payloads):
        for index, payload in enumerate(payloads):
            properties = Properties(PacketTypes.PUBLISH)
            properties.TopicAlias = 1
            self.send(Message(topic if index == 0 else "", payload, 1), properties)

    def send(self, message, properties):
        sent = self.client.publish(
            message.topic, message.payload, message.qos, message.retain, properties
        )
        sent.wait_for_publish(DEADLINE_SECONDS)
        if not sent.is_published():
            raise Failure(f"no acknowledgement within {DEADLINE_SECONDS} s")

    def disconnect(self):
        self.client.disconnect()
        self.client.loop_stop()
        # A client keeps two descriptors until it is collected, and select() knows none above 1023.
        del self.client
        gc.collect()

    def cut(self):
        # The thread sees the end of the connection and stops without a DISCONNECT.
        raw = socket.socket(fileno=socket.dup(self.client.socket().fileno()))
        raw.shutdown(socket.SHUT_RDWR)
        raw.close()
        self.client.loop_stop()


def received(message):
    properties = message.properties
    correlation = getattr(properties, "CorrelationData", None)
    return Message(
        topic=message.topic,
        payload=message.payload.decode(),
        qos=message.qos,
        retain=bool(message.retain),
        user_properties=getattr(properties, "UserProperty", []),
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=correlation.decode() if correlation is not None else None,
        expiry_seconds=getattr(properties, "MessageExpiryInterval", None),
        subscription_ids=getattr(properties, "SubscriptionIdentifier", []),
    )


class PahoAdapter(Adapter):
    def connect(self, client_id, clean, will, inbox):
        return PahoConnection(self.options, client_id, clean, will, inbox)


if __name__ == "__main__":
    main(PahoAdapter)
