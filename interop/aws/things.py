"""Clients made with the AWS IoT device SDK, the way its users make them.

Owns connecting, and one face for the SDK's shadow clients: version 1 publishes
and subscribes topic by topic, version 2 has requests and streams. Each can
stand on MQTT 3.1.1 or 5. Nothing is set but endpoint, port, certificates and
client identifier, and what the SDK asks everybody for. What a broker should
answer is not decided here.
"""

import json
import queue
import time
import uuid
from concurrent.futures import Future

from awscrt import mqtt, mqtt5, mqtt_request_response
from awscrt.exceptions import AwsCrtError
from awsiot import ServiceStreamOptions, V2ServiceException, iotshadow
from awsiot import mqtt5_client_builder, mqtt_connection_builder

DEADLINE_SECONDS = 20


class Failure(Exception):
    """Something did not happen, or not as it should."""


class Rejected(Exception):
    """The service answered, and said no."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Refused(Exception):
    """The broker does not let the client do that at all."""


class Endpoint:
    """Where the broker is, and where certificates and keys are: a folder of `causewayd pki`."""

    def __init__(self, host, port, pki):
        self.host, self.port, self.pki = host, port, pki

    def arguments(self, kind, name, client_id):
        """The same for both builders."""
        pair = self.pki / kind / name
        return {
            "endpoint": self.host,
            "port": self.port,
            "cert_filepath": f"{pair}.crt",
            "pri_key_filepath": f"{pair}.key",
            "ca_filepath": str(self.pki / "ca.crt"),
            "client_id": client_id,
        }


def connect(connection):
    """The SDK gives an answer three seconds, which a busy machine may not have."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return connection.connect().result(DEADLINE_SECONDS)
        except AwsCrtError as error:
            if error.name != "AWS_ERROR_MQTT_TIMEOUT" or time.monotonic() > deadline:
                raise


class Connection311:
    """A connection of the 3.1.1 client."""

    def __init__(self, endpoint, kind, name, client_id):
        self.raw = mqtt_connection_builder.mtls_from_path(**endpoint.arguments(kind, name, client_id))
        connect(self.raw)
        # For shadow clients of either version.
        self.of_topics = self.of_requests = self.raw

    def publish(self, topic, payload):
        """Without an answer: a refused message of QoS 1 would end the connection, and come again."""
        sent, _ = self.raw.publish(topic, payload, mqtt.QoS.AT_MOST_ONCE)
        sent.result(DEADLINE_SECONDS)

    def close(self):
        self.raw.disconnect().result(DEADLINE_SECONDS)


class Connection5:
    """A connection of the MQTT 5 client."""

    def __init__(self, endpoint, kind, name, client_id):
        connected, self.stopped = Future(), Future()

        def on_failure(data):
            if not connected.done():
                connected.set_exception(Failure(f"not connected: {data.exception} {data.connack_packet}"))

        self.raw = mqtt5_client_builder.mtls_from_path(
            on_lifecycle_connection_success=lambda _: connected.done() or connected.set_result(None),
            on_lifecycle_connection_failure=on_failure,
            on_lifecycle_stopped=lambda _: self.stopped.done() or self.stopped.set_result(None),
            **endpoint.arguments(kind, name, client_id),
        )
        self.raw.start()
        connected.result(DEADLINE_SECONDS)
        self.of_topics = self.of_requests = self.raw

    def publish(self, topic, payload):
        """Returns the name of the PUBACK's reason."""
        sent = self.raw.publish(mqtt5.PublishPacket(topic=topic, qos=mqtt5.QoS.AT_LEAST_ONCE, payload=payload))
        return sent.result(DEADLINE_SECONDS).puback.reason_code.name

    def close(self):
        self.raw.stop()
        self.stopped.result(DEADLINE_SECONDS)


CONNECTIONS = {"3.1.1": Connection311, "5": Connection5}


def words(name):
    """How the SDK calls a shadow in its functions, and in its classes."""
    return ("_named_shadow", "NamedShadow") if name else ("_shadow", "Shadow")


class Shadow:
    """One shadow of a thing, as one client sees it."""

    def __init__(self, thing, name):
        self.whose = {"thing_name": thing} | ({"shadow_name": name} if name else {})
        self.function, self.model = words(name)
        self.deltas, self.documents = queue.Queue(), queue.Queue()

    def of(self, pattern, **fields):
        """A request of the SDK about this shadow."""
        return getattr(iotshadow, pattern.format(self.model))(**self.whose, **fields)

    def get(self):
        return self.request("get")

    def update(self, version=None, **state):
        return self.request("update", state=iotshadow.ShadowState(**state), version=version)

    def delete(self):
        return self.request("delete")

    def delta(self):
        return next_of(self.deltas, "delta")

    def document(self):
        return next_of(self.documents, "documents")


