"""Ways in which the bytes of a file are damaged."""

from __future__ import annotations

from random import Random

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
HEADER_BYTES = 4096                                         # of the start and of the end, where containers keep their tables


def damage(data: bytes, rng: Random) -> bytes:
    """Bytes like `data` with one to three damages, which `rng` draws."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if data:
            data = rng.choice(DAMAGES)(data, rng)
    return data


def _flip_bits(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 4, 20, 200))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _flip_header_bits(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        out[_in_header(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _set_field(data: bytes, rng: Random) -> bytes:
    """An integer of 1 to 8 bytes, of either byte order, becomes an extreme one."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        at, size = _in_header(data, rng), rng.choice((1, 2, 4, 4, 8))
        value = rng.choice(EXTREMES) % 256**size
        out[at:at + size] = value.to_bytes(size, rng.choice(("big", "little")))
    return bytes(out)


def _cut_short(data: bytes, rng: Random) -> bytes:
    return data[:rng.randrange(len(data))]


def _cut_start(data: bytes, rng: Random) -> bytes:
    return data[rng.randrange(len(data)):]


def _remove_block(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + data[end:]


def _blank_block(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + bytes([rng.choice((0, 0xFF))]) * (end - start) + data[end:]


def _random_block(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _insert_block(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 7, 500))) + data[at:]


def _repeat_block(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 3)) + data[end:]


def _move_block(data: bytes, rng: Random) -> bytes:
    start, end = _block(data, rng)
    block, rest = data[start:end], data[:start] + data[end:]
    at = rng.randrange(len(rest) + 1)
    return rest[:at] + block + rest[at:]


def _join_to_itself(data: bytes, rng: Random) -> bytes:
    return data + data[rng.randrange(len(data)):]


def _in_header(data: bytes, rng: Random) -> int:
    """A position near the start or the end."""
    at = rng.randrange(min(len(data), HEADER_BYTES))
    return at if rng.random() < 0.7 else len(data) - 1 - at


def _block(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 16, 400, 5000, len(data) // 3)))


DAMAGES = (_flip_bits, _flip_header_bits, _flip_header_bits, _set_field, _set_field, _set_field, _cut_short, _cut_start,
           _remove_block, _blank_block, _random_block, _insert_block, _repeat_block, _move_block, _join_to_itself)
