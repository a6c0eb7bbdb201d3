"""Files of the Hugging Face hub: what the hub announces of them, so that the downloader can check and resume them.

    Remote at the hub's public address -> Remote at HF_ENDPOINT, with size, sha256 and revision, as the hub announces them
    "owner/repository:file" -> Source
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from avsr.download import Remote
from avsr.errors import AvsrError, BadDownload
from avsr.fetch.models import HUB, TOKENIZER_FILES
from avsr.fetch.source import Source

USUAL_FILE = "model.pth"                                    # where a name does not say which file it means
SHA256_LENGTH = 64                                          # an etag of another length is a git hash, of a small file


def announced(remote: Remote) -> Remote:
    """The file as the hub announces it; other files stay as they are. Raises BadDownload."""
    if not remote.url.startswith(f"{HUB}/"):
        return remote
    from huggingface_hub import constants, get_hf_file_metadata

    if constants.HF_HUB_OFFLINE:
        raise _failed(remote, "HF_HUB_OFFLINE is set", "Unset it, or put the model there by avsr import.")
    url = constants.ENDPOINT + remote.url.removeprefix(HUB)
    try:
        found = get_hf_file_metadata(url)
    except Exception as error:                              # the client raises errors of its own and of its HTTP library
        raise _problem(remote, error) from error
    sha256 = found.etag if found.etag is not None and len(found.etag) == SHA256_LENGTH else None
    pinned = url if found.commit_hash is None else url.replace("/resolve/main/", f"/resolve/{found.commit_hash}/")
    return Remote(remote.name, pinned, found.size, remote.checksum or (None if sha256 is None else f"sha256:{sha256}"))


def _problem(remote: Remote, error: Exception) -> BadDownload:
    """The message for what the hub did not answer."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return _failed(remote, "its repository is gated", "Accept its terms on the hub, and log in with hf auth login.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return _failed(remote, f"{constants.ENDPOINT} has no such repository",
                       "Check the name; avsr fetch --list shows others.")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return _failed(remote, "its repository has no such file", "Name the file: avsr fetch OWNER/REPOSITORY:FILE.")
    cause = str(error.__cause__ or error).strip().partition("\n")[0] or type(error).__name__
    return _failed(remote, f"{constants.ENDPOINT} does not answer ({cause})", "Check the network, and run again to go on.",
                   network=True)


def _failed(remote: Remote, problem: str, remedy: str, *, network: bool = False) -> BadDownload:
    return BadDownload(f"{remote.name}: it could not be fetched: {problem}.  {remedy}", problem, network=network)


def hub_source(name: str) -> Source | None:
    """The source of `owner/repository` or `owner/repository:file`; None for a name of another form."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?::([\w./ -]+))?", name)
    if found is None:
        return None
    repository, path = found[1], found[2] or USUAL_FILE
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise AvsrError(f"{name}: {path} is no file of a repository.  Name one, such as {repository}:{USUAL_FILE}.")
    file = PurePosixPath(path).name
    weights = Remote(file, f"{HUB}/{repository}/resolve/main/{path}")
    return Source(
        name=name, kind="model", what=f"{path} of {repository} on the Hugging Face hub", size="as the hub says",
        licence="not known here; what its uploader says does not replace the terms of its authors, nor of its training data",
        terms=f"{HUB}/{repository}", cite="its authors", use="avsr transcribe talk.mp4 --model tiny.en --lips {folder}",
        parts={"weights": file, **{part: remote.name for part, remote in TOKENIZER_FILES.items()}},
        default=("weights", *TOKENIZER_FILES), files={file: weights, **{one.name: one for one in TOKENIZER_FILES.values()}},
        must_agree=True)
