"""Model folders that somebody has altered: every field of model.json by turns wrong in each way, weights, tokenizers, bases.

    tiny(folder) -> a whole model of 70 kB;  cases() -> name, function that spoils a copy of it
Run as a program, it loads each of them and uses what loads; a line of JSON on standard output says what came of each.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

Spoil = Callable[[Path], None]
DEEP = "@deep@"  # becomes 100,000 lists, one within the other
MISSING = object()
VALUES = {
    "null": None,
    "true": True,
    "-1": -1,
    "0": 0,
    "0.5": 0.5,
    "NaN": math.nan,
    "Infinity": math.inf,
    "1e308": 1e308,
    "2^31": 2**31,
    "2^70": 2**70,
    "empty text": "",
    "text": "x",
    "long text": "x" * 100_000,
    "control characters": "a\0\x1b[31m\n",
    "half a letter": "\ud800",
    "path": "../../etc",
    "empty list": [],
    "list of nulls": [None],
    "list of lists": [[[]]],
    "huge numbers": [2**70, -(2**70)],
    "long list": [1] * 100_000,
    "empty table": {},
    "table": {"x": {"y": [None]}},
    "deep": DEEP,
    "missing": MISSING,
}


def tiny(folder: Path) -> Path:
    """A model of random weights that hears, sees and writes letters."""
    import torch

    from avsr.checkpoint import Checkpoint, save
    from avsr.models.avsr import AVSR, Dims
    from avsr.text import write_characters

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    tokenizer = write_characters(folder / "letters.json")
    dims = Dims(
        width=16,
        n_heads=2,
        n_audio_layers=1,
        n_video_layers=1,
        n_fusion_layers=1,
        n_decoder_layers=1,
        n_vocab=tokenizer.no_timestamps + 1,
        n_context=12,
        video_frontend="compact",
        n_reliability=2,
    )
    checkpoint = Checkpoint(
        "tiny",
        AVSR(dims).eval(),
        tokenizer,
        pad_seconds=None,
        video_trained=True,
        suppress=(3,),
        suppress_begin=(0,),
        alignment_heads=((0, 1),),
        search={"beam_size": 2, "temperatures": [0.0]},
        training={"step": 1},
    )
    return save(checkpoint, folder / "model")


# model.json


def write(folder: Path, facts: dict) -> None:
    """model.json, whatever it says."""
    text = json.dumps(facts).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000)
    (folder / "model.json").write_text(text, encoding="utf-8")


def with_field(path: tuple[str | int, ...], value: object) -> Spoil:
    """One field of model.json, by its path, becomes this."""

    def spoil(folder: Path) -> None:
        facts = json.loads((folder / "model.json").read_text())
        *above, last = path
        table = facts
        for key in above:
            table = table[key]
        if value is MISSING:
            del table[last]
        else:
            table[last] = value
        write(folder, facts)

    return spoil


def fields_of(facts: dict, above: tuple[str, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all fields, sections too."""
    for name, value in facts.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from fields_of(value, (*above, name))


ODD_FIELDS = {
    "base is itself": (("base",), "."),
    "base is nowhere": (("base",), "/nowhere/at all"),
    "base is a long name": (("base",), "y" * 5000),
    "heads do not divide": (("dims", "n_heads"), 3),
    "width is odd": (("dims", "width"), 15),
    "one head too wide": (("dims", "n_heads"), 16),
    "many layers": (("dims", "n_audio_layers"), 256),
    "a million layers": (("dims", "n_decoder_layers"), 10**6),
    "layers of hybrid": (("network",), "hybrid"),
    "wide": (("dims", "width"), 2**14),
    "many words": (("dims", "n_vocab"), 2**20),
    "more fusion than sound": (("dims", "n_fusion_layers"), 2),
    "weights of an estimator that the dims lack": (("dims", "n_reliability"), 0),
    "an audio gate": (("dims", "n_heed"), 2),
    "an audio gate of text": (("dims", "n_heed"), "x"),
    "video of another width": (("dims", "video_width"), 7),
    "another frontend": (("dims", "video_frontend"), "resnet18"),
    "another frontend by its old name": (("dims", "lips"), "resnet18"),
    "token beyond": (("suppress",), [34]),
    "everything suppressed": (("suppress",), list(range(34))),
    "the end suppressed": (("suppress",), [28]),
    "head beyond": (("alignment_heads",), [[0, 2]]),
    "layer beyond": (("alignment_heads",), [[1, 0]]),
    "half a head": (("alignment_heads",), [[0]]),
    "silence without end": (("pad_seconds",), 10**6),
    "a huge beam": (("search",), {"beam_size": 10**9}),
    "a beam of text": (("search",), {"beam_size": "x"}),
    "no beam": (("search",), {"beam_size": 0}),
    "a language model": (("search",), {"lm": "x"}),
    "temperatures": (("search",), {"temperatures": [math.nan]}),
    "crop of a pixel": (("mouth_crop", "size"), 1),
    "crop without end": (("mouth_crop", "size"), 10**6),
    "points beyond": (("mouth_crop", "mouth"), [10**6]),
    "points from the end": (("mouth_crop", "mouth"), [-1]),
    "reference of nothing": (("mouth_crop", "reference"), []),
    "reference at infinity": (("mouth_crop", "reference"), [[math.inf, 1], [1, 2], [2, 3]]),
    "smooth for ever": (("mouth_crop", "smooth"), 10**9),
    "sha256 of a path": (("sha256",), {"../model.json": "0" * 64}),
    "rates of Python": (("rates", "__builtins__"), 1),
}


