"""The page: an account, pictures and recordings in, one HTML file that needs no other out.

    account (dict), Picture by name, Scene  ->  HTML text
"""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avsr import media
from avsr.explain.account import Found
from avsr.explain.canvas import Picture
from avsr.explain.pictures import heard_picture, letters_picture, mouth_picture, seen_picture, shares_picture
from avsr.explain.scene import Scene
from avsr.features import log_mel

CASES = {"none": "nothing heard, nothing seen", "a": "sound alone", "v": "lips alone", "av": "both",
         "a_clean": "sound alone, without the noise", "av_clean": "both, without the noise"}


def draw_all(found: Found) -> dict[str, Picture]:
    """The pictures there is something to draw for, by name."""
    scene, passes, out = found.scene, found.passes, {}
    duration_s, words = scene.piece.duration_s, passes.words
    if words:
        out["shares"] = shares_picture(words, duration_s, sound=scene.sound is not None, sight=scene.mouths is not None)
    if scene.sound is not None:
        sounds = {"sound": scene.sound} if scene.disturbance is None else {"as recorded": scene.clean, "in noise": scene.sound}
        mels = {name: log_mel(sound).numpy() for name, sound in sounds.items()}
        looks = found.looks.get("audio")
        out["heard"] = heard_picture(mels, None if looks is None else looks.weights, words, duration_s)
    if scene.mouths is not None:
        pixels, looks = None if found.saliency is None else found.saliency.pixels, found.looks.get("video")
        out["seen"] = seen_picture(scene.mouths, pixels, None if looks is None else looks.weights, words)
        if pixels is not None:
            out["mouth"] = mouth_picture(scene.mouths, pixels)
    if found.ctc:
        out["letters"] = letters_picture(found.ctc, words, duration_s)
    return out


def record(scene: Scene) -> dict[str, str]:
    """What can be played, as data addresses: `mouth` a video with the sound as heard, else `sound`; `clean` where noise was
    added. Sums of sound and noise that pass full scale are turned down."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        def address(name: str, frames: np.ndarray | None, sound: np.ndarray | None) -> None:
            path = Path(folder) / f"{name}.{'m4a' if frames is None else 'mp4'}"
            if sound is not None:
                sound = (sound / max(1.0, float(np.abs(sound).max()))).astype(np.float32)
            media.write(frames, path, audio=sound)
            kind = "audio/mp4" if frames is None else "video/mp4"
            out[name] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

        if scene.mouths is not None:
            address("mouth", scene.mouths.images, scene.sound)
        else:
            address("sound", None, scene.sound)
        if scene.disturbance is not None:
            address("clean", None, scene.clean)
    return out


def render(account: Mapping[str, Any], pictures: Mapping[str, Picture], recordings: Mapping[str, str],
           command: str | None) -> str:
    """The file's text. command: what to type to have the page made again, None where it was not made by one."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader("avsr.explain", "."), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"chance": chance, "factor": factor, "percent": percent}
    return environment.get_template("page.html").render(
        it=account, pictures=pictures, recordings=recordings, cases=CASES, command=command, verdict=verdict(account),
        widest_change=max((gate["change"] for gate in account["gates"]), default=0.0) or 1.0)


def chance(log_prob: float) -> str:
    """A mean log-probability as the chance of a token: 63 %, 0.4 %, 1 in 12,000."""
    share = math.exp(log_prob)
    if share >= 0.0095:
        return percent(share)
    return f"{100 * share:.1f}\u00a0%" if share >= 0.00095 else f"1 in {_two_digits(1 / share)}"


def factor(nats: float) -> str:
    """A difference of log-probabilities as a factor: 3.1, 0.5, 14,000."""
    return f"{math.exp(nats):.2g}" if nats < math.log(99.5) else _two_digits(math.exp(nats))


def percent(share: float) -> str:
    """63 %."""
    return f"{100 * share:.0f}\u00a0%"


def _two_digits(number: float) -> str:
    """12,000; 1.2e15."""
    return f"{float(f'{number:.2g}'):,.0f}" if number < 1e9 else f"{number:.1e}".replace("e+", "e")


def verdict(account: Mapping[str, Any]) -> str:
    """Who is to thank, in a sentence."""
    shares, values = account["shares"], {name: one["value"] for name, one in account["outputs"].items()}
    if not account["sight"]:
        return f"There was only sound to go by: {account['unseen']}."
    if not account["sound"]:
        return "There were only lips to go by: the recording has no sound."
    gain = f"the chance of a token of this text from {chance(values['none'])} to {chance(values['av'])}"
    if account["trust"] == 0:
        return f"The model does not believe these lips, so with both it goes by sound alone. That took {gain}."
    if account["heed"] == 0:
        return f"The model has stopped listening to this sound, so with both it goes by the lips alone. That took {gain}."
    if shares["total"] <= 0:
        return f"Hearing and seeing did not help: they took {gain}."
    if min(shares["sound"], shares["sight"]) < 0:
        helped, harmed = ("sound", "sight") if shares["sound"] > 0 else ("sight", "sound")
        return (f"Hearing and seeing took {gain}. That is owed to {helped}; {harmed} spoke against the text and made a token "
                f"of it {factor(shares[harmed])} times as likely.")
    part = round(100 * shares["sight"] / shares["total"])
    return f"Hearing and seeing took {gain}: {part}\u00a0% of that is owed to sight, {100 - part}\u00a0% to sound."
