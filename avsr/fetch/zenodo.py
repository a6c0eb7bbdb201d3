"""Zenodo: the number of a record -> its files with address, size and checksum, and its licence, from its web API."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from avsr.download import Remote, read
from avsr.errors import BadDownload

VARIABLE = "AVSR_ZENODO"                                    # the address of the API, for mirrors and tests
API = "https://zenodo.org/api"
CHECKSUMS = ("md5", "sha1", "sha256", "sha512")


@dataclass(frozen=True)
class Record:
    """A record. files: by name. licence: as the record names it, such as cc-by-4.0; None if it does not."""

    address: str
    files: dict[str, Remote]
    licence: str | None


def read_record(number: str) -> Record:
    """Read a record. Raises BadDownload."""
    address = f"{(os.environ.get(VARIABLE) or API).rstrip('/')}/records/{number}"
    try:
        answer = read(address, f"record {number}")
    except BadDownload as error:
        raise BadDownload(f"{address}: the record could not be read: {error.problem}.  Check the network and {VARIABLE}, then "
                          "run again.", error.problem, network=True) from error
    try:
        data = json.loads(answer)
        files = {entry["key"]: _remote(entry, address) for entry in data["files"]}
        licence = (data.get("metadata") or {}).get("license")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"its answer is not a record with files ({type(error).__name__}: {error})"
        raise BadDownload(f"{address}: {problem}.  Check {VARIABLE}, or try again later.", problem, network=True) from error
    return Record(address, files, licence.get("id") if isinstance(licence, dict) else licence)


def _remote(entry: dict, address: str) -> Remote:
    """A file of the record. Raises BadDownload if the record came encrypted and the link to the file is not."""
    url, size, checksum = entry["links"]["self"], int(entry["size"]), entry.get("checksum") or ""
    if urlsplit(address).scheme == "https" and urlsplit(url).scheme != "https":
        problem = f"its link {url} is not encrypted"
        raise BadDownload(f"{address}: {problem}.  Try again later, or download it by hand and unpack it into "
                          "FOLDER; tell those who run the server.", problem)
    return Remote(entry["key"], url, size, checksum if checksum.partition(":")[0] in CHECKSUMS else None)
