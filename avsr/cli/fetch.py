"""`avsr fetch`: corpora, noise and models from their publishers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, ProgressBar, print_result, print_status, report_errors
from avsr.errors import AvsrError

if TYPE_CHECKING:
    from avsr.fetch.run import Fetched
    from avsr.fetch.source import Source


@click.command("fetch", context_settings=CONTEXT)
@click.argument("name", required=False)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--list", "show_list", is_flag=True, help="Show what can be fetched: name, size, licence. Nothing is fetched.")
@click.option("--speakers", default=None, metavar="NUMBERS",
              help="Speakers of a corpus that comes by speaker, such as 1-4 or 1,3,20-25.  [default: all]")
@click.option("--part", "parts", multiple=True, metavar="PART",
              help="A part, such as side of lombard; may be repeated.  [default: the usual parts, see --list]")
@click.option("--accept-licence", is_flag=True, help="Agree to a licence that forbids some uses.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar, licence or summary; errors are still shown.")
def fetch_command(name: str | None, folder: Path | None, show_list: bool, quiet: bool, **options) -> None:
    """Fetch the corpus, noise or model NAME into FOLDER.

    It is downloaded, checked and unpacked, ready for `avsr prepare` or `--noise`. A model is converted, and needs no FOLDER: it
    is then kept in the cache and used by its NAME, which may also be OWNER/REPOSITORY:FILE of the Hugging Face hub. The same
    command again continues where it was stopped, and downloads nothing if everything is there. AVSR_ZENODO may name another
    address of Zenodo's API, such as that of a mirror, and HF_ENDPOINT another hub. The variables https_proxy and http_proxy are
    used.
    """
    with report_errors("What is fetched is kept.  Give the same command again; it goes on where it was stopped."):
        from avsr.fetch import fetch
        from avsr.fetch.sources import source_of

        if show_list:
            _print_list()
            return
        if name is None:
            raise AvsrError("avsr fetch: no name is given.  Write avsr fetch NAME FOLDER; avsr fetch --list shows the names.")
        source = source_of(name)
        place, folder = folder, folder or _cache_of(source)
        if not quiet:
            print_status(f"{name}: {source.what}.\nLicence: {source.licence} ({source.terms}).  Cite {source.cite}.",
                         lines=True)
        with ProgressBar(quiet) as bars:
            fetched = fetch(name, folder, progress=bars, **options)
            if source.kind == "model":
                _convert(fetched, bars)
        if not quiet:
            print_status(_summary(fetched, name if place is None else str(folder)), lines=True)
    print_result(str(folder))


def _cache_of(source: Source) -> Path:
    """The folder of a model in the cache. Raises AvsrError for what needs a folder to be named."""
    from avsr.checkpoint.kept import fetched_folder

    if source.kind != "model":
        raise AvsrError(f"avsr fetch: no folder for {source.name} is given.  Write avsr fetch NAME FOLDER; avsr fetch --list "
                        "shows the names.")
    return fetched_folder(source.name)


def _convert(fetched: Fetched, progress: ProgressBar) -> None:
    """Make the published file of a model a model of ours in the same folder, unless that is done."""
    folder = fetched.folder
    if not fetched.fresh and (folder / "model.json").exists():
        return
    progress("loading torch", 0, None, None)
    from avsr.checkpoint.importing import Imported, import_checkpoint  # heavy imports wait until here
    from avsr.fetch import records

    part = fetched.parts[0]
    (weights, *_) = [file.path for file in records.files_of(folder, part) or ()]
    has_tokenizer = len(fetched.parts) > 1
    imported = import_checkpoint(folder / weights, folder, tokenizer=folder if has_tokenizer else None, progress=progress)
    if isinstance(imported, Imported):                      # the model holds all of it: a second GB would be of no use
        records.replace_files(folder, part, ["model.json", "model.safetensors", "tokenizer.json"])
        (folder / weights).unlink()


def _print_list() -> None:
    """Print every source, in the order of the table."""
    from avsr.fetch.sources import SOURCES

    for source in SOURCES.values():
        print_result("\n".join(_entry(source)), lines=True)


def _entry(source: Source) -> list[str]:
    """The lines of a source in the list."""
    from avsr.fetch.models import HUB

    place = f"Zenodo record {source.record}" if source.record else next(iter(source.files.values())).url
    unchecked = [file.name for file in source.files.values() if file.checksum is None]
    on_hub = place.startswith(HUB)
    check = ("; this address was not tried; what the hub announces at the first fetch is held to" if on_hub else
             "; no checksum is published, the archive's own are tested" if unchecked else "")
    lines = [f"{source.name} ({source.kind}): {source.what}",
             f"    size: {source.size}",
             f"    licence: {source.licence} ({source.terms})" + ("; needs --accept-licence" if source.must_agree else ""),
             f"    from: {place}{check}"]
    others = [part for part in source.parts if part not in source.default]
    if source.speakers:
        lines.append(f"    --speakers 1-{source.speakers}" + "".join(f"; {why}" for why in source.absent.values()))
    elif others:
        lines.append(f"    --part: {', '.join(source.default)} (default), {', '.join(others)}")
    elif len(source.parts) > 1 and not on_hub:
        lines.append(f"    --part: {', '.join(source.parts)} (default: all)")
    return lines


def _summary(fetched: Fetched, place: str) -> str:
    """What the folder has now, and the next command, which names it as `place`."""
    old = [part for part in fetched.parts if part not in fetched.fresh]
    lines = [f"note: {note}." for note in fetched.notes]
    if old:
        lines.append(f"{_names(old)}: whole already, nothing was fetched.")
    if fetched.fresh:
        how = "checked and converted" if fetched.source.kind == "model" else "checked and unpacked"
        lines.append(f"{_names(fetched.fresh)}: fetched, {how}.")
    lines.append(f"{fetched.folder}: {fetched.n_files} files, {fetched.n_bytes / 1e6:.1f} MB.")
    return "\n".join([*lines, f"Go on:  {fetched.source.use.format(folder=place)}"])


def _names(parts: list[str] | tuple[str, ...]) -> str:
    return ", ".join(parts) if len(parts) < 7 else f"{', '.join(parts[:3])} ... {parts[-1]} ({len(parts)} parts)"
