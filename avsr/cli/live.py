"""`avsr live`: what is said before a webcam and a microphone, as text while it is said; with --type, typed at the cursor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import (
    CONTEXT,
    Number,
    ProgressBar,
    check_writable,
    limit_openmp_spinning,
    print_result,
    report_errors,
)
from avsr.cli.live_view import LiveView
from avsr.errors import AvsrError

if TYPE_CHECKING:
    from avsr.checkpoint import Checkpoint
    from avsr.live.recogniser import LiveRecogniser
    from avsr.live.sources import DeviceSource, LiveSource
    from avsr.transcript import Transcript

GRACE_S = 20.0                        # seconds after Ctrl-C within which the last words must have been recognised
NONE = "none"


@click.command("live", context_settings=CONTEXT, short_help="Text as it is said before a webcam and a microphone.")
@click.option("--model", default="default", help="As for `avsr transcribe`.")
@click.option("--lips", default=None, metavar="MODEL",
              help="A second model, which reads the lips while --model uses the sound.  [default: the model alone]")
@click.option("--modality", type=click.Choice(["auto", "a", "v", "av"]), default="auto",
              help="Use the sound (a), the picture (v), both (av), or what there is and the model allows (auto). A device that "
                   "is not used stays off.")
@click.option("--camera", default=None, metavar="NUMBER|DEVICE|ADDRESS",
              help="A camera: its number, its device, or the address of one in the network (MJPEG, RTSP).  [default: 0]")
@click.option("--microphone", default=None, metavar="NUMBER|NAME",
              help="A microphone: its number, or a part of its name.  [default: the system's]")
@click.option("--video", default=None, metavar="FILE",
              help="Play a file as if live, its sound too unless --audio names another; none: no picture.")
@click.option("--audio", default=None, metavar="FILE", help="Play a sound file as if live; none: no sound.")
@click.option("--list-devices", is_flag=True, help="List the microphones and cameras of this machine, and end.")
@click.option("--language", default=None,
              help="The language's code or English name (de, German); a multilingual model detects it if it is not given.")
@click.option("--speakers", is_flag=True, help="Tell from the picture who says each word, as `avsr transcribe` does.")
@click.option("--step", type=Number(0.1, 10), default=None, metavar="SECONDS",
              help="Look at the text again after so much more was said.  [default: 0.3]")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--type", "types", is_flag=True,
              help="Push-to-talk: what is said, or mouthed with --modality v, while --key is held is typed at the cursor when "
                   "it is released. On X11, Windows and macOS (which asks for permission), not on Wayland.")
@click.option("--key", default="ctrl_r", metavar="KEY",
              help="The key to hold for --type: ctrl_r, or another that writes nothing, such as f9, pause or scroll_lock.")
@click.option("--format", "-f", "formats", default=None, metavar="LIST",
              help="Files to write at the end: any of txt,srt,vtt,tsv,json,textgrid,ctm, or all.  [default: txt where "
                   "--output-dir is given]")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Where to write them.  [default: here where --format is given]")
@click.option("--quiet", "-q", is_flag=True, help="No status line and no warnings; errors are still shown.")
def live_command(list_devices: bool, types: bool, key: str, formats: str | None, output_dir: str | None, quiet: bool,
                 **options) -> None:
    """Write what is said before a webcam and a microphone, as it is said.

    On a terminal words that may still change are dim; in a pipe only words come that will not, a line for each sentence. Ctrl-C
    ends it, after the last words. Sound and pictures stay in the memory of this machine: nothing is kept or sent but the text,
    which only --format and --output-dir write to files.

    --modality v reads lips alone, for people who cannot speak aloud, or must not. The models that come with the program know
    few faces: it takes published lips (`avsr fetch`), or lips that know you (`avsr enrol`), given by --model.
    """
    with report_errors("The last words were not recognised.  Give the same command to begin anew.") as stopping:
        if list_devices:
            _list_devices()
            return
        _check(options, types, formats or output_dir)
        names, folder = _formats(formats, output_dir), Path(output_dir or ".")
        stop = threading.Event()
        with ProgressBar(quiet) as bars:
            if types:
                _check_keyboard(key)
            open_source = _sources(options)
            checkpoint = _load(options, bars)
            source = open_source(checkpoint, bars)
        try:
            with stopping.politely(stop.set, GRACE_S):
                if types:
                    _type_held(checkpoint, source, options, key, LiveView(quiet), stop)
                    return
                transcript = _run(checkpoint, source, options, LiveView(quiet), stop)
                _write(transcript, names, folder, source.name)
        finally:
            source.close()


def _formats(formats: str | None, output_dir: str | None) -> tuple[str, ...]:
    """The formats to write, of which there may be none; the folder is checked now, not after an hour."""
    from avsr.transcript import parse_formats

    names = parse_formats(formats or "txt") if formats or output_dir else ()
    if names:
        check_writable(Path(output_dir or "."))
    return names


def _write(transcript: Transcript, names: tuple[str, ...], folder: Path, name: str) -> None:
    from avsr.transcript import write

    if names:
        write(transcript, names, output_dir=folder, stem=Path(name).stem or "live", word_timestamps=True)


def _check(options: dict, types: bool, writes: object) -> None:
    """Raises AvsrError for options that contradict each other."""
    video, audio, modality = options["video"], options["audio"], options["modality"]
    files = [f"--{name} {options[name]}" for name in ("video", "audio") if options[name] not in (None, NONE)]
    devices = [f"--{name} {options[name]}" for name in ("camera", "microphone") if options[name] is not None]
    if files and devices:
        raise AvsrError(f"{files[0]} plays a file, so {devices[0]} has no meaning.  Leave one of them out.")
    if (video == NONE or modality == "a") and options["camera"] is not None:
        raise AvsrError(f"--camera {options['camera']} has no meaning without a picture.  Leave it out.")
    if (audio == NONE or modality == "v") and options["microphone"] is not None:
        raise AvsrError(f"--microphone {options['microphone']} has no meaning without sound.  Leave it out.")
    if (video == NONE or modality == "a") and (audio == NONE or modality == "v"):
        raise AvsrError("Neither sound nor picture is left.  Leave out --video none, --audio none or --modality.")
    if types and writes:
        raise AvsrError("--type types the text and writes no files.  Leave out --format and --output-dir.")


def _list_devices() -> None:
    from avsr.live.camera import list_cameras
    from avsr.live.microphone import list_microphones

    for title, list_all in (("microphones", list_microphones), ("cameras", list_cameras)):
        try:
            lines = list_all()
        except AvsrError as error:
            lines = [f"none: {error}"]
        print_result(f"{title}:")
        for line in lines or ["none"]:
            print_result(f"  {line}")


def _check_keyboard(key: str) -> None:
    """Raises AvsrError before the model is loaded where the system lets nobody type."""
    from avsr.live.keyboard import Keyboard

    with Keyboard(key):
        pass


def _load(options: dict, bars: ProgressBar) -> Checkpoint:
    """The model; heavy imports wait until here. Raises AvsrError where it cannot do what is asked."""
    bars("loading the model", 0, None, None)
    limit_openmp_spinning()
    from avsr.modality import check_modality
    from avsr.transcribe.run import load_models

    checkpoint = load_models(options["model"], options["lips"], options["modality"], options["device"], bars, kept_export=True)
    check_modality(checkpoint, options["modality"])
    return checkpoint


def _sources(options: dict) -> Callable[[Checkpoint, ProgressBar], LiveSource]:
    """How to open what is to be recognised, once the model says what it needs. A microphone is opened at once, so that a
    problem shows before the model is loaded."""
    video, audio = options["video"], options["audio"]
    if video not in (None, NONE) or audio not in (None, NONE):
        return partial(_open_files, options)
    microphone = None
    if audio != NONE and options["modality"] != "v":
        from avsr.live.microphone import Microphone

        microphone = Microphone(options["microphone"])

    def open_devices(checkpoint: Checkpoint, bars: ProgressBar) -> DeviceSource:
        from avsr.live.camera import Camera
        from avsr.live.sources import DeviceSource

        camera = None
        sees = (checkpoint.video_trained and options["modality"] != "a") or options["speakers"]
        if sees and video != NONE:
            try:
                camera = Camera(options["camera"] or "0")
            except AvsrError as error:
                if microphone is None or options["modality"] != "auto" or options["camera"] or options["speakers"]:
                    raise
                bars.warn([f"{error}  It goes by the sound alone now."])
        if microphone is None and camera is None:
            raise AvsrError(f"{checkpoint.name}: this model reads no lips, and there is no sound.  Use a model that does.")
        return DeviceSource(microphone, camera)

    return open_devices


def _open_files(options: dict, checkpoint: Checkpoint, bars: ProgressBar) -> LiveSource:
    """The files of --video and --audio."""
    from avsr.live.sources import FileSource
    from avsr.transcribe.run import language_of

    video, audio = (None if options[name] == NONE else options[name] for name in ("video", "audio"))
    both = video is not None and options["audio"] is None and options["modality"] != "v"
    if options["modality"] == "v":
        audio = None
    if options["modality"] == "a" and not options["speakers"]:
        video, audio, both = None, audio or (video if both else None), False
    language = language_of(checkpoint, options["language"]) if options["language"] else None
    landmarks = checkpoint.mouth_crop.face_landmarks if checkpoint.video_trained else None
    return FileSource(video, audio, both_from_video=both, language=language, landmarks=landmarks)


def _recogniser(checkpoint: Checkpoint, source: LiveSource, options: dict) -> LiveRecogniser:
    from avsr.live import LiveRecogniser, LiveSettings

    steps = {} if options["step"] is None else {"step_s": options["step"]}
    return LiveRecogniser(checkpoint, modality=options["modality"], language=options["language"], has_audio=source.has_audio,
                          has_video=source.has_video, name=source.name,
                          settings=LiveSettings(speakers=options["speakers"], **steps))


def _run(checkpoint: Checkpoint, source: LiveSource, options: dict, view: LiveView, stop: threading.Event) -> Transcript:
    """Recognise until the source or the user ends it."""
    from avsr.live.running import recognise

    with _recogniser(checkpoint, source, options) as live, view:
        view.say(f"{source.name}: {live.reason}.  Ctrl-C ends it.")
        source.start()
        recognise(source, live, partial(view.show, watched="v" in live.modality, source=source), enough=stop.is_set)
        view.warn(live.recording.problems)
        return live.transcript()


def _type_held(checkpoint: Checkpoint, source: LiveSource, options: dict, key: str, view: LiveView,
               stop: threading.Event) -> None:
    """Type what is said while the key is held, each time it is released, until the user ends it."""
    from avsr.live.keyboard import Keyboard

    with Keyboard(key) as keyboard, view:
        _recogniser(checkpoint, source, options).close()     # what it cannot do shows now
        source.start()
        view.say(f"Hold {key} while you speak or mouth, and release it: the text is typed at the cursor.  Ctrl-C here ends it.")
        while not stop.is_set():
            if not keyboard.held:
                source.skip()
                view.warn(source.problems())
                time.sleep(0.02)
                continue
            text = _held_text(checkpoint, source, options, view, lambda: stop.is_set() or not keyboard.held)
            while keyboard.held and not stop.is_set():       # a file may end before the key is released
                time.sleep(0.02)
            if text and not stop.is_set():
                view.warn(keyboard.type(text))


def _held_text(checkpoint: Checkpoint, source: LiveSource, options: dict, view: LiveView,
               released: Callable[[], bool]) -> str:
    """The text of what is said until the key is released."""
    from avsr.live.running import recognise

    source.start()
    with _recogniser(checkpoint, source, options) as live:
        recognise(source, live, partial(view.show, watched="v" in live.modality, source=source), enough=released)
        view.end_line()
        return live.transcript().text
