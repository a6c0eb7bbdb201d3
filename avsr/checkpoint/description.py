"""`Checkpoint`, and its description in model.json, which is read back field by field against a schema.

    Checkpoint -> describe -> model.json -> read_description -> Description -> read_dims, read_mouth_crop
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from avsr import rates as rates_here
from avsr.checkpoint.old_names import AudioGate, current_dims, current_fields
from avsr.errors import BadCheckpoint, quote
from avsr.lips import MouthCropSettings
from avsr.schema import Between, InvalidValue, Printable, read_json, validate_table
from avsr.text import SentencePieceTokenizer, Tokenizer

if TYPE_CHECKING:
    from avsr.models.avsr import AVSR, Dims
    from avsr.models.hybrid import HybridAVSR, HybridDims

LAYOUT, OLDER = 2, (1,)                                     # of model.json; a newer one is refused, see old_names for 1
RATES = ("SAMPLE_RATE", "VIDEO_FPS", "HOP", "N_FFT", "MOUTH_SIZE", "MOUTH_INPUT")
COPY, VERSION = "Copy the whole folder again.", "Use the version of avsr it was trained with."

Token = Annotated[int, Between(0, 2**20)]
Place = Annotated[int, Between(0, 2**10)]                   # of a layer, or of a head


@dataclass(frozen=True)
class Checkpoint:
    """A network with everything that its use needs.

    model: of torch; or of an export an OnnxModel, which has all of SpeechModel, and nothing to train.
    pad_seconds: length to which sound is padded with silence before it is encoded (Whisper's 30), None for none.
    video_trained: whether the video encoder is trained. base: the model from which unchanged weights come.
    suppress, suppress_begin, alignment_heads: see importers.whisper.WhisperSettings.
    search: decode.DecodeOptions that it wants in place of the defaults, as its authors report their figures with them.
    training: free facts for the reader: data and licence, git commit, step, scores.
    """

    name: str
    model: AVSR | HybridAVSR
    tokenizer: Tokenizer | SentencePieceTokenizer
    mouth_crop: MouthCropSettings = field(default_factory=MouthCropSettings)
    video_trained: bool = False
    base: str | None = None
    pad_seconds: int | None = rates_here.SEGMENT_SECONDS
    suppress: tuple[int, ...] = ()
    suppress_begin: tuple[int, ...] = ()
    alignment_heads: tuple[tuple[int, int], ...] = ()
    search: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)

    @property
    def pad_columns(self) -> int | None:
        """`pad_seconds` in feature columns."""
        return None if self.pad_seconds is None else self.pad_seconds * rates_here.FEATURE_RATE

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that it can use: `a`, `v`, `av`."""
        return tuple(one for one in self.model.modalities if self.video_trained or "v" not in one)

    @property
    def languages(self) -> tuple[str, ...]:
        """Two-letter codes of the languages that the model can write."""
        return tuple(self.tokenizer.languages) or ("en",)


@dataclass(frozen=True)
class Description:
    """model.json. The fields that a Checkpoint has too are as there; `dims`, `rates` and `mouth_crop` have own schemas."""

    layout: int
    dims: dict[str, Any]
    rates: dict[str, Any]
    mouth_crop: dict[str, Any]
    sha256: dict[str, Annotated[str, Printable(64)]]
    name: Annotated[str, Printable(4096)]
    video_trained: bool
    pad_seconds: Annotated[int, Between(1, rates_here.SEGMENT_SECONDS)] | None
    suppress: tuple[Token, ...]
    suppress_begin: tuple[Token, ...]
    alignment_heads: tuple[tuple[Place, Place], ...]
    training: dict[str, Any]
    base: Annotated[str, Printable(4096)] | None = None
    network: Annotated[str, Printable(100)] = "avsr"
    search: dict[str, Any] = field(default_factory=dict)
    onnx: dict[str, Any] = field(default_factory=dict)      # of an export, see exported.py

    def facts(self) -> dict[str, Any]:
        """The fields that a Checkpoint has too."""
        return {name: getattr(self, name) for name in _shared()}


def _shared() -> list[str]:
    """The fields of a Checkpoint that model.json holds as they are."""
    return [f.name for f in fields(Checkpoint) if f.name not in ("model", "tokenizer", "mouth_crop")]


def network_of(model: AVSR | HybridAVSR) -> str:
    """The kind of network, as model.json names it."""
    return type(model).__name__.removesuffix("AVSR").lower() or "avsr"


def describe(checkpoint: Checkpoint, sha256: dict[str, str]) -> dict:
    """model.json, given the sha256 of the files beside it."""
    return {"layout": LAYOUT, "network": network_of(checkpoint.model), "dims": asdict(checkpoint.model.dims),
            "rates": {name: getattr(rates_here, name) for name in RATES}, "mouth_crop": checkpoint.mouth_crop.to_dict(),
            "sha256": sha256, **{name: getattr(checkpoint, name) for name in _shared()}}


def read_description(folder: Path) -> Description:
    """model.json, with every field of its type, and the rates of this version. Raises BadCheckpoint."""
    values = current_fields(read_json(folder / "model.json"))
    if values.get("network") == "language model":
        raise BadCheckpoint(f"{folder}: a language model, and no recogniser.  Give it as --lm.")
    if values.get("network") == "lr_asd":
        raise BadCheckpoint(f"{folder}: a network that tells who speaks, and no recogniser.  Give it as --speaker-model.")
    if values.get("layout") not in (LAYOUT, *OLDER) or isinstance(values["layout"], bool | float):
        raise BadCheckpoint(f"{folder}: model.json of layout {quote(values.get('layout'))}, known is {LAYOUT}.  Install a "
                            "newer avsr.")
    if absent := [f.name for f in fields(Description) if f.name not in values and f.default is MISSING
                  and f.default_factory is MISSING]:
        raise BadCheckpoint(f"{folder}: its model.json lacks {', '.join(absent)}.  {COPY}")
    try:
        description = Description(**validate_table(Description, values))
    except InvalidValue as error:
        raise BadCheckpoint(f"{folder / 'model.json'}: {error}.  {COPY}") from error
    here = {name: getattr(rates_here, name) for name in RATES}
    for name in [*RATES, *description.rates]:
        theirs, ours = description.rates.get(name), here.get(name)
        if theirs != ours:
            raise BadCheckpoint(f"{folder}: made with {quote(name)[1:-1]} = {quote(theirs)}, here it is {quote(ours)}.  "
                                f"{VERSION}")
    return description


def read_dims(description: Description, folder: Path) -> Dims | HybridDims:
    """The sizes of the network. Raises BadCheckpoint."""
    from avsr.models.avsr import Dims
    from avsr.models.hybrid import HybridDims

    kinds = {"avsr": Dims, "hybrid": HybridDims}
    if description.network not in kinds:
        raise BadCheckpoint(f"{folder}: its network is of kind {quote(description.network)}, known are {', '.join(kinds)}.  "
                            "Install a newer avsr.")
    try:
        values = current_dims(description.dims)
    except AudioGate as error:
        raise BadCheckpoint(f"{folder / 'model.json'}: dims.{error}.  {VERSION}") from error
    kind = kinds[description.network]
    known = [f.name for f in fields(kind)]
    if unknown := sorted(values.keys() - set(known)):       # one that is absent is younger than the model
        nearest = get_close_matches(unknown[0], known, 1)
        hint = f", which may mean {nearest[0]}" if nearest else ""
        raise BadCheckpoint(f"{folder}: its {kind.__name__} differ from this version's in {quote(unknown[0])[1:-1]}{hint}.  "
                            f"{VERSION}")
    try:
        return kind(**validate_table(kind, values, "dims."))
    except (InvalidValue, ValueError) as error:
        raise BadCheckpoint(f"{folder / 'model.json'}: {error}.  {VERSION}") from error


def read_mouth_crop(description: Description, folder: Path) -> MouthCropSettings:
    """How mouths are cut out for it. Raises BadCheckpoint."""
    try:
        return MouthCropSettings.from_dict(description.mouth_crop)
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{folder}: {error}") from error
