"""What of the lips is adapted to a person, by the same training loop as `avsr train`; and how little of it is kept.

    lips + manifest -> train -> Checkpoint that differs from the lips in the adapted weights alone
The recipe was chosen on GRID's s4, with lips that had seen nobody but s1, at 5 and 20 clips: see experiments/enrol.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from avsr import checkpoint
from avsr.checkpoint import Checkpoint
from avsr.checkpoint.kept import enrolled_folder
from avsr.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from avsr.errors import AvsrError
from avsr.models.avsr import AVSR
from avsr.runtime import Progress
from avsr.train import TrainOptions, train

ADAPTED = "video.*"                   # names of the weights: the whole video encoder, and nothing that writes
STEPS = 120
LR = 5e-4                             # 2e-3 made lips worse at 5 clips: 58.6 -> 77.8 % WER
HEADS_RATE = 3.0                      # times LR: the heads of the frame labels are new
FRAMES = 600                          # in a batch: 8 clips of 3 s, or 12 segments of 2 s
# Less than training has: the person is the same, and 5 clips of 1 to 3 s are soon hidden.
AUGMENT = {"scale": 0.05, "degrees": 4.0, "perspective": 0.01, "elastic": 0.0, "erase": 0.1, "mask_frames": 2}


def load_lips(name: str, progress: Progress) -> Checkpoint:
    """The lips to start from. Raises AvsrError for a model that has none, or whose lips cannot be trained further."""
    if (enrolled_folder(name) / "model.json").is_file():
        raise AvsrError(f"{name}: lips of a person, and these are made from those that know nobody yet.  Name the model that "
                        "they were made from, such as --lips grid.")
    lips = checkpoint.load(name, progress=progress, exports=False)
    if not isinstance(lips.model, AVSR):
        raise AvsrError(f"{name}: an imported network, which cannot be trained further, so nobody can be enrolled with it.  "
                        "Use --lips grid, or a model that avsr train made.")
    if not lips.video_trained:
        raise AvsrError(f"{name}: ears and no lips: it has no trained video encoder.  Use --lips grid, and this one as --ears.")
    if lips.model.reliability is not None:
        raise AvsrError(f"{name}: its estimator of reliability knows the faces of its own training and would not believe these "
                        "lips, so nobody can be enrolled with it.  Use --lips grid.")
    return lips


def adapt(lips: Checkpoint, source: str, rows: Path, folder: Path, *, device: str, progress: Progress) -> Checkpoint:
    """The lips after training on split `train` of a manifest. source: the lips' name or folder. folder: for the run's files.

    Raises AvsrError and its kinds, as `avsr train` does.
    """
    config = Config(
        "enrol", ModelConfig(start=source),
        DataConfig(train=(str(rows),), valid=(str(rows),), max_valid=1, p_audio_visual=0.0, p_audio=0.0,
                   frames=FRAMES, workers=0, augment=AUGMENT),
        LossConfig(frames=1.0),
        TrainConfig(steps=STEPS, lr=LR, rates={ADAPTED: 1.0, "labels.video.*": HEADS_RATE, "*": 0.0}, warmup=STEPS // 10,
                    valid_every=STEPS, save_every=STEPS, keep=1))
    trained = train(config, folder, TrainOptions(device=device, progress=progress))
    assert trained.model is not None, "the last step is validated"
    return _only_adapted(lips, checkpoint.load(trained.model))


def _only_adapted(lips: Checkpoint, trained: Checkpoint) -> Checkpoint:
    """`trained` with all weights but the adapted ones as they are in `lips`, to the last bit; they are not stored again."""
    theirs = lips.model.state_dict()
    trained.model.load_state_dict({name: tensor if fnmatch(name, ADAPTED) else theirs[name]
                                   for name, tensor in trained.model.state_dict().items()})
    return replace(trained, mouth_crop=lips.mouth_crop)
