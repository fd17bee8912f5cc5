#!/usr/bin/env python3
"""Verifies an export of a tenant's history with nothing but the file and the log's public key.

    audit-verify.py FILE VKEY

Written from docs/audit-format.md alone, with Python's standard library, as proof that the format is open. It takes
exactly the files that `annals audit verify` takes: a file of which two verifiers say different things proves nothing.
Prints `verified` and the number of events, or the first position that is known to be wrong; the exit code is 0 or 9.
"""

import base64
import hashlib
import json
import re
import sys


class Wrong(Exception):
    """The file is not the history that was signed; `position` is the first one known to be wrong."""

    def __init__(self, problem, position=None):
        super().__init__(problem)
        self.position = position


LINE_MAX = 4 << 20
DEPTH_MAX = 128
NUMBER_MAX = 2**63 - 1


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


def is_same(left, right):
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


def signature_holds(public, message, signature):
    if len(signature) != 64:
        return False
    r, a = decompress(signature[:32]), decompress(public)
    s = int.from_bytes(signature[32:], "little")
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    same = s < Q and is_same(multiply(s, BASE), add(r, multiply(h, a)))
    # Points of a small order belong to signatures that hold for more than one text or key.
    return same and not any(is_same(multiply(8, point), (0, 1, 1, 0)) for point in (r, a))


def key_name(text):
    if not text or any(c.isspace() or c == "+" for c in text):
        raise ValueError("a name is empty or has spaces or plus signs in it")
    return text


def checkpoint(note, vkey):
    """The name, size and root of a signed checkpoint (C2SP signed-note, tlog-checkpoint)."""
    name, key_id, key = vkey.strip().split("+", 2)
    key = decode(key)
    if len(key) != 33 or key[0] != 1 or sha256(key_name(name).encode(), b"\n", key)[:4].hex() != key_id:
        raise Wrong("the key is not one")
    if len(note.encode()) > 64 * 1024 or any(c < " " or "\x7f" <= c < "\xa0" for c in note.replace("\n", "")):
        raise Wrong("the note is too long, or has control characters in it")
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    if not signatures.endswith("\n"):
        raise Wrong("the note does not end as it should")
    for line in signatures[:-1].split("\n"):
        dash, signer, signature = line.split(" ", 2)
        signature = decode(signature)
        if dash != "\u2014" or len(signature) < 4:
            raise Wrong("a line of the note is no signature")
        if key_name(signer) == name and signature[:4].hex() == key_id:
            if not signature_holds(key[1:], text.encode(), signature[4:]):
                raise Wrong("the signature does not hold")
            origin, size, root = text.split("\n")[:3]
            if origin != name:
                raise Wrong("the checkpoint is of another log")
            return origin, whole(Number(size)), decode_hash(root)
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
    """The root that a path leads to (RFC 9162, section 2.1.3.2); None where its length does not fit."""
    last, digest = size - 1, leaf
    for step in path:
        if last == 0:
            return None
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


# JSON as the format allows it: each object's members once, whole strings, numbers as they are written.


class Number:
    """A number; two are equal when their exact values are."""

    def __init__(self, text):
        mantissa, _, exponent = text.lower().partition("e")
        if len(exponent.lstrip("+-")) > 9:
            raise ValueError("the exponent is too long")
        whole_part, _, fraction = mantissa.lstrip("-").partition(".")
        digits = (whole_part + fraction).lstrip("0")
        significant = digits.rstrip("0")
        power = int(exponent or 0) - len(fraction) + len(digits) - len(significant)
        self.text = text
        self.value = (mantissa.startswith("-"), significant, power) if significant else ()

    def __eq__(self, other):
        return isinstance(other, Number) and self.value == other.value


def members_of(pairs):
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def refuse(constant):
    raise ValueError(f"{constant} is no number")


