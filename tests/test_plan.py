"""Plans: what is counted is what torch counts, memory and time move as they must, and the command says what limits."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from places import ROOT
from torch.utils.flop_counter import FlopCounterMode

from avsr.cli import main
from avsr.config import read_config
from avsr.errors import AvsrError, BadConfig
from avsr.plan import PlanSettings, PreparePlan, plan_training, workers_for
from avsr.plan.communication import BUCKET_BYTES, Ring, exposed_data_parallel_s, exposed_sharded_s
from avsr.plan.counting import Weights, network_of
from avsr.plan.devices import DEVICES
from avsr.plan.measure import _module, noise_batch
from avsr.plan.run import advice, steps_for
from avsr.plan.training import Cluster
from avsr.train.initialise import initialise

TINY = """
[model.dims]
width = 32
n_heads = 2
n_audio_layers = 2
n_video_layers = 1
n_fusion_layers = 1
n_decoder_layers = 1
n_context = 24
n_local = 1
[data]
train = ["absent.jsonl"]
valid = ["absent.jsonl"]
frames = 75
n_labels = 10
[train]
dropout = 0.1
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "config.toml").write_text(TINY)
    return read_config(folder / "config.toml")


@pytest.fixture(scope="module")
def plan(config):
    """A plan of the tiny network on one H100."""
    (one,) = plan_training(config, PlanSettings(clip_seconds=1.0))
    return one


def on(plan, n: int, kind: str = "h100", *, per_machine: int = 8, **train):
    """The same training on n devices of a kind."""
    cluster = Cluster(DEVICES[kind], n, per_machine, 100e9 / 8, 2)
    return replace(plan, cluster=cluster, config=replace(plan.config, train=replace(plan.config.train, **train)))


# --- counting ---

def test_the_weights_are_those_of_the_network_that_training_begins_with(config, plan, tmp_path):
    start = initialise(config, tmp_path)
    assert network_of(config).dims == start.model.dims
    module = _module(config, network_of(config), PlanSettings())
    assert plan.weights.all == sum(p.numel() for p in module.parameters())
    assert plan.weights.all - plan.weights.parts["labels"] == sum(p.numel() for p in start.model.parameters())
    assert plan.weights.trained == plan.weights.all


@pytest.mark.parametrize("path", sorted(path.relative_to(ROOT / "experiments").as_posix()
                                        for name in ("grid", "history") for path in (ROOT / "experiments" / name).glob("*.toml")
                                        if "start" not in path.read_text()))
def test_the_dims_are_those_of_training(path, tmp_path):
    config = read_config(ROOT / "experiments" / path)
    if config.model.audio_encoder_from or config.model.video_encoder_from:
        pytest.skip("needs a model")
    assert network_of(config).dims == initialise(config, tmp_path).model.dims


@pytest.mark.parametrize("modality", ["a", "v", "av"])
def test_flops_are_those_that_torch_counts_in_a_real_step(config, plan, modality):
    (count, _), network = plan.counts[modality], network_of(config)
    module = _module(config, network, PlanSettings())
    batch = noise_batch(module, network, count.shape)
    with FlopCounterMode(display=False) as counter:
        module(batch).total.backward()
    assert counter.get_total_flops() == pytest.approx(count.flops, rel=1e-6)


def test_frozen_weights_take_no_gradient_no_state_and_fewer_flops(config, plan):
    frozen = replace(config, train=replace(config.train, rates={"audio.*": 0.0}))
    (other,) = plan_training(frozen, PlanSettings(clip_seconds=1.0))
    assert other.weights.all == plan.weights.all
    assert other.weights.trained == plan.weights.all - plan.weights.parts["audio"]
    assert other.counts["a"][0].flops < plan.counts["a"][0].flops
    assert other.memory.optimiser == 8 * other.weights.trained


def test_recomputing_saves_memory_costs_operations_and_no_flops_of_the_network(config):
    deep = replace(config, model=replace(config.model, dims={**config.model.dims, "n_audio_layers": 6}),
                   data=replace(config.data, p_audio_visual=0.0, p_audio=1.0))
    plans = [plan_training(replace(deep, train=replace(deep.train, recompute=recompute)), PlanSettings(clip_seconds=3.0))[0]
             for recompute in (False, True)]
    kept, recomputed = (plan.counts["a"][0] for plan in plans)
    assert recomputed.activations < 0.9 * kept.activations
    assert recomputed.backward.flops > kept.backward.flops
    assert recomputed.flops == kept.flops


