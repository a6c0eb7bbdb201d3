"""Converts a SentencePiece model, and the list of a network's output pieces in order, to our tokenizer.json.

    NAME_units.txt (lines `piece number`, from `<unk> 1` on) + NAME.model (SentencePiece, unigram)
ESPnet's recipes make the list from the model's output on the training texts, so its order is not the model's, and it may
contain pieces that the model lacks.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from avsr.errors import BadCheckpoint, listed
from avsr.text import BLANK, END, SentencePieceTokenizer, write_sentencepiece

UNITS = "_units.txt"
USUAL = ("", "spm/unigram")                                 # beside the weights, and as in the authors' repositories
UNKNOWN = "<unk>"
WIDE = 60                                                   # characters of a line in a message
NORMAL = 1                                                  # type of a piece that is text, in SentencePiece's protocol


def find_tokenizer(given: Path | None, weights: Path, hint: str) -> tuple[Path, Path]:
    """The list of pieces and the model, in the folder or file `given`, or else beside the weights. Raises BadCheckpoint unless
    there is exactly one pair. hint: the names of the family's files, for messages."""
    if given is not None and not given.exists():
        raise BadCheckpoint(f"{given}: no such file or folder.  Name what holds {hint}.")
    if given is not None and given.is_file():
        units = given if given.name.endswith(UNITS) else given.with_name(given.stem + UNITS)
    else:
        folders = [given] if given is not None else [weights.parent / name for name in USUAL]
        lists = [path for folder in folders for path in sorted(folder.glob(f"*{UNITS}"))]
        if len(lists) != 1:
            found = f"{len(lists)} lists of pieces ({listed(path.name for path in lists)})" if lists else "no tokenizer"
            raise BadCheckpoint(f"{folders[0]}: {found} there, and one is needed.  Name with --tokenizer the folder, or the "
                                f"file, of {hint}.")
        (units,) = lists
    model = units.with_name(units.name.removesuffix(UNITS) + ".model")
    for path, other in ((units, model), (model, units)):
        if not path.is_file():
            raise BadCheckpoint(f"{path}: not there beside {other.name}, and both are needed ({hint}).  "
                                "Put both into one folder and name it with --tokenizer.")
    return units, model


def convert_tokenizer(units: Path, model: Path, n_vocab: int, target: Path) -> SentencePieceTokenizer:
    """Write our tokenizer.json to `target`, for a network of n_vocab tokens: blank, pieces, end. Raises BadCheckpoint."""
    pieces = _read_units(units)
    if len(pieces) + 2 != n_vocab:
        raise BadCheckpoint(f"{units}: {len(pieces)} pieces, but the network writes {n_vocab} tokens, which are blank, "
                            f"{n_vocab - 2} pieces and the end.  Name its own with --tokenizer.")
    scores, charsmap = _read_model(model)
    if (n_missing := sum(piece not in scores for piece in pieces[1:])) > len(pieces) / 2:
        raise BadCheckpoint(f"{model}: lacks {n_missing} of the {len(pieces)} pieces in {units.name}: they do not belong "
                            "together.  Name the two of one training.")
    try:
        return write_sentencepiece(target, pieces, scores, charsmap)
    except Exception as error:                              # of the normaliser's bytes; tokenizers raises bare Exception
        raise BadCheckpoint(f"{model}: no tokenizer can be made of it ({error}).  Download it again.") from error


def _read_units(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")     # a piece may hold what splitlines splits at
    except (OSError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path}: cannot be read as text ({error}).  Download it again.") from error
    pieces = []
    for number, line in enumerate(lines, 1):
        piece, _, given = line.rpartition(" ")
        if not piece or given != str(number) or (number == 1 and piece != UNKNOWN):
            due = f"{UNKNOWN!r} and the number 1" if number == 1 else f"a piece and the number {number}"
            raise BadCheckpoint(f"{path}, line {number}: {line[:WIDE]!r}, where {due} should be.  Download it again.")
        pieces.append(piece)
    if twice := [piece for piece, n in Counter([BLANK, *pieces, END]).items() if n > 1]:
        raise BadCheckpoint(f"{path}: {listed(twice)} more than once, or with a meaning of its own.  Download it again.")
    return pieces


def _read_model(path: Path) -> tuple[dict[str, float], bytes]:
    """The log-probability of each piece, and the compiled normaliser."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model: Any = vars(sentencepiece_model_pb2)["ModelProto"]()       # made at import, which type checkers do not see
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise BadCheckpoint(f"{path}: cannot be read as a SentencePiece model ({error}).  Download it again.") from error
    kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type).lower()
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == NORMAL}
    if kind != "unigram" or not scores:
        raise BadCheckpoint(f"{path}: a SentencePiece model of type {kind} with {len(scores)} pieces, and one of type unigram "
                            "is needed.  Name the one that came with the list.")
    return scores, model.normalizer_spec.precompiled_charsmap
