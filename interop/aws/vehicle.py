"""A vehicle's program made with the AWS IoT device SDK, as a puppet.

Owns nothing but the strings: each line it reads is one thing to do, each line
it prints is what came of it. It keeps no state of the vehicle: whoever holds
the strings does.

    get               its shadow, as an answer to everything that came before
    report {...}      merge this into what is reported

It prints {"delta": ...} for each delta that came, {"done": ...} for each thing
done, and {"failed": ...} where it could not be done.
"""

import argparse
import json
import os
import pathlib
import queue
import sys

from things import CONNECTIONS, SHADOWS, Endpoint, Rejected


def say(**what):
    print(json.dumps(what), flush=True)


def tell_deltas(shadow):
    while True:
        try:
            event = shadow.deltas.get_nowait()
        except queue.Empty:
            return
        say(delta=event.state)


def obey(shadow, line):
    verb, _, document = line.strip().partition(" ")
    if verb == "report":
        return shadow.update(reported=json.loads(document)).version
    try:
        return shadow.get().version
    except Rejected as missing:
        return missing.code


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--pki", required=True)
    parser.add_argument("--vin", required=True)
    parser.add_argument("--mqtt", required=True, choices=sorted(CONNECTIONS))
    parser.add_argument("--client", required=True, choices=sorted(SHADOWS))
    options = parser.parse_args()
    endpoint = Endpoint(options.host, options.port, pathlib.Path(options.pki))
    connection = CONNECTIONS[options.mqtt](endpoint, "vehicles", options.vin, options.vin)
    shadow = SHADOWS[options.client](connection, options.vin).follow()
    say(done="connected")
    for line in sys.stdin:
        try:
            done = obey(shadow, line)
        except Exception as error:  # whatever a library throws is a failure
            say(failed=f"{type(error).__name__}: {error}")
        else:
            tell_deltas(shadow)
            say(done=done)


if __name__ == "__main__":
    main()
    # The SDK's own threads do not always survive the end of the interpreter.
    os._exit(0)
