"""Training by several processes: they do what one does, any number of them goes on, and one that dies stops nobody for long."""

import gzip
import json
import os
import shutil
import socket
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_corpus import config, corpus, stored_tensors
from test_batch import rows_of
from test_losses import ALL, DIMS, N_LABELS, batch_of, example

from avsr import manifest
from avsr.batch import InfiniteSampler
from avsr.config import DataConfig, LossConfig, TrainConfig
from avsr.errors import BadCheckpoint, BadConfig
from avsr.losses import LossModule
from avsr.models.avsr import AVSR
from avsr.train import TrainOptions, train
from avsr.train.blocks import prepare_blocks
from avsr.train.speed import FORWARD_AND_BACKWARD, FlopCounter
from avsr.train.state import batches_per_step

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("threads_as_before")
CONFORMER = replace(DIMS, video_blocks="conformer", n_decoder_layers=2, n_reliability=0)
SCRIPT = """
import os, signal, sys
from avsr.config import read_config
from avsr.train import TrainOptions, loop, state

stop, resume, dies = int(sys.argv[3]), sys.argv[4] == "resume", int(sys.argv[5])

class Stopped(loop.Trainer):
    def _time_is_up(self):
        return self.state.step == stop

def dying(folder, tensors, facts):
    if facts["step"] == dies and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)               # all tensors are written, and state.json does not know them yet
    usual(folder, tensors, facts)

if __name__ == "__main__":
    usual = state._write_facts
    if dies:
        state._write_facts = dying
    loop.Trainer = Stopped
    loop.train(read_config(sys.argv[1], sys.argv[6:]), sys.argv[2], TrainOptions(device="cpu", resume=resume))
"""
# What `torchrun --nproc-per-node 2 --max-restarts 1` does, with processes that need not import everything again.
AGENT = f"""
import sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def work(arguments):
    sys.argv = arguments
    exec(compile({SCRIPT!r}, "script", "exec"), {{"__name__": "__main__"}})

elastic_launch(LaunchConfig(1, 1, 2, max_restarts=1, start_method="fork", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                            monitor_interval=0.2), work)(sys.argv)
"""
SETTINGS = ("train.dropout=0.1", "train.steps=6", "data.p_audio_visual=0.4", "data.p_audio=0.3", "train.save_every=2",
            'model.dims.video_blocks="conformer"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus(folder)
    config(folder)
    return folder


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def two(forked, folder, run, *overrides, stop=6, resume=False):
    """Two processes with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    words = ["-c", SCRIPT, folder / "config.toml", run, stop, "resume" if resume else "new", 0, *overrides]
    both = [forked.start(words, **environment(RANK=rank, LOCAL_RANK=rank, **group)) for rank in "01"]
    try:
        for process in both:
            assert process.wait(timeout=600) == 0, process.stderr
    finally:
        for process in both:
            process.send_signal(9)


def losses(run):
    rows = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


# What one process computes

def learnt(config, dims, batch, *, run_all=False, recompute=False):
    """The losses, gradients by name, running means and dropout of a fresh network."""
    torch.manual_seed(0)
    made = LossModule(AVSR(dims), config, N_LABELS).train()
    made.run_all = run_all
    prepare_blocks(made.model, TrainConfig(recompute=recompute), torch.device("cpu"))
    for name, parameter in made.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.7)
    for module in made.modules():
        if hasattr(module, "dropout") and hasattr(module, "_drop"):
            module.dropout = 0.2
    made.parameter_names = {id(parameter): name for name, parameter in made.named_parameters()}
    torch.manual_seed(1)
    found = made(batch)
    found.total.backward()
    return found, {name: parameter.grad for name, parameter in made.named_parameters()}, dict(made.named_buffers())


@pytest.mark.parametrize("dims", [DIMS, CONFORMER, replace(DIMS, n_fusion_layers=0, n_reliability=0, n_decoder_layers=0),
                                  replace(DIMS, audio_blocks="lstm", n_local=1)],
                         ids=["transformer", "conformer", "ctc alone", "lstm"])
@pytest.mark.parametrize("parts", [ALL, LossConfig(attention=0, ctc_audio=0, ctc_video=0, ctc_fused=0)], ids=["all", "frames"])
@pytest.mark.parametrize("modality", ["a", "v", "av"])
@pytest.mark.parametrize("reliable", [True, False], ids=["reliable", "unreliable"])
def test_running_every_block_changes_no_loss_and_names_what_learns(dims, parts, modality, reliable):
    batch = batch_of(example("one", 8, [1, 2, 3], seed=1, modality=modality, reliable=reliable),
                     example("two", 5, [4, 4], seed=2, modality=modality, reliable=reliable))
    (usual, gradients, means), (full, all_gradients, all_means) = (learnt(parts, dims, batch, run_all=all_of_it)
                                                                   for all_of_it in (False, True))
    assert torch.equal(usual.total, full.total)
    assert usual.parts.keys() == full.parts.keys()
    assert full.used == {name for name, gradient in gradients.items() if gradient is not None}
    for name, gradient in all_gradients.items():
        if name in full.used:
            torch.testing.assert_close(gradient, gradients[name], atol=1e-6, rtol=1e-5)
        else:
            assert gradient is None or not gradient.any(), name
    assert all(torch.equal(means[name], all_means[name]) for name in means)


@pytest.mark.parametrize("modality", ["a", "av"])
def test_activations_computed_again_are_the_same(modality):
    batch = batch_of(example("one", 8, [1, 2, 3], seed=1, modality=modality), example("two", 5, [4, 4], modality=modality))
    (usual, gradients, means), (again, same_gradients, same_means) = (learnt(ALL, CONFORMER, batch, recompute=recompute)
                                                                      for recompute in (False, True))
    assert torch.equal(usual.total, again.total)
    for name, gradient in gradients.items():
        assert (gradient is None and same_gradients[name] is None) or torch.equal(gradient, same_gradients[name]), name
    assert all(torch.equal(means[name], same_means[name]) for name in means)       # running means move once


@given(st.integers(1, 6), st.integers(0, 40), st.integers(1, 3))
def test_the_processes_together_see_what_one_sees_from_any_batch_on(world, first, n):
    rows = rows_of(range(20, 60))
    one = list(islice(InfiniteSampler(rows, DataConfig(frames=300), 3, first=first * world), n * world))
    several = [list(islice(InfiniteSampler(rows, DataConfig(frames=300), 3, first=first * world, rank=rank, world=world), n))
               for rank in range(world)]
    assert [several[number % world][number // world] for number in range(n * world)] == one


def test_the_arithmetic_of_a_model_is_counted_once_for_a_modality():
    torch.manual_seed(0)
    made, counter = LossModule(AVSR(DIMS), ALL, N_LABELS), FlopCounter(compiled=False)
    short, long = (batch_of(example("one", n, [1, 2, 3])) for n in (10, 20))
    for batch in (short, long):
        with counter.counting(batch):
            made(batch)
    assert counter.per_frame.keys() == {"av"}
    assert counter.take() == pytest.approx(FORWARD_AND_BACKWARD * counter.per_frame["av"] * 30)
    weights = sum(one.weight.numel() for one in made.modules() if isinstance(one, torch.nn.Linear))
    assert 2 * weights < counter.per_frame["av"] < 50 * weights     # a product and a sum for each, and the convolutions
    assert counter.take() == 0


# Several processes

@pytest.fixture(scope="module")
def curves(forked, folder, tmp_path_factory):
    """A run of one process; and one of two that share the network, then one, then two again, two steps each."""
    runs = tmp_path_factory.mktemp("runs")
    train(config(folder, *SETTINGS, "train.accumulate=2"), runs / "one")
    two(forked, folder, runs / "two", *SETTINGS, "train.shard=true", "train.recompute=true", stop=2)
    shutil.copytree(runs / "two", runs / "two steps")
    forked.python(SCRIPT, folder / "config.toml", runs / "two", 4, "resume", 0, *SETTINGS, **environment()).check_returncode()
    assert json.loads((runs / "two" / "state.json").read_text())["tensors"] == "state-4.safetensors"
    two(forked, folder, runs / "two", *SETTINGS, "train.shard=true", resume=True)
    return runs


@pytest.mark.slow
def test_two_processes_that_share_the_network_do_what_one_does_and_any_number_goes_on(curves):
    one, several = losses(curves / "one"), losses(curves / "two")
    assert one.keys() == several.keys() == set(range(1, 7))
    assert max(abs(one[step] - several[step]) for step in one) < 1e-4
    mine, theirs = stored_tensors(curves / "one"), stored_tensors(curves / "two")
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        if "frontend" in name and ("running_" in name or "num_batches" in name):     # as if one had seen all batches
            torch.testing.assert_close(theirs[name], tensor, atol=1e-4, rtol=1e-4)
    assert (curves / "two" / "model" / "model.json").exists()
    assert sorted(path.name for path in (curves / "two").glob("*state-*")) == ["state-6"]
    assert not list((curves / "two").rglob("*.metadata"))   # which would be pickled


@pytest.mark.slow
def test_a_shared_state_that_is_incomplete_or_damaged_is_refused(curves, folder, tmp_path):
    settings = config(folder, *SETTINGS)
    shutil.copytree(curves / "two steps", tmp_path / "run")
    first, second = sorted((tmp_path / "run" / "state-2").iterdir())
    whole = second.read_bytes()
    second.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(BadCheckpoint, match=r"state-2: cannot be read as a training state \(.+\)\.  Copy the folder again"):
        train(settings, tmp_path / "run", TrainOptions(resume=True))
    second.unlink()
    with pytest.raises(BadCheckpoint, match=r"state-2/shard-00002-.*: no such file, although the state has it\.  Copy"):
        train(settings, tmp_path / "run", TrainOptions(resume=True))
    second.write_bytes(whole)
    first.unlink()
    facts = json.loads((tmp_path / "run" / "state.json").read_text())
    del facts["about"]["files"]
    (tmp_path / "run" / "state.json").write_text(json.dumps(facts))
    with pytest.raises(BadCheckpoint, match=r"state-2: holds \d+ of \d+ numbers of .+, so a file is missing or damaged\.  "):
        train(settings, tmp_path / "run", TrainOptions(resume=True))


@pytest.mark.slow
def test_a_process_that_is_killed_while_a_state_is_saved_is_started_again_and_goes_on_from_the_one_before(forked, folder,
                                                                                                          tmp_path, curves):
    done = forked.python(AGENT, folder / "config.toml", tmp_path / "run", 6, "new", 4, *SETTINGS, "train.shard=true",
                         **environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert "exitcode: -9" in done.stderr
    found, undisturbed = losses(tmp_path / "run"), losses(curves / "one")
    assert found.keys() == undisturbed.keys()
    assert max(abs(found[step] - undisturbed[step]) for step in found) < 1e-4
    assert [path.name for path in (tmp_path / "run").glob("*state-*")] == ["state-6"]


# What goes wrong

def test_to_share_the_network_somebody_must_be_there(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(BadConfig, match=r"train\.shard is true, but this process was started alone.*  Start it by torchrun"):
        train(config(folder, "train.shard=true"), tmp_path)


def test_a_number_of_processes_that_cannot_share_a_step_is_told_the_ones_that_can(tmp_path):
    def of(accumulate, world, /, **about):
        state = {"step": 1, "seconds": 1.0, "best": [], "tensors": "state-1", "about": about}
        (tmp_path / "state.json").write_text(json.dumps(state))
        return batches_per_step(tmp_path, accumulate, world)

    assert of(1, 1, accumulate=1, processes=4) == of(2, 2, accumulate=1, processes=4) == 4
    assert of(1, 4, accumulate=4, processes=1) == 4
    assert of(1, 2, accumulate=1, processes=1, batches=6) == 6
    with pytest.raises(BadCheckpoint, match=r"takes 4 batches, which 3 processes cannot share evenly\.  Resume with a number"):
        of(1, 3, accumulate=1, processes=4)
    with pytest.raises(BadCheckpoint, match=r"takes 4 batches, but train\.accumulate = 3 makes it 3\.  Resume with train\."):
        of(3, 1, accumulate=4, processes=1)
    with pytest.raises(BadCheckpoint, match=r"about\.batches is null, but must be a whole number above 0\.  Start a new run"):
        of(1, 1)


def test_other_training_data_than_those_that_a_run_began_with_are_refused(tmp_path):
    path = corpus(tmp_path)
    settings, run = config(tmp_path, "train.steps=2"), tmp_path / "run"
    train(settings, run, TrainOptions(minutes=1e-9))
    rows = manifest.read(path)
    manifest.write(path, [*rows[1:], rows[0]])
    with pytest.raises(BadCheckpoint, match=r"run: the training data have changed since the run began, which had 12 utterances"
                                            r": the 12 of today are others, or lie elsewhere in the shards\.  Resume with "):
        train(settings, run, TrainOptions(resume=True))
    manifest.write(path, rows)
    facts = json.loads((run / "state.json").read_text())
    for name in ("data", "batches"):                        # a run of a former version
        del facts["about"][name]
    (run / "state.json").write_text(json.dumps(facts))
    assert train(settings, run, TrainOptions(resume=True)).done


@pytest.mark.slow
def test_a_machine_without_a_compiler_says_so(forked, folder, tmp_path):
    code = ("import sys; from avsr.config import read_config; from avsr.train import train; from avsr.errors import BadConfig\n"
            "try: train(read_config(sys.argv[1], ['train.compile=yes']), sys.argv[2])\n"
            "except BadConfig as error: print(error)")
    done = forked.python(code, folder / "config.toml", tmp_path / "run", **environment(PATH="", CXX="no-compiler",
                         TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"), TORCHINDUCTOR_FORCE_DISABLE_CACHES="1"))
    assert done.stdout.startswith('train.compile is "yes", but torch.compile fails on this machine ('), done.stderr
    assert done.stdout.rstrip().endswith('Install a C++ compiler (CPU) or Triton (CUDA), or write train.compile = "no".')


def test_a_profile_is_a_trace_in_the_run_s_folder(folder, tmp_path):
    said = []
    train(config(folder, "train.steps=5"), tmp_path / "run", TrainOptions(profile=True, say=said.append))
    (line,) = (line for line in said if line.startswith("profile"))
    assert line.startswith(f"profile of steps 3 to 5 of this start: {tmp_path / 'run' / 'trace-0.json.gz'}")
    with gzip.open(tmp_path / "run" / "trace-0.json.gz", "rt") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert "aten::convolution" in names
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite([row["flops"], row["wait"], row["memory"]]).all() for row in rows if "loss" in row)
    train(config(folder, "train.steps=2"), tmp_path / "short", TrainOptions(profile=True, say=said.append))
    assert "profile: this start has ended before its step 3, so no trace was written" in said
    assert not (tmp_path / "short" / "trace-0.json.gz").exists()
