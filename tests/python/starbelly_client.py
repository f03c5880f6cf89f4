"""A client of the Starbelly API that checks the live lists of a server.

It creates a policy, a schedule and a domain login, subscribes to the three
lists, changes and deletes what it created, and checks that exactly the right
events arrive. Nobody else may write to the server in the meantime.

    pip install -r tests/python/requirements.txt
    mkdir generated
    python -m grpc_tools.protoc -I protobuf --python_out generated starbelly.proto
    python tests/python/starbelly_client.py ws://127.0.0.1:8000/ws/ generated

One line is printed for each event, and "ok" at the end. The exit status is 0
if everything was as expected, else 1.
"""

import sys
import time
import uuid

from google.protobuf.message import DecodeError
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

# No single wait lasts longer than this.
TIMEOUT_SECONDS = 10.0

pb = None  # The generated module; main() knows where it is.


class Failure(Exception):
    """The server did something else than it should."""


def check(condition, message):
    if not condition:
        raise Failure(message)


def open_socket(url):
    """Returns a context manager that connects and, at the end, closes."""
    return connect(
        url,
        compression=None,
        proxy=None,
        open_timeout=TIMEOUT_SECONDS,
        close_timeout=TIMEOUT_SECONDS,
    )


class Connection:
    """One connection: requests with their responses, and events as they come."""

    def __init__(self, socket):
        self.socket = socket
        self.last_request_id = 0
        self.subscriptions = {}  # subscription id -> what it is about
        self.events = []  # (subscription id, kind, key, name), oldest first

    def request(self, command, **fields):
        """Sends a command and returns its response, successful or not."""
        self.last_request_id += 1
        request = pb.Request(request_id=self.last_request_id)
        getattr(request, command).SetInParent()
        for name, value in fields.items():
            field = getattr(getattr(request, command), name)
            if hasattr(field, "CopyFrom"):
                field.CopyFrom(value)
            else:
                setattr(getattr(request, command), name, value)
        self.socket.send(request.SerializeToString())
        response = self.receive_response(f"the response to {command}")
        check(
            response.request_id == request.request_id,
            f"{command} was request {request.request_id}, but the response says {response.request_id}",
        )
        return response

    def call(self, command, body=None, **fields):
        """Sends a command that must succeed and returns the body of its response."""
        response = self.request(command, **fields)
        check(response.is_success, f"{command} failed: {response.error_message}")
        check(not response.HasField("error_message"), f"{command} succeeded, yet has an error message")
        found = response.WhichOneof("Body")
        check(found == body, f"{command} was answered with {found}, expected {body}")
        return getattr(response, body) if body else None

    def subscribe(self, command, noun):
        subscription_id = self.call(command, "new_subscription").subscription_id
        check(subscription_id not in self.subscriptions, f"subscription id {subscription_id} was used twice")
        self.subscriptions[subscription_id] = noun
        return subscription_id

    def receive_response(self, what):
        """Returns the next response; events that come before it are kept."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            message = self.receive(deadline, what)
            if message.WhichOneof("MessageType") == "response":
                return message.response
            self.keep(message.event)

    def wait_for_events(self, count, what):
        """Returns the oldest `count` events and forgets them."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while len(self.events) < count:
            message = self.receive(deadline, f"{what} ({len(self.events)} of {count} events are there)")
            check(message.WhichOneof("MessageType") == "event", f"a response that nobody asked for: {message}")
            self.keep(message.event)
        events, self.events = self.events[:count], self.events[count:]
        return events

    def receive(self, deadline, what):
        try:
            data = self.socket.recv(timeout=max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise Failure(f"waited {TIMEOUT_SECONDS:g} s for {what}") from None
        check(isinstance(data, bytes), f"the server sent a text message: {data!r}")
        message = pb.ServerMessage.FromString(data)
        check(message.IsInitialized(), f"a message lacks a required field: {message}")
        check(message.WhichOneof("MessageType") is not None, "the server sent an empty message")
        return message

    def keep(self, event):
        noun = self.subscriptions.get(event.subscription_id)
        check(noun is not None, f"an event for subscription {event.subscription_id}, which is not known yet: {event}")
        body = event.WhichOneof("Body")
        check(body == f"{noun}_event", f"an event of the {noun} list has the body {body}: {event}")
        body = getattr(event, body)
        check(body.HasField("event_type"), f"an event has no event_type: {event}")
        kind = body.EventType.Name(body.event_type)
        if noun == "domain_login":
            key, name, line = body.domain, None, body.domain
            check(key, f"an event has no domain: {event}")
        else:
            raw, name = (
                (body.policy_id, body.name) if noun == "policy" else (body.schedule_id, body.schedule_name)
            )
            check(len(raw) == 16, f"an id has {len(raw)} bytes, expected 16: {event}")
            key = uuid.UUID(bytes=raw)
            line = f"{key} {name}"
        print(kind, noun, line, flush=True)
        self.events.append((event.subscription_id, kind, key, name))


def policy(name):
    """The smallest policy that makes sense: follow links on the seeds' sites."""
    message = pb.Policy(name=name)
    message.authentication.enabled = False
    message.limits.max_cost = 3
    message.limits.max_items = 1000
    message.mime_type_rules.add(pattern="^text/", match=pb.MATCHES, save=True)
    message.mime_type_rules.add(save=False)
    message.proxy_rules.add()
    message.robots_txt.usage = pb.PolicyRobotsTxt.OBEY
    message.url_normalization.enabled = True
    message.url_normalization.strip_parameters.append("PHPSESSID")
    message.url_rules.add(
        pattern="^https?://({SEED_DOMAINS})/",
        match=pb.MATCHES,
        action=pb.PolicyUrlRule.ADD,
        amount=1,
    )
    message.url_rules.add(action=pb.PolicyUrlRule.MULTIPLY, amount=0)
    message.user_agents.add(name="Starbelly/{VERSION} (Python check)")
    return message


def schedule(name, policy_id):
    return pb.Schedule(
        schedule_name=name,
        enabled=False,
        time_unit=pb.DAYS,
        num_units=1,
        timing=pb.REGULAR_INTERVAL,
        job_name="Python check {COUNT}",
        seeds=["https://python-check.example/"],
        policy_id=policy_id,
        tags=["python-check"],
    )


def domain_login(domain, password):
    message = pb.DomainLogin(domain=domain, login_url=f"https://{domain}/login")
    message.users.add(username="check", password=password, working=True)
    return message


def list_all(connection, command, field):
    """Reads a list page by page."""
    rows = []
    while True:
        body = connection.call(command, command, page=pb.Page(limit=100, offset=len(rows)))
        page = getattr(body, field)
        rows.extend(page)
        if len(rows) >= body.total:
            return rows
        check(page, f"{command} says there are {body.total} rows, but gives only {len(rows)}")


def existing_rows(connection):
    """What the three lists must show at first: (noun, key, name)."""
    policies = list_all(connection, "list_policies", "policies")
    schedules = list_all(connection, "list_schedules", "schedules")
    logins = list_all(connection, "list_domain_logins", "logins")
    return (
        [("policy", uuid.UUID(bytes=row.policy_id), row.name) for row in policies]
        + [("schedule", uuid.UUID(bytes=row.schedule_id), row.schedule_name) for row in schedules]
        + [("domain_login", row.domain, None) for row in logins]
    )


def check_initial(reader, expected):
    """Exactly one ADDED for each row that is there, in any order."""
    events = reader.wait_for_events(len(expected), "the rows that are there")
    for _, kind, key, _ in events:
        check(kind == "ADDED", f"{kind} {key} came while the list was still being sent")
    found = [(reader.subscriptions[subscription], key, name) for subscription, _, key, name in events]
    missing = set(expected) - set(found)
    surplus = set(found) - set(expected)
    check(not missing and not surplus, f"wrong rows at first: missing {missing}, surplus {surplus}")
    check(len(set(found)) == len(found), "a row was sent twice at first")


def check_changes(reader, expected):
    """In each subscription exactly the expected events, in their order."""
    events = reader.wait_for_events(sum(map(len, expected.values())), "the changes")
    for subscription, wanted in expected.items():
        found = [event[1:] for event in events if event[0] == subscription]
        noun = reader.subscriptions[subscription]
        check(found == wanted, f"wrong changes in the {noun} list: expected {wanted}, found {found}")


def check_empty_message(connection):
    connection.socket.send(b"")
    response = connection.receive_response("the response to an empty message")
    check(response.request_id == 0, f"an empty message was answered with request_id {response.request_id}")
    check(not response.is_success, "an empty message was answered with success")
    check(response.error_message == "No command specified", f"an empty message: {response.error_message!r}")


def check_unsubscribe(reader, writer, ids, label):
    policies, _, logins = ids
    reader.call("unsubscribe", subscription_id=policies)
    response = reader.request("unsubscribe", subscription_id=policies)
    check(not response.is_success, "a second unsubscribe of the same subscription succeeded")
    wanted = f"Unknown subscription_id: {policies}"
    check(response.error_message == wanted, f"expected {wanted!r}, found {response.error_message!r}")
    # A policy that comes and goes is not seen any more; a later login is.
    policy_id = writer.call("set_policy", "new_policy", policy=policy(f"{label} unseen")).policy_id
    writer.call("delete_policy", policy_id=policy_id)
    domain = f"{label}-last.example"
    writer.call("set_domain_login", login=domain_login(domain, "fake"))
    writer.call("delete_domain_login", domain=domain)
    check_changes(reader, {logins: [("ADDED", domain, None), ("DELETED", domain, None)]})


def scenario(url):
    label = f"python-check-{uuid.uuid4().hex[:8]}"
    domain = f"{label}.example"
    with open_socket(url) as reading, open_socket(url) as writing:
        reader, writer = Connection(reading), Connection(writing)
        policy_id = writer.call("set_policy", "new_policy", policy=policy(label)).policy_id
        check(len(policy_id) == 16, f"a new policy id has {len(policy_id)} bytes")
        new_schedule = schedule(label, policy_id)
        schedule_id = writer.call("set_schedule", "new_schedule", schedule=new_schedule).schedule_id
        check(len(schedule_id) == 16, f"a new schedule id has {len(schedule_id)} bytes")
        writer.call("set_domain_login", login=domain_login(domain, "fake-1"))

        expected = existing_rows(writer)
        policy_key, schedule_key = uuid.UUID(bytes=policy_id), uuid.UUID(bytes=schedule_id)
        created = {("policy", policy_key, label), ("schedule", schedule_key, label), ("domain_login", domain, None)}
        check(created <= set(expected), f"the lists lack what was just created: {created - set(expected)}")

        ids = [
            reader.subscribe("subscribe_policy_list", "policy"),
            reader.subscribe("subscribe_schedule_list", "schedule"),
            reader.subscribe("subscribe_domain_login_list", "domain_login"),
        ]
        check(ids == [0, 1, 2], f"the subscription ids are {ids}, expected 0, 1, 2")
        check_initial(reader, expected)

        renamed = f"{label} (renamed)"
        changed_policy, changed_schedule = policy(renamed), schedule(renamed, policy_id)
        changed_policy.policy_id, changed_schedule.schedule_id = policy_id, schedule_id
        writer.call("set_policy", policy=changed_policy)
        writer.call("set_schedule", schedule=changed_schedule)
        writer.call("set_domain_login", login=domain_login(domain, "fake-2"))
        writer.call("delete_schedule", schedule_id=schedule_id)
        writer.call("delete_policy", policy_id=policy_id)
        writer.call("delete_domain_login", domain=domain)
        check_changes(
            reader,
            {
                ids[0]: [("UPDATED", policy_key, renamed), ("DELETED", policy_key, renamed)],
                ids[1]: [("UPDATED", schedule_key, renamed), ("DELETED", schedule_key, renamed)],
                ids[2]: [("UPDATED", domain, None), ("DELETED", domain, None)],
            },
        )

        check_unsubscribe(reader, writer, ids, label)
        check_empty_message(writer)
        check(not reader.events, f"events that nobody expected: {reader.events}")
        check(not writer.events, f"events without a subscription: {writer.events}")


def main():
    global pb
    if len(sys.argv) != 3:
        print(f"usage: {sys.argv[0]} ws://HOST:PORT/ws/ GENERATED_MODULE_DIR", file=sys.stderr)
        return 1
    sys.path.insert(0, sys.argv[2])
    try:
        import starbelly_pb2 as pb

        scenario(sys.argv[1])
    except (Failure, DecodeError, ImportError, OSError, WebSocketException) as error:
        print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
