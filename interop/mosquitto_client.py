"""`mosquitto_pub` and `mosquitto_sub` as foreign clients.

Owns translating between the programs' arguments and the scenarios'. A
connection that subscribes is a `mosquitto_sub` process; each publication is a
`mosquitto_pub` process of its own, as in the scripts people write.
"""

import json
import queue
import subprocess
import threading
import uuid

from scenarios import DEADLINE_SECONDS, Adapter, Connection, Failure, Message, main

SESSION_SECONDS = 300
LIFE_SECONDS = 60


class MosquittoConnection(Connection):
    def __init__(self, adapter, client_id, clean, will, inbox):
        super().__init__(inbox)
        self.adapter = adapter
        self.client_id = client_id or "mosq-" + uuid.uuid4().hex[:12]
        self.clean = clean
        self.will = will
        self.process = None
        self.subscribed = queue.Queue()
        # The program subscribes anew each time; that is how it comes back.
        known = adapter.subscriptions.get(self.client_id)
        if known and not clean:
            self.subscribe(*known)
        elif clean and adapter.subscriptions.pop(self.client_id, None):
            self.subscribe(f"{self.client_id}/unused", 0)

    def subscribe(self, topic_filter, qos, identifier=None):
        self.topic_filter = topic_filter
        command = ["mosquitto_sub", *self.adapter.arguments, "-d", "-F", "%j"]
        # Whatever happens to this program, that one ends.
        command += ["-W", str(LIFE_SECONDS)]
        command += ["-i", self.client_id, "-t", topic_filter, "-q", str(qos)]
        if not self.clean:
            self.adapter.subscriptions[self.client_id] = (topic_filter, qos)
            command += ["-c"]
            if self.adapter.is_v5:
                command += ["-x", str(SESSION_SECONDS)]
        if identifier is not None:
            command += ["-D", "subscribe", "subscription-identifier", str(identifier)]
        if self.will:
            command += ["--will-topic", self.will.topic, "--will-payload", self.will.payload]
            command += ["--will-qos", str(self.will.qos)]
            # A signal would make it ask for its will; a message does not.
            command += ["-C", "1"]
        # Without a terminal its output waits in a buffer until it ends.
        command = ["stdbuf", "-oL", *command]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, args=(self.process.stdout,), daemon=True).start()
        try:
            self.subscribed.get(timeout=DEADLINE_SECONDS)
        except queue.Empty:
            raise Failure(f"not subscribed within {DEADLINE_SECONDS} s") from None

    def read(self, output):
        for line in output:
            if line.startswith("Subscribed "):
                self.subscribed.put(line)
            elif line.startswith("{"):
                self.inbox.put(received(json.loads(line, object_pairs_hook=Fields)))

    def publish(self, message):
        command = ["-t", message.topic, "-q", str(message.qos)]
        command += ["-m", message.payload] if message.payload else ["-n"]
        if message.retain:
            command += ["-r"]
        for name, value in message.user_properties:
            command += ["-D", "publish", "user-property", name, value]
        if message.response_topic is not None:
            command += ["-D", "publish", "response-topic", message.response_topic]
        if message.correlation is not None:
            command += ["-D", "publish", "correlation-data", message.correlation]
        if message.expiry_seconds is not None:
            command += ["-D", "publish", "message-expiry-interval", str(message.expiry_seconds)]
        self.run_publisher(command)

    def publish_aliased(self, topic, payloads):
        lines = "".join(payload + "\n" for payload in payloads)
        self.run_publisher(
            ["-t", topic, "-q", "1", "-l", "-D", "publish", "topic-alias", "1"], lines
        )

    def run_publisher(self, arguments, lines=None):
        subprocess.run(
            ["mosquitto_pub", *self.adapter.arguments, *arguments],
            input=lines,
            text=True,
            check=True,
            timeout=DEADLINE_SECONDS,
        )

    def disconnect(self):
        if not self.process:
            return
        if self.will:
            self.publish(Message(self.topic_filter, "end", 0))
        else:
            # It answers this signal with a DISCONNECT.
            self.process.terminate()
        self.process.wait(DEADLINE_SECONDS)

    def cut(self):
        if self.process:
            self.process.kill()
            self.process.wait(DEADLINE_SECONDS)


class Fields(dict):
    """A JSON object that remembers every pair: user properties repeat names."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.pairs = pairs


def received(line):
    properties = line.get("properties", {})
    users = properties.get("user-properties")
    identifiers = properties.get("subscription-identifier", [])
    return Message(
        topic=line["topic"],
        payload=line.get("payload") or "",
        qos=line["qos"],
        retain=bool(line["retain"]),
        user_properties=users.pairs if users else [],
        response_topic=properties.get("response-topic"),
        correlation=properties.get("correlation-data"),
        expiry_seconds=properties.get("message-expiry-interval"),
        subscription_ids=identifiers if isinstance(identifiers, list) else [identifiers],
    )


class MosquittoAdapter(Adapter):
    def __init__(self, options):
        super().__init__(options)
        self.is_v5 = options.version == 5
        self.subscriptions = {}
        self.arguments = ["-h", options.host, "-p", str(options.port)]
        self.arguments += ["-V", "5" if self.is_v5 else "311"]
        if options.transport == "tls":
            self.arguments += ["--cafile", options.authority]

    def connect(self, client_id, clean, will, inbox):
        return MosquittoConnection(self, client_id, clean, will, inbox)


if __name__ == "__main__":
    main(MosquittoAdapter)
