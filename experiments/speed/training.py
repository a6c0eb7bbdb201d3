"""How fast training is, and what the loader, the padding and the lip networks have to do with it.

    uv run experiments/speed/training.py data/grid/manifest.jsonl              # on the CPU, one thread; --device cuda
Prints, and appends to results.jsonl: clips a second forward and backward for each lip network and modality, their GMAC
for a 3 s clip, clips a second of the loader with one process, CPU time of a clip's augmentation by torchvision, and the share
of padding in an epoch's batches.
"""

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from avsr.augment import Augment
from avsr.batch import Batches, InfiniteSampler, augmented, loader, padding, plan_epoch
from avsr.config import DataConfig, LossConfig
from avsr.dataset import Examples, label_words, read_prepared
from avsr.losses import LossModule
from avsr.models.avsr import AVSR, Dims
from avsr.models.video import FRONTENDS
from avsr.noise import Coloured, NoiseMixer
from avsr.text import write_characters

HERE = Path(__file__).resolve().parent
DIMS = Dims(n_video_layers=3, n_decoder_layers=2, n_vocab=34, n_context=96)


def gmac(front: str) -> float:
    """Multiplications and additions, in billions, of a lip network for 75 frames."""
    net = FRONTENDS[front]().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 75, 88, 88), torch.ones(1, 75, dtype=torch.bool))
    return counter.get_total_flops() / 2 / 1e9


def steps_a_second(learner: LossModule, batches: list, augment: Augment, device: torch.device) -> float:
    """Clips a second of forward and backward, over `batches`, after one to warm up; on a GPU with the mouths' augmentation."""
    started = clips = 0
    for number, batch in enumerate([batches[0], *batches]):
        if number == 1:
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = learner(augmented(batch, augment, device))
        losses.total.backward()
        learner.zero_grad()
        clips += len(batch.ids) if number else 0
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clips / (time.perf_counter() - started)


def augmentation_ms(batches: list, augment: Augment) -> float:
    """CPU time that augmenting the mouths of a clip takes, over `batches` on the CPU, after one to warm up."""
    began = clips = 0
    for number, batch in enumerate([batches[0], *batches]):
        if number == 1:
            began = time.process_time()
        augmented(batch, augment, torch.device("cpu"))
        clips += len(batch.ids) if number else 0
    return 1000 * (time.process_time() - began) / clips


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--frames", type=int, default=900)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    rows, _ = read_prepared([arguments.manifest], "train", 30.0)
    labels = label_words(rows, 500)
    tokenizer = write_characters(Path(tempfile.mkdtemp()) / "tokenizer.json")
    examples = Examples(tokenizer.path, 80, labels, NoiseMixer({"pink": Coloured(1.0)}, snr_range=(-10, 20)), Augment())
    out = {"training": arguments.manifest.parent.name, "device": arguments.device, "threads": 1}
    batches = Batches(rows, examples, tokenizer.prompt(None), tokenizer.end, None, finished=device.type == "cpu")
    still = Batches(rows, examples, tokenizer.prompt(None), tokenizer.end, None, finished=False)
    looking = plan_epoch(rows, replace(DataConfig(), p_audio_visual=0.0, p_audio=0.0, frames=arguments.frames), 1, 0)
    out["augmentation, ms a clip"] = round(augmentation_ms([still[plan] for plan in looking[:arguments.batches]],
                                                           examples.augment), 2)
    held = {}
    for modality, shares in {"a": (0.0, 1.0), "v": (0.0, 0.0), "av": (1.0, 0.0)}.items():
        config = replace(DataConfig(), p_audio_visual=shares[0], p_audio=shares[1], frames=arguments.frames)
        plans = plan_epoch(rows, config, 1, 0)
        held[modality] = [batches[plan] for plan in plans[:arguments.batches]]
        if modality == "av":
            lengths = [row.n_frames for row in rows]
            out["padding"] = round(padding([plan.rows for plan in plans], lengths), 4)
            source = iter(loader(batches, InfiniteSampler(rows, config, 2), 1, pin=False))
            next(source)
            started = time.perf_counter()
            clips = sum(len(batch.ids) for batch in itertools.islice(source, 20))
            out["loader clips/s, one process"] = round(clips / (time.perf_counter() - started), 1)
            del source
    for front in FRONTENDS:
        learner = LossModule(AVSR(replace(DIMS, video_frontend=front)), LossConfig(), len(labels) + 1).to(device)
        out[front] = {"gmac": round(gmac(front), 3),
                      "clips/s": {modality: round(steps_a_second(learner, held[modality], examples.augment, device), 2)
                                  for modality in (("a", "v", "av") if front == "compact" else ("v",))}}
        if device.type == "cuda":
            out[front]["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    print(json.dumps(out))
    with (HERE / "results.jsonl").open("a") as file:
        file.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
