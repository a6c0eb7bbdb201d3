"""The people whose lips are kept on this machine: names, what is known of each, and how to delete it.

    data folder -> Person of each;  name -> deleted
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsr.checkpoint import shipped
from avsr.checkpoint.kept import enrolled_folder, fetched_folder
from avsr.errors import AvsrError, BadOutput, quote
from avsr.names import CONTROLS, LONGEST
from avsr.schema import read_json

FORBIDDEN = '/\\:*?"<>|'                                    # what a file system may refuse


@dataclass(frozen=True)
class Person:
    """Somebody whose lips are kept. folder: where. base: the lips that they add to. n_bytes: of all files.

    facts: those of the enrolment, see run.Enrolled.
    """

    name: str
    folder: Path
    base: str
    n_bytes: int
    facts: dict[str, Any]


def check_name(name: str, *, replace: bool = False) -> None:
    """Raises AvsrError for a name that cannot be given to lips. replace: whether lips of that name may be replaced."""
    shown = quote(name)
    if not name.strip() or name != name.strip(" .") or CONTROLS.search(name) or set(name) & set(FORBIDDEN) \
            or len(name.encode(errors="replace")) > LONGEST:
        raise AvsrError(f"{shown}: not a name that every file system can hold.  Use up to {LONGEST} letters, digits and "
                        "dashes, such as anna.")
    if name in _models() or (fetched_folder(name) / "model.json").is_file():
        raise AvsrError(f"{name}: the name of a model already.  Choose another, such as {name}-lips.")
    if (enrolled_folder(name) / "model.json").is_file() and not replace:
        raise AvsrError(f"{name}: this name is taken; its lips are in {enrolled_folder(name)}.  Use --replace to make them "
                        "anew, or choose another name.")


def _models() -> set[str]:
    from avsr.importers.whisper import SIZES

    return {*shipped(), *SIZES, "large", "turbo", "none"}


def enrolled() -> list[Person]:
    """Everybody whose lips are kept, by name."""
    found = []
    for path in enrolled_folder("a").parent.glob("*/model.json"):
        about, files = read_json(path), [one for one in path.parent.iterdir() if one.is_file()]
        found.append(Person(str(about.get("name")), path.parent, str(about.get("base")),
                            sum(one.stat().st_size for one in files), dict(about.get("training") or {})))
    return sorted(found, key=lambda person: person.name)


def work_folder(name: str) -> Path:
    """Where the mouths and the sound of an enrolment lie while it runs."""
    return enrolled_folder(name).with_name(f".{enrolled_folder(name).name}.part")


def delete(name: str) -> Path:
    """Delete all that is kept of a person, and what a killed enrolment left; returns the folder.

    Raises AvsrError where there is nothing, BadOutput where it cannot be deleted.
    """
    folder = enrolled_folder(name)
    there = [one for one in (folder, work_folder(name)) if one.is_dir()]
    if not there:
        known = ", ".join(person.name for person in enrolled()) or "nobody"
        raise AvsrError(f"{quote(name)[1:-1]}: nothing is kept under this name; enrolled: {known}.  Give one of these names.")
    try:
        for one in there:
            shutil.rmtree(one)
    except OSError as error:
        raise BadOutput(f"{error.filename or folder}: it cannot be deleted ({error.strerror}).  Delete the folder yourself.") \
            from error
    return folder