def next_of(inbox, what):
    try:
        event = inbox.get(timeout=DEADLINE_SECONDS)
    except queue.Empty:
        raise Failure(f"no {what} within {DEADLINE_SECONDS} s") from None
    if event is None or isinstance(event, Exception):
        raise Failure(f"the SDK cannot read {what}: {event}")
    return event


class ShadowOfTopics(Shadow):
    """With version 1 of the SDK's shadow client."""

    def __init__(self, connection, thing, name=None):
        super().__init__(thing, name)
        self.client = iotshadow.IotShadowClient(connection.of_topics)
        self.waiting = {}
        for verb in ["get", "update", "delete"]:
            request = self.of(verb.capitalize() + "{}SubscriptionRequest")
            for outcome in ["accepted", "rejected"]:
                self.subscribe(f"subscribe_to_{verb}{self.function}_{outcome}", request, self.on_answer)

    def subscribe(self, function, request, on_event):
        granted, _ = getattr(self.client, function)(request, mqtt.QoS.AT_LEAST_ONCE, on_event)
        try:
            granted.result(DEADLINE_SECONDS)
        except (mqtt.SubscribeError, AwsCrtError) as error:
            raise Refused(f"{function}: {error!r}") from None

    def on_answer(self, answer):
        waiting = self.waiting.pop(getattr(answer, "client_token", None), None)
        if waiting is None:
            # Somebody else asked, or the SDK cannot read it: then nobody gets an answer in time.
            return
        if isinstance(answer, iotshadow.ErrorResponse):
            waiting.set_exception(Rejected(answer.code, answer.message))
        else:
            waiting.set_result(answer)

    def request(self, verb, **fields):
        token, answer = uuid.uuid4().hex, Future()
        self.waiting[token] = answer
        request = self.of(verb.capitalize() + "{}Request", client_token=token, **fields)
        publish = getattr(self.client, f"publish_{verb}{self.function}")
        publish(request, mqtt.QoS.AT_LEAST_ONCE).result(DEADLINE_SECONDS)
        return answer.result(DEADLINE_SECONDS)

    def follow(self):
        self.subscribe(
            f"subscribe_to{self.function}_delta_updated_events",
            self.of("{}DeltaUpdatedSubscriptionRequest"),
            self.deltas.put,
        )
        self.subscribe(
            f"subscribe_to{self.function}_updated_events",
            self.of("{}UpdatedSubscriptionRequest"),
            self.documents.put,
        )
        return self


class ShadowOfRequests(Shadow):
    """With version 2 of the SDK's shadow client."""

    def __init__(self, connection, thing, name=None):
        super().__init__(thing, name)
        options = mqtt_request_response.ClientOptions(
            max_request_response_subscriptions=4,
            max_streaming_subscriptions=2,
            operation_timeout_in_seconds=DEADLINE_SECONDS,
        )
        self.client = iotshadow.IotShadowClientV2(connection.of_requests, options)
        self.streams = []

    def request(self, verb, **fields):
        request = self.of(verb.capitalize() + "{}Request", **fields)
        try:
            return getattr(self.client, verb + self.function)(request).result(DEADLINE_SECONDS)
        except V2ServiceException as failure:
            error = failure.modeled_error
            if error is None:
                raise Refused(str(failure.inner_error)) from None
            raise Rejected(error.code, error.message) from None

    def follow(self):
        self.open(f"create{self.function}_delta_updated_stream", "{}DeltaUpdatedSubscriptionRequest", self.deltas)
        self.open(f"create{self.function}_updated_stream", "{}UpdatedSubscriptionRequest", self.documents)
        return self

    def open(self, function, request, inbox):
        established = Future()

        def on_status(event):
            if not established.done():
                established.set_result(event)

        options = ServiceStreamOptions(
            incoming_event_listener=inbox.put,
            subscription_status_listener=on_status,
            deserialization_failure_listener=lambda failure: inbox.put(Failure(f"{failure.inner_error!r}")),
        )
        stream = getattr(self.client, function)(self.of(request), options)
        stream.open()
        self.streams.append(stream)
        status = established.result(DEADLINE_SECONDS)
        if status.type != mqtt_request_response.SubscriptionStatusEventType.SUBSCRIPTION_ESTABLISHED:
            raise Refused(f"{function}: {status.error}")


SHADOWS = {"1": ShadowOfTopics, "2": ShadowOfRequests}


def plain(**fields):
    """A document that no class of the SDK can say."""
    return json.dumps(fields)