def test_activations_grow_with_the_batch_and_a_gpu_takes_fewer_bytes(config, plan):
    (twice,) = plan_training(replace(config, data=replace(config.data, frames=150)), PlanSettings(clip_seconds=1.0))
    assert 1.7 < twice.counts["av"][0].activations / plan.counts["av"][0].activations < 2.1
    (cpu,) = plan_training(config, PlanSettings(clip_seconds=1.0, kinds=("cpu",)))
    assert cpu.counts["av"][0].activations > plan.counts["av"][0].activations     # float32, not bfloat16
    assert cpu.counts["av"][0].flops == plan.counts["av"][0].flops


# --- messages ---

def test_a_ring_moves_twice_the_bytes_whatever_its_length():
    rings = [Ring(n, 8, 1e9, replace(DEVICES["h100"], latency_s=0.0)) for n in (2, 8, 64)]
    assert [ring.all_reduce_s(450e9) for ring in rings[:2]] == [pytest.approx(1.0), pytest.approx(2 * 7 / 8)]
    assert rings[2].bytes_per_s == 1e9                       # the network between eight machines is slower than their links
    assert Ring(1, 8, 1e9, DEVICES["h100"]).all_reduce_s(1e9) == 0
    slow = Ring(64, 8, 1e9, DEVICES["h100"])
    assert slow.all_reduce_s(1.0) == pytest.approx(126 * DEVICES["h100"].latency_s, rel=1e-3)


def test_the_last_bucket_never_hides_and_the_others_do():
    ring = Ring(8, 8, 1e9, DEVICES["h100"])
    assert exposed_data_parallel_s(ring, BUCKET_BYTES, 10.0) == ring.all_reduce_s(BUCKET_BYTES)
    assert exposed_data_parallel_s(ring, 100 * BUCKET_BYTES, 10.0) == ring.all_reduce_s(BUCKET_BYTES)
    assert exposed_data_parallel_s(ring, 100 * BUCKET_BYTES, 0.0) > 50 * ring.all_reduce_s(BUCKET_BYTES)
    assert exposed_sharded_s(ring, 1e9, 2e9, 10.0, 10.0) == 0.0
    assert exposed_sharded_s(ring, 1e9, 2e9, 0.0, 0.0) == pytest.approx(2 * ring.gather_s(1e9) + ring.gather_s(2e9))


# --- memory and time ---

def test_more_devices_never_take_longer_for_a_corpus_in_computing(plan):
    took = [on(plan, n).step.compute * 1000 * 3600 / on(plan, n).speech_s for n in (1, 2, 8, 64, 512)]
    assert took == sorted(took, reverse=True)
    assert took[0] / took[3] == pytest.approx(64)


def test_sharded_memory_falls_with_the_number_of_devices(plan):
    one, eight, many = (on(plan, n, shard=True).memory for n in (1, 8, 64))
    for name in ("weights", "gradients", "optimiser"):
        assert getattr(one, name) / getattr(eight, name) == pytest.approx(8)
        assert getattr(one, name) / getattr(many, name) == pytest.approx(64)
    assert on(plan, 8).memory.weights == one.weights         # without train.shard each has all
    # Over several batches the gradient is summed up before it is shared.
    assert on(plan, 8, shard=True, accumulate=2).memory.gradients == one.gradients


def test_processes_wait_for_the_slowest_batch(plan):
    assert on(plan, 1).step.waiting == pytest.approx(0, abs=1e-12)
    waits = [on(plan, n).step.waiting for n in (2, 4, 64, 4096)]
    assert waits == sorted(waits)
    slowest = max(on(plan, 1).batch_s.values())
    step = on(plan, 4096).step
    assert step.compute + step.waiting == pytest.approx(slowest)


def test_loaders_that_are_enough_leave_no_waiting(plan):
    quick = replace(DEVICES["h100"], launch_s=1e-6)
    starved = replace(plan, cluster=replace(plan.cluster, device=quick))
    needed = starved.loaders_needed
    assert starved.step.loading > 0
    assert starved.limit == "data"
    assert any(f"data.workers = {needed}" in one for one in advice(starved, PlanSettings(clip_seconds=1.0)))
    data = replace(starved.config.data, workers=needed)
    assert replace(starved, config=replace(starved.config, data=data)).step.loading == pytest.approx(0, abs=1e-4)


