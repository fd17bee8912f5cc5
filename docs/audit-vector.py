"""Computes the digests of a known event from the format's description alone.

The values it prints stand in the tests of proofs/src/frame.rs.
"""

import hashlib
import struct


def commitment(label: bytes, salt: bytes, data: bytes) -> bytes:
    return hashlib.sha256(label + b"\0" + salt + struct.pack(">Q", len(data)) + data).digest()


def len16(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def entry(keys: list[bytes]) -> bytes:
    payload = commitment(b"annals-payload/v1", b"\x07" * 16, b'{"name":"Ada"}')
    metadata = commitment(b"annals-meta/v1", b"\x08" * 16, b"{}")
    return (
        b"annals-event/v1\0" + b"\x01" * 16 + b"\x02" * 16 + len16("crm.customer/1") + struct.pack(">Q", 3)
        + len16("crm.customer.renamed.v1") + struct.pack(">IqB", 1, 1_700_000_000_000_001, 1)
        + payload + metadata + bytes([len(keys)]) + b"".join(sorted(keys))
    )


def leaf(keys: list[bytes]) -> str:
    return hashlib.sha256(b"\0" + entry(keys)).hexdigest()


if __name__ == "__main__":
    print("PAYLOAD_COMMITMENT", commitment(b"annals-payload/v1", b"\x07" * 16, b'{"name":"Ada"}').hex())
    print("LEAF", leaf([]))
    print("LEAF_WITH_KEYS", leaf([b"\0" * 15 + b"\2", b"\0" * 15 + b"\1"]))