def _json_text(text: bytes) -> Spoil:
    return lambda folder: (folder / "model.json").write_bytes(text) and None


def _odd_file(name: str, make: Callable[[Path], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def _sparse(path: Path, n_bytes: int = 2**40) -> None:
    with path.open("wb") as file:
        file.truncate(n_bytes)


ODD_TEXTS = {
    "empty": b"",
    "not text": b"\xff\xfe\0\0",
    "not JSON": b"{",
    "a list": b"[1]",
    "a number": b"1",
    "digits": b"1" * 100_000,
    "deep lists": b"[" * 100_000,
    "deep tables": b'{"a":' * 100_000,
    "byte order mark": b"\xef\xbb\xbf{}",
    "empty table": b"{}",
}
ODD_FILES = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a terabyte of nothing": _sparse,
}


# Weights


def header_of(folder: Path) -> tuple[dict, bytes]:
    """The header of the weights, and the numbers behind it."""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def put_weights(folder: Path, header: dict | bytes, numbers: bytes, size: int | None = None) -> None:
    """Weights of this header, believed by model.json."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = struct.pack("<Q", len(text) if size is None else size) + text + numbers
    (folder / "model.safetensors").write_bytes(data)
    believe(folder, "model.safetensors")


def believe(folder: Path, name: str) -> None:
    """model.json names this file's sha256."""
    facts = json.loads((folder / "model.json").read_text())
    facts["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    write(folder, facts)


def with_header(change: Callable[[dict], object]) -> Spoil:
    """The header is changed, the numbers are not."""

    def spoil(folder: Path) -> None:
        header, numbers = header_of(folder)
        change(header)
        put_weights(folder, header, numbers)

    return spoil


def with_tensors(change: Callable[[dict], object]) -> Spoil:
    """The tensors are changed and written anew."""

    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        believe(folder, "model.safetensors")

    return spoil


CONV, NORM, COUNT = "audio.conv1.weight", "audio.norm.weight", "video.frontend.stages.1.num_batches_tracked"


def _one_number(value: float, *, name: str = CONV) -> Spoil:
    return with_tensors(lambda tensors: tensors[name].view(-1)[-1:].fill_(value))


def _all_numbers(value: float) -> Spoil:
    def fill(tensors: dict) -> None:
        for tensor in tensors.values():
            if tensor.is_floating_point():
                tensor.fill_(value)

    return with_tensors(fill)


def _as(dtype: str) -> Spoil:
    def change(tensors: dict) -> None:
        import torch

        tensors[CONV] = tensors[CONV].to(getattr(torch, dtype))

    return with_tensors(change)


def _cut(share: float) -> Spoil:
    def spoil(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: int(len(data) * share)])
        believe(folder, "model.safetensors")

    return spoil


def _header_text(text: bytes, size: int | None = None) -> Spoil:
    return lambda folder: put_weights(folder, text, b"", size)


def _claim(shape: list[int]) -> Spoil:
    """A sparse file of a tensor so large, beside the others."""

    def spoil(folder: Path) -> None:
        header, numbers = header_of(folder)
        begin, n_bytes = len(numbers), 2 * math.prod(shape)
        header["extra"] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, begin + n_bytes]}
        put_weights(folder, header, numbers)
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(file.seek(0, 2) + n_bytes)

    return spoil


