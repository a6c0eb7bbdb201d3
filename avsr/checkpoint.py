"""Models on disk: tensors plus readable JSON, never pickle; and by which names models are found.

    shipped name | folder | Whisper size | owner/model  ->  Checkpoint: network, tokenizer, and all that decoding must know
A folder holds model.json, which names the sha256 of the others, model.safetensors and tokenizer.json. A model that has a
`base` holds only what differs from it; all else, perhaps the tokenizer as well, is taken from the base.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from avsr import assets, rates
from avsr.errors import AvsrError, BadCheckpoint, BadOutput, NotInModel
from avsr.lips import LipRecipe
from avsr.output import reason_of
from avsr.runtime import Progress, no_progress
from avsr.text import Pieces, Tokenizer, open_tokenizer

if TYPE_CHECKING:
    import torch

    from avsr.models.avsr import AVSR, Dims
    from avsr.models.hybrid import Hybrid, HybridDims

LAYOUT = 1                                                  # of model.json; a newer one is refused
DEFAULT_MODEL = "default"
SHIPPED = Path(__file__).parent / "weights"                 # models that come with the program, a folder each
PACKAGED = ("tiny.en", "base")                              # the Whispers that the extra `offline` brings
N_TIMESTAMPS = 1501                                         # the last tokens of every Whisper: 0.00 to 30.00 s
WHISPER_VOCABULARIES = (51_864, 51_865, 51_866)             # English alone; 99 languages; 100, since large-v3
PARTS = ("model.safetensors", "tokenizer.json")             # beside model.json
RATES = ("SAMPLE_RATE", "VIDEO_FPS", "HOP", "N_FFT", "MOUTH_SIZE", "MOUTH_INPUT")


@dataclass(frozen=True)
class Checkpoint:
    """A network ready for use, and what goes with it.

    pad_seconds: length to which sound is padded with silence before the network hears it (Whisper's 30), None for none.
    lips_trained: whether what it sees means anything yet. base: the model that what is untouched comes from.
    suppress, suppress_begin, alignment_heads: see models.whisper.WhisperSettings.
    search: settings of decode.DecodeOptions it wants in place of the usual ones, as its authors report their figures with.
    training: free facts for the reader: data and licence, git commit, step, scores.
    """

    name: str
    model: AVSR | Hybrid
    tokenizer: Tokenizer | Pieces
    recipe: LipRecipe = field(default_factory=LipRecipe)
    lips_trained: bool = False
    base: str | None = None
    pad_seconds: int | None = rates.PIECE_SECONDS
    suppress: tuple[int, ...] = ()
    suppress_begin: tuple[int, ...] = ()
    alignment_heads: tuple[tuple[int, int], ...] = ()
    search: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it can go by: `a`, `v`, `av`."""
        return tuple(one for one in self.model.modalities if self.lips_trained or "v" not in one)

    @property
    def languages(self) -> tuple[str, ...]:
        """Two-letter codes this model can be told to write."""
        return tuple(self.tokenizer.languages) or ("en",)


def load(name: str | Path, *, lips: bool = True, device: torch.device | str = "cpu", dtype: torch.dtype | None = None,
         progress: Progress = no_progress) -> Checkpoint:
    """A model by folder (ours, or a Whisper in Hugging Face's or faster-whisper's layout), by name (`default`, `grid`;
    Whisper's `tiny.en`, `large-v3`), or by its name on the hub.

    `lips` False leaves the lip network out of a model that can do without, which saves its memory. A
    Whisper gets a new lip network behind closed gates. Raises BadCheckpoint or MissingAsset.
    """
    folder = Path(name)
    if str(name) in shipped():
        folder = SHIPPED / str(name)
    if folder.is_dir():
        ours = (folder / "model.json").exists()
        checkpoint = _load_ours(folder, lips, progress) if ours else _load_whisper(folder, str(name), lips)
    elif folder.exists():
        raise BadCheckpoint(f"{name}: a file, but a model is a folder with model.json and model.safetensors.  Name the folder.")
    else:
        checkpoint = _load_by_name(str(name), lips, progress)
    if checkpoint.model.spells_tokens:                      # its search compares sums of log-probabilities over a whole text
        dtype = None
    checkpoint.model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return checkpoint


def shipped() -> list[str]:
    """Names of the models that come with the program."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.json"))


def may_see(name: str | Path) -> bool:
    """Whether a model could have trained lips: a shipped one, or a folder of ours; published Whispers never do."""
    return str(name) in shipped() or (Path(name) / "model.json").exists()


def _load_by_name(name: str, lips: bool, progress: Progress) -> Checkpoint:
    from avsr.models.whisper import SIZES

    size = "large-v3-turbo" if name == "turbo" else "large-v3" if name == "large" else name
    missing = None
    if size in PACKAGED:
        try:
            return _load_packaged(size, lips, progress)
        except assets.MissingAsset as error:
            missing = error
    if size not in SIZES and size.count("/") != 1:
        names = (*shipped(), *SIZES)
        nearest = get_close_matches(name, names, 1)
        hint = f"Did you mean {nearest[0]}?" if nearest else f"Known: {', '.join(names)}, a folder, or owner/model of the hub."
        raise BadCheckpoint(f"{name}: no such model or folder.  {hint}")
    try:
        folder = _fetch_whisper(f"openai/whisper-{size}" if size in SIZES else size, progress)
    except AvsrError as error:
        if missing is not None:
            raise missing from error
        raise
    return _load_whisper(folder, name, lips)


def _fetch_whisper(repo: str, progress: Progress) -> Path:
    """The folder of the hub's cache that holds a model's files, of either layout, see models.whisper.load_folder."""
    from avsr.models.whisper import WEIGHT_INDEX, check_kind, is_ctranslate2, read_json, shards

    def fetch(file: str) -> Path:
        return assets.hub_file(repo, file, progress=progress)

    path = fetch("config.json")
    config = read_json(path)
    check_kind(config, repo)
    try:
        fetch("tokenizer.json")
    except NotInModel as error:
        raise BadCheckpoint(_without_tokenizer(repo)) from error
    if is_ctranslate2(config):
        fetch("model.bin")
        return path.parent
    with suppress(NotInModel):                       # as fine-tuned models often do: config.json counts
        fetch("generation_config.json")
    try:
        fetch("model.safetensors")
    except NotInModel as error:
        try:
            files = shards(fetch(WEIGHT_INDEX))
        except NotInModel:
            raise BadCheckpoint(f"{repo}: it has no weights in safetensors, and its other files are pickles, which may run "
                                "any code when they are opened.  If you trust it, fetch it with transformers, save it with "
                                "save_pretrained, and name that folder.") from error
        for file in files:
            fetch(file)
    return path.parent


def _load_packaged(size: str, lips: bool, progress: Progress) -> Checkpoint:
    """A Whisper from the files that the extra `offline` brings."""
    from avsr.models.whisper import load_ctranslate2

    weights, config, tokenizer = (assets.find(f"whisper-{size}.{part}", progress=progress)
                                  for part in ("ct2", "config.json", "tokenizer.json"))
    model, settings = load_ctranslate2(weights, config, lips="resnet18" if lips else None)
    return Checkpoint(size, model, Tokenizer(tokenizer), **vars(settings))


def _load_whisper(folder: Path, name: str, lips: bool) -> Checkpoint:
    from avsr.models.whisper import check_kind, load_folder, read_json

    if not (folder / "config.json").exists():
        raise BadCheckpoint(f"{folder}: holds no config.json and no model.json, so it is no model.  Name a model's folder.")
    check_kind(read_json(folder / "config.json"), folder)
    if not (folder / "tokenizer.json").exists():
        raise BadCheckpoint(_without_tokenizer(folder))
    tokenizer = Tokenizer(folder / "tokenizer.json")
    model, settings = load_folder(folder, lips="resnet18" if lips else None)
    _check_tokenizer(tokenizer, model.dims.n_vocab)
    return Checkpoint(name, model, tokenizer, **vars(settings))


def _without_tokenizer(where: Path | str) -> str:
    return (f"{where}: holds no tokenizer.json, which makes words of its tokens.  Put the tokenizer.json of the Whisper that "
            "it was made from, such as openai/whisper-small, beside its other files, and name that folder.")


def _check_tokenizer(tokenizer: Tokenizer, n_vocab: int) -> None:
    """Raises BadCheckpoint for another Whisper's: an English one would write nonsense for a multilingual network."""
    needed = tokenizer.first_timestamp + N_TIMESTAMPS
    if needed > n_vocab or (needed != n_vocab and n_vocab in WHISPER_VOCABULARIES):
        raise BadCheckpoint(f"{tokenizer.path}: it is for {needed} tokens, but the model beside it has {n_vocab}.  Put the "
                            "tokenizer.json of that very model in its place.")


def save(checkpoint: Checkpoint, folder: str | Path, *, half: bool = True, remedy: str = "Choose another folder.") -> Path:
    """Write a model folder; with `half` weights are stored as float16. Whatever interrupts it, the folder holds a whole
    model, the older or the new: model.json is renamed first, and its sha256 tell which of the other files are meant.

    Raises BadOutput, whose message ends in `remedy`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors, parts = checkpoint.model.state_dict(), PARTS
    if checkpoint.base is not None:
        base = load(checkpoint.base, lips=False)
        theirs = base.model.state_dict()
        tensors = {name: tensor for name, tensor in tensors.items()
                   if name not in theirs or tensor.shape != theirs[name].shape or not tensor.cpu().float().equal(theirs[name])}
        parts = PARTS[:1] if base.tokenizer.sha256 == checkpoint.tokenizer.sha256 else PARTS
    state = {name: (tensor.half() if half and tensor.is_floating_point() else tensor).contiguous().cpu()
             for name, tensor in tensors.items()}
    fresh = {name: _fresh(folder, name) for name in (*parts, "model.json")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = checkpoint.tokenizer.path.read_bytes()
        _settle(folder)
        save_file(state, fresh["model.safetensors"])
        if "tokenizer.json" in parts:
            fresh["tokenizer.json"].write_bytes(tokenizer)
        description = _describe(checkpoint, {name: _sha256(fresh[name]) for name in parts})
        fresh["model.json"].write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.copymode(fresh["model.json"], fresh["model.safetensors"])         # which safetensors makes its owner's alone
        os.replace(fresh["model.json"], folder / "model.json")
    except (OSError, SafetensorError) as error:
        for path in fresh.values():
            with suppress(OSError):
                path.unlink()
        raise BadOutput(f"{folder}: the model cannot be written ({reason_of(error)}).  {remedy}") from error
    with suppress(OSError):                                 # `load` finds them under either name
        for name in parts:
            os.replace(fresh[name], folder / name)
    return folder


def _fresh(folder: Path, name: str) -> Path:
    """The name under which a file is written."""
    return folder / f".{name}.new"


def _settle(folder: Path) -> None:
    """What an interrupted `save` left under its temporary name, though it belongs to the model, gets its own."""
    from avsr.models.whisper import read_json

    with suppress(BadCheckpoint):
        sha256 = read_json(folder / "model.json").get("sha256", {})
        for name in PARTS:
            if _fresh(folder, name).exists() and _sha256(_fresh(folder, name)) == sha256.get(name):
                os.replace(_fresh(folder, name), folder / name)


def _part(folder: Path, name: str, sha256: str | None) -> Path:
    """The file that model.json means, under its name or the one it was written with."""
    for path in (folder / name, _fresh(folder, name)):
        if path.exists() and _sha256(path) == sha256:
            return path
    raise BadCheckpoint(f"{folder / name}: missing, or not the one model.json names.  Copy the whole folder again.")


def _network(model: AVSR | Hybrid) -> str:
    """The kind of network, as model.json names it."""
    return type(model).__name__.lower()


def _facts() -> list[str]:
    """The fields of a Checkpoint that model.json holds as they are."""
    return [f.name for f in fields(Checkpoint) if f.name not in ("model", "tokenizer", "recipe")]


def _describe(checkpoint: Checkpoint, sha256: dict[str, str]) -> dict:
    return {"layout": LAYOUT, "network": _network(checkpoint.model), "dims": asdict(checkpoint.model.dims),
            "rates": {name: getattr(rates, name) for name in RATES}, "recipe": checkpoint.recipe.to_dict(), "sha256": sha256,
            **{name: getattr(checkpoint, name) for name in _facts()}}


def _load_ours(folder: Path, lips: bool, progress: Progress) -> Checkpoint:
    from avsr.models.avsr import AVSR, without_lips
    from avsr.models.blocks import outline
    from avsr.models.hybrid import Hybrid
    from avsr.models.whisper import read_safetensors

    facts = _read_facts(folder)
    listed = [name for name in PARTS if name in facts["sha256"] or facts["base"] is None or name == PARTS[0]]
    weights_path, *tokenizer_path = (_part(folder, name, facts["sha256"].get(name)) for name in listed)
    dims, hybrid = _read_dims(facts, folder), facts["network"] == "hybrid"
    dims = dims if lips or hybrid else without_lips(dims)
    model = outline(Hybrid if hybrid else AVSR, dims)
    wanted = model.state_dict()
    weights = read_safetensors(weights_path, None if lips or hybrid else wanted)
    try:
        base = None if facts["base"] is None else load(facts["base"], lips=False, progress=progress)
    except AvsrError as error:
        raise type(error)(f"{folder}: it only adds to {facts['base']}, which is needed too: {error}") from error
    if base is not None:
        weights = {name: tensor for name, tensor in base.model.state_dict().items() if name in wanted} | weights
    tokenizer = open_tokenizer(tokenizer_path[0]) if tokenizer_path else base.tokenizer
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise BadCheckpoint(f"{folder}: its weights do not fit its dims ({' '.join(str(error).split())[:200]}).  "
                            "Fetch the model again.") from error
    kept = {name: facts[name] for name in _facts()} | {"lips_trained": facts["lips_trained"] and model.modalities != ("a",)}
    kept |= {name: tuple(facts[name]) for name in ("suppress", "suppress_begin")}
    kept["alignment_heads"] = tuple((layer, head) for layer, head in facts["alignment_heads"])
    recipe = _read_recipe(facts["recipe"], folder)
    return Checkpoint(model=model, tokenizer=tokenizer, recipe=recipe, **kept)


def _read_facts(folder: Path) -> dict:
    """model.json, of this layout, with nothing missing and the rates of this version."""
    from avsr.models.whisper import read_json

    # Models from before there were bases, or networks of another kind, say nothing of them.
    facts = {"base": None, "network": "avsr", "search": {}, **read_json(folder / "model.json")}
    if facts.get("layout") != LAYOUT:
        raise BadCheckpoint(f"{folder}: model.json of layout {facts.get('layout')}, known is {LAYOUT}.  Install a newer avsr.")
    if absent := [name for name in ("dims", "rates", "recipe", "sha256", *_facts()) if name not in facts]:
        raise BadCheckpoint(f"{folder}: its model.json lacks {', '.join(absent)}.  Copy the whole folder again.")
    for name, value in facts["rates"].items():
        if getattr(rates, name, None) != value:
            raise BadCheckpoint(f"{folder}: made with {name} = {value}, here it is {getattr(rates, name, None)}.  "
                                "Use the version of avsr it was trained with.")
    return facts


def _read_dims(facts: dict, folder: Path) -> Dims | HybridDims:
    from avsr.models.avsr import Dims
    from avsr.models.hybrid import HybridDims
    from avsr.models.video import BLOCKS, FRONTS

    remedy, kinds = "Use the version of avsr it was trained with.", {"avsr": Dims, "hybrid": HybridDims}
    if facts["network"] not in kinds:
        raise BadCheckpoint(f"{folder}: its network is of kind {facts['network']!r}, known are {', '.join(kinds)}.  Install a "
                            "newer avsr.")
    kind, values = kinds[facts["network"]], facts["dims"]
    if strange := sorted(values.keys() - {f.name for f in fields(kind)}):      # one that is absent is younger than the model
        raise BadCheckpoint(f"{folder}: its Dims differ from this version's in {', '.join(strange)}.  {remedy}")
    dims = kind(**values)
    if kind is Dims:
        for what, name, known in (("lips", dims.lips, FRONTS), ("video blocks", dims.video_blocks, BLOCKS)):
            if name is not None and name not in known:
                raise BadCheckpoint(f"{folder}: its {what} are of kind {name!r}, known are {', '.join(known)}.  {remedy}")
    return dims


def _read_recipe(values: dict, folder: Path) -> LipRecipe:
    try:
        return LipRecipe.from_dict(values)
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{folder}: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
