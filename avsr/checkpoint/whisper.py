"""Published Whispers: packaged with the extra `offline`, by name from the hub, or in a folder.

    tiny.en | owner/model | folder in Hugging Face's or faster-whisper's layout  ->  Checkpoint without a trained video encoder
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from avsr import assets
from avsr.checkpoint.description import Checkpoint
from avsr.errors import BadCheckpoint, NotInModel
from avsr.runtime import Progress
from avsr.schema import read_json
from avsr.text import Tokenizer

PACKAGED = ("tiny.en", "base")                              # by the extra `offline`
N_TIMESTAMPS = 1501                                         # the last tokens of every Whisper, 0.00 to 30.00 s
WHISPER_VOCABULARIES = (51_864, 51_865, 51_866)             # English alone; 99 languages; 100, since large-v3


def fetch_whisper(repo: str, progress: Progress) -> Path:
    """Fetch a model in either layout, see importers.whisper.load_folder; returns its folder in the hub's cache."""
    from avsr.importers.whisper import WEIGHT_INDEX, check_kind, is_ctranslate2, shards

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
    with suppress(NotInModel):                       # fine-tuned models often lack it; config.json is used then
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


def load_packaged(size: str, with_video: bool, progress: Progress) -> Checkpoint:
    """A Whisper from the files of the extra `offline`."""
    from avsr.importers.whisper import load_ctranslate2

    weights, config, tokenizer = (assets.find(f"whisper-{size}.{part}", progress=progress)
                                  for part in ("ct2", "config.json", "tokenizer.json"))
    model, settings = load_ctranslate2(weights, config, video_frontend="resnet18" if with_video else None)
    return Checkpoint(size, model, Tokenizer(tokenizer), **vars(settings))


def load_whisper(folder: Path, name: str, with_video: bool) -> Checkpoint:
    from avsr.importers.whisper import check_kind, load_folder

    if not (folder / "config.json").exists():
        raise BadCheckpoint(f"{folder}: holds no config.json and no model.json, so it is no model.  Name a model's folder.")
    check_kind(read_json(folder / "config.json"), folder)
    if not (folder / "tokenizer.json").exists():
        raise BadCheckpoint(_without_tokenizer(folder))
    tokenizer = Tokenizer(folder / "tokenizer.json")
    model, settings = load_folder(folder, video_frontend="resnet18" if with_video else None)
    _check_tokenizer(tokenizer, model.dims.n_vocab)
    if wrong := settings.misfit(model.dims):
        raise BadCheckpoint(f"{folder}: {wrong}.  Take that out of its generation_config.json or config.json, or fetch the "
                            "model again.")
    return Checkpoint(name, model, tokenizer, **vars(settings))


def _without_tokenizer(where: Path | str) -> str:
    return (f"{where}: holds no tokenizer.json, which makes words of its tokens.  Put the tokenizer.json of the Whisper that "
            "it was made from, such as openai/whisper-small, beside its other files, and name that folder.")


def _check_tokenizer(tokenizer: Tokenizer, n_vocab: int) -> None:
    """Raises BadCheckpoint for another Whisper's tokenizer: an English one would garble the text of a multilingual network."""
    needed = tokenizer.first_timestamp + N_TIMESTAMPS
    if needed > n_vocab or (needed != n_vocab and n_vocab in WHISPER_VOCABULARIES):
        raise BadCheckpoint(f"{tokenizer.path}: it is for {needed} tokens, but the model beside it has {n_vocab}.  Put the "
                            "tokenizer.json of that very model in its place.")
