"""`avsr faces`: who is seen in recordings, where and when, and who of them speaks when."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, ProgressBar, check_writable, limit_openmp_spinning, print_result, report_errors
from avsr.cli.files import FileQueue, distinct_stems
from avsr.errors import AvsrError
from avsr.rates import frames_to_seconds

if TYPE_CHECKING:
    from avsr.find_speakers.timeline import SpeakerTimeline

FORMATS = ("json", "video")
NOBODY_SEEN = "(not in the picture)"


@click.command("faces", context_settings=CONTEXT, short_help="Find who is seen and who speaks, and draw it.")
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "-f", "formats", default=None, metavar="LIST",
              help="Files to write: json, video or both.  [default: json,video where --output-dir is given]")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Where to write NAME.faces.json and NAME.faces.mp4.  [default: here where --format is given]")
@click.option("--speaker-model", default=None, metavar="MODEL",
              help="The network that tells who speaks: lr-asd, once fetched by `avsr fetch`, or a folder.  [default: our own]")
@click.option("--every", type=click.IntRange(1, 10**6), default=1, metavar="N",
              help="Write every N-th frame of each face to json; there are 25 frames a second.")
@click.option("--audio-track", type=click.IntRange(min=1), default=None, metavar="N",
              help="Number of the sound track, counted from 1.  [default: one in which somebody speaks]")
@click.option("--video-track", type=click.IntRange(min=1), default=None, metavar="N",
              help="Number of the video track, counted from 1.  [default: one that shows a face]")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no warnings; errors are still shown.")
def faces_command(paths: tuple[str, ...], formats: str | None, output_dir: str | None, every: int, quiet: bool,
                  **options) -> None:
    """Find who is seen in recordings, where and when, and who of them speaks when.

    Prints a line for each turn: start, end (seconds) and who speaks. FILE is a path, an address such as
    https://host/clip.mp4, or - for standard input. The video shows a thick orange box and the word "speaks" around whoever
    speaks, and a thin blue box around everybody else; the number is the score, above 0 if the mouth makes the sound.
    """
    files = FileQueue(paths)
    with report_errors(files.resume_hint):
        names = _parse_formats(formats or "json,video") if formats or output_dir else ()
        folder, stems = Path(output_dir or "."), distinct_stems(paths)
        if names:
            check_writable(folder)
        with ProgressBar(quiet) as bars:
            bars("loading the program", 0, None, None)
            limit_openmp_spinning()
            from avsr.find_speakers import find_speakers
            from avsr.output import write_file

            def work(path: str) -> None:
                place = folder / f"{stems[path]}.faces"
                timeline = find_speakers(path, video=f"{place}.mp4" if "video" in names else None, progress=bars,
                                         **options)
                if "json" in names:
                    write_file(f"{place}.json", timeline.to_json(every=every))
                _print_turns(timeline)
                bars.warn(timeline.notices)

            files.run(work, bars)


def _parse_formats(names: str) -> tuple[str, ...]:
    wanted = [name.strip().lower() for name in names.split(",")]
    for name in wanted:
        if name not in FORMATS:
            raise AvsrError(f"--format {name!r}: not known.  Use {', '.join(FORMATS)}, or both as {','.join(FORMATS)}.")
    return tuple(wanted)


def _print_turns(timeline: SpeakerTimeline) -> None:
    labels = timeline.labels
    for turn in timeline.turns:
        who = " ".join(labels[number] for number in turn.persons) or NOBODY_SEEN
        print_result(f"{frames_to_seconds(turn.start_frame):8.2f} {frames_to_seconds(turn.end_frame):8.2f}  {who}")
