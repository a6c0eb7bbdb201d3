"""Hostile models, language models, tables, shards and training configs: whole ones, of which one thing is altered."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from tests.fuzz.damage import damage

DEEP: list = []
for _ in range(900):                                        # Python's own limit of nesting is 1000
    DEEP = [DEEP]
VALUES = (None, True, 0, -1, 1, 3, 0.5, 2**31, 2**63, 2**70, 10**6, 1e308, float("nan"), float("inf"), "", "x", "../x",
          "/dev/zero", "\0", [], [None], [[0, 0]], {}, {"x": 1}, DEEP)
TENSORS = ("nan", "infinity", "integer", "shape", "missing", "extra", "bytes", "empty")
ARPA = r"""
\data\
ngram 1=5
ngram 2=4

\1-grams:
-1.0 <s> -0.3
-1.0 </s>
-1.0 <unk>
-0.7 hello -0.2
-0.9 computer -0.1

\2-grams:
-0.5 <s> hello
-0.6 hello computer
-0.7 computer </s>
-0.8 hello </s>

\end\
"""
CELLS = ("", '"', '"x', "x\ny", "x,y", "x\ty", "../../x", "/etc/passwd", "-1", "nan", "1e999", "\0", "\u200b", "a.wav", ".",
         "https://localhost:1/x", "é" * 5000, "$x$", "<b>", "\x1b[31m", "CON")
TABLE = [("media", "text", "speaker", "split", "start", "end"),
         *((f"{name}.wav", f"bin blue at {name} two now", "anna", split, "0", "1.5")
           for name, split in zip("abcd", ("train", "train", "valid", "test"), strict=True))]


def alter_json(value: object, rng: Random) -> object:
    """A copy of a JSON value in which one entry, at any depth, is replaced, removed or added."""
    value = json.loads(json.dumps(value))
    holder = rng.choice(list(_holders(value)))
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    kind = rng.choice(("replace", "replace", "replace", "remove", "add"))
    if kind == "replace" and keys:
        holder[rng.choice(keys)] = rng.choice(VALUES)
    elif kind == "remove" and keys:
        del holder[rng.choice(keys)]
    elif isinstance(holder, dict):
        holder[rng.choice(("x", "base", "size", "start", "offset"))] = rng.choice(VALUES)
    else:
        holder.append(rng.choice(VALUES))
    return value


def _holders(value: object) -> Iterator[dict | list]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


def alter_model(model: Path, folder: Path, rng: Random) -> None:
    """A copy of a model's folder, of ours or of a Whisper, one file of which is altered.

    The sums in model.json are made to fit, as somebody who means harm would do.
    """
    shutil.copytree(model, folder)
    path = rng.choice([folder / name for name in ("model.json", "config.json", "generation_config.json", "tokenizer.json",
                                                  "model.safetensors", "model.safetensors") if (folder / name).exists()])
    if path.suffix == ".safetensors" and rng.random() < 0.7:
        _alter_tensors(path, rng)
    elif path.suffix == ".json" and rng.random() < 0.8:
        path.write_text(json.dumps(alter_json(json.loads(path.read_text(encoding="utf-8")), rng)), encoding="utf-8")
    else:
        path.write_bytes(damage(path.read_bytes(), rng))
    facts = folder / "model.json"
    if facts.exists() and path != facts:
        described = json.loads(facts.read_text(encoding="utf-8"))
        described["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        facts.write_text(json.dumps(described), encoding="utf-8")


def _alter_tensors(path: Path, rng: Random) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    name, how = rng.choice(sorted(tensors)), rng.choice(TENSORS)
    if how in ("nan", "infinity"):
        tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = float(how)
    elif how == "missing":
        del tensors[name]
    else:
        other = {"integer": torch.ones(tensors[name].shape, dtype=torch.int64), "shape": torch.ones(*tensors[name].shape, 2),
                 "bytes": torch.ones(tensors[name].shape, dtype=torch.uint8), "empty": torch.ones(0),
                 "extra": tensors[name].clone()}[how]
        tensors["extra" if how == "extra" else name] = other
    save_file(tensors, path)


def alter_arpa(rng: Random) -> bytes:
    """A language model of words, altered by a number or a line, or damaged."""
    lines = ARPA.splitlines()
    how, at = rng.choice(("number", "number", "line", "bytes", "long")), rng.randrange(len(lines))
    if how == "number":
        numbered = [i for i, line in enumerate(lines) if any(letter.isdigit() for letter in line)]
        at = rng.choice(numbered)
        fields = lines[at].replace("=", " = ").split()
        fields[rng.choice([i for i, one in enumerate(fields) if any(letter.isdigit() for letter in one)])] = rng.choice(
            ("nan", "inf", "-inf", "1e308", "-1", "0", "9" * 30, "9" * 100_000, "x", "", "5", "-0.0", "99999999"))
        lines[at] = " ".join(fields).replace(" = ", "=")
    elif how == "line":
        lines[at] = rng.choice(("", lines[rng.randrange(len(lines))], "\\3-grams:", "\\end\\", "\\data\\", "-1 a b c d e"))
    elif how == "long":
        lines[at] = rng.choice(("x ", "-1.0\t", "\\")) * rng.choice((1000, 200_000))
    text = "\n".join(lines).encode()
    return damage(text, rng) if how == "bytes" else text


def alter_table(folder: Path, rng: Random) -> Path:
    """A table of recordings in `folder`, as .csv, .tsv or .jsonl, with one cell altered, or damaged; returns its path."""
    suffix = rng.choice((".csv", ".tsv", ".jsonl"))
    rows = [list(row) for row in TABLE]
    row, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    rows[row][column] = rng.choice(CELLS)
    if suffix == ".jsonl":
        text = "\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:])
    else:
        text = "\n".join({".csv": ",", ".tsv": "\t"}[suffix].join(row) for row in rows) + "\n"
    data = text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")
    path = folder / f"metadata{suffix}"
    path.write_bytes(damage(data, rng) if rng.random() < 0.4 else data)
    return path


def alter_corpus(corpus: Path, folder: Path, rng: Random) -> Path:
    """A copy of a prepared corpus whose manifest, cache.json or shard is altered; returns its manifest."""
    shutil.copytree(corpus, folder)
    manifest = folder / "manifest.jsonl"
    how = rng.choice(("fields", "fields", "bytes", "parts", "parts", "file"))
    if how == "fields":
        path = rng.choice((manifest, manifest, folder / "cache.json"))
        lines = path.read_text(encoding="utf-8").splitlines() if path == manifest else [path.read_text(encoding="utf-8")]
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(alter_json(json.loads(lines[at]), rng))
        path.write_text("\n".join(lines), encoding="utf-8")
    elif how == "bytes":
        path = rng.choice([*folder.glob("*.tar"), manifest])
        path.write_bytes(damage(path.read_bytes(), rng))
    elif how == "parts":
        _alter_parts(manifest, rng)
    else:
        (shard,) = folder.glob("*.tar")
        shard.unlink()
        make = {"pipe": lambda: os.mkfifo(shard), "endless": lambda: shard.symlink_to("/dev/zero"), "folder": shard.mkdir,
                "itself": lambda: shard.symlink_to(shard), "empty": shard.touch}
        make[rng.choice(list(make))]()
    return manifest


def _alter_parts(manifest: Path, rng: Random) -> None:
    """One utterance, whose parts in the shard are altered as only somebody does who means harm: the tar itself is sound."""
    row = json.loads(manifest.read_text(encoding="utf-8").splitlines()[0])
    entry = row["cache"]
    shard = manifest.with_name(entry["shard"])
    blob = shard.read_bytes()[entry["offset"]:entry["offset"] + entry["size"]]
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        parts = {member.name: tar.extractfile(member).read() for member in tar}
    name = rng.choice(sorted(parts))
    if name.endswith(".json") and rng.random() < 0.8:
        parts[name] = json.dumps(alter_json(json.loads(parts[name]), rng)).encode()
    elif name.endswith(".zlib") and rng.random() < 0.5:
        parts[name] = zlib.compress(bytes(300_000_000), 9)
    elif name.endswith(".flac") and rng.random() < 0.5:
        parts[name] = _long_flac()
    else:
        parts[name] = damage(parts[name], rng)
    out = io.BytesIO()
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    blob = out.getvalue()
    shard.write_bytes(blob)
    row["cache"] = {**entry, "offset": 0, "size": len(blob)}
    manifest.write_text(json.dumps(row) + "\n", encoding="utf-8")


@cache
def _long_flac() -> bytes:
    """A few hundred kilobytes that become a gigabyte: 100 s of silence, 8 channels of 655,350 samples a second."""
    import numpy as np
    import soundfile

    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 655_350, 8, "PCM_16", format="FLAC") as file:
        for _ in range(100):
            file.write(np.zeros((655_350, 8), np.int16))
    return out.getvalue()


def alter_config(text: str, settings: list[str], rng: Random) -> tuple[bytes, list[str]]:
    """A training config, damaged or with a hostile override; and the overrides. settings: the names of what can be set."""
    if rng.random() < 0.3:
        return damage(text.encode(), rng), []
    value = rng.choice([value for value in VALUES if value is not None])
    shown = "[" * 900 + "]" * 900 if value is DEEP else str(value).lower() if isinstance(value, bool | float) else (
        "{}" if value == {} else "{x = 1}" if value == {"x": 1} else json.dumps(value))
    return text.encode(), [f"{rng.choice(settings)}={shown}"]
