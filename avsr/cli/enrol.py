"""`avsr enrol`: clear video of one person to lips that know this person; what is kept of whom, and how it is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import (
    CONTEXT,
    ProgressBar,
    check_writable,
    limit_openmp_spinning,
    print_result,
    print_status,
    report_errors,
)
from avsr.errors import AvsrError, counted

if TYPE_CHECKING:
    from avsr.enrol import Enrolled, Person


@click.command("enrol", context_settings=CONTEXT, short_help="Adapt lips to a person, from clear video.")
@click.argument("name", required=False)
@click.argument("videos", nargs=-1, type=click.Path(path_type=Path))
@click.option("--lips", default="grid", metavar="MODEL", help="The model whose lips are adapted.")
@click.option("--ears", default=None, metavar="MODEL",
              help="The recogniser that writes the words, from the sound.  [default: Whisper base, or tiny.en where that is "
                   "not on this machine]")
@click.option("--text", type=click.Path(path_type=Path), default=None, metavar="PATH",
              help="What is said: a file, or a folder with NAME.txt for each video.  [default: the ears write it]")
@click.option("--replace", is_flag=True, help="Make the lips of this name anew.")
@click.option("--list", "show_list", is_flag=True, help="Show who is enrolled, what the lips are worth, and where they lie.")
@click.option("--delete", "deleted", is_flag=True, help="Delete all that is kept of NAME.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary; errors are still shown.")
def enrol_command(name: str | None, videos: tuple[Path, ...], show_list: bool, deleted: bool, quiet: bool, **options) -> None:
    """Adapt lips to the person who speaks in VIDEOS (files or folders), and keep them under NAME for --model and --lips.

    A minute or more of clear sound and a face in sight is needed; no text. A check on held-out parts of it says what the lips
    are worth; they are kept only if they got better. Nothing leaves this machine, and only the adapted weights and the facts of
    the check are kept: no picture and no sound.
    """
    with report_errors("Nothing new is kept.  Give the same command again; it begins anew."):
        if show_list:
            _print_list()
            return
        if name is None or not (videos or deleted):
            raise AvsrError("avsr enrol: no name or no video is given.  Write avsr enrol NAME VIDEOS..., or avsr enrol --list.")
        if deleted:
            from avsr.enrol.people import delete

            folder = delete(name)
            if not quiet:
                print_status(f"{name}: deleted ({folder}).")
            return
        _enrol(name, videos, quiet, options)


def _enrol(name: str, videos: tuple[Path, ...], quiet: bool, options: dict) -> None:
    from avsr.assets import data_folder
    from avsr.enrol.people import check_name

    check_name(name, replace=options["replace"])
    check_writable(data_folder() / "lips")
    with ProgressBar(quiet, lines=True) as bars:
        bars("loading the program", 0, None, None)
        limit_openmp_spinning()
        from avsr.enrol import EnrolSettings, enrol  # heavy imports wait until here

        done = enrol(name, videos, EnrolSettings(**options), progress=bars)
    if not quiet:
        print_status(_summary(done), lines=True)
    print_result(str(done.folder))


def _summary(done: Enrolled) -> str:
    left_out = sum(done.material.left_out.values())
    writer = "you" if done.facts["text_by"] == "user" else done.ears
    lines = [f"{done.name}: {done.material.seconds:.0f} s of speech in {counted(len(done.material.rows), 'segment')}, written "
             f"by {writer}; {left_out} left out."]
    lines += [f"  {n:6d}  {reason}" for reason, n in done.material.left_out.most_common(5)]
    return "\n".join([*lines, f"{done.check.sentence(done.ears)}",
                      f"Kept on this machine alone: {done.folder} ({done.n_bytes / 1000:.0f} kB; weights and the facts of the "
                      f"check, no picture, no sound).  Delete it:  avsr enrol {done.name} --delete",
                      f"Use it:  avsr transcribe call.mp4 --model {done.ears} --lips {done.name}"])


def _print_list() -> None:
    from avsr.checkpoint.kept import enrolled_folder
    from avsr.enrol.people import enrolled

    people = enrolled()
    for person in people:
        print_result("\n".join(_entry(person)), lines=True)
    if not people:
        print_status(f"Nobody is enrolled; lips would lie in {enrolled_folder('name').parent}.")


def _entry(person: Person) -> list[str]:
    check, facts = person.facts.get("check") or {}, person.facts
    lines = [f"{person.name}: adds to {person.base}; enrolled {facts.get('enrolled')} from {facts.get('seconds')} s of speech, "
             f"words by {facts.get('text_by')}"]
    if check:
        lines.append(f"    by lips alone {check['after']:.0f} % of {check['n_words']} held-out words wrong, "
                     f"{check['before']:.0f} % before")
    return [*lines, f"    {person.folder} ({person.n_bytes / 1000:.0f} kB)",
            f"    delete: avsr enrol {person.name} --delete"]