def check(value, depth=DEPTH_MAX):
    """Refuses what json takes and the format does not: half surrogate pairs, and values that are nested too deep."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, (dict, list)):
        if depth == 0:
            raise ValueError("values are nested too deep")
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            check(inner, depth - 1)


def read(text):
    value = json.loads(text.decode(), object_pairs_hook=members_of, parse_int=Number, parse_float=Number,
                       parse_constant=refuse)
    check(value)
    return value


def exactly(value, names, optional=()):
    if not isinstance(value, dict) or not set(names) <= value.keys() <= {*names, *optional}:
        raise ValueError(f"the members are not {', '.join(names)}")


def whole(value):
    if not isinstance(value, Number) or not re.fullmatch("0|[1-9][0-9]{0,18}", value.text):
        raise ValueError("not a whole number")
    if int(value.text) > NUMBER_MAX:
        raise ValueError("the number is too large")
    return int(value.text)


def string(value):
    if not isinstance(value, str):
        raise ValueError("not a string")
    return value


def decode(text):
    data = base64.b64decode(string(text), validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the one base64 of its bytes")
    return data


def decode_hash(text):
    if len(data := decode(text)) != 32:
        raise ValueError("not a hash")
    return data


def decode_hashes(texts):
    if not isinstance(texts, list):
        raise ValueError("not a list of hashes")
    return [decode_hash(text) for text in texts]


def commitment(label, part):
    salt, data = part
    if len(salt) != 16:
        raise ValueError
    return sha256(label, salt, len(data).to_bytes(8, "big"), data)


def part_of(value):
    """Salt and bytes, or None where the part is absent."""
    if isinstance(value, dict) and "absent" in value:
        exactly(value, ["absent"])
        if value["absent"] not in ("redacted", "withheld"):
            raise ValueError("nothing that a part can be")
        return None
    exactly(value, ["salt", "bytes"])
    return decode(value["salt"]), decode(value["bytes"])


def manifest_of(line):
    """Checks every member, also those that the verification does not use."""
    manifest = read(line)
    exactly(manifest, ["format", "tenant", "log_id", "from", "to", "checkpoint", "before", "after", "consistency",
                       "exported_at"], ["stream", "keys_to"])
    for name in "format", "tenant", "log_id", "checkpoint", "exported_at", "stream", "keys_to":
        string(manifest.get(name, ""))
    for name in "from", "to":
        manifest[name] = whole(manifest[name])
    for name in "before", "after":
        manifest[name] = decode_hashes(manifest[name])
    if not isinstance(manifest["consistency"], list):
        raise ValueError("not a list of proofs")
    for proof in manifest["consistency"]:
        exactly(proof, ["from", "path"])
        whole(proof["from"])
        decode_hashes(proof["path"])
    if not re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", manifest["log_id"]):
        raise ValueError("not an id")
    return manifest


def lines_of(file):
    """The lines, without their ends; each has one, and none is longer than the format allows."""
    while line := file.readline(LINE_MAX):
        if not line.endswith(b"\n"):
            raise Wrong("the file breaks off, or a line is too long")
        yield line[:-1]


class Schemas:
    """The schemas of a file: each once, before the first event of its type; a registered one is the one in the log."""

    def __init__(self):
        self.occurred, self.described, self.registered = set(), {}, {}

    def describe(self, line):
        exactly(line, ["type", "schema"], ["product", "registered_at"])
        kind, at = string(line["type"]), None
        if ("product" in line) == ("registered_at" in line) or not isinstance(line["schema"], dict):
            raise ValueError("a schema is of either source, and an object")
        if "product" in line:
            string(line["product"])
        else:
            at = whole(line["registered_at"])
        if kind in self.occurred or kind in self.described:
            raise Wrong(f"the schema of {kind} is not in its place")
        self.described[kind] = at, line["schema"]

    def event(self, position, kind, payload):
        self.occurred.add(kind)
        if kind in ("integration.event_type.registered.v1", "integration.event_type.widened.v1"):
            if payload is None:
                self.registered[position] = None
                return
            try:
                data = read(payload[1])
                if isinstance(data["schema"], dict):
                    self.registered[position] = string(data["type"]), data["schema"]
            except (KeyError, RecursionError, TypeError, ValueError):
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
    manifest = manifest_of(next(lines))
    if manifest["format"] != "annals-export/v1":
        raise Wrong("this is no export")
    origin, size, root = checkpoint(manifest["checkpoint"], vkey)
    if not origin.endswith("/tlog/" + manifest["log_id"].replace("-", "")):
        raise Wrong("the checkpoint is of another log")
    first, last, stream = manifest["from"], manifest["to"], manifest.get("stream")
    before, after = manifest["before"], manifest["after"]
    if not 0 < first <= last + 1 or last > size:
        raise Wrong("the range does not fit the checkpoint")
    if stream is not None and (before or after):
        raise Wrong("a file of one stream has no subtrees")
    tree = Tree() if stream is not None else Tree(first - 1, before)
    events, expected, schemas = 0, first, Schemas()
    for text in lines:
        line = read(text)
        if not isinstance(line, dict):
            raise ValueError("a line is no object")
        if "position" not in line:
            if "schema" in line:
                schemas.describe(line)
            elif "keys" in line:
                exactly(line, ["keys"])
                if "keys_to" not in manifest or not decode(line["keys"]).startswith(b"age-encryption.org/v1\n"):
                    raise Wrong("the file has keys that are for nobody")
            else:
                exactly(line, ["events"])
                break
            continue
        exactly(line, ["position", "entry", "leaf", "payload", "metadata"] + (["path"] if stream is not None else []))
        position, entry, kept = whole(line["position"]), decode(line["entry"]), decode_hash(line["leaf"])
        parts, path = (part_of(line["payload"]), part_of(line["metadata"])), decode_hashes(line.get("path", []))
        if not expected <= position <= last:
            raise Wrong("the event is not in its place", position)
        if stream is None and position > expected:
            raise Wrong("the event is missing", expected)
        leaf = sha256(b"\0", entry)
        try:
            own, kind, *committed = parts_of(entry)
            if leaf != kept or stream not in (None, own):
                raise ValueError
            for label, part, digest in zip((b"annals-payload/v1\0", b"annals-meta/v1\0"), parts, committed):
                if part is not None and commitment(label, part) != digest:
                    raise ValueError
        except (ValueError, IndexError):
            raise Wrong("the event is not the one committed to", position) from None
        if stream is None:
            tree.add(leaf)
        elif inclusion_root(position - 1, size, leaf, path) != root:
            raise Wrong("the event is not in the signed log", position)
        schemas.event(position, kind, parts[0])
        events, expected = events + 1, position + 1
    else:
        raise Wrong("the file breaks off")
    if whole(line["events"]) != events or next(lines, None) is not None:
        raise Wrong("the file does not end as it should")
    if stream is None:
        if expected <= last:
            raise Wrong("the event is missing", expected)
        at = last
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


def judge(file, vkey):
    """What to say of a file: the line for standard output, why, and the exit code."""
    try:
        return f"verified {verify(lines_of(file), vkey)}", None, 0
    except Wrong as wrong:
        return "not verified" if wrong.position is None else str(wrong.position), wrong, 9
    except (KeyError, RecursionError, TypeError, ValueError, StopIteration) as error:
        return "not verified", f"the file does not read: {error!r}", 9


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as export:
        said, why, code = judge(export, sys.argv[2])
    print(said)
    if why:
        print(why, file=sys.stderr)
    sys.exit(code)
