"""Whether the Autobahn test suite is content with a server, and with each way in which it has ended a connection.

The suite lets a connection pass that was only dropped where it had to be failed. Here every connection has to end with a
close frame, and with the code that the case is about.
"""

import json
import sys

CASES = 301
# NON-STRICT: bad UTF-8 is noticed at the end of a message, not in the middle of a frame. INFORMATIONAL: nothing is demanded.
CONTENT = ("OK", "NON-STRICT", "INFORMATIONAL")
CLOSED_WELL = ("OK", "INFORMATIONAL")
# The client says goodbye without a code; so does the answer.
WITHOUT_CODE = ("7.3.1",)


def problems(name, case, details):
    if case["behavior"] not in CONTENT:
        yield "is %s: %s" % (case["behavior"], details["result"])
    if case["behaviorClose"] not in CLOSED_WELL:
        yield "ends %s: %s" % (case["behaviorClose"], details["resultClose"])
    if not details["wasClean"] or details["droppedByMe"]:
        yield "was not closed by the server in order: %s" % details["wasNotCleanReason"]
    # Where there are several, the first ones are what else the suite puts up with.
    expected = None if name in WITHOUT_CODE else details["expectedClose"]["closeCode"][-1]
    if case["remoteCloseCode"] != expected:
        yield "is closed with %s, not %s" % (case["remoteCloseCode"], expected)


def main(directory):
    with open(directory + "/index.json") as file:
        cases = json.load(file)["starfeed"]
    count, failed = {}, 0
    by_server = 0
    for name in sorted(cases, key=lambda name: [int(part) for part in name.split(".")]):
        case = cases[name]
        with open(directory + "/" + case["reportfile"]) as file:
            details = json.load(file)
        count[case["behavior"]] = count.get(case["behavior"], 0) + 1
        by_server += not details["expectedClose"]["closedByMe"]
        for problem in problems(name, case, details):
            failed += 1
            print("case %s %s" % (name, problem))
    figures = ", ".join("%d %s" % (count[behavior], behavior) for behavior in sorted(count))
    print("Autobahn: %d cases (%s); in %d the server has to end the connection" % (len(cases), figures, by_server))
    print("%d problems" % failed)
    if len(cases) != CASES:
        print("there should be %d cases" % CASES)
    return 1 if failed or len(cases) != CASES else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
