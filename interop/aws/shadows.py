"""What programs written for the AWS IoT Device Shadow service must find here, too.

Owns the scenarios and the printing of verdicts: one line of JSON for each. It
runs with one of the SDK's clients, on one version of MQTT, with the classic
shadow or a named one. Nothing here sleeps: whatever must come has a deadline,
and what must not come is shown by what comes after it.
"""

import argparse
import datetime
import json
import os
import pathlib
import sys
import threading

from things import CONNECTIONS, SHADOWS, Endpoint, Failure, Refused, Rejected, plain

# Of each of two vehicles, with as many wishes of the backend between.
UPDATES = 20
# A clock that is as wrong as this is in other units.
CLOCK_SECONDS = 300


def expect(found, expected, what):
    if found != expected:
        raise Failure(f"{what}: {found!r} instead of {expected!r}")


def expect_now(timestamp):
    if not isinstance(timestamp, datetime.datetime):
        raise Failure(f"no timestamp: {timestamp!r}")
    expect(abs((datetime.datetime.now() - timestamp).total_seconds()) < CLOCK_SECONDS, True, f"{timestamp} is about now")


def expect_rejected(code, ask):
    try:
        answer = ask()
    except Rejected as rejected:
        expect(rejected.code, code, f"code of {rejected}")
    else:
        raise Failure(f"{answer} instead of {code}")


def expect_refused(what, ask):
    try:
        ask()
    except Refused:
        return
    raise Failure(f"{what} was allowed")


def expect_about(metadata, state):
    """A timestamp for each leaf of a section, of each element of an array, too."""
    if isinstance(state, dict):
        expect(sorted(metadata), sorted(state), "keys of the metadata")
        for key, value in state.items():
            expect_about(metadata[key], value)
    elif isinstance(state, list):
        expect(len(metadata), len(state), "elements of the metadata")
        for about, value in zip(metadata, state):
            expect_about(about, value)
    else:
        expect_now(datetime.datetime.fromtimestamp(metadata["timestamp"]))


class Stage:
    """Two vehicles, and a backend that sees both."""

    def __init__(self, options):
        self.options = options
        self.endpoint = Endpoint(options.host, options.port, pathlib.Path(options.pki))
        self.name = options.name or None
        self.open = []
        backend = CONNECTIONS["5"](self.endpoint, "services", options.service, options.service)
        self.backend = {vin: SHADOWS["2"](backend, vin, self.name) for vin in [options.vin, options.other]}
        self.vehicle = self.connect(options.vin).follow()

    def connection(self, vin):
        connection = CONNECTIONS[self.options.mqtt](self.endpoint, "vehicles", vin, vin)
        self.open.append(connection)
        return connection

    def connect(self, vin):
        return SHADOWS[self.options.client](self.connection(vin), vin, self.name)

    def close(self):
        for connection in self.open:
            connection.close()
        self.open = []


def missing(stage):
    expect_rejected(404, stage.vehicle.get)
    expect_rejected(404, stage.vehicle.delete)


def update(stage):
    state = {"doors": "locked", "tyres": [2.5, 2.5, 2.4, 2.6], "seat": {"heat": 2, "memory": {"name": "Grüße"}}}
    accepted = stage.vehicle.update(reported=state)
    expect(accepted.state.reported, state, "what was accepted")
    expect(accepted.state.desired, None, "what is said of the section that was not touched")
    expect_about(accepted.metadata.reported, state)
    expect_now(accepted.timestamp)
    stage.version = accepted.version
    merged = stage.vehicle.update(reported={"seat": {"heat": None}, "tyres": [2.5]})
    expect(merged.version, stage.version + 1, "version")
    stage.version = merged.version


def get(stage):
    document = stage.vehicle.get()
    state = {"doors": "locked", "tyres": [2.5], "seat": {"memory": {"name": "Grüße"}}}
    expect(document.state.reported, state, "what is reported")
    expect(document.state.desired, None, "what is desired")
    expect(document.state.delta, None, "the difference")
    expect_about(document.metadata.reported, state)
    expect(document.version, stage.version, "version")
    expect_now(document.timestamp)