def _tensor(name: str, change: Callable) -> Spoil:
    return with_tensors(lambda tensors: tensors.update({name: change(tensors[name]).contiguous()}))


WEIGHTS = {
    "NaN": _one_number(math.nan),
    "infinity": _one_number(math.inf),
    "-infinity": _one_number(-math.inf),
    "NaN in a norm": _one_number(math.nan, name=NORM),
    "all NaN": _all_numbers(math.nan),
    "all 65504": _all_numbers(65504),
    "all 0": _all_numbers(0),
    **{
        f"as {dtype}": _as(dtype)
        for dtype in (
            "float64",
            "bfloat16",
            "float32",
            "int8",
            "int64",
            "bool",
            "uint8",
            "complex64",
            "float8_e4m3fn",
            "uint16",
        )
    },
    **{f"cut to {share}": _cut(share) for share in (0, 0.00005, 0.001, 0.1, 0.5, 0.999)},
    "one dimension more": _tensor(CONV, lambda tensor: tensor[None]),
    "one dimension less": _tensor(CONV, lambda tensor: tensor.flatten()),
    "turned": _tensor(CONV, lambda tensor: tensor.transpose(0, 1)),
    "one row less": _tensor(CONV, lambda tensor: tensor[1:]),
    "empty": _tensor(CONV, lambda tensor: tensor[:0]),
    "one missing": with_tensors(lambda tensors: tensors.pop(CONV)),
    "none": with_tensors(lambda tensors: tensors.clear()),
    "one more": with_tensors(lambda tensors: tensors.update(extra=tensors[CONV].clone())),
    "a layer more": with_tensors(
        lambda tensors: tensors.update(
            {name.replace("blocks.0", "blocks.7"): tensor.clone() for name, tensor in tensors.items() if "blocks.0" in name}
        )
    ),
    "header of 2^60": _header_text(b"{}", 2**60),
    "header of 2^63": _header_text(b"{}", 2**63),
    "header of -1": _header_text(b"{}", 2**64 - 1),
    "header of 0": _header_text(b"", 0),
    "header of 100 MB": _header_text(b"{}", 100_000_000),
    "header of nothing": _header_text(b"{}"),
    "header deep": _header_text(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "header of lists": _header_text(b"[" * 100_000),
    "header no JSON": _header_text(b"\xff" * 100),
    "header of a long name": with_header(lambda h: h.update({"n" * 10**6: h.pop(CONV)})),
    "header of odd names": with_header(lambda h: h.update({"a\0\x1b[31m\n": h.pop(CONV)})),
    "overlap": with_header(lambda h: h[CONV].update(data_offsets=h[NORM]["data_offsets"])),
    "overlap of the same size": with_header(lambda h: h["audio.norm.bias"].update(data_offsets=h[NORM]["data_offsets"])),
    "backwards": with_header(lambda h: h[CONV].update(data_offsets=h[CONV]["data_offsets"][::-1])),
    "beyond the end": with_header(lambda h: h[CONV].update(data_offsets=[2**40, 2**40 + 2])),
    "negative offset": with_header(lambda h: h[CONV].update(data_offsets=[-2, 0])),
    "offsets of 2^70": with_header(lambda h: h[CONV].update(data_offsets=[2**70, 2**70 + 2])),
    "shape negative": with_header(lambda h: h[CONV].update(shape=[-1, 2])),
    "shape of 2^63": with_header(lambda h: h[CONV].update(shape=[2**63, 2])),
    "shape of 2^31 and 0": with_header(lambda h: h[CONV].update(shape=[2**31, 2**31, 0], data_offsets=[0, 0])),
    "shape of text": with_header(lambda h: h[CONV].update(shape="x")),
    "dtype unknown": with_header(lambda h: h[CONV].update(dtype="Q7")),
    "dtype null": with_header(lambda h: h[CONV].update(dtype=None)),
    "no offsets": with_header(lambda h: h[CONV].pop("data_offsets")),
    "metadata of numbers": with_header(lambda h: h.update(__metadata__={"a": 1})),
    "a sparse terabyte": _claim([2**20, 2**19]),
    "empty shapes": with_header(
        lambda h: h.update({f"e{i}": {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)})
    ),
}


# Tokenizers


def with_tokenizer(change: Callable[[dict], object]) -> Spoil:
    """tokenizer.json is changed, and believed."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000))
        believe(folder, "tokenizer.json")

    return spoil


def _tokenizer_text(text: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes(text)
        believe(folder, "tokenizer.json")

    return spoil


def _unigram(pieces: list) -> Spoil:
    return with_tokenizer(lambda t: t.update(added_tokens=[], model={"type": "Unigram", "unk_id": 1, "vocab": pieces}))


def _renumbered(change: Callable[[int], int]) -> Spoil:
    def renumber(content: dict) -> None:
        for token in content["added_tokens"]:
            token["id"] = change(token["id"])

    return with_tokenizer(renumber)


def _nested(kind: str, inner: str, depth: int) -> dict:
    value: dict = {"type": "Fuse"} if inner == "decoders" else {"type": "NFC"}
    for _ in range(depth):
        value = {"type": kind, inner: [value]}
    return value


TOKENIZERS = {
    **{name: _tokenizer_text(text) for name, text in ODD_TEXTS.items()},
    **{
        f"{part} {name}": with_tokenizer(lambda t, part=part, value=value: t.update({part: value}))
        for part in (
            "added_tokens",
            "normalizer",
            "pre_tokenizer",
            "post_processor",
            "decoder",
            "model",
            "truncation",
            "padding",
            "version",
        )
        for name, value in VALUES.items()
        if name in ("-1", "text", "table", "deep")
    },
    "padding of a billion": with_tokenizer(
        lambda t: t.update(
            padding={
                "strategy": {"Fixed": 10**9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "a",
            }
        )
    ),
    "truncation to nothing": with_tokenizer(
        lambda t: t.update(truncation={"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0})
    ),
    "tokens far apart": _renumbered(lambda i: i * 1000),
    "tokens of 2^32": _renumbered(lambda i: 2**32 - 1 - i),
    "tokens upside down": _renumbered(lambda i: 61 - i),
    "one token twice": _renumbered(lambda i: 28),
    "no special tokens": with_tokenizer(lambda t: t.update(added_tokens=[])),
    "vocabulary empty": with_tokenizer(lambda t: t["model"].update(vocab={})),
    "vocabulary negative": with_tokenizer(lambda t: t["model"].update(vocab={"a": -1})),
    "vocabulary of one number": with_tokenizer(lambda t: t["model"].update(vocab=dict.fromkeys(t["model"]["vocab"], 3))),
    "vocabulary far apart": with_tokenizer(
        lambda t: t["model"].update(vocab={k: v * 10**7 for k, v in t["model"]["vocab"].items()})
    ),
    "merges of nothing": with_tokenizer(lambda t: t["model"].update(merges=[["x", "yy"]])),
    "merges wrong": with_tokenizer(lambda t: t["model"].update(merges=["a"])),
    "dropout": with_tokenizer(lambda t: t["model"].update(dropout=7)),
    "sequences deep": with_tokenizer(lambda t: t.update(normalizer=_nested("Sequence", "normalizers", 100))),
    "decoders deep": with_tokenizer(lambda t: t.update(decoder=_nested("Sequence", "decoders", 30))),
    "growing text": with_tokenizer(
        lambda t: t.update(
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": " "}, "content": " " * 1000}] * 4,
            }
        )
    ),
    "growing output": with_tokenizer(
        lambda t: t.update(
            decoder={
                "type": "Sequence",
                "decoders": [{"type": "Fuse"}] + [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}] * 4,
            }
        )
    ),
    "endless pattern": with_tokenizer(
        lambda t: t.update(
            decoder={
                "type": "Sequence",
                "decoders": [
                    {"type": "Fuse"},
                    {"type": "Replace", "pattern": {"Regex": "(a|a|aa|.)*(a|aa|.)*(.a|.)*[^\\s\\S]"}, "content": "b"},
                ],
            }
        )
    ),
    "pieces empty": _unigram([]),
    "a piece of nothing": _unigram([["<blank>", 0.0], ["<unk>", -1.0], ["", -1.0], ["<eos>", 0.0]]),
    "pieces without number": _unigram([["<blank>", 0.0], ["<unk>", None], ["<eos>", 0.0]]),
    "pieces alike": _unigram([["<blank>", 0.0], ["<unk>", -1.0], ["a", -1.0], ["a", -2.0], ["<eos>", 0.0]]),
    "pieces few": _unigram([["<blank>", 0.0], ["<unk>", -1.0], ["<eos>", 0.0]]),
}


# Bases


def _based_on(name: str) -> Spoil:
    return with_field(("base",), name)


def _chain(n: int) -> Spoil:
    """As many copies, each the base of the one before."""

    def spoil(folder: Path) -> None:
        for i in range(n):
            shutil.copytree(folder, folder.parent / f"copy{i}")
            _based_on(str(folder.parent / f"copy{i + 1}"))(folder.parent / f"copy{i}") if i + 1 < n else None
        _based_on(str(folder.parent / "copy0"))(folder)

    return spoil


def _circle(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "other")
    _based_on(str(folder))(folder.parent / "other")
    _based_on(str(folder.parent / "other"))(folder)


BASES = {
    "itself": lambda folder: _based_on(str(folder))(folder),
    "in a circle": _circle,
    "a chain of 50": _chain(50),
    "itself by another way": lambda folder: _based_on(str(folder / ".." / folder.name))(folder),
}


def cases() -> Iterator[tuple[str, Spoil]]:
    """Every alteration by name."""
    with tempfile.TemporaryDirectory() as place:
        facts = json.loads((tiny(Path(place) / "tiny") / "model.json").read_text())
    for path in fields_of(facts):
        for name, value in VALUES.items():
            yield f"model.json {'.'.join(path)}: {name}", with_field(path, value)
    for name, (path, value) in ODD_FIELDS.items():
        yield f"model.json {name}", with_field(path, value)
    yield from ((f"model.json is {name}", _json_text(text)) for name, text in ODD_TEXTS.items())
    for file in ("model.json", "model.safetensors", "tokenizer.json"):
        yield from ((f"{file} is {name}", _odd_file(file, make)) for name, make in ODD_FILES.items())
    for kind, table in (("weights", WEIGHTS), ("tokenizer", TOKENIZERS), ("base", BASES)):
        yield from ((f"{kind}: {name}", spoil) for name, spoil in table.items())


def use(folder: Path) -> None:
    """Load a model and let it write what it makes of half a second of noise and of a mouth."""
    import numpy as np
    import torch

    from avsr.checkpoint import load
    from avsr.lips import MouthCropper, Mouths
    from avsr.recogniser import Recogniser

    checkpoint = load(folder)
    MouthCropper(checkpoint.mouth_crop)
    size = checkpoint.mouth_crop.size
    mouths = Mouths(
        np.full((12, size, size), 90, np.uint8), np.zeros(12, bool), np.ones(12, np.float32), np.ones(12, np.float32), 0, 0
    )
    sound = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    with torch.inference_mode():
        recogniser = Recogniser(checkpoint)
        for modality in checkpoint.modalities:
            memory = recogniser.encode([sound], [mouths], modality)
            (text,) = recogniser.decode(memory)
            recogniser.align(memory, [text.tokens], [0.5])
            recogniser.detokenize(text.tokens)
    checkpoint.tokenizer.encode(" a word aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")


def outcome(folder: Path, act: Callable[[Path], None] = use) -> dict:
    """What came of it: `works`, `refused` with the message, or `raw` with where; and seconds of processor time."""
    from avsr.errors import AvsrError

    start = time.process_time()
    try:
        act(folder)
        came = {"came": "works"}
    except AvsrError as error:
        came = {"came": "refused", "message": str(error)[:2000]}
    except BaseException as error:  # a panic of Rust's is no Exception
        came = {
            "came": "raw",
            "message": f"{type(error).__name__}: {error}"[:300],
            "where": traceback.format_exc().strip().splitlines()[-6:],
        }
    return came | {"seconds": round(time.process_time() - start, 3)}


def peak_mb() -> int:
    """The most memory that this program has had. Unlike ru_maxrss, it does not count the process that started the program."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024


def main(gigabytes: str = "4", every: str = "1", part: str = "") -> None:
    """The cases whose name begins so, in a process whose memory is limited.

    every: of all fields of model.json with all values, only one of so many is tried.
    """
    resource.setrlimit(resource.RLIMIT_AS, (int(float(gigabytes) * 2**30),) * 2)
    with tempfile.TemporaryDirectory() as place:
        whole = tiny(Path(place) / "tiny")
        use(whole)
        for number, (name, spoil) in enumerate(cases()):
            if not name.startswith(part) or (": " in name and name.startswith("model.json ") and number % int(every)):
                continue
            folder = Path(place) / str(number) / "model"
            shutil.copytree(whole, folder)
            spoil(folder)
            came = outcome(folder)
            shutil.rmtree(folder.parent)
            print(json.dumps({"case": name, **came, "peak_mb": peak_mb()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
