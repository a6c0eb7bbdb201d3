"""Configs: defaults, one short TOML, overrides; every error is a sentence with the file, the key and a remedy."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

from avsr.config import (
    OWN_NOISE,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    PretrainConfig,
    ReliabilityConfig,
    TrainConfig,
    read_config,
)
from avsr.errors import BadConfig

ROOT = Path(__file__).resolve().parents[1]
DATA = '[data]\ntrain = ["a.jsonl"]\nvalid = ["b.jsonl"]\n'


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "config.toml").write_text(text)
        return tmp_path / "run" / "config.toml"

    return write


def test_what_is_not_said_is_the_default(written):
    path = written(DATA)
    config = read_config(path)
    data = DataConfig(("a.jsonl",), valid=("b.jsonl",))
    assert config.data.noise == OWN_NOISE
    assert config == Config("run", ModelConfig(), data, LossConfig(), TrainConfig(), ReliabilityConfig(), PretrainConfig(),
                            path.parent)
    assert config.path("a.jsonl") == path.parent / "a.jsonl"
    assert config.path("/x/a.jsonl") == Path("/x/a.jsonl")


def test_overrides_go_over_the_file_each_as_its_type(written):
    path = written(f'name = "mine"\n{DATA}snr = [0, 5]\n[train]\nsteps = 7\n')
    config = read_config(path, ["train.steps=9", "train.lr=3e-4", "model.start=tiny.en", "data.snr=[-5, 5]",
                                "loss.reliability=1", "train.rates={\"audio.*\" = 0.0}", "model.dims.video_frontend=compact",
                                "data.noise.white=true"])
    assert config.name == "mine"
    assert (config.train.steps, config.train.lr, config.model.start, config.data.snr) == (9, 3e-4, "tiny.en", (-5.0, 5.0))
    assert config.loss.reliability == 1.0
    assert isinstance(config.loss.reliability, float)
    assert config.train.rates == {"audio.*": 0.0}
    assert config.model.dims == {"video_frontend": "compact"}
    assert config.data.noise == {"white": True}
    assert read_config(path, ["model.start=none"]).model.start is None
    assert read_config(path).train.steps == 7


OLD = """
[model]
ears_from = "tiny.en"
lips_from = "grid"
[model.dims]
lips = "compact"
n_trust = 8
n_heed = 0
[loss]
trust = 0.5
trusted_loss = 2.0
[judges]
sights = 5
rows = 9
attune_steps = 4
"""


def test_keys_of_former_versions_are_read_with_a_warning_each(written):
    said = []
    path = written(f"{DATA}p_both = 0.5\np_sound = 0.1\np_foreign = 0.2\np_ruined = 0.3\nsound_draws = 1\n{OLD}")
    config = read_config(path, ["data.p_sound=0.25", "judges.lr=0.01", "model.dims.n_heed=0"], said.append)
    data, loss, fitted = config.data, config.loss, config.reliability
    assert (config.model.audio_encoder_from, config.model.video_encoder_from) == ("tiny.en", "grid")
    assert config.model.dims == {"video_frontend": "compact", "n_reliability": 8}
    assert (data.p_audio_visual, data.p_audio, data.p_mismatched, data.p_corrupted) == (0.5, 0.25, 0.2, 0.3)
    assert (loss.reliability, loss.readable_loss) == (0.5, 2.0)
    assert (fitted.variants, fitted.rows, fitted.contrastive_steps, fitted.lr) == (5, 9, 4, 0.01)
    assert f"{path}: judges.sights is now called reliability.variants; the old name still works." in said
    assert f"{path}: data.sound_draws has no effect any more, because every step encodes its sounds anew.  Remove it." in said
    assert f"{path}: data.p_sound is now called data.p_audio; the old name still works." in said
    assert len(said) == len(set(said)) == 15


CONFIGS = sorted(path for path in (ROOT / "experiments").glob("*/*.toml") if path.name != "noise.toml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_configs_that_come_with_it_can_be_read(path):
    said = []
    config = read_config(path, warn=said.append)
    assert config.data.train
    assert not said, "names of former versions"
    assert "shared" not in path.read_text()                  # what lies beside the repository only some machines have


def test_a_config_takes_over_what_it_extends_and_names_what_differs(written):
    path = written(f'name = "base"\n{DATA}[data.noise]\nwhite = true\npink = true\n[train]\nsteps = 7\nlr = 0.5\n')
    path.with_name("more.toml").write_text('extends = "run.toml"\n[data.noise]\npink = false\n[train]\nsteps = 9\n'
                                           .replace("run.toml", path.name))
    config = read_config(path.with_name("more.toml"), ["train.lr=0.25"])
    assert (config.name, config.train.steps, config.train.lr) == ("base", 9, 0.25)
    assert config.data.noise == {"white": True, "pink": False}
    assert config.data.train == ("a.jsonl",)


@pytest.mark.parametrize(("text", "says"), [
    ('extends = "no.toml"', "no.toml: cannot be read (No such file or directory)"),
    ('extends = "../run/config.toml"', "must be the name of a file in the same folder"),
    ("extends = 3", "extends is 3, but must be the name of a file in the same folder"),
    ('extends = "more.toml"', "extends more.toml, which extends this file again"),
    ('extends = "again.toml"', "extends more.toml, which extends this file again"),
])
def test_what_cannot_be_extended_is_said(tmp_path, text, says):
    (tmp_path / "again.toml").write_text('extends = "more.toml"\n')
    (tmp_path / "more.toml").write_text(text)
    with pytest.raises(BadConfig) as error:
        read_config(tmp_path / "more.toml")
    assert says in str(error.value)


WRONG = {
    "a misspelt key": ("[train]\nstepps = 3", [], "train.stepps is not a setting.  Did you mean train.steps?"),
    "a misspelt section": ("[trian]\nsteps = 3", [], "trian is not a setting.  Did you mean train?"),
    "a key like no other": ("[loss]\nxyzzy = 3", [], "loss.xyzzy is not a setting.  Known are attention, smoothing,"),
    "a misspelt augmentation": ("[data.augment]\nmask_second = 0", [],
                                "data.augment.mask_second is not a setting.  Did you mean data.augment.mask_seconds?"),
    "a chance above 1": ("[data.augment]\nblur = 1.5", [],
                         "data.augment.blur is 1.5, but must be a number from 0 to 1.  "
                         "Write data.augment.blur = 0.1, the default."),
    "more than all contrast": ("[data.augment]\ncontrast = 2", [],
                               "data.augment.contrast is 2, but must be a number from 0 to 1.  W"),
    "where it lies": ('folder = "x"', [], "folder is not a setting"),
    "a misspelt override": ("", ["train.lrr=1"], "train.lrr is not a setting.  Did you mean train.lr?"),
    "a negative learning rate": ("[train]\nlr = -1e-3", [],
                                 "train.lr is -0.001, but must be a number from 1e-12 to 10.  "
                                 "Write train.lr = 0.001, the default."),
    "a learning rate that is no number": ("[train]\nlr = nan", [],
                                          "train.lr is NaN, but must be a number from 1e-12 to 10.  "
                                          "Write train.lr = 0.001, the default."),
    "no step": ("", ["train.steps=0"], "train.steps is 0, but must be above 0"),
    "a negative factor": ('[train.rates]\n"audio.*" = -0.1', [],
                          "train.rates.audio.* is -0.1, but must be a number from 0 to 1000"),
    "a factor that is text": ('[train.rates]\n"audio.*" = "0"', [], 'train.rates.audio.* is "0", but must be a number'),
    "a negative weight": ("[loss]\nctc_audio = -1", [], "loss.ctc_audio is -1, but must be a number from 0 to 1e+06"),
    "a negative seed": ("", ["train.seed=-1"], "train.seed is -1, but must be a whole number from 0 to 9223372036854775807"),
    "negative workers": ("", ["data.workers=-1"], "data.workers is -1, but must be a whole number from 0 to 128"),
    "text for a number": ('[train]\nsteps = "many"', [],
                          'train.steps is "many", but must be a whole number from 0 to 1000000000.  '
                          'Write train.steps = 10000, the default.'),
    "half a step": ("[train]\nsteps = 1.5", [], "train.steps is 1.5, but must be a whole number"),
    "true for a number": ("[train]\nsteps = true", [], "train.steps is true, but must be a whole number"),
    "true for a rate": ("[train]\nlr = true", [], "train.lr is true, but must be a number"),
    "a number for text": ("name = 3", [], "name is 3, but must be text"),
    "one number for two": ("", ["data.snr=[3]"], "data.snr is [3], but must be a list of 2 numbers"),
    "text for a list": ("", ["data.train=a.jsonl"], 'data.train is "a.jsonl", but must be a list of texts'),
    "a list for a table": ("[model]\ndims = [1]", [], "model.dims is [1], but must be a table"),
    "a number for a section": ("loss = 3", [], "loss is a section, not 3.  Write [loss] above its settings."),
    "a share above 1": ("", ["data.p_audio_visual=1.5"],
                        "data.p_audio_visual is 1.5, but must be a number from 0 to 1.  "
                        "Write data.p_audio_visual = 0.4, the default."),
    "a share below 0": ("", ["data.p_mismatched=-0.5"], "data.p_mismatched is -0.5, but must be a number from 0 to 1"),
    "shares that are more than all": ("", ["data.p_audio_visual=0.6", "data.p_audio=0.6"],
                                      "data.p_audio_visual + data.p_audio is 1.20, but"),
    "loud before soft": ("", ["data.snr=[20, -10]"],
                         "data.snr is [20, -10], but must run from the lowest to the highest.  Swap"),
    "a beta of 1": ("", ["train.betas=[0.9, 1.0]"], "train.betas is [0.9, 1.0], but both must be from 0 to below 1"),
    "gates wider than open": ("", ["model.gates=1.0"], "model.gates is 1, but must be between -1 and 1"),
    "more workers than any machine holds": ("", ["data.workers=100000"],
                                            "data.workers is 100000, but must be a whole number from 0 to 128"),
    "a seed of 65 bits": ("", ["train.seed=18446744073709551616"],
                          "train.seed is 18446744073709551616, but must be a whole number from 0 to"),
    "a number of threads with a fraction": ("", ["train.threads=1e20"], "train.threads is 1e+20, but must be a whole number"),
    "threads without number": ("", ["train.threads=100000"],
                               "train.threads is 100000, but must be a whole number from 0 to 256"),
    "a rate beyond all numbers": ("", ["train.lr=1e308"], "train.lr is 1e+308, but must be a number"),
    "a rate beyond sense": ("", ["train.lr=1e6"], "train.lr is 1000000.0, but must be a number from 1e-12 to 10"),
    "a rate that is infinite": ("", ["train.lr=inf"], "train.lr is Infinity, but must be a number"),
    "a whole number that no float holds": ("", [f"train.lr=1{'0' * 400}"], "train.lr is a number of more than 40 digits, but"),
    "a number that Python does not read": ("", [f"train.lr=1{'0' * 5000}"], 'train.lr is "1000'),
    "a number of 20,000 digits in hex": ("", [f"train.seed=0x{'f' * 20000}"], "train.seed is a number of more than 40 digits"),
    "half a frame hidden": ("[data.augment]\nmask_frames = 2.5", [], "data.augment.mask_frames is 2.5, but must be a whole n"),
    "an augmentation that is text": ('[data.augment]\nblur = "x"', [], 'data.augment.blur is "x", but must be a number'),
    "decibels beyond all sound": ("", ["data.snr=[-1000, 5]"], "data.snr[0] is -1000, but must be a number from -100 to 100"),
    "a name that leads elsewhere": ('name = "../x"', [],
                                    "name is \"../x\", but must be a name for the run's folder within runs/"),
    "no name": ('name = ""', [], 'name is "", but must be a name for the run'),
    "a model without a name": ('[model]\nstart = ""', [], 'model.start is empty.  Give it a value, or write "none"'),
    "an audio gate": ("", ["model.dims.n_heed=8"],
                      "model.dims.n_heed is 8, but the audio gate was removed, as it gained nothing.  Remove it."),
    "an old name beside the new one": ("p_both = 0.3\np_audio_visual = 0.4", [],
                                       "data.p_both is now called data.p_audio_visual, and both are there.  Remove data."),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_a_sentence_with_file_key_and_remedy(written, case):
    text, overrides, says = WRONG[case]
    path = written(f"{text}\n{'' if text.startswith('[data') else DATA}" if text.startswith(("name", "folder", "loss"))
                   else DATA + text)
    with pytest.raises(BadConfig) as caught:
        read_config(path, overrides)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert ".  " in message
    assert message.endswith((".", "?"))
    assert "\n" not in message


@pytest.mark.parametrize(("text", "missing"), [
    ("", "train"), ("[train]\nsteps = 3", "train"), ('[data]\ntrain = ["x"]', "valid")])
def test_without_data_it_says_what_to_add(written, text, missing):
    path = written(text)
    with pytest.raises(BadConfig, match=rf"data\.{missing} names no manifest.  Add a section \[data\] with train = ") as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_shares_that_are_all_but_for_rounding_are_taken(written):
    config = read_config(written(DATA), ["data.p_audio_visual=0.9", "data.p_audio=0.1"])
    assert 1 - config.data.p_audio_visual - config.data.p_audio < 0, "this pair shows nothing"


@pytest.mark.parametrize(("override", "says"), [
    ("train.lr", "has no value"), ("data.align=", "has no value"), ("data.align= ", "has no value"),
    ("train.lr.x=3", "lr is no section"), ("name.x=3", "name is no section")])
def test_an_override_must_be_one(written, override, says):
    with pytest.raises(BadConfig, match=rf"--set {override}: {says}.  Write it as train\.lr=3e-4"):
        read_config(written(f'name = "x"\n{DATA}[train]\nlr = 1e-3\n'), [override])


def test_what_is_no_toml_says_in_which_line(written):
    path = written("[data]\ntrain = [1 2]\n")
    with pytest.raises(BadConfig, match=r"config\.toml: not TOML \(.*line.*\)\.  Mend that line\."):
        read_config(path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(BadConfig, match=r"config\.toml: not TOML \(byte 8 is no UTF-8\)\.  Save the file as UTF-8\."):
        read_config(path)
    path.write_text(f"name = {'[' * 100_000}")
    with pytest.raises(BadConfig, match=r"config\.toml: not TOML"):
        read_config(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_does_no_harm(written, encoding):
    path = written("")
    path.write_bytes(f'extends = "below.toml"\n{DATA}'.replace("\n", "\r\n").encode(encoding))
    path.with_name("below.toml").write_bytes('name = "Zoë"\n'.encode(encoding))
    assert (read_config(path).name, read_config(path).data.train) == ("Zoë", ("a.jsonl",))


def test_no_such_file(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(BadConfig, match=r"cannot be read \(.*\)\.  Name a config\.toml"):
            read_config(path)


def numbers_of(kind):
    """(name, annotation) of each field that holds numbers, and of the values of tables."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for inner in (hint,) if get_origin(hint) is Annotated else (hint, *get_args(hint)):
            if get_origin(inner) is Annotated or inner in (int, float):
                yield name, inner


