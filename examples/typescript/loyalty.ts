#!/usr/bin/env node
// A loyalty programme as a service beside Annals: it keeps accounts of its own in the store, and opens one for every
// customer that the CRM takes on. Node 22.18 or later runs this file as it is; it has no dependencies.
//
//     ANNALS_URL=http://localhost:8080 ANNALS_TOKEN=... node loyalty.ts follow STATE_FILE
//     node loyalty.ts earn CUSTOMER_ID POINTS
//     node loyalty.ts show CUSTOMER_ID
//
// The token has the scopes events:read, events:append:ext.loyalty.account and event_types:write:ext.loyalty.account.

import { createHash, randomUUID } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const url = process.env.ANNALS_URL ?? "http://localhost:8080";
const token = process.env.ANNALS_TOKEN ?? "";
const category = "ext.loyalty.account";
const opened = `${category}.opened.v1`;
const earned = `${category}.points_earned.v1`;
// The parent of every id that this service derives: the same cause gives the same id, so a repeat changes nothing.
const namespace = "3d8f2c54-6a0e-5b7e-9f53-0c9a7f1d2e68";
const welcomePoints = 100;
const goldFrom = 1000;

/** The attributes of a CloudEvent that this service looks at. */
interface CloudEvent {
  id: string;
  type: string;
  subject: string;
  position: string;
  streamversion: string;
  data: { customer?: string; points?: number; reason?: string };
}

interface StreamPage {
  events: CloudEvent[];
  next_from_version: number | null;
}

type Decision = { type: string; data: object } | null;

// Closed schemas (`additionalProperties: false`) may take on new optional properties later.
const schemas: Record<string, object> = {
  [opened]: {
    type: "object",
    properties: { customer: { type: "string" } },
    required: ["customer"],
    additionalProperties: false,
  },
  [earned]: {
    type: "object",
    properties: { points: { type: "integer", minimum: 1 }, reason: { enum: ["welcome", "purchase"] } },
    required: ["points", "reason"],
    additionalProperties: false,
  },
};

/** An answer that says no: its status and its code. */
class Problem extends Error {
  status: number;
  code: string;

  constructor(status: number, body: { code?: string; detail?: string }) {
    super(`${status} ${body.code}: ${body.detail}`);
    this.status = status;
    this.code = body.code ?? "";
  }

  /** Whether the same request may succeed later. */
  get passes(): boolean {
    return this.status === 429 || this.status === 503;
  }
}

/** A name-based UUID (version 5, RFC 9562). */
function derived(parent: string, label: string): string {
  const hash = createHash("sha1").update(Buffer.from(parent.replaceAll("-", ""), "hex")).update(label).digest();
  hash[6] = (hash[6]! & 0x0f) | 0x50;
  hash[8] = (hash[8]! & 0x3f) | 0x80;
  const hex = hash.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)].join("-");
}

async function request(method: string, path: string, body?: object, headers: Record<string, string> = {}) {
  const answer = await fetch(url + path, {
    method,
    body: body && JSON.stringify(body),
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json", ...headers },
  });
  if (!answer.ok) {
    throw new Problem(answer.status, (await answer.json().catch(() => ({}))) as { code?: string });
  }
  return answer;
}

/** Sends a request and returns the answer's JSON. What may pass by itself is tried again. */
async function call(method: string, path: string, body?: object, headers?: Record<string, string>): Promise<unknown> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await (await request(method, path, body, headers)).json();
    } catch (error) {
      if ((error instanceof Problem && !error.passes) || attempt === 7) throw error;
      await sleep(Math.min(100 * 2 ** attempt, 5000));
    }
  }
}

/** An account, folded from its stream. */
class Account {
  customer: string;
  version = 0;
  points = 0;
  welcomed = false;
  path: string;

  constructor(customer: string) {
    this.customer = customer;
    this.path = `/v1/streams/${category}/${derived(namespace, customer)}/events`;
  }

  get tier(): string {
    return this.points >= goldFrom ? "gold" : "blue";
  }