def test_passes_over_a_corpus_make_steps(plan):
    assert steps_for(plan, 10.0, None) == plan.config.train.steps
    assert steps_for(plan, 10.0, 2.0) == round(2 * 10 * 3600 / plan.speech_s)


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_what_would(config):
    config = replace(config, data=replace(config.data, p_audio_visual=1.0, p_audio=0.0))
    settings = PlanSettings(clip_seconds=1.0)
    (plan,) = plan_training(config, settings)
    for memory, would in ((plan.memory.total - 0.4 * plan.memory.activations, "data.frames = 37"), (1e9, "none of")):
        there = replace(plan, cluster=replace(plan.cluster, device=replace(DEVICES["h100"], memory=memory / 0.95)))
        assert (there.memory.fits, there.limit) == (False, "memory")
        said = advice(there, settings)
        assert any(one.startswith("It fits with ") and would in one for one in said), said


def test_sharing_the_weights_makes_a_large_network_fit(plan):
    """Weights of 8 billion, whose states take 128 GB, in the place of those of the tiny network."""
    weights = Weights(8 * 10**9, 8 * 10**9, 10**8, {})
    assert not replace(on(plan, 64), weights=weights).memory.fits
    assert replace(on(plan, 64, shard=True), weights=weights).memory.fits
    assert not replace(on(plan, 1, shard=True), weights=weights).memory.fits      # with nobody to share with


# --- preparing ---

def test_workers_for_days_are_the_fewest():
    for hours, days in ((1000, 2), (1000, 10), (50, 1)):
        n = workers_for(hours, days)
        assert PreparePlan(hours, n).wall_hours <= 24 * days
        assert n == 1 or PreparePlan(hours, n - 1).wall_hours > 24 * days
    assert workers_for(1e6, 1) is None
    assert PreparePlan(1000, 10_000).limit == "writing"
    assert PreparePlan(1000, 10_000).wall_hours == pytest.approx(PreparePlan(1000, 20_000).wall_hours)


# --- the command ---

def ask(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["plan", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.slow
def test_the_command_prints_a_table_and_the_same_numbers_as_json(config):
    path = config.folder / "config.toml"
    words = (path, "--gpus", 16, "--gpu", "h100", "--gpu", "l4", "--hours", 100, "--passes", 2, "--workers", 64, "-q")
    status, text, _ = ask(*words)
    assert status == 0
    for said in ("16 x h100 (2 machines)", "16 x l4 (2 machines)", "fits", "limit", "h100: limited by",
                 "NVIDIA H100 SXM data sheet", "avsr prepare, 100 hours of video on 64 workers"):
        assert said in text, text
    status, text, _ = ask(*words, "--format", "json")
    assert status == 0
    out = json.loads(text)
    first = out["training"][0]
    assert first["memory"]["total"] == pytest.approx(sum(first["memory"][name] for name in (
        "weights", "gradients", "optimiser", "activations", "communication", "runtime")))
    assert math.isclose(first["passes"], 2, rel_tol=0.01)
    assert first["hours"] > first["steps"] * first["step_s"]["total"] / 3600
    assert out["prepare"]["workers"] == 64


@pytest.mark.slow
def test_measuring_makes_the_plan_what_was_measured(config):
    from avsr.plan.measure import measure

    kind, calibration, seconds = measure(config, PlanSettings(clip_seconds=1.0), device="cpu")
    settings = PlanSettings(clip_seconds=1.0, kinds=(kind,), calibrations={kind: calibration})
    (plan,) = plan_training(config, settings)
    mean = sum(seconds[name] * share for name, (_, share) in plan.counts.items())
    assert kind == "cpu"
    assert plan.step.compute == pytest.approx(mean)


def test_what_cannot_be_planned_is_one_sentence(config):
    path = config.folder / "config.toml"
    for words, said in (((), "nothing to plan"), ((path, "--passes", 2), "unknown length"),
                        ((path, "--workers", 2), "unknown length"), ((path, "--gpu", "h1oo"), "Did you mean h100?"),
                        ((path, "--gpu", "cpu", "--gpus", 5000), "this machine"), ((Path("absent.toml"),), "absent.toml")):
        status, out, err = ask(*words)
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert said in err
        assert err.count("\n") == 1


def test_dims_that_do_not_go_together_are_named(config):
    for dims in ({"width": 31}, {"depth": 3}, {"width": "wide"}):
        with pytest.raises(BadConfig, match=r"model\.dims"):
            network_of(replace(config, model=replace(config.model, dims=dims)))


def test_a_device_of_another_kind_is_refused_where_it_is_measured():
    from avsr.plan.measure import kind_here

    assert kind_here(torch.device("cpu")) == "cpu"
    with pytest.raises(AvsrError, match="not a kind"):
        plan_training(read_config(ROOT / "experiments/grid/config.toml"), PlanSettings(kinds=("abacus",)))
