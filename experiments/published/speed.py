"""How fast the published networks are, from mouths and sound to text, at their real size with random weights.

    python experiments/published/speed.py --device cuda --seconds 10
Random weights never say that a text is over, so each search runs to its limit, a token a frame: 250 in 10 s, where speech
has about 45. `--tokens` limits it to a number that speech has. Looking for faces is not in it: see README.md.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from avsr.decode import DecoderScorer, search
from avsr.decode.ctc import CTCPrefixScorer
from avsr.decode.hybrid import HybridBeamSearch
from avsr.models.hybrid import HybridAVSR, HybridDims
from avsr.rates import MOUTH_INPUT, SAMPLES_PER_FRAME, VIDEO_FPS

LAYERS = {"v": {"n_video_layers": 12}, "a": {"n_audio_layers": 12}, "av": {"n_audio_layers": 12, "n_video_layers": 12}}
BEAM, CTC_WEIGHT = 40, 0.1                                  # the authors'


def main() -> None:
    """One JSON line per modality, batch and limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--modality", default="v,a,av")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--batch", default="1")
    parser.add_argument("--tokens", default="45,250")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    for modality in asked.modality.split(","):
        torch.manual_seed(0)
        with torch.device(asked.device):
            model = HybridAVSR(HybridDims(**LAYERS[modality])).eval().to(getattr(torch, asked.dtype))
        for batch in map(int, asked.batch.split(",")):
            for tokens in map(int, asked.tokens.split(",")):
                print(json.dumps(measure(model, asked, batch, min(tokens, asked.seconds * VIDEO_FPS))), flush=True)


@torch.inference_mode()
def measure(model: HybridAVSR, asked: argparse.Namespace, batch: int, n_tokens: int) -> dict:
    """The fastest of some runs, after one to warm up."""
    (modality,), n_frames = model.modalities, asked.seconds * VIDEO_FPS
    first = next(model.parameters())
    sound = torch.randn(batch, n_frames * SAMPLES_PER_FRAME, 1).to(first) if "a" in modality else None
    mouths = torch.rand(batch, n_frames, MOUTH_INPUT, MOUTH_INPUT).to(first) if "v" in modality else None
    if asked.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = [once(model, sound, mouths, n_tokens) for _ in range(asked.repeats + 1)][1:]
    encode, decode = min(found, key=sum)
    return {"device": torch.cuda.get_device_name() if asked.device == "cuda" else "cpu", "dtype": asked.dtype,
            "modality": modality, "parameters_M": round(sum(p.numel() for p in model.parameters()) / 1e6), "batch": batch,
            "seconds": asked.seconds, "tokens": n_tokens, "encode_s": round(encode, 3), "search_s": round(decode, 3),
            "real_time_factor": round((encode + decode) / asked.seconds / batch, 4),
            "peak_GB": round(torch.cuda.max_memory_allocated() / 1e9, 2) if asked.device == "cuda" else None}


def once(model: HybridAVSR, sound: torch.Tensor | None, mouths: torch.Tensor | None, n_tokens: int) -> tuple[float, float]:
    """Seconds for encoding, and for the search."""
    start = now(model)
    memory = model.encode(sound, mouths)
    (log_probs,) = model.ctc_log_probs(memory).values()
    middle, end = now(model), model.dims.n_vocab - 1
    limits = torch.full((memory.n_utterances,), n_tokens, device=memory.device)
    scorer = DecoderScorer(model, memory, no_speech_token=None, start_token=end, weight=1 - CTC_WEIGHT)
    ctc, beam = CTCPrefixScorer(log_probs, end=end, weight=CTC_WEIGHT), HybridBeamSearch(limits, size=BEAM, end=end)
    search([scorer], torch.full((memory.n_utterances, 1), end, device=memory.device), beam, partial_scorers=[ctc],
           pre_beam=int(1.5 * BEAM), max_tokens=n_tokens, length_penalty=0.0)
    return middle - start, now(model) - middle


def now(model: HybridAVSR) -> float:
    """The time, a GPU waited for."""
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