  /** Reads what has happened since the version that we know. */
  async load(): Promise<this> {
    for (let more: number | null = this.version + 1; more !== null; ) {
      const page = (await call("GET", `${this.path}?from_version=${more}`)) as StreamPage;
      page.events.forEach((event) => this.apply(event));
      more = page.next_from_version;
    }
    return this;
  }

  apply(event: CloudEvent): void {
    this.version = Number(event.streamversion);
    if (event.type === earned) {
      this.points += event.data.points ?? 0;
      this.welcomed ||= event.data.reason === "welcome";
    }
  }

  /** Runs a rule on the account and records what it decides; where somebody came first, on what they left. */
  async decide(commandId: string, rule: (account: Account) => Decision): Promise<void> {
    for (;;) {
      await this.load();
      const event = rule(this);
      if (event === null) return;
      try {
        const body = { expected_version: this.version, events: [event] };
        await call("POST", this.path, body, { "Idempotency-Key": commandId });
        return;
      } catch (error) {
        // Reused: we decided this before, on an earlier version of the account.
        if (error instanceof Problem && error.code === "command_id_reused") return;
        if (!(error instanceof Problem) || error.code !== "version_conflict") throw error;
      }
    }
  }
}

function open(account: Account): Decision {
  return account.version === 0 ? { type: opened, data: { customer: account.customer } } : null;
}

function welcome(account: Account): Decision {
  return account.welcomed ? null : { type: earned, data: { points: welcomePoints, reason: "welcome" } };
}

/** A customer came: it gets an account and a welcome. Both may be done already. */
async function react(event: CloudEvent): Promise<void> {
  const account = new Account(event.subject.split("/")[1] ?? "");
  await account.decide(derived(event.id, "open"), open);
  await account.decide(derived(event.id, "welcome"), welcome);
}

/** Every customer's registration behind a position, as it happens. */
async function* events(after: string): AsyncGenerator<CloudEvent> {
  for (let failures = 0; ; failures = Math.min(failures + 1, 10)) {
    try {
      const path = `/v1/events/stream?type=crm.customer.registered.v1&after=${after}`;
      const answer = await request("GET", path, undefined, { Accept: "text/event-stream" });
      failures = 0;
      let text = "";
      for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) {
        const lines = (text + chunk).split("\n");
        text = lines.pop() ?? "";
        for (const line of lines.filter((line) => line.startsWith("data:"))) {
          const event = JSON.parse(line.slice(5)) as CloudEvent;
          yield event;
          after = event.position;
        }
      }
    } catch (error) {
      if (error instanceof Problem && !error.passes) throw error;
    }
    await sleep(Math.min(100 * 2 ** failures, 5000));
  }
}

/** Reacts to every event at least once; what we do is the same however often, so its effect comes once. */
async function follow(stateFile: string): Promise<void> {
  for (const [name, schema] of Object.entries(schemas)) {
    await call("PUT", `/v1/event-types/${name}`, { schema });
  }
  const after = existsSync(stateFile) ? readFileSync(stateFile, "utf8") : "0";
  console.log("following");
  for await (const event of events(after)) {
    await react(event);
    writeFileSync(`${stateFile}.new`, event.position);
    renameSync(`${stateFile}.new`, stateFile);
  }
}

async function earn(customer: string, points: number): Promise<void> {
  const account = await new Account(customer).load();
  if (account.version === 0) throw new Error("this customer has no account");
  await account.decide(randomUUID(), () => ({ type: earned, data: { points, reason: "purchase" } }));
}

async function show(customer: string): Promise<void> {
  const { version, points, tier } = await new Account(customer).load();
  console.log(JSON.stringify({ customer, version, points, tier }));
}

const [verb, first, second] = process.argv.slice(2);
if (verb === "follow" && first) await follow(first);
else if (verb === "earn" && first && second) await earn(first, Number(second));
else if (verb === "show" && first) await show(first);
else {
  console.error("usage: loyalty.ts follow STATE_FILE | earn CUSTOMER_ID POINTS | show CUSTOMER_ID");
  process.exitCode = 2;
}
