"""The files to run `avsr` elsewhere, as far as they can be tried without an engine: linted, and the commands in them run.

The container, the SLURM job and the Ray cluster themselves were tried by hand: experiments/deploy/README.md.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from places import ROOT

from avsr.cli import main
from avsr.errors import AvsrError

DEPLOY = ROOT / "experiments" / "deploy"
DOCKERFILE, COMPOSE = DEPLOY / "Dockerfile", DEPLOY / "compose.yaml"
JOB, CLUSTER = DEPLOY / "train.sbatch", DEPLOY / "ray-cluster.yaml"
PROGRAMS = Path(sys.executable).parent                      # where packages put theirs


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, as (RUN, its text on one line)."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return [tuple(line.split(maxsplit=1)) for line in text.replace("\\\n", "").splitlines() if line.strip()]


def of_kind(kind: str) -> list[str]:
    return [text for name, text in instructions() if name == kind]


def linter(name: str) -> str:
    """A linter that the development group brings as a package; skips where there is none for this system."""
    found = shutil.which(name, path=f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def parses(words: list[str]) -> click.Context:
    """An `avsr` command as click reads it, not run. Fails where an option does not exist."""
    name, *rest = words
    return main.commands[name].make_context(name, rest)


# --- the container ---

def test_the_linters_of_dockerfiles_and_of_shells_find_nothing():
    for command in ([linter("hadolint"), DOCKERFILE], [linter("shellcheck"), JOB]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_every_argument_is_used_and_what_is_installed_is_in_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    arguments = dict(re.fullmatch(r'(\w+)="?(.*?)"?', text).groups() for text in of_kind("ARG"))
    assert set(arguments) == {"PYTHON", "BACKEND", "EXTRAS", "UV"}
    for name in arguments:
        assert f"${{{name}}}" in DOCKERFILE.read_text(), name
    assert set(arguments["EXTRAS"].split()) <= set(project["project"]["optional-dependencies"])
    assert arguments["PYTHON"] == (ROOT / ".python-version").read_text().strip()
    assert re.findall(r"--group (\w+)", DOCKERFILE.read_text()) == ["faces"]
    assert "faces" in project["dependency-groups"]


def test_what_is_copied_exists_and_is_sent_to_the_builder():
    sent = {line[1:] for line in Path(f"{DOCKERFILE}.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for text in of_kind("COPY") if "--from" not in text for source in text.split()[:-1]}
    bound = set(re.findall(r"type=bind,source=([\w/]+)", DOCKERFILE.read_text()))
    assert copied | bound == sent
    for name in sent:
        assert (ROOT / name).exists(), name
    # hatchling cannot build without these.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied


def test_nobody_is_root_and_models_are_kept_in_the_volume():
    assert of_kind("USER") == ["10001"]
    assert [name for name, _ in instructions()].index("USER") < [name for name, _ in instructions()].index("ENTRYPOINT")
    (volume,), environment = of_kind("VOLUME"), dict(word.split("=") for word in of_kind("ENV")[-1].split())
    for name in ("AVSR_CACHE", "AVSR_DATA", "HF_HOME"):
        assert environment[name].startswith(f"{volume}/")


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
def test_the_installing_command_asks_for_what_is_installed_here():
    """uv, asked offline for what this environment has, has nothing to do; a misspelt extra or option would be an error."""
    (command,) = (text for text in of_kind("RUN") if "pyproject.toml" in text)
    command = re.sub(r"--mount=\S+", "", command).replace("uv pip install", "uv pip install --dry-run --offline")
    (extras,) = (text.partition("=")[2].strip('"') for text in of_kind("ARG") if text.startswith("EXTRAS"))
    variables = {"EXTRAS": extras, "BACKEND": "cuda", "VIRTUAL_ENV": sys.prefix}
    done = subprocess.run(["sh", "-ec", command], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Would make no changes" in done.stderr


def test_the_commands_in_the_container_are_commands_of_ours():
    (smoke,) = (text for text in of_kind("RUN") if " avsr transcribe" in text)
    words = shlex.split(smoke)[1:]
    assert words[0] == "avsr"
    assert parses([word.replace("/demo", str(ROOT / "data/demo")) for word in words[1:]]).params["modality"] == "av"
    assert json.loads(*of_kind("ENTRYPOINT")) == ["avsr"]
    asked = parses(json.loads(*of_kind("CMD"))).params
    assert of_kind("EXPOSE") == [str(asked["port"])]
    from avsr.serve.settings import ServeSettings

    with pytest.raises(AvsrError, match="AVSR_API_KEY"):     # a container without a key does not start
        ServeSettings(asked["host"], asked["port"])
    assert ServeSettings(asked["host"], asked["port"], api_key="k").address == f"http://127.0.0.1:{asked['port']}"


@pytest.mark.slow
def test_the_check_of_health_tells_a_server_with_a_model_from_one_without():
    for package in ("fastapi", "multipart", "uvicorn", "websockets"):
        pytest.importorskip(package)
    from made_web import served

    from avsr.serve.models import ServedModel

    words = json.loads(of_kind("HEALTHCHECK")[0].partition(" CMD ")[2])

    def check(address: str) -> int:
        code = words[2].replace("http://127.0.0.1:8000", address)
        assert address in code
        return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode

    def no_model():
        raise AvsrError("no model.  Give one.")

    ready, failed = ServedModel("default", lambda: None), ServedModel("default", no_model)
    with served(ready) as one, served(failed) as other:
        assert ready._there.wait(10)
        assert failed._there.wait(10)
        assert (check(one.address), check(other.address)) == (0, 1)
        address = one.address
    assert check(address) == 1                               # nobody answers any more


# --- the compose file ---

def interpolated(text: str, **variables: str) -> str:
    """The values of `${NAME:-default}` and `${NAME:?why}`, as compose puts them in. Raises KeyError for the latter."""
    def value(found: re.Match) -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == "?":
            raise KeyError(rest)
        return rest
    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, text)


def test_the_compose_file_builds_this_dockerfile_and_publishes_on_loopback_alone():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(services) == {"serve", "serve-cuda"}
    arguments = {text.partition("=")[0] for text in of_kind("ARG")}
    for name, service in services.items():
        # Keys of the Compose Specification; a misspelt one would be ignored by some engines.
        assert set(service) <= {"build", "cap_drop", "command", "environment", "gpus", "image", "init", "ports", "profiles",
                                "restart", "security_opt", "volumes"}, name
        build = service["build"]
        assert (COMPOSE.parent / build["context"]).resolve() == ROOT
        assert ROOT / build["dockerfile"] == DOCKERFILE
        assert set(build["args"]) <= arguments
        assert [interpolated(port) for port in service["ports"]] == [f"127.0.0.1:8000:{of_kind('EXPOSE')[0]}"]
        volume, _, place = service["volumes"][0].partition(":")
        assert volume in yaml.safe_load(COMPOSE.read_text())["volumes"]
        assert [place] == of_kind("VOLUME")
        assert parses([interpolated(word) for word in service["command"]]).params["model"] == "default"
    assert [services[name]["build"]["args"]["BACKEND"] for name in services] == ["cpu", "cuda"]


def test_compose_starts_nothing_without_a_key():
    key = yaml.safe_load(COMPOSE.read_text())["services"]["serve"]["environment"]["AVSR_API_KEY"]
    assert interpolated(key, AVSR_API_KEY="secret") == "secret"
    for absent in ({}, {"AVSR_API_KEY": ""}):
        with pytest.raises(KeyError, match="give the key"):
            interpolated(key, **absent)


# --- the SLURM script ---

@pytest.fixture
def cluster(tmp_path):
    """A machine whose SLURM is this: `srun` runs a command once, and `scontrol` writes down what it was asked."""
    tools = tmp_path / "slurm"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$SAID/srun"\nexec "$@"\n')
    (tools / "scontrol").write_text('#!/bin/sh\necho "$*" >> "$SAID/scontrol"\nif [ "$1" = show ]; then echo 127.0.0.1; fi\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return {**os.environ, "PATH": f"{tools}{os.pathsep}{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "SAID": str(tmp_path),
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "1"}


def test_the_job_asks_slurm_for_what_slurm_knows():
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", JOB.read_text(), re.MULTILINE))
    assert set(asked) == {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "requeue",
                          "open-mode", "signal"}
    assert asked["ntasks-per-node"] == "1"                   # torchrun starts the others
    assert re.fullmatch(r"B:USR1@\d+", asked["signal"])      # to the script itself, where the trap is


def test_the_job_starts_torchrun_and_goes_on_where_a_state_is(cluster, tmp_path):
    from torch.distributed.run import get_args_parser

    (tmp_path / "slurm" / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$SAID/srun"\n')      # and runs nothing
    config = ROOT / "experiments/grid/config.toml"
    for resumes in (False, True):
        if resumes:
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "state.json").touch()
        subprocess.run(["bash", JOB, config, tmp_path / "run", "--set", "train.steps=3"], env=cluster, check=True)
        program, *words = (tmp_path / "srun").read_text().splitlines()
        assert program == "torchrun"
        asked = get_args_parser().parse_args(words)
        assert (asked.nnodes, asked.nproc_per_node, asked.rdzv_endpoint, asked.rdzv_id) == ("1", "1", "127.0.0.1:29500", "7.0")
        assert (asked.module, asked.training_script, *asked.training_script_args[:2]) == (True, "avsr", "train", str(config))
        given = parses(asked.training_script_args).params
        assert given["resume"] == resumes
        assert given["overrides"] == ("train.steps=3",)
        assert given["output_dir"] == str(tmp_path / "run")


def test_the_job_names_what_is_missing(cluster):
    done = subprocess.run(["bash", JOB], env=cluster, capture_output=True, text=True)
    assert done.returncode != 0
    assert "the config of the training" in done.stderr


def test_the_job_puts_itself_into_the_queue_before_its_time_is_up(cluster, tmp_path):
    (tmp_path / "slurm" / "srun").write_text('#!/bin/sh\ntouch "$SAID/started"\nexec sleep 60\n')
    job = subprocess.Popen(["bash", JOB, "config.toml", tmp_path / "run"], env=cluster, start_new_session=True)
    try:
        while not (tmp_path / "started").exists():
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(signal.SIGUSR1)                      # as --signal=B:USR1@300 has SLURM do
        job.wait(timeout=30)
        assert (tmp_path / "scontrol").read_text().splitlines()[-1] == "requeue 7"
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()


# --- the Ray cluster ---

@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")      # of Ray's own modules
def test_the_cluster_file_is_what_ray_accepts():
    pytest.importorskip("ray")
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.scripts.scripts import start, stop

    text = yaml.safe_load(CLUSTER.read_text())
    full = prepare_config(text)
    validate_config(full)                                    # its schema forbids keys that Ray does not know
    workers = full["available_node_types"]["local.cluster.node"]
    assert workers["max_workers"] == len(text["provider"]["worker_ips"]) == text["max_workers"]
    starts = [*text["head_start_ray_commands"], *text["worker_start_ray_commands"]]
    for _, verb, *words in map(shlex.split, starts):
        assert {"start": start, "stop": stop}[verb].make_context(verb, words)
    # The address in the comment is the head's, at the port where it listens for clients.
    (head,) = (line for line in starts if "--head" in line)
    port = re.search(r"--ray-client-server-port=(\d+)", head)[1]
    assert f"ray://{text['provider']['head_ip']}:{port}" in CLUSTER.read_text()
    assert text["docker"]["image"] in {service["image"] for service in yaml.safe_load(COMPOSE.read_text())["services"].values()}