def delta(stage):
    accepted = stage.backend[stage.options.vin].update(desired={"doors": "unlocked", "seat": {"heat": 3}})
    event = stage.vehicle.delta()
    expect(event.state, {"doors": "unlocked", "seat": {"heat": 3}}, "the difference")
    expect_about(event.metadata, event.state)
    expect(event.version, accepted.version, "version")
    expect_now(event.timestamp)
    expect(stage.vehicle.get().state.delta, event.state, "the difference in the document")
    stage.vehicle.update(reported={"doors": "unlocked", "seat": {"heat": 3}})
    expect(stage.vehicle.get().state.delta, None, "the difference once it was done")
    # Nothing more came than what was wanted.
    stage.backend[stage.options.vin].update(desired={"lights": True})
    expect(stage.vehicle.delta().state, {"lights": True}, "the next difference")
    stage.version = stage.vehicle.update(reported={"lights": True}).version


def documents(stage):
    """Each version, once, in order, with what was before it."""
    versions = []
    while not versions or versions[-1] < stage.version:
        event = stage.vehicle.document()
        expect(event.current.version, event.previous.version + 1, "version behind the one before")
        expect_now(event.timestamp)
        versions.append(event.current.version)
    expect(versions, list(range(versions[0], stage.version + 1)), "versions")
    expect(event.previous.state.desired["lights"], True, "what was desired")
    lights = event.previous.state.reported.get("lights"), event.current.state.reported["lights"]
    expect(lights, (None, True), "what is reported, before and now")
    expect_about(event.current.metadata.reported, event.current.state.reported)
    expect_about(event.current.metadata.desired, event.current.state.desired)


def conflict(stage):
    expect_rejected(409, lambda: stage.vehicle.update(version=stage.version - 1, reported={"doors": "gone"}))
    expect_rejected(409, lambda: stage.vehicle.update(version=stage.version + 1, reported={"doors": "gone"}))
    expect(stage.vehicle.get().state.reported["doors"], "unlocked", "what a conflict left")
    accepted = stage.vehicle.update(version=stage.version, reported={"doors": "locked"})
    expect(accepted.version, stage.version + 1, "version")


def errors(stage):
    deep = 1
    for _ in range(9):
        deep = {"a": deep}
    expect_rejected(400, lambda: stage.vehicle.request("update"))
    expect_rejected(400, lambda: stage.vehicle.update(reported=deep))
    expect_rejected(400, lambda: stage.vehicle.update(reported={"a": [1, None]}))
    expect_rejected(413, lambda: stage.vehicle.update(reported={"a": "x" * 9000}))


def wrong_thing(stage):
    """Nobody has anything to do with the shadow of another vehicle."""
    other, vin = stage.options.other, stage.options.vin
    connection = CONNECTIONS[stage.options.mqtt](stage.endpoint, "vehicles", vin, f"{vin}/spy")
    shadow = SHADOWS[stage.options.client]
    expect_refused("asking about another thing", lambda: shadow(connection, other, stage.name).get())
    # Over 3.1.1, streams of version 2 ask again and again, and never say that they were refused.
    if (stage.options.client, stage.options.mqtt) != ("2", "3.1.1"):
        expect_refused("following another thing", lambda: shadow(connection, other, stage.name).follow())
        expect_refused("following all things", lambda: shadow(connection, "+", stage.name).follow())
    where = f"$aws/things/{other}/shadow" + (f"/name/{stage.name}" if stage.name else "")
    told = connection.publish(f"{where}/update", plain(state={"reported": {"stolen": True}}))
    expect(told in (None, "NOT_AUTHORIZED"), True, f"{told} is a refusal")
    connection.publish(f"{where}/delete", "{}")
    connection.close()
    try:
        expect(stage.backend[other].get().state.reported.get("stolen"), None, "what a stranger said")
    except Rejected as missing:
        expect(missing.code, 404, "code")


