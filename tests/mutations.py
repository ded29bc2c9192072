"""Damage to files, by a seed: flipped bits, cuts, insertions, and edits of the JSON inside a container that stays whole."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

Edit = Callable[[random.Random, bytes], bytes]


def flipped(rng: random.Random, data: bytes) -> bytes:
    """One to eight bits, half of the time all among the first 2 KiB, where headers lie."""
    changed = bytearray(data)
    end = len(data) if rng.random() < 0.5 else min(len(data), 2048)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    """The end, or a piece from the middle."""
    a = rng.randrange(len(data))
    b = len(data) if rng.random() < 0.5 else min(len(data), a + rng.choice((1, 2, 8, 64, 4096)))
    return data[:a] + data[b:]


def inserted(rng: random.Random, data: bytes) -> bytes:
    """Random bytes, zeros, or a piece of the file itself."""
    n, at = rng.choice((1, 2, 8, 64, 1000)), rng.randrange(len(data) + 1)
    begin = rng.randrange(len(data))
    piece = rng.choice((rng.randbytes(n), bytes(n), data[begin : begin + n]))
    return data[:at] + piece + data[at:]


def overwritten(rng: random.Random, data: bytes) -> bytes:
    """A block of zeros or noise, as a bad sector leaves it."""
    at, n = rng.randrange(len(data)), rng.choice((1, 16, 512))
    block = bytes(n) if rng.random() < 0.5 else rng.randbytes(n)
    return (data[:at] + block + data[at + n :])[: len(data)]


def edited(rng: random.Random, data: bytes) -> bytes:
    """The JSON of a file, or of a safetensors file's header or metadata, changed in one to three places."""
    if data[:1] == b"{":
        return json.dumps(edited_json(rng, json.loads(data))).encode()
    if data[8:9] != b"{":  # neither
        return flipped(rng, data)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__")
    if metadata and rng.random() < 0.7:
        key = rng.choice(list(metadata))
        metadata[key] = json.dumps(edited_json(rng, json.loads(metadata[key])))
    else:
        header = edited_json(rng, header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


EDITS: tuple[Edit, ...] = (flipped, cut, inserted, overwritten, edited, edited)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Another content than `data`."""
    while True:
        new = rng.choice(EDITS)(rng, data)
        if new != data:
            return new


def edited_json(rng: random.Random, value: Any) -> Any:
    """A copy of plain data, changed in one to three places."""
    holder = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if places := list(_places(holder)):
            _change(rng, *rng.choice(places))
    return holder[0] if holder else None


def _places(container: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(container) if isinstance(container, dict) else range(len(container)):
        yield container, key
        if isinstance(container[key], (dict, list)):
            yield from _places(container[key])


def _change(rng: random.Random, container: Any, key: Any) -> None:
    act = rng.choice(("like", "like", "like", "other", "drop", "rename", "copy", "swap"))
    if act == "drop":
        del container[key]
    elif act == "rename" and isinstance(container, dict):
        container[_like(rng, key)] = container.pop(key)
    elif act == "copy" and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif act == "swap":
        other = rng.choice(list(container) if isinstance(container, dict) else range(len(container)))
        container[key], container[other] = container[other], container[key]
    elif act == "other":
        container[key] = rng.choice((None, True, 0, -1, 1.5, math.nan, "", "x", [], {}, [[]], {"x": 1}, 10**15))
    else:
        container[key] = _like(rng, container[key])


def _like(rng: random.Random, value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, 0, 2 * value, 10**15, 10**400))
    if isinstance(value, float):
        return rng.choice((value + 1e-9, -value, 2 * value, math.inf, math.nan))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice((value[:at] + rng.choice("a0 \0é\ud800") + value[at:], value[:at], value.upper(), ""))
    if isinstance(value, list):
        return rng.choice((value[::-1], value[1:], value * 2))
    if isinstance(value, dict):
        return dict(list(value.items())[1:])
    return 0