@pytest.mark.parametrize("kind", [ModelConfig, DataConfig, LossConfig, TrainConfig, ReliabilityConfig])
def test_every_number_has_bounds(kind):
    unbounded = {name for name, hint in numbers_of(kind) if get_origin(hint) is not Annotated}
    assert unbounded <= {"gates", "betas"}                   # whose bounds are open: see _check
    given = {f.name for f in fields(kind) if isinstance(f.default, float | int) and not isinstance(f.default, bool)}
    assert given <= {name for name, _ in numbers_of(kind)}


def refused(path, override):
    try:
        read_config(path, [override])
    except BadConfig as error:
        return str(error)
    return None


HOSTILE = ["nan", "inf", "-1", "1e308", "1e400", "2.5", "true", "''", "[]", "{}", "none", "[1, 2, 3]", "0x" + "f" * 5000,
           "9" * 5000, "[" * 2000, "1979-05-27", '"\\u0000"', "{a = {b = 1}}", "[[1], [2]]", "\"\ud800\""]


def test_no_value_of_any_setting_ends_in_anything_but_a_sentence(written):
    path, keys = written(DATA), []
    for section in fields(Config):
        kind = get_type_hints(Config)[section.name]
        keys += [f"{section.name}.{f.name}" for f in fields(kind)] if is_dataclass(kind) else [section.name]
    keys += ["", ".", "data", "data..train", "a.b.c.d", "train.rates.x", "data.augment.blur", "data.noise.white"]
    for number, key in enumerate(keys):
        for value in HOSTILE[number % 4::4]:                 # each kind of value meets each kind of field
            said = refused(path, f"{key}={value}")
            assert said is None or ".  " in said, (key, value)