def away(stage):
    """A vehicle that was away is told once, and of the newest only."""
    stage.close()
    wishes = stage.backend[stage.options.vin]
    for heat in [1, 2, 5]:
        wishes.update(desired={"seat": {"heat": heat}, "doors": "locked"})
    stage.vehicle = stage.connect(stage.options.vin).follow()
    expect(stage.vehicle.delta().state, {"seat": {"heat": 5}}, "the difference")
    stage.vehicle.update(reported={"seat": {"heat": 5}})
    wishes.update(desired={"lights": False})
    expect(stage.vehicle.delta().state, {"lights": False}, "the next difference")
    stage.vehicle.update(reported={"lights": False})


def drive(stage, vin, vehicle, problems):
    """Works on one vehicle's shadow, as if there was no other."""
    try:
        for number in range(UPDATES):
            stage.backend[vin].update(desired={"mark": f"{vin} {number}"})
            event = vehicle.delta()
            expect(event.state, {"mark": f"{vin} {number}"}, "the difference")
            accepted = vehicle.update(reported={"mark": event.state["mark"]})
            expect(accepted.state.reported, {"mark": f"{vin} {number}"}, "what was accepted")
        document = vehicle.get().state
        expect((document.reported["mark"], document.delta), (f"{vin} {UPDATES - 1}", None), "what is left")
    except Exception as problem:
        problems.append(f"{vin}: {problem!r}")


def two_at_once(stage):
    other = stage.connect(stage.options.other).follow()
    problems = []
    pairs = [(stage.options.vin, stage.vehicle), (stage.options.other, other)]
    threads = [threading.Thread(target=drive, args=(stage, vin, vehicle, problems)) for vin, vehicle in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(problems, [], "problems")
    other.delete()


def delete(stage):
    version = stage.vehicle.get().version
    deleted = stage.vehicle.delete()
    expect_now(deleted.timestamp)
    expect_rejected(404, stage.vehicle.get)
    again = stage.vehicle.update(reported={"doors": "locked"})
    expect(again.version > max(version, deleted.version), True, f"version {again.version} goes on behind {version}")
    expect(stage.vehicle.get().state.reported, {"doors": "locked"}, "what is left of it")
    stage.vehicle.delete()


SCENARIOS = {
    "missing": missing,
    "update": update,
    "get": get,
    "delta": delta,
    "documents": documents,
    "conflict": conflict,
    "errors": errors,
    "wrong-thing": wrong_thing,
    "away": away,
    "two-at-once": two_at_once,
    "delete": delete,
}


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--pki", required=True, help="the folder of the authority")
    parser.add_argument("--vin", required=True, help="the vehicle")
    parser.add_argument("--other", required=True, help="another vehicle")
    parser.add_argument("--service", required=True, help="a service that may see both")
    parser.add_argument("--mqtt", required=True, choices=sorted(CONNECTIONS))
    parser.add_argument("--client", required=True, choices=sorted(SHADOWS), help="version of the SDK's shadow client")
    parser.add_argument("--name", default="", help="of the shadow; the classic one without")
    return parser.parse_args()


def verdict_of(play):
    try:
        play()
    except Exception as error:  # whatever a library throws is a failure
        return {"verdict": "fail", "detail": f"{type(error).__name__}: {error}"}
    return {"verdict": "pass", "detail": ""}


def main():
    """Play every scenario, one upon the other, and print a verdict for each."""
    stages = []
    verdict = verdict_of(lambda: stages.append(Stage(parse_options())))
    print(json.dumps({"scenario": "connect"} | verdict), flush=True)
    for stage in stages:
        for name, play in SCENARIOS.items():
            print(json.dumps({"scenario": name} | verdict_of(lambda: play(stage))), flush=True)
        stage.close()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # All is said and closed. The SDK's own threads do not always survive the end of the interpreter.
    os._exit(0)
