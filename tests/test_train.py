"""Training: it learns, goes on bit for bit after whatever stopped it, says what went wrong, and leaves a model to use."""

import errno
import json
import os
import re
import signal
import socket
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_corpus import CONFIG, config, corpus, say, stored_tensors, utterance
from made_limits import full_disk
from safetensors.torch import load_file, save_file

from avsr import cache, checkpoint, manifest, transcribe
from avsr.checkpoint import Checkpoint, save
from avsr.cli import main
from avsr.config import DataConfig, ReliabilityConfig
from avsr.corrupt import Mouth
from avsr.dataset import ManifestRow
from avsr.errors import AvsrError, BadCheckpoint, BadConfig, BadManifest, BadOutput
from avsr.importers.whisper import is_whisper_weight
from avsr.lips import MOUTH_CROPS, MouthCropSettings
from avsr.models.avsr import AVSR, Dims
from avsr.models.hybrid import HybridAVSR, HybridDims
from avsr.runtime import max_processes
from avsr.text import write_characters, write_sentencepiece
from avsr.train import TrainOptions, train
from avsr.train.initialise import initialise
from avsr.train.loop import Trainer, learning_rate
from avsr.train.reliability import ReliabilitySample, balanced, corrupted, fit
from avsr.train.shortages import report_shortages
from avsr.train.state import TrainState, averaged, keep_best, save_state

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("threads_as_before")
# Everything that chance has a hand in, so that a run that goes on must find chance where it was.
BUSY = ("data.noise.white=true", "data.p_mismatched=0.3", "data.p_speed=0.5", "train.accumulate=2", "train.valid_every=4",
        "train.save_every=5", "loss.reliability=0.3", "model.dims.n_reliability=8", "data.augment={}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus(folder)
    return folder


def state(run):
    facts = json.loads((run / "state.json").read_text())
    return facts, stored_tensors(run)


def same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    return True


def at(text, error):
    """A voice that raises `error` once a line begins with `text`."""
    def say(line):
        if line.startswith(text):
            raise error

    return say


def steps_in(run):
    return [row["step"] for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "loss" in row]


# A run from end to end

@pytest.fixture(scope="module")
def learnt(folder, tmp_path_factory):
    """80 steps, which is enough for three words."""
    run, lines = tmp_path_factory.mktemp("learnt") / "run", []
    settings = config(folder, "train.steps=80", "train.valid_every=40", "train.keep=2")
    trained = train(settings, run, TrainOptions(say=lines.append))
    return trained, lines


def test_it_learns(learnt):
    trained, lines = learnt
    rows = [json.loads(line) for line in (trained.folder / "log.jsonl").read_text().splitlines()]
    for name in ("attention_a", "attention_v", "attention_av", "ctc_fused_av", "frames_video_v", "frames_audio_a"):
        values = [row[name] for row in rows if name in row]
        assert np.mean(values[-3:]) < 0.7 * np.mean(values[:3]), (name, values)
    assert (trained.step, trained.done) == (80, True)
    assert trained.scores.keys() == {"a", "v", "av"}
    assert min(trained.scores.values()) < 60
    assert lines[0] == "12 utterances, 0.00 hours; 0 left out; 3 to validate"
    assert sum(line.startswith("step ") for line in lines) == 80
    assert [row["step"] for row in rows if "valid_av" in row] == [40, 80]


@pytest.mark.slow
def test_conformer_video_and_waveform_encoders_learn_and_are_restored(folder, tmp_path):
    settings = config(folder, "train.steps=24", "train.valid_every=24", "model.dims.n_mels=0", "train.dropout=0.05",
                      'model.dims.video_blocks="conformer"')
    trained = train(settings, tmp_path, TrainOptions())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for name in ("attention_a", "attention_v", "attention_av"):
        values = [row[name] for row in rows if name in row]
        assert np.mean(values[-2:]) < np.mean(values[:2]), (name, values)
    model = checkpoint.load(trained.model)
    assert (model.model.dims.n_mels, model.model.dims.video_blocks) == (0, "conformer")
    assert transcribe(say(["ab", "cd"]).audio, model=model, modality="a", vad=False, beam_size=1).modality == "a"


def test_what_it_leaves_is_a_model_that_transcribes(learnt):
    trained, _ = learnt
    model = checkpoint.load(trained.model)
    assert (model.name, model.video_trained, model.pad_seconds, model.base) == ("made-up", True, None, None)
    assert model.training["step"] == 80
    assert model.training["valid_wer"] == trained.scores
    assert model.training["data"] == ["manifest.jsonl"]
    transcript = transcribe(say(["ab", "cd", "ef"]).audio, model=model, modality="a", vad=False, beam_size=1)
    assert transcript.modality == "a"
    assert transcript.text
    assert set(transcript.text) <= set("abcdef ")


def test_the_model_is_the_mean_of_the_best_or_the_best(learnt):
    trained, _ = learnt
    facts, _ = state(trained.folder)
    assert [entry[0] for entry in facts["best"]] == sorted(entry[0] for entry in facts["best"])
    best = [load_file(trained.folder / "best" / f"step-{step}" / "model.safetensors") for _, step, _ in facts["best"]]
    assert len(best) == 2
    final = {name: tensor.float() for name, tensor in load_file(trained.model / "model.safetensors").items()
             if tensor.is_floating_point()}
    mean = {name: sum(one[name].double() for one in best).float() / 2 for name in best[0]}
    candidates = [all(torch.allclose(final[name], one[name].float(), atol=1e-3, rtol=1e-3) for name in final)
                  for one in (mean, best[0])]
    assert any(candidates)
    assert not all(candidates), "the two are alike: this shows nothing"


# Going on

@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """10 steps without a stop."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(config(folder, *BUSY), run)
    return state(run)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_ten_steps_are_five_and_five(folder, tmp_path, whole, workers):
    settings = config(folder, *BUSY, f"data.workers={workers}")
    lines = []

    def until_six(line):
        lines.append(line)
        if line.startswith("step 6/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path, TrainOptions(say=until_six))
    assert lines[-1] == "interrupted at step 6; go on from step 5 with --resume"
    assert state(tmp_path)[0]["step"] == 5
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')                                   # a line that a kill has cut in half
    trained = train(settings, tmp_path, TrainOptions(resume=True, say=lines.append))
    assert "resumed at step 5" in lines
    facts, tensors = state(tmp_path)
    assert same(tensors, whole[1])
    assert facts["best"] == whole[0]["best"]
    assert [step for _, step, _ in facts["best"]] != []
    assert trained.done
    assert steps_in(tmp_path) == list(range(1, 11))
    assert sum(name.startswith("optimiser.exp_avg.") for name in tensors) > 50


SCRIPT = """
import sys, time
from avsr.config import read_config
from avsr.train import TrainOptions, loop
from safetensors.torch import save_file

class Kept(loop.Trainer):
    def run(self):
        out = super().run()
        weights = {name: value.detach().clone() for name, value in self.loss_module.named_parameters()}
        save_file(weights, self.folder / f"rank-{self.rank}.safetensors")
        return out

if __name__ == "__main__":
    loop.Trainer = Kept
    slowly = lambda line: time.sleep(float(sys.argv[3]))
    loop.train(read_config(sys.argv[1], sys.argv[4:]), sys.argv[2], TrainOptions(device="cpu", say=slowly))
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(forked, folder, tmp_path, whole):
    config(folder)
    run = tmp_path / "run"
    overrides = [*BUSY, "train.save_every=1"]
    process = forked.start(["-c", SCRIPT, folder / "config.toml", run, "0.3", *overrides], **environment())
    try:
        deadline = time.monotonic() + 300
        while not (run / "state.json").exists() or json.loads((run / "state.json").read_text())["step"] < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert 3 <= state(run)[0]["step"] < 10
    train(config(folder, *overrides), run, TrainOptions(resume=True))
    assert same(state(run)[1], whole[1])
    assert steps_in(run) == list(range(1, 11))


@pytest.mark.slow
def test_two_processes_do_what_one_does_in_two_goes(forked, folder, tmp_path):
    """With the variables that torchrun sets; test_console.py starts two by torchrun itself."""
    config(folder)
    settings = ["train.steps=2", "data.p_audio_visual=0.5", "data.p_audio=0.2", "data.frames=30", "train.clip=1000"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    words = ["-c", SCRIPT, folder / "config.toml", tmp_path / "two", "0", *settings]
    both = [forked.start(words, **environment() | group | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    for process in both:
        assert process.wait(timeout=900) == 0, process.stderr
    first, second = (load_file(tmp_path / "two" / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert same(first, second)
    train(config(folder, *settings, "train.accumulate=2"), tmp_path / "one")
    (facts, two), (_, one) = state(tmp_path / "two"), state(tmp_path / "one")
    assert facts["about"]["processes"] == 2
    assert one.keys() == two.keys()
    # Adam divides by the size of the gradient, so where that is all rounding, weights may differ by the learning rate.
    gradients = [torch.cat([some[name].flatten() for name in one if name.startswith("optimiser.exp_avg.")])
                 for some in (one, two)]
    assert (gradients[0] - gradients[1]).norm() < 0.01 * gradients[0].norm()
    names = [name for name in one if name.startswith("module.")]
    near = torch.cat([((one[name] - two[name]).abs().flatten() < 1e-4).float() for name in names])
    assert near.mean() > 0.98
    assert (tmp_path / "two" / "model" / "model.json").exists()
    more = train(config(folder, *settings, "train.steps=3"), tmp_path / "two", TrainOptions(resume=True))      # alone
    assert (more.step, state(tmp_path / "two")[0]["about"]["batches"]) == (3, 2)


def test_time_that_is_up_stops_it_and_it_can_go_on(folder, tmp_path):
    settings = config(folder, "train.steps=3")
    trained = train(settings, tmp_path, TrainOptions(minutes=1e-9))
    assert (trained.step, trained.done, trained.model, trained.scores) == (1, False, None, {})
    assert state(tmp_path)[0]["step"] == 1
    trained = train(settings, tmp_path, TrainOptions(resume=True))
    assert (trained.step, trained.done) == (3, True)
    assert trained.model == tmp_path / "model"
    again = train(settings, tmp_path, TrainOptions(resume=True))               # nothing left to do
    assert (again.step, again.scores) == (3, trained.scores)


@pytest.mark.slow
def test_a_kill_after_validation_leaves_the_models_that_the_state_names(folder, tmp_path):
    settings = config(folder, "train.steps=4", "train.valid_every=1", "train.keep=1", "train.lr=1e-2")
    for step in (2, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path, TrainOptions(say=at(f"valid at step {step}", KeyboardInterrupt()), resume=step > 2))
        facts, _ = state(tmp_path)
        assert facts["step"] == step - 1
        for _, best, _ in facts["best"]:
            checkpoint.load(tmp_path / "best" / f"step-{best}")
        assert train(settings, tmp_path, TrainOptions(resume=True, minutes=1e-9)).model is not None
    trained = train(settings, tmp_path, TrainOptions(resume=True))
    assert trained.done
    assert len(list((tmp_path / "best").iterdir())) == 1


@pytest.mark.parametrize(("override", "says"), [
    ("model.dims.n_decoder_layers=2", "dims.n_decoder_layers = 1, this one 2"),
    ("train.seed=2", "seed = 1, this one 2"),
    ("data.frames=100", "frames = 60, this one 100"),
    ("data.n_labels=1", "labels = 3, this one 1"),
])
def test_another_run_is_not_resumed(folder, tmp_path_factory, override, says):
    run = tmp_path_factory.getbasetemp() / "one-step"
    if not run.exists():
        train(config(folder), run, TrainOptions(minutes=1e-9))
    with pytest.raises(BadCheckpoint) as caught:
        train(config(folder, override), run, TrainOptions(resume=True))
    assert str(caught.value).startswith(f"{run}: the run there has {says}.  Resume with the config it was made with")
    with pytest.raises(BadOutput, match=r"holds a run already.  Go on with --resume, or choose another with --output-dir\."):
        train(config(folder), run)


def test_a_state_that_somebody_has_altered_is_refused(folder, tmp_path):
    settings = config(folder, "train.steps=2")
    train(settings, tmp_path, TrainOptions(minutes=1e-9))
    whole = json.loads((tmp_path / "state.json").read_text())
    altered = {"step is": {"step": -1}, "seconds is null": {"seconds": None}, "best[0] is": {"best": [[1, 2]]},
               "about is": {"about": []}, "must lie beside it": {"tensors": "../x.safetensors"}, "tensors is 1": {"tensors": 1}}
    for says, change in altered.items():
        (tmp_path / "state.json").write_text(json.dumps(whole | change))
        with pytest.raises(BadCheckpoint, match=rf"state\.json: .*{re.escape(says)}.*  Start a new run with --output-dir\."):
            train(settings, tmp_path, TrainOptions(resume=True))
    (tmp_path / "state.json").write_text(json.dumps({key: value for key, value in whole.items() if key != "best"}))
    with pytest.raises(BadCheckpoint, match=r"state\.json: lacks best\.  "):
        train(settings, tmp_path, TrainOptions(resume=True))
    (tmp_path / "state.json").write_text(json.dumps(whole))
    tensors = load_file(tmp_path / whole["tensors"])
    strange = next(name for name in tensors if name.startswith("optimiser."))
    save_file({name if name != strange else "optimiser.exp_avg.nothing": one for name, one in tensors.items()},
              tmp_path / whole["tensors"])
    with pytest.raises(BadCheckpoint, match=r"optimiser's state is not that of this network \(optimiser\.exp_avg\.nothing\)"):
        train(settings, tmp_path, TrainOptions(resume=True))


def test_a_run_older_than_a_dimension_is_resumed(folder, tmp_path):
    settings = config(folder, "train.steps=2")
    train(settings, tmp_path, TrainOptions(minutes=1e-9))
    facts = json.loads((tmp_path / "state.json").read_text())
    del facts["about"]["dims"]["n_local"]
    (tmp_path / "state.json").write_text(json.dumps(facts))
    assert train(settings, tmp_path, TrainOptions(resume=True)).step == 2


# The names of tensors and dims in the states of former versions, by today's names.
FORMER_TENSORS = (("fusion_layers.", "exchanges."), ("audio.frontend.", "audio.front."), ("video.frontend.", "video.front."),
                  ("reliability.classifier.", "trust.judge."), ("reliability.detector.radius", "trust.familiar.reach"),
                  ("reliability.detector.", "trust.familiar."), ("reliability.", "trust."), ("labels.video.", "labels.lips."),
                  ("module.", "learner."))
FORMER_DIMS = {"video_frontend": "lips", "n_reliability": "n_trust"}


def test_a_state_with_former_names_is_resumed_bit_for_bit(folder, tmp_path):
    settings = config(folder, *BUSY, "train.steps=4", "train.save_every=1", "model.dims.n_fusion_layers=1")
    train(settings, tmp_path / "whole")
    run = tmp_path / "former"
    train(settings, run, TrainOptions(minutes=1e-9))
    facts, tensors = state(run)
    renamed = {}
    for name, tensor in tensors.items():
        for today, former in FORMER_TENSORS:
            name = name.replace(today, former)
        renamed[name] = tensor
    there = " ".join(renamed)
    assert all(former in there for today, former in FORMER_TENSORS if today != "audio.frontend.")
    assert not any(today in there for today, _ in FORMER_TENSORS)
    dims = {FORMER_DIMS.get(name, name): value for name, value in facts["about"]["dims"].items()} | {"n_heed": 0}
    (run / "state.json").write_text(json.dumps(facts | {"about": facts["about"] | {"dims": dims}}))
    save_file(renamed, run / facts["tensors"])
    assert train(settings, run, TrainOptions(resume=True)).step == 4
    assert same(state(tmp_path / "whole")[1], state(run)[1])


def test_nothing_to_resume(folder, tmp_path):
    with pytest.raises(BadCheckpoint, match=r"no run to resume here .*  Start it without --resume\."):
        train(config(folder), tmp_path, TrainOptions(resume=True))


# What goes wrong

def test_a_loss_that_is_no_number_stops_with_the_ids(folder, tmp_path):
    boom = config(folder, "train.warmup=0", "train.clip=1e9")
    boom = replace(boom, train=replace(boom.train, lr=1e30))             # which no config may have
    with pytest.raises(AvsrError) as caught:
        train(boom, tmp_path)
    found = json.loads((tmp_path / "nan-0.json").read_text())
    assert found["step"] >= 1
    assert found["ids"]
    assert set(found["ids"]) <= {f"u{i}" for i in range(12)}
    message = str(caught.value)
    assert f"{tmp_path}: at step {found['step']} the loss is" in message
    assert f"The batch's ids are in {tmp_path / 'nan-0.json'}; look at them, or lower train.lr and start again" in message
    assert not (tmp_path / "state.json").exists()
    with pytest.raises(AvsrError, match=r"go on from step 1 with --resume\.$"):
        train(replace(boom, train=replace(boom.train, save_every=1, steps=2)), tmp_path / "saved")


@pytest.mark.slow
def test_a_full_disk_leaves_the_older_state(forked, folder, tmp_path):
    """A limit on the size of files stands for the disk."""
    train(config(folder), tmp_path / "run", TrainOptions(minutes=1e-9))
    before = state(tmp_path / "run")
    code = f"""
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from avsr.config import read_config
from avsr.errors import AvsrError
from avsr.train import TrainOptions, train

def say(line):
    if line.startswith("step 3/"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

try:
    train(read_config({str(folder / 'config.toml')!r}, ["train.save_every=3"]), {str(tmp_path / 'run')!r},
          TrainOptions(resume=True, say=say, device="cpu"))
except AvsrError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""
    done = forked.python(code, **environment())
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"BadOutput: {tmp_path / 'run'}: the training state cannot be written")
    assert said.endswith("(File too large).  Make room, then go on from step 1 with --resume.")
    after = state(tmp_path / "run")
    assert after[0] == before[0]
    assert same(after[1], before[1])
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"state.json", "state-1.safetensors", "log.jsonl", "tensorboard", "tokenizer.json"}


@pytest.mark.parametrize(("n_bytes", "overrides", "says", "left"), [
    (0, [], "run: it cannot be written", []),
    (20_000, ["train.save_every=1"], "run: the training state cannot be written",
     ["log.jsonl", "tensorboard", "tokenizer.json"]),
    (20_000, ["train.valid_every=1"], "run/best/step-1: the model cannot be written",
     ["best", "log.jsonl", "tensorboard", "tokenizer.json"]),
    (3_000, ["train.steps=50"], "run: it cannot be written", ["log.jsonl", "tensorboard", "tokenizer.json"]),
])
def test_a_disk_that_is_full_before_the_first_state_leaves_nothing_to_resume(folder, tmp_path, n_bytes, overrides, says, left):
    settings, remedy = config(folder, *overrides), r"Make room, then start again, as no state was saved yet\."
    with full_disk(n_bytes), pytest.raises(BadOutput, match=rf"{says} \(File too large\)\.  {remedy}$"):
        train(settings, tmp_path / "run", TrainOptions(device="cpu"))
    assert sorted(os.listdir(tmp_path / "run")) == left
    assert [path for path in (tmp_path / "run" / "best").rglob("*") if path.is_file()] == []


def test_every_file_of_a_run_can_be_read_by_those_who_may_read_new_files(learnt, tmp_path):
    (tmp_path / "other").write_text("")
    files = [path for path in learnt[0].folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"state.json", "state-80.safetensors", "model.safetensors", "log.jsonl"}
    assert [path for path in files if path.stat().st_mode != (tmp_path / "other").stat().st_mode] == []


def test_a_second_run_in_a_folder_is_refused_while_the_first_is_at_work(folder, tmp_path):
    def second(line):
        if line.startswith("step 1/"):                       # no state is saved yet
            for resume in (False, True):
                with pytest.raises(AvsrError, match=r"run: another avsr train is at work in it \(process \d+ on .+\)\.  Wait"):
                    train(config(folder, "train.steps=2"), tmp_path / "run", TrainOptions(resume=resume, device="cpu"))
            refused.append(line)

    refused = []
    trained = train(config(folder, "train.steps=2"), tmp_path / "run", TrainOptions(device="cpu", say=second))
    assert (trained.step, len(refused), steps_in(tmp_path / "run")) == (2, 1, [1, 2])
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize(("error", "kind", "says"), [
    (OSError(errno.ENOSPC, "No space left on device"), BadOutput, r"run: it cannot be written \(No space left on device\)\."),
    (OSError(errno.EAGAIN, "Resource temporarily unavailable"), AvsrError,
     r"run: a process or its memory cannot be had \(Resource temporarily unavailable\) with data\.workers = 1\.  Set it lower"),
    (RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. "), AvsrError,
     r"one of 1 processes that make batches has ended \(DataLoader worker \(pid 17\) is killed by signal: Killed\), mos"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"), AvsrError,
     r"there is too little memory for batches of data\.frames = 900 \(.*\)\.  Set data\.frames or the network's dims lower"),
    (MemoryError(), AvsrError, r"there is too little memory .* \(MemoryError\)\.  Set data\.frames"),
    (RuntimeError("a mistake of ours"), RuntimeError, "^a mistake of ours$"),
    (FileNotFoundError(errno.ENOENT, "No such file"), FileNotFoundError, "No such file"),
])
def test_what_the_machine_runs_short_of_is_told_with_the_way_on(tmp_path, error, kind, says):
    with pytest.raises(kind, match=says) as caught, report_shortages(tmp_path / "run", DataConfig()):
        raise error
    assert not issubclass(kind, AvsrError) or str(caught.value).endswith(", then start again, as no state was saved yet.")


def test_more_workers_than_the_machine_bears_are_not_started(folder, tmp_path):
    lines, settings = [], config(folder, "data.workers=128", "train.steps=1")
    run = Trainer(settings, tmp_path, TrainOptions(device="cpu", say=lines.append), torch.device("cpu"))
    assert run._n_workers() == min(128, max_processes())
    assert lines[-1].startswith(f"data.workers is 128, but {max_processes()} are started") == (max_processes() < 128)


def test_where_no_folder_can_be_it_says_so(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadOutput, match=r"file/run: cannot be made \(Not a directory\)\.  Choose another with --output-dir\."):
        train(config(folder), tmp_path / "file" / "run")


@pytest.mark.parametrize(("overrides", "error", "says"), [
    (["model.dims.widht=3"], BadConfig, "model.dims.widht is not a dimension.  Known are"),
    (["model.dims.width=-3"], BadConfig, "model.dims.width is -3, but must be a whole number"),
    (["model.dims.width=true"], BadConfig, "model.dims.width is true, but must be a whole number from 4 to 16384"),
    (["model.dims.n_audio_layers=1000000000"], BadConfig, "n_audio_layers is 1000000000, but must be a whole number from 0"),
    (["model.dims.width=16384", "model.dims.n_heads=512", "model.dims.n_audio_layers=200"], BadConfig,
     "more memory to train than this machine has"),
    (["model.dims.video_frontend=[]"], BadConfig, r"model.dims.video_frontend is \[\], but must be one of resnet18"),
    (["model.dims.width=9", "model.dims.n_heads=3"], BadConfig, "width 9 in 3 heads"),
    (["model.dims.video_width=33"], BadConfig, "video width 33 in heads 16 wide"),
    (["model.dims.n_ctc=1"], BadConfig, r"n_ctc is 1, but CTC spells 28 letters\.  Set 29, or 0 for none"),
    (["model.dims.n_vocab=5"], BadConfig, r"n_vocab is 5, and the tokenizer has \d+ tokens\.  Leave n_vocab out"),
    (["model.dims.video_frontend=eyes"], BadConfig,
     'model.dims.video_frontend is "eyes", but must be one of resnet18, resnet18-silu, compact'),
    (["model.dims.video_blocks=bricks"], BadConfig, 'model.dims.video_blocks is "bricks", but must be one of transformer'),
    (["model.dims.width=1048576"], BadConfig, "model.dims.width is 1048576, but must be a whole number from 4 to 16384"),
    (["model.dims.n_heads=5"], BadConfig, "width 32 in 5 heads"),
    (["model.dims.n_fusion_layers=2"], BadConfig, "2 fusion layers among 1 audio layers"),
    (["model.dims.n_context=3"], BadConfig, r"no text fits model.dims.n_context = 3 \(u\d+: \d tokens, limit 1\)"),
    (['train.rates={"*"=0}'], BadConfig, "train.rates freezes every weight"),
    (['train.rates={"vidio.*"=0}'], BadConfig, r'train.rates "vidio.\*" fits no weight.  Known are audio.\*, ctc.\*,'),
    (["data.noise.hum=nowhere"], AvsrError, "nowhere matches 0 files or folders"),
    (["data.train=['none.jsonl']"], BadManifest, "none.jsonl: cannot be read"),
    (["data.max_seconds=0.01"], BadManifest, r"no prepared utterance of split 'train' \(12 left out\)"),
    (["model.start=tinny.en"], BadCheckpoint, "Did you mean tiny.en?"),
    (['model.start=""'], BadConfig, r"model\.start is empty\.  Give it a value, or write"),
    ([f"model.video_encoder_from={'y' * 5000}"], BadCheckpoint, r"y{40}\.\.\.: cannot be read \(File name too long\)"),
    (["reliability.variants=2"], BadConfig, "reliability.variants is 2, but the network has no reliability estimator.  Set"),
    (["reliability.variants=2", "model.dims.n_reliability=4"], BadConfig, "with 1 fusion layers the encoded sound depends"),
])
def test_what_cannot_be_trained_says_why_before_the_first_step(folder, tmp_path, overrides, error, says):
    with pytest.raises(error, match=says) as caught:
        train(config(folder, *overrides), tmp_path, TrainOptions(say=at("step", AssertionError())))
    assert ".  " in str(caught.value)


def test_a_cache_of_another_mouth_crop_is_refused(tmp_path):
    corpus(tmp_path, 2, 1)
    cache.write_mouth_crop(tmp_path, replace(MouthCropSettings(), smooth=7))
    with pytest.raises(BadManifest, match=r"cache\.json: the cache was made with other settings \(mouth_crop\.smooth"):
        train(config(tmp_path), tmp_path / "run")


def test_a_shard_that_is_gone_is_named_in_a_sentence(tmp_path):
    corpus(tmp_path, 2, 1)
    settings = config(tmp_path)
    (tmp_path / "shard-00000.tar").unlink()
    with pytest.raises(BadManifest) as caught:
        train(settings, tmp_path / "run")
    assert str(caught.value) == (f"{tmp_path}/shard-00000.tar: no such file.  Copy it beside the manifest, or run avsr prepare "
                                 "again.")


def test_long_texts_are_left_out_and_told(tmp_path):
    path = corpus(tmp_path, 4, 1)
    rows = manifest.read(path)
    manifest.write(path, [replace(rows[0], text="ab " * 20), *rows[1:]])
    lines = []
    train(config(tmp_path), tmp_path / "run", TrainOptions(minutes=1e-9, say=lines.append))
    assert lines[0].startswith("3 utterances, ")
    assert lines[0].endswith("1 left out, such as u0: 60 tokens, limit 22; 1 to validate")


def test_rows_of_sound_alone_and_of_sight_alone(tmp_path):
    path = corpus(tmp_path, 4, 2, n_sound=4, n_sight=4)
    rows = manifest.read(path)
    manifest.write(path, [replace(row, split="valid") if row.id in ("u6", "u13") else row for row in rows])
    lines = []
    trained = train(config(tmp_path, "train.steps=4"), tmp_path / "run", TrainOptions(say=lines.append))
    assert trained.scores.keys() == {"a", "v", "av"}
    assert lines[0].endswith("; 4 to validate")
    only = [replace(row, split="train" if row.split == "train" or "v" in row.cache.modality else "valid")
            for row in manifest.read(path)]
    manifest.write(path, only)
    with pytest.raises(BadManifest, match=r"0 of 1 utterances can be used for modality v, "):
        train(config(tmp_path), tmp_path / "none")


# What learns, and how fast

def changes(folder, run, *overrides):
    """By weight and buffer: what it was at the start, and what it is."""
    settings = config(folder, "train.steps=3", "train.warmup=0", "train.final=1.0", "train.weight_decay=0.0", *overrides)
    train(settings, run)
    (run / "again").mkdir()
    before = initialise(settings, run / "again").model.state_dict()
    return {name: (before[name], state(run)[1][f"module.model.{name}"]) for name in before}


RELIABILITY = ("model.dims.n_fusion_layers=0", "model.dims.n_reliability=4", "reliability.variants=2", "reliability.steps=3",
               "reliability.contrastive_steps=3")


@pytest.mark.slow
def test_the_reliability_estimator_is_fitted_after_the_last_step_and_nothing_else(folder, tmp_path):
    said = []
    first = train(config(folder, *RELIABILITY, "train.steps=2"), tmp_path / "first", TrainOptions(say=said.append))
    assert any(line == "reliability: fitted on 12 sounds with 3 mouths each" for line in said)
    again = config(folder, *RELIABILITY, "train.steps=0", "reliability.lr=0.1", f"model.start={first.model}")
    second = train(again, tmp_path / "second")
    assert (second.step, second.done) == (0, True)
    before, after = (load_file(run.model / "model.safetensors") for run in (first, second))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("reliability.") for name in changed)
    assert after.keys() == before.keys()


def test_without_steps_and_a_reliability_estimator_there_is_nothing_to_do(folder):
    with pytest.raises(BadConfig, match=r"train\.steps is 0, but must be above 0"):
        config(folder, "train.steps=0")


def test_the_estimator_learns_which_mouths_help():
    """Mouths of ones help, mouths of minus ones harm, whatever the sound."""
    rng = torch.Generator().manual_seed(0)

    def sample(wrecked):
        good = torch.tensor([True, False, True, False])
        video = (good.float() * 2 - 1)[:, None, None] + torch.randn(4, 20, 32, generator=rng)
        audio = (1.0 if wrecked else -1.0) + torch.randn(20, 32, generator=rng)
        return ReliabilitySample(audio.half(), video.half(), torch.ones(4, 20, dtype=torch.bool), torch.tensor(0.5),
                                 torch.where(good, 0.2, 1.0), torch.where(good, 0.4 if wrecked else 0.0, 1.0))

    torch.manual_seed(0)
    model = AVSR(Dims(width=32, n_heads=2, n_audio_layers=1, n_video_layers=1, n_fusion_layers=0, n_decoder_layers=1,
                      n_vocab=50, video_frontend="compact", n_reliability=8))
    bias = torch.randn(32, generator=rng)                   # LayerNorm takes away what all of a moment's values share

    def shifted(one):
        return replace(one, audio=one.audio + one.audio.mean().sign().half() * bias.half(),
                       video=one.video + one.video.mean(dim=(1, 2), keepdim=True).sign() * bias.half())

    samples = [shifted(sample(i % 2 == 0)) for i in range(32)]
    fit(model.reliability, samples, ReliabilityConfig(steps=60, lr=1e-2), seed=0)
    for wrecked in (True, False):
        new = shifted(sample(wrecked))
        audio = new.audio.float()[None].expand(4, -1, -1)
        asked = (audio, new.video.float(), None, new.seen)
        assert (model.reliability(*asked) > 0).tolist() == [True, False, True, False]


def test_each_speaker_has_a_say_before_any_has_two():
    rows = [ManifestRow(utterance(f"{speaker}{i}", ["ab"], "train", speaker=speaker), Path())
            for speaker, n in (("s1", 50), ("s2", 3), ("s3", 1)) for i in range(n)]
    chosen = balanced(rows, 10, np.random.default_rng(0))
    counts = Counter(row.utterance.speaker for row in chosen)
    assert counts == {"s1": 6, "s2": 3, "s3": 1}
    assert len(balanced(rows, 100, np.random.default_rng(0))) == 54
    assert [row.utterance.id for row in balanced(rows, 10, np.random.default_rng(0))] == [row.utterance.id for row in chosen]


def test_damage_is_drawn_and_leaves_what_it_was_given():
    cached = say(["ab", "cd"])
    mouths = Mouth(cached.images, cached.missing)
    before, seen = mouths.images.copy(), []
    for seed in range(40):
        made = corrupted(mouths, np.random.default_rng(seed))
        assert made.images.shape == before.shape
        assert made.missing.shape == (len(before),)
        seen.append(np.array_equal(made.images, before))
    assert np.array_equal(mouths.images, before)
    assert 1 <= sum(seen) <= 20, "some stay as they are, most do not"


@pytest.mark.slow
def test_frozen_parts_stay_as_they_are_with_their_running_means(folder, tmp_path):
    found = changes(folder, tmp_path, "train.valid_every=1", "data.p_audio_visual=1.0", "data.p_audio=0.0",
                    'train.rates={"video.frontend.*"=0.0, "decoder.blocks.*.video.*"=1.0, "decoder.*"=0}')
    frozen = {name: pair for name, pair in found.items()
              if name.startswith("video.frontend.") or (name.startswith("decoder.") and ".video." not in name)}
    assert any("running_mean" in name for name in frozen)
    assert [name for name, (before, after) in frozen.items() if not torch.equal(before, after)] == []
    unchanged = [name for name, (before, after) in found.items() if name not in frozen and torch.equal(before, after)]
    assert unchanged == []
    assert any(name.startswith("decoder.blocks.0.video.") for name in found.keys() - frozen.keys())


@pytest.mark.slow
def test_without_freezing_running_means_run(folder, tmp_path):
    found = changes(folder, tmp_path, "data.p_audio=0.0")
    assert not any(torch.equal(before, after) for name, (before, after) in found.items() if "running_mean" in name)


@pytest.mark.slow
def test_each_part_has_its_rate(folder, tmp_path):
    """Adam's first step is as long as the rate, whatever the gradient: here, one step."""
    found = changes(folder, tmp_path, "train.steps=1", "train.lr=1e-3", "data.p_audio_visual=1.0", "data.p_audio=0.0",
                    'train.rates={"decoder.*"=0.1, "audio.*"=3}')
    for part, rate in (("decoder", 1e-4), ("audio", 3e-3), ("ctc", 1e-3)):
        steps = torch.cat([(after - before).abs().flatten() for name, (before, after) in found.items()
                           if name.startswith(f"{part}.")])
        assert steps.max().item() == pytest.approx(rate, rel=0.01)


def test_warm_up_and_cosine(folder):
    settings = config(folder, "train.lr=1.0", "train.warmup=4", "train.steps=104", "train.final=0.1")
    rates = [learning_rate(settings, step) for step in range(105)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[54] == pytest.approx(0.55)                             # half-way down
    assert rates[104] == pytest.approx(0.1)
    assert learning_rate(settings, 999) == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[4:]))
    assert learning_rate(config(folder, "train.lr=1.0", "train.warmup=0"), 0) == 1.0


# Models

def small(folder, **facts):
    torch.manual_seed(len(list(folder.iterdir())))
    letters = write_characters(folder / f"tokenizer-{len(list(folder.iterdir()))}.json")
    dims = initialise(config(folder), folder).model.dims
    return Checkpoint("small", AVSR(dims), letters, **facts)


@pytest.mark.parametrize("base", [False, True])
def test_the_best_are_kept_and_averaged(tmp_path, base):
    """Of a model with a base only what differs is stored; the mean is whole all the same."""
    (tmp_path / "run").mkdir()
    model, position, optimiser = small(tmp_path), TrainState(), torch.optim.SGD([torch.zeros(1)], 1.0)
    if base:
        model = replace(model, base=str(checkpoint.save(model, tmp_path / "base", half=False)))
    states = {}
    for step, score in ((1, 30.0), (2, 10.0), (3, 50.0), (4, 20.0)):
        position.step = step
        with torch.no_grad():
            for name, parameter in model.model.named_parameters():
                if not base or not is_whisper_weight(name):
                    parameter.fill_(step)
        states[step] = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
        keep_best(tmp_path / "run", position, model, {"a": score - 5, "v": score + 5}, 2)
        save_state(tmp_path / "run", position, torch.nn.Linear(1, 1), optimiser, {})
    assert [(score, step) for score, step, _ in position.best] == [(10.0, 2), (20.0, 4)]
    assert sorted(path.name for path in (tmp_path / "run" / "best").iterdir()) == ["step-2", "step-4"]
    assert [path.name for path in (tmp_path / "run").glob("state-*")] == ["state-4.safetensors"]
    stored = load_file(tmp_path / "run" / "best" / "step-2" / "model.safetensors")
    assert ("audio.conv1.weight" in stored) is not base
    mean = averaged(tmp_path / "run", position, small(tmp_path)).model.state_dict()
    for name, tensor in mean.items():
        if tensor.is_floating_point() and "running_" not in name:
            want = states[4][name] if base and is_whisper_weight(name) else torch.full_like(tensor, 3.0)
            assert torch.equal(tensor, want), name


def test_a_model_starts_where_another_has_ended(folder, tmp_path, learnt):
    trained, _ = learnt
    known = checkpoint.load(trained.model).model.state_dict()
    start = initialise(config(folder, f"model.start={trained.model}"), tmp_path)
    assert same(start.model.state_dict(), known)
    assert start.video_trained
    assert start.base is None
    lips = initialise(config(folder, f"model.video_encoder_from={trained.model}"), tmp_path).model.state_dict()
    taken = {name for name in known if torch.equal(known[name], lips[name])}
    assert {name for name in known if name.startswith(("video.frontend.", "video.project.", "video.blocks."))} <= taken
    assert "audio.conv1.weight" not in taken
    with pytest.raises(BadCheckpoint, match=r"of its weights do not fit the config's dims, .*  Remove the dims that differ"):
        initialise(config(folder, f"model.start={trained.model}", "model.dims.width=64"), tmp_path)
    with pytest.raises(BadCheckpoint, match=r"its video encoder does not fit this model's in video\.project\.weight and"):
        initialise(config(folder, f"model.video_encoder_from={trained.model}", "model.dims.video_width=64"), tmp_path)


def test_an_imported_video_encoder_is_taken_over_with_its_mouth_crop(folder, tmp_path):
    torch.manual_seed(0)
    sizes = HybridDims(width=32, n_heads=4, n_inside=128, n_video_layers=2, n_decoder_layers=1, n_vocab=9)
    imported = HybridAVSR(sizes).eval()
    pieces = write_sentencepiece(tmp_path / "pieces.json", ["<unk>", *"abcdef"], dict.fromkeys("abcdef", -1.0))
    model = Checkpoint("vsr", imported, pieces, mouth_crop=MOUTH_CROPS["auto-avsr"], video_trained=True, pad_seconds=None)
    source = save(model, tmp_path / "vsr", half=False)
    dims = ("width=64", "n_heads=8", "video_width=32", "n_video_layers=2", 'video_frontend="resnet18-silu"',
            'video_blocks="conformer"')
    begun = initialise(config(folder, f"model.video_encoder_from={source}", *(f"model.dims.{one}" for one in dims)), tmp_path)
    assert begun.mouth_crop == MOUTH_CROPS["auto-avsr"]
    mouths, lips = torch.rand(1, 5, 88, 88), begun.model.eval().video
    with torch.no_grad():
        lips.lift = torch.nn.Identity()
        ours = lips(lips.features(mouths, torch.ones(1, 5, dtype=torch.bool)), torch.ones(1, 5, dtype=torch.bool))[:, ::2]
        theirs = imported.encode(None, mouths).audio
    torch.testing.assert_close(imported.video.norm(ours), theirs, atol=1e-5, rtol=1e-4)


def test_an_imported_network_is_not_trained_further(folder, tmp_path):
    imported = HybridAVSR(HybridDims(width=32, n_heads=4, n_inside=32, n_audio_layers=1, n_decoder_layers=1, n_vocab=9))
    pieces = write_sentencepiece(tmp_path / "pieces.json", ["<unk>", *"abcdef"], dict.fromkeys("abcdef", -1.0))
    source = save(Checkpoint("asr", imported, pieces, pad_seconds=None), tmp_path / "asr")
    with pytest.raises(BadConfig, match="video_encoder_from"):
        initialise(config(folder, f"model.start={source}"), tmp_path)


@pytest.mark.slow
def test_a_whisper_left_alone_is_not_stored_again(tiny_en, folder, tmp_path):
    text = CONFIG.replace(CONFIG[CONFIG.index("[model.dims]"):CONFIG.index("[data]")], "")
    frozen = 'train.rates={"decoder.blocks.*.video.*"=1, "audio.*"=0, "decoder.*"=0}'
    start = initialise(config(folder, "model.start=tiny.en", frozen, text=text), tmp_path)
    assert (start.base, start.model.dims.video_frontend, start.pad_seconds) == ("tiny.en", "compact", 30)
    assert initialise(config(folder, "model.start=tiny.en", text=text), tmp_path).base is None
    known, weights = tiny_en.model.state_dict(), start.model.state_dict()
    assert all(torch.equal(weights[name], known[name]) for name in known if is_whisper_weight(name))


# The command

def avsr(*arguments):
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def test_the_command_says_how_to_use_what_it_made(folder, tmp_path):
    config(folder)
    run = tmp_path / "run"
    stopped = avsr(folder / "config.toml", "--output-dir", run, "--minutes", "0.0000001", "--device", "cpu", "--quiet")
    assert stopped.exit_code == 0
    assert stopped.stdout == ""
    assert f"Stopped at step 1.  Go on:  avsr train {folder / 'config.toml'} -o {run} --resume" in stopped.stderr
    assert "no model to use; see train.valid_every" in stopped.stderr
    done = avsr(folder / "config.toml", "--output-dir", run, "--set", "train.steps=2", "--resume", "--device", "cpu")
    assert done.exit_code == 0
    assert "step 2/2" in done.stderr
    assert done.stderr.rstrip().endswith(f"Use it:  avsr transcribe clip.mp4 --model {run / 'model'}")
    assert (run / "model" / "model.json").exists()


@pytest.mark.parametrize(("arguments", "says"), [
    (["none.toml"], "none.toml: cannot be read"),
    (["CONFIG", "--set", "train.stepps=1"], "train.stepps is not a setting.  Did you mean train.steps?"),
    (["CONFIG", "--resume"], "no run to resume here"),
    (["CONFIG", "--device", "tpu"], "Use auto, cpu or cuda."),
])
def test_what_the_command_cannot_do_is_one_sentence(folder, tmp_path, arguments, says):
    config(folder)
    done = avsr(*[folder / "config.toml" if one == "CONFIG" else one for one in arguments], "-o", tmp_path)
    assert done.exit_code == 1
    *said, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not any("Traceback" in one for one in said)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_learns_in_half_precision(folder, tmp_path):
    settings = config(folder, "train.steps=20", "data.workers=1")
    trained = train(settings, tmp_path, TrainOptions(device="cuda"))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [row["attention_av"] for row in rows if "attention_av" in row]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert all(tensor.dtype == torch.float32 for name, tensor in state(tmp_path)[1].items() if "num_batches" not in name)
    assert trained.done
