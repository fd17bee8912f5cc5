#!/usr/bin/env python3
"""A loyalty programme as a service beside Annals: it keeps accounts of its own in the store, and opens one for every
customer that the CRM takes on. Python's standard library is all that it needs.

    ANNALS_URL=http://localhost:8080 ANNALS_TOKEN=... ./loyalty.py follow STATE_FILE
    ./loyalty.py earn CUSTOMER_ID POINTS
    ./loyalty.py show CUSTOMER_ID

The token has the scopes events:read, events:append:ext.loyalty.account and event_types:write:ext.loyalty.account.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

URL = os.environ.get("ANNALS_URL", "http://localhost:8080")
TOKEN = os.environ.get("ANNALS_TOKEN", "")
CATEGORY = "ext.loyalty.account"
OPENED = f"{CATEGORY}.opened.v1"
EARNED = f"{CATEGORY}.points_earned.v1"
# The parent of every id that this service derives: the same cause gives the same id, so a repeat changes nothing.
NAMESPACE = uuid.UUID("3d8f2c54-6a0e-5b7e-9f53-0c9a7f1d2e68")
WELCOME_POINTS = 100
GOLD_FROM = 1000

# Closed schemas (`additionalProperties: false`) may take on new optional properties later.
SCHEMAS = {
    OPENED: {
        "type": "object",
        "properties": {"customer": {"type": "string"}},
        "required": ["customer"],
        "additionalProperties": False,
    },
    EARNED: {
        "type": "object",
        "properties": {"points": {"type": "integer", "minimum": 1}, "reason": {"enum": ["welcome", "purchase"]}},
        "required": ["points", "reason"],
        "additionalProperties": False,
    },
}


class Problem(Exception):
    """An answer that says no: its status, its code and all that it says."""

    def __init__(self, status, body):
        super().__init__(f"{status} {body.get('code')}: {body.get('detail')} {body.get('errors') or ''}")
        self.status, self.code, self.body = status, body.get("code"), body


def request(method, path, body=None, headers=None, timeout=30):
    """Sends a request and returns the open answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **(headers or {})}
    try:
        return urllib.request.urlopen(urllib.request.Request(URL + path, data, headers, method=method), timeout=timeout)
    except urllib.error.HTTPError as error:
        text = error.read()
        try:
            problem = json.loads(text)
        except ValueError:
            problem = {"detail": text.decode(errors="replace")}
        raise Problem(error.code, problem) from None


def call(method, path, body=None, headers=None):
    """Sends a request and returns the answer's JSON. What may pass by itself is tried again."""
    for attempt in range(8):
        try:
            with request(method, path, body, headers) as answer:
                return json.load(answer)
        except (Problem, OSError) as error:
            passing = not isinstance(error, Problem) or error.status in (429, 503)
            if not passing or attempt == 7:
                raise
            time.sleep(min(0.1 * 2**attempt, 5))


class Account:
    """An account, folded from its stream."""

    def __init__(self, customer):
        self.id = uuid.uuid5(NAMESPACE, customer)
        self.path = f"/v1/streams/{CATEGORY}/{self.id}/events"
        self.customer, self.version, self.points, self.welcomed = customer, 0, 0, False

    @property
    def tier(self):
        return "gold" if self.points >= GOLD_FROM else "blue"

    def load(self):
        """Reads what has happened since the version that we know."""
        more = self.version + 1
        while more:
            page = call("GET", f"{self.path}?from_version={more}")
            for event in page["events"]:
                self.apply(event)
            more = page["next_from_version"]
        return self

    def apply(self, event):
        self.version = int(event["streamversion"])
        if event["type"] == EARNED:
            self.points += event["data"]["points"]
            self.welcomed = self.welcomed or event["data"]["reason"] == "welcome"

    def append(self, command_id, event_type, data):
        """Records an event behind the version that we know; a repeat of the command gets the first answer."""
        body = {"expected_version": self.version, "events": [{"type": event_type, "data": data}]}
        return call("POST", self.path, body, {"Idempotency-Key": str(command_id)})

    def decide(self, command_id, rule):
        """Runs a rule on the account and records what it decides; where somebody came first, on what they left."""
        while True:
            self.load()
            decision = rule(self)
            if decision is None:
                return
            try:
                self.append(command_id, *decision)
                return
            except Problem as problem:
                if problem.code == "command_id_reused":
                    # We decided this before, on an earlier version of the account.
                    return
                if problem.code != "version_conflict":
                    raise


def open_account(account):
    return (OPENED, {"customer": account.customer}) if account.version == 0 else None


def welcome(account):
    return None if account.welcomed else (EARNED, {"points": WELCOME_POINTS, "reason": "welcome"})


def react(event):
    """A customer came: it gets an account and a welcome. Both may be done already."""
    account = Account(event["subject"].split("/")[1])
    cause = uuid.UUID(event["id"])
    account.decide(uuid.uuid5(cause, "open"), open_account)
    account.decide(uuid.uuid5(cause, "welcome"), welcome)


def events(after):
    """Every customer's registration behind a position, as it happens."""
    failures = 0
    while True:
        try:
            path = f"/v1/events/stream?type=crm.customer.registered.v1&after={after}"
            # Heartbeats come every 15 seconds: who hears nothing for a minute hears nothing at all.
            with request("GET", path, headers={"Accept": "text/event-stream"}, timeout=60) as stream:
                failures = 0
                for line in stream:
                    if line.startswith(b"data:"):
                        event = json.loads(line[5:])
                        yield event
                        after = int(event["position"])
        except Problem as problem:
            if problem.status not in (429, 503):
                raise
        except OSError:
            pass
        time.sleep(min(0.1 * 2**failures, 5))
        failures = min(failures + 1, 10)


def follow(state_file):
    """Reacts to every event at least once; what we do is the same however often, so its effect comes once."""
    for name, schema in SCHEMAS.items():
        call("PUT", f"/v1/event-types/{name}", {"schema": schema})
    after = 0
    if os.path.exists(state_file):
        with open(state_file) as file:
            after = int(file.read())
    print("following", flush=True)
    for event in events(after):
        react(event)
        with open(state_file + ".new", "w") as file:
            file.write(event["position"])
        os.replace(state_file + ".new", state_file)


def earn(customer, points):
    account = Account(customer).load()
    if account.version == 0:
        sys.exit("error: this customer has no account")
    account.decide(uuid.uuid4(), lambda _: (EARNED, {"points": points, "reason": "purchase"}))


def show(customer):
    account = Account(customer).load()
    shown = {"customer": customer, "version": account.version, "points": account.points, "tier": account.tier}
    print(json.dumps(shown))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["follow", state_file]:
            follow(state_file)
        case ["earn", customer, points]:
            earn(customer, int(points))
        case ["show", customer]:
            show(customer)
        case _:
            sys.exit(__doc__)
