"""gmqtt as a foreign client.

Owns translating between gmqtt's coroutines and the scenarios'. One event loop
in a thread of its own serves all connections.
"""

import asyncio
import contextlib
import logging
import ssl
import threading
import uuid

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from scenarios import DEADLINE_SECONDS, Adapter, Connection, Failure, Message, main

SESSION_SECONDS = 300

# It logs each connection that is cut, which is what the scenarios do.
logging.getLogger("gmqtt").setLevel(logging.CRITICAL)


class GmqttConnection(Connection):
    def __init__(self, loop, options, client_id, clean, will, inbox):
        super().__init__(inbox)
        self.loop = loop
        self.is_v5 = options.version == 5
        self.await_(self.connect(options, client_id, clean, will))

    def await_(self, work):
        """Run a coroutine in the loop's thread, with the deadline."""

        async def in_time():
            return await asyncio.wait_for(work, DEADLINE_SECONDS)

        try:
            return asyncio.run_coroutine_threadsafe(in_time(), self.loop).result()
        except TimeoutError:
            raise Failure(f"no answer within {DEADLINE_SECONDS} s") from None

    async def connect(self, options, client_id, clean, will):
        properties = {}
        if self.is_v5 and not clean:
            properties["session_expiry_interval"] = SESSION_SECONDS
        if will:
            will = gmqtt.Message(will.topic, will.payload, will.qos, will.retain)
        self.client = gmqtt.Client(
            client_id or "gmqtt-" + uuid.uuid4().hex[:12],
            clean_session=clean,
            will_message=will,
            **properties,
        )
        self.client.set_config({"reconnect_retries": 0})
        self.subscribed = asyncio.Queue()
        self.client.on_connect = self.on_connect
        self.client.on_message = self.on_message
        self.client.on_subscribe = self.on_subscribe
        encryption = False
        if options.transport == "tls":
            encryption = ssl.create_default_context(cafile=options.authority)
        version = MQTTv50 if self.is_v5 else MQTTv311
        await self.client.connect(options.host, options.port, ssl=encryption, version=version)

    def on_connect(self, _client, session_present, _reason, _properties):
        self.session_present = bool(session_present)

    def on_subscribe(self, _client, _packet_id, reasons, _properties):
        self.subscribed.put_nowait(reasons)

    def on_message(self, _client, topic, payload, qos, properties):
        correlation = properties.get("correlation_data", [None])[0]
        self.inbox.put(
            Message(
                topic=topic,
                payload=payload.decode(),
                qos=qos,
                retain=bool(properties["retain"]),
                user_properties=properties.get("user_property", []),
                response_topic=properties.get("response_topic", [None])[0],
                correlation=as_text(correlation),
                expiry_seconds=properties.get("message_expiry_interval", [None])[0],
                subscription_ids=properties.get("subscription_identifier", []),
            )
        )
        return 0

    def subscribe(self, topic_filter, qos, identifier=None):
        async def subscribe():
            extra = {} if identifier is None else {"subscription_identifier": identifier}
            self.client.subscribe(topic_filter, qos, **extra)
            return await self.subscribed.get()

        reasons = self.await_(subscribe())
        if any(reason >= 0x80 for reason in reasons):
            raise Failure(f"subscription refused: {reasons}")

    def publish(self, message):
        properties = {}
        if message.user_properties:
            properties["user_property"] = message.user_properties
        if message.response_topic is not None:
            properties["response_topic"] = message.response_topic
        if message.correlation is not None:
            properties["correlation_data"] = message.correlation.encode()
        if message.expiry_seconds is not None:
            properties["message_expiry_interval"] = message.expiry_seconds
        self.send(message, properties)

    def publish_aliased(self, topic, payloads):
        for index, payload in enumerate(payloads):
            message = Message(topic if index == 0 else "", payload, 1)
            self.send(message, {"topic_alias": 1})

    def send(self, message, properties):
        async def publish():
            self.client.publish(
                message.topic, message.payload, message.qos, message.retain, **properties
            )
            # What is not acknowledged is kept for another connection.
            await self.client._persistent_storage.wait_empty()

        self.await_(publish())

    def disconnect(self):
        # What the broker still had to say when TLS was shut down is no failure.
        with contextlib.suppress(ssl.SSLError):
            self.await_(self.client.disconnect())

    def cut(self):
        async def cut():
            self.client.stop_reconnect()
            self.client._connection._transport.abort()

        self.await_(cut())


def as_text(value):
    return value.decode() if isinstance(value, (bytes, bytearray)) else value


class GmqttAdapter(Adapter):
    def __init__(self, options):
        super().__init__(options)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def connect(self, client_id, clean, will, inbox):
        return GmqttConnection(self.loop, self.options, client_id, clean, will, inbox)


if __name__ == "__main__":
    main(GmqttAdapter)
