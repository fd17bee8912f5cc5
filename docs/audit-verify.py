#!/usr/bin/env python3
"""Verifies an export of a tenant's history with nothing but the file and the log's public key.

    audit-verify.py FILE VKEY

Written from docs/audit-format.md alone, with Python's standard library, as proof that the format is open. Prints
`verified` and the number of events, or the first position that is known to be wrong; the exit code is 0 or 9.
"""

import base64
import hashlib
import json
import sys


class Wrong(Exception):
    """The file is not the history that was signed; `position` is the first one known to be wrong."""

    def __init__(self, problem, position=None):
        super().__init__(problem)
        self.position = position


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# Ed25519 (RFC 8032, section 6), verification alone.

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(a, b):
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    w, x, y, z = f - e, h - g, h + g, f + e
    return w * x % P, y * z % P, x * y % P, w * z % P


def multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def decompress(text):
    y = int.from_bytes(text, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        raise Wrong("a point of the signature is none")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = decompress((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def signature_holds(public, message, signature):
    if len(signature) != 64:
        return False
    s = int.from_bytes(signature[32:], "little")
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    left, right = multiply(s, BASE), add(decompress(signature[:32]), multiply(h, decompress(public)))
    same = (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0
    return s < Q and same


def checkpoint(note, vkey):
    """The name, size and root of a signed checkpoint (C2SP signed-note, tlog-checkpoint)."""
    name, key_id, key = vkey.strip().split("+", 2)
    key = base64.b64decode(key)
    if key[0] != 1 or sha256(name.encode(), b"\n", key)[:4] != bytes.fromhex(key_id):
        raise Wrong("the key is not one")
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    for line in signatures.splitlines():
        _, signer, signature = line.split(" ")
        signature = base64.b64decode(signature)
        if signer == name and signature[:4] == bytes.fromhex(key_id):
            if not signature_holds(key[1:], text.encode(), signature[4:]):
                raise Wrong("the signature does not hold")
            origin, size, root = text.splitlines()[:3]
            if origin != name:
                raise Wrong("the checkpoint is of another log")
            return origin, int(size), base64.b64decode(root)
    raise Wrong("the key has not signed the checkpoint")


# The Merkle tree (RFC 6962, section 2.1).


class Tree:
    """A tree that leaves and whole subtrees are added to; keeps the roots of its perfect subtrees, largest first."""

    def __init__(self, size=0, peaks=()):
        if len(peaks) != bin(size).count("1"):
            raise Wrong("the subtrees before the range do not fit")
        self.size, self.peaks = size, list(peaks)

    def add(self, digest, height=0):
        if self.size % (1 << height):
            raise Wrong("a subtree behind the range does not fit")
        at = height
        while self.size >> at & 1:
            digest = sha256(b"\1", self.peaks.pop(), digest)
            at += 1
        self.peaks.append(digest)
        self.size += 1 << height

    def root(self):
        digest = self.peaks[-1] if self.peaks else sha256()
        for peak in reversed(self.peaks[:-1]):
            digest = sha256(b"\1", peak, digest)
        return digest


def inclusion_root(index, size, leaf, path):
    """The root that a path leads to (RFC 9162, section 2.1.3.2)."""
    last, digest = size - 1, leaf
    for step in path:
        if last == 0:
            raise Wrong("the path is too long", index + 1)
        if index & 1 or index == last:
            digest = sha256(b"\1", step, digest)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            digest = sha256(b"\1", digest, step)
        index, last = index >> 1, last >> 1
    return digest if last == 0 else None


def parts_of(entry):
    """What an entry says: its stream, its type and what its payload and metadata must hash to."""
    label = b"annals-event/v1\0"
    if not entry.startswith(label):
        raise ValueError
    at = len(label) + 32
    length = int.from_bytes(entry[at : at + 2], "big")
    stream = entry[at + 2 : at + 2 + length].decode()
    at += 2 + length + 8
    length = int.from_bytes(entry[at : at + 2], "big")
    kind = entry[at + 2 : at + 2 + length].decode()
    at += 2 + length + 4 + 8 + 1
    keys = entry[at + 64]
    if len(entry) != at + 65 + 16 * keys:
        raise ValueError
    return stream, kind, entry[at : at + 32], entry[at + 32 : at + 64]


def decode(text):
    return base64.b64decode(text, validate=True)


def commitment(label, part):
    salt, data = decode(part["salt"]), decode(part["bytes"])
    if len(salt) != 16:
        raise ValueError
    return sha256(label, salt, len(data).to_bytes(8, "big"), data)


def check_members(line):
    """Refuses a line that is of no kind: its members tell which it is, and there are no others."""
    if line.keys() - {"path"} == {"position", "entry", "leaf", "payload", "metadata"}:
        for part in line["payload"], line["metadata"]:
            absent = part.keys() == {"absent"} and part["absent"] in ("redacted", "withheld")
            if not absent and part.keys() != {"salt", "bytes"}:
                raise Wrong("a part of an event is none")
    elif line.keys() not in ({"type", "schema", "product"}, {"type", "schema", "registered_at"}, {"keys"}, {"events"}):
        raise Wrong("the line is of no kind that an export has")


class Schemas:
    """The schemas of a file: each once, before the first event of its type; a registered one is the one in the log."""

    def __init__(self):
        self.occurred, self.described, self.registered = set(), {}, {}

    def describe(self, line):
        kind, at = line["type"], line.get("registered_at")
        if kind in self.occurred or kind in self.described or not isinstance(line["schema"], dict):
            raise Wrong(f"the schema of {kind} is not in its place")
        if not isinstance(kind, str) or not isinstance(line.get("product", ""), str):
            raise ValueError
        self.described[kind] = at, line["schema"]

    def event(self, position, kind, payload):
        self.occurred.add(kind)
        if kind in ("integration.event_type.registered.v1", "integration.event_type.widened.v1"):
            if "absent" in payload:
                self.registered[position] = None
                return
            try:
                data = json.loads(decode(payload["bytes"]))
                self.registered[position] = data["type"], data["schema"]
            except (KeyError, TypeError, ValueError):
                pass

    def end(self, manifest, size):
        for kind, (at, schema) in self.described.items():
            if kind not in self.occurred:
                raise Wrong(f"no event is of the type {kind}, which has a schema")
            if at is None:
                continue
            if not 0 < at <= size:
                raise Wrong(f"the log has no position {at}")
            elsewhere = manifest.get("stream") is not None or not manifest["from"] <= at <= manifest["to"]
            said = self.registered.get(at, None if elsewhere else ())
            if said is not None and said != (kind, schema):
                raise Wrong(f"the event at {at} does not hold the schema of {kind}")


def verify(lines, vkey):
    """The number of events of a file that verifies."""
    manifest = json.loads(next(lines))
    if manifest["format"] != "annals-export/v1":
        raise Wrong("this is no export")
    origin, size, root = checkpoint(manifest["checkpoint"], vkey)
    if not origin.endswith("/tlog/" + manifest["log_id"].replace("-", "")):
        raise Wrong("the checkpoint is of another log")
    first, last, stream = manifest["from"], manifest["to"], manifest.get("stream")
    if not 0 < first <= last + 1 or last > size:
        raise Wrong("the range does not fit the checkpoint")
    hashes = lambda texts: [decode(text) for text in texts]
    tree = Tree() if stream else Tree(first - 1, hashes(manifest["before"]))
    events, expected, schemas = 0, first, Schemas()
    for text in lines:
        line = json.loads(text)
        check_members(line)
        if "events" in line:
            break
        if "schema" in line:
            schemas.describe(line)
            continue
        if "keys" in line:
            if manifest.get("keys_to") is None or not decode(line["keys"]).startswith(b"age-encryption.org/v1\n"):
                raise Wrong("the file has keys that are for nobody")
            continue
        position = line["position"]
        if not expected <= position <= last:
            raise Wrong("the event is not in its place", position)
        if not stream and position > expected:
            raise Wrong("the event is missing", expected)
        entry = decode(line["entry"])
        leaf = sha256(b"\0", entry)
        try:
            own, kind, payload, metadata = parts_of(entry)
            if leaf != decode(line["leaf"]) or stream not in (None, own):
                raise ValueError
            for label, part, committed in [(b"annals-payload/v1\0", line["payload"], payload),
                                           (b"annals-meta/v1\0", line["metadata"], metadata)]:
                if "absent" not in part and commitment(label, part) != committed:
                    raise ValueError
        except (ValueError, IndexError):
            raise Wrong("the event is not the one committed to", position) from None
        if not stream:
            tree.add(leaf)
        elif inclusion_root(position - 1, size, leaf, hashes(line["path"])) != root:
            raise Wrong("the event is not in the signed log", position)
        schemas.event(position, kind, line["payload"])
        events, expected = events + 1, position + 1
    else:
        raise Wrong("the file breaks off")
    if line["events"] != events or next(lines, None) is not None:
        raise Wrong("the file does not end as it should")
    if not stream:
        if expected <= last:
            raise Wrong("the event is missing", expected)
        at, after = last, hashes(manifest["after"])
        while at < size:
            height = (size - at).bit_length() - 1
            if at:
                height = min(height, (at & -at).bit_length() - 1)
            if not after:
                raise Wrong("the subtrees behind the range are missing", first)
            tree.add(after.pop(0), height)
            at += 1 << height
        if after or tree.root() != root:
            raise Wrong("the events do not make the signed root", first)
    schemas.end(manifest, size)
    return events


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        try:
            print("verified", verify(iter(file), sys.argv[2]))
        except Wrong as wrong:
            print(wrong.position or "not verified")
            print(wrong, file=sys.stderr)
            sys.exit(9)
        except (AttributeError, KeyError, TypeError, ValueError, StopIteration) as error:
            print("not verified")
            print(f"the file does not read: {error!r}", file=sys.stderr)
            sys.exit(9)
