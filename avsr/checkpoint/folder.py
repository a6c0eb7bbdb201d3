"""Reads a model folder of ours: finds its files, checks that they belong together, and builds the network.

    Description + model.safetensors + tokenizer.json (+ the base's) -> Checkpoint
Sizes are compared with the header of the weights file before the network is built, and the tokenizer with both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from avsr.checkpoint.description import COPY, Checkpoint, Description, read_dims, read_mouth_crop
from avsr.checkpoint.old_names import current_tensor
from avsr.errors import BadCheckpoint
from avsr.schema import read_json
from avsr.text import LONGEST_TOKENIZER, SentencePieceTokenizer, Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from avsr.models.avsr import AVSR, Dims
    from avsr.models.hybrid import HybridAVSR, HybridDims
    from avsr.tensorfiles import Stored

WEIGHTS, TOKENIZER = PARTS = ("model.safetensors", "tokenizer.json")       # beside model.json
UNFITTED = ("reliability.detector.radius",)                 # infinite until it is fitted
AGAIN = "Fetch the model again."


def temporary(folder: Path, name: str) -> Path:
    """The temporary name under which a file is written."""
    return folder / f".{name}.new"


def finish_save(folder: Path) -> None:
    """Give files that an interrupted `save` left under their temporary names, and that belong to the model, their own."""
    with suppress(BadCheckpoint):
        sha256 = read_json(folder / "model.json").get("sha256")
        sha256 = sha256 if isinstance(sha256, dict) else {}
        for name in PARTS:
            if temporary(folder, name).is_file() and sha256_of(temporary(folder, name)) == sha256.get(name):
                os.replace(temporary(folder, name), folder / name)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_ours(folder: Path, about: Description, base: Checkpoint | None, with_video: bool) -> Checkpoint:
    """The model that a folder's model.json describes, on the CPU. base: the model it adds to. Raises BadCheckpoint."""
    from avsr.models.avsr import Dims, without_video
    from avsr.tensorfiles import check_finite, check_memory, n_numbers, read_safetensors

    dims, mouth_crop = read_dims(about, folder), read_mouth_crop(about, folder)
    hybrid = about.network == "hybrid"
    if isinstance(dims, Dims) and not with_video:
        dims = without_video(dims)
    headers = _headers(folder)
    theirs = {} if base is None else base.model.state_dict()
    room = max(map(n_numbers, headers.values())) + sum(tensor.numel() for tensor in theirs.values())
    check_memory(room, folder)
    model = _outline(folder, dims, room)
    wanted = model.state_dict()
    path = _weights_file(folder, about, wanted, headers, theirs, everything=with_video or hybrid)
    weights = read_safetensors(path, None if with_video or hybrid else wanted, current_tensor)
    check_finite(weights, path, limits=UNFITTED)
    model.load_state_dict({name: tensor for name, tensor in theirs.items() if name in wanted} | weights, assign=True)
    tokenizer = _tokenizer(folder, about, base)
    if wrong := _misfit(about, dims, tokenizer):
        raise BadCheckpoint(f"{folder}: {wrong}.  {COPY}")
    checkpoint = Checkpoint(model=model, tokenizer=tokenizer, mouth_crop=mouth_crop, **about.facts())
    return replace(checkpoint, video_trained=about.video_trained and model.modalities != ("a",))


def _headers(folder: Path) -> dict[Path, dict[str, Stored]]:
    """The headers of the files that may be the weights, under their own or their temporary name."""
    from avsr.tensorfiles import read_header

    headers, problem = {}, None
    for path in (folder / WEIGHTS, temporary(folder, WEIGHTS)):
        if path.exists():
            try:
                headers[path] = read_header(path, current_tensor)
            except BadCheckpoint as error:
                problem = error
    if not headers:
        raise problem or _not_there(folder, WEIGHTS)
    return headers


def _not_there(folder: Path, name: str) -> BadCheckpoint:
    return BadCheckpoint(f"{folder / name}: missing, or not the one model.json names.  {COPY}")


def _outline(folder: Path, dims: Dims | HybridDims, room: int) -> AVSR | HybridAVSR:
    """The network without its weights. Raises BadCheckpoint where it needs more numbers than `room`."""
    from avsr.models.avsr import AVSR, Dims
    from avsr.models.blocks import TooLarge, outline
    from avsr.models.hybrid import HybridAVSR

    try:
        return outline(AVSR, dims, most=room) if isinstance(dims, Dims) else outline(HybridAVSR, dims, most=room)
    except TooLarge as error:
        raise BadCheckpoint(f"{folder}: its weights do not fit its dims (they hold {room} numbers, and a network of these dims "
                            f"needs more).  {AGAIN}") from error


def _weights_file(folder: Path, about: Description, wanted: Mapping, headers: Mapping[Path, Mapping[str, Stored]],
                  theirs: Mapping, *, everything: bool) -> Path:
    """The weights file that model.json means. Headers are compared first, because hashing a file may take minutes.
    everything: False where the file may also hold a video encoder that is not wanted."""
    from avsr.tensorfiles import misfit, stored

    given = stored({name: tensor for name, tensor in theirs.items() if name in wanted})
    wrong = None
    for path, header in headers.items():
        mine = header if everything else {name: one for name, one in header.items() if name in wanted}
        problem = misfit(wanted, given | dict(mine))
        wrong = wrong or problem
        if problem is None and sha256_of(path) == about.sha256.get(WEIGHTS):
            return path
    if wrong is None:
        raise _not_there(folder, WEIGHTS)
    raise BadCheckpoint(f"{folder}: its weights do not fit its dims (it {wrong}).  {AGAIN}")


def _tokenizer(folder: Path, about: Description, base: Checkpoint | None) -> Tokenizer | SentencePieceTokenizer:
    """The folder's tokenizer, or the base's where it has none."""
    if TOKENIZER not in about.sha256 and base is not None:
        return base.tokenizer
    for path in (folder / TOKENIZER, temporary(folder, TOKENIZER)):
        if path.is_file() and path.stat().st_size <= LONGEST_TOKENIZER and sha256_of(path) == about.sha256.get(TOKENIZER):
            return open_tokenizer(path)
    raise _not_there(folder, TOKENIZER)


def _misfit(about: Description, dims: Dims | HybridDims, tokenizer: Tokenizer | SentencePieceTokenizer) -> str | None:
    """In words, what in model.json and tokenizer.json does not fit the network; None where everything does."""
    from avsr.importers.whisper import WhisperSettings
    from avsr.models.hybrid import HybridDims

    if tokenizer.n_tokens > dims.n_vocab:
        return f"its tokenizer has {tokenizer.n_tokens} tokens, and its network {dims.n_vocab}"
    if isinstance(dims, HybridDims):
        fits = isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.n_tokens == dims.n_vocab
        return None if fits else f"its tokenizer is not of the {dims.n_vocab} pieces that its network writes"
    n_prompt = len(tokenizer.prompt(next(iter(tokenizer.languages), None)))
    if dims.n_context < n_prompt + 2:
        return f"its network takes {dims.n_context} tokens at once, of which the start takes {n_prompt}: no text has room"
    if tokenizer.end in about.suppress:
        return f"the token that ends a text, {tokenizer.end}, is suppressed"
    if set(range(tokenizer.end + 1)) <= {*about.suppress, *about.suppress_begin}:
        return "all tokens that a text may begin with are suppressed"
    return WhisperSettings(about.suppress, about.suppress_begin, about.alignment_heads).misfit(dims)
