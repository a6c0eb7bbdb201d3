"""The training loop of LSTM and GPT language models: steps, validation by perplexity, and saving.

    LMConfig + texts -> tokens, classes -> [ batch -> cross-entropy -> gradient -> step ] -> model/, the best on validation
The state, the log and the learning rate are those of loop.py.
"""

from __future__ import annotations

import math
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr import checkpoint
from avsr.checkpoint import Checkpoint
from avsr.errors import AvsrError, BadConfig, BadOutput, counted
from avsr.lm import NGRAMS, NGrams
from avsr.lm.config import LMConfig
from avsr.lm.kneser_ney import FALLBACK, SPECIAL, estimate, write_arpa
from avsr.lm.networks import LanguageNetwork, LMDims, make_network
from avsr.lm.neural import NeuralLM, lacking_letters
from avsr.lm.texts import TextData, read_data
from avsr.metrics import perplexity
from avsr.models.blocks import WithDropout
from avsr.models.decoder import Decoder
from avsr.output import locked
from avsr.runtime import pick_device
from avsr.text import SentencePieceTokenizer, Tokenizer, target_tokens
from avsr.train.initialise import commit, model_path
from avsr.train.log import TrainingLog
from avsr.train.loop import TrainOptions, learning_rate
from avsr.train.state import STATE, TrainState, how_to_continue, load_state, save_state

MAX_LACKING = 0.1                                           # share of sentences that may hold letters without a token
POOL = 64                                                   # batches whose sentences are sorted by length together


@dataclass(frozen=True)
class TrainedLM:
    """The end of a run. model: its folder or file; perplexity: per word of the validation, None without one."""

    folder: Path
    model: Path
    step: int
    done: bool
    perplexity: float | None


def train_language_model(config: LMConfig, folder: str | Path, options: TrainOptions) -> TrainedLM:
    """Train a language model as `config` says, into `folder`: model.arpa.gz, or a folder `model`. Raises AvsrError."""
    if config.kind == "ngram":
        return estimate_ngrams(config, Path(folder), options)
    return train_network(config, folder, options)


def estimate_ngrams(config: LMConfig, folder: Path, options: TrainOptions) -> TrainedLM:
    """Estimate word n-grams, which takes seconds (700,000 words, order 5: 12 s), so there is nothing to resume."""
    data = read_data(config, options.progress)
    options.say(data.summary)
    sentences = [text.split() for text in data.train]
    found = estimate(sentences, config.ngram.order, config.ngram.min_counts, options.progress)
    if found.fallbacks:
        options.say(f"too few rare n-grams of {', '.join(map(str, found.fallbacks))} words to compute their discounts from; "
                    f"they are {', '.join(f'{one:g}' for one in FALLBACK[1:])}, as with lmplz --discount_fallback")
    options.say(f"{sum(map(len, sentences))} words, {len(found.words) - len(SPECIAL)} different; n-grams: "
                + ", ".join(str(len(one[0])) for one in found.orders))
    with locked(folder, "avsr lm train"):
        path = write_arpa(found, folder / NGRAMS, options.progress)
    scores = NGrams.open(path, options.progress).score_texts(data.valid) if data.valid else []
    return TrainedLM(folder, path, 0, True, perplexity(scores).per_word.value if scores else None)


def train_network(config: LMConfig, folder: str | Path, options: TrainOptions) -> TrainedLM:
    """Train an LSTM or GPT as `config` says, into `folder`. Raises AvsrError and its kinds."""
    folder = Path(folder)
    with locked(folder, "avsr lm train"):
        if not options.resume and (folder / STATE).exists():
            raise BadOutput(f"{folder}: holds a run already.  Go on with --resume, or choose another with --output-dir.")
        return NetworkTrainer(config, folder, options).run()


class NetworkTrainer:
    """A run."""

    def __init__(self, config: LMConfig, folder: Path, options: TrainOptions):
        self.config, self.folder, self.options = config, folder, options
        self.device, self.started = pick_device(options.device), time.monotonic()
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        data = read_data(config, options.progress)
        options.say(data.summary)
        assert config.tokenizer is not None, "checked by read_lm_config"
        recogniser = checkpoint.load(model_path(config.tokenizer, config), lips=False)
        self.texts = self._tokenized(recogniser.tokenizer, data)
        self.valid = data.valid
        self.model = self._model(recogniser)
        self.network = self.model.network.to(self.device)
        for module in self.network.modules():
            if isinstance(module, WithDropout):
                module.dropout = config.network.dropout
        self.optimiser = _optimiser(self.network, config)
        self.state = TrainState()
        if options.resume:
            self.state = load_state(folder, self.network, self.optimiser, self._about())
            options.say(f"resumed at step {self.state.step}")
        self.before = self.state.seconds

    def _tokenized(self, tokenizer: Tokenizer | SentencePieceTokenizer, data: TextData) -> list[list[int]]:
        """The tokens of the training's sentences. Raises BadConfig where many hold letters that the tokenizer lacks."""
        texts, lacking = [], []
        for number, text in enumerate(data.train):
            if number % 1000 == 0:
                self.options.progress("splitting into tokens", number, len(data.train), "rows")
            tokens = target_tokens(tokenizer, text)
            if missing := lacking_letters(tokenizer, text, tokens):
                lacking.append(missing)
            else:
                texts.append(tokens)
        if lacking:
            what = f"{len(lacking)} of {len(data.train)} sentences hold letters without a token, such as {lacking[0]!r}"
            if len(lacking) > MAX_LACKING * len(data.train):
                raise BadConfig(f"{self.config.name}: {what}.  Set data.spelling, name other texts, or another tokenizer.")
            self.options.say(f"{what}; they are left out")
        return texts

    def _model(self, recogniser: Checkpoint) -> NeuralLM:
        """The model before the first step; its classes are the tokens that occur often enough, and the end."""
        tokenizer, sizes = recogniser.tokenizer, self.config.network
        counts = Counter(token for text in self.texts for token in text)
        known = sorted({tokenizer.end, *(token for token, count in counts.items() if count >= sizes.min_count)})
        dims = LMDims(self.config.kind, tokenizer.n_tokens, len(known) + 1, sizes.width, sizes.n_layers, sizes.hidden,
                      sizes.n_heads, sizes.n_context)
        torch.manual_seed(self.config.train.seed)
        network = make_network(dims)
        network.known.copy_(torch.tensor(known))
        if self.config.from_decoder:
            _take_decoder(network, recogniser.model.decoder, self.config.name)
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        self.options.say(f"{counted(sum(map(len, self.texts)), 'token')}, {len(known)} of the tokenizer's "
                         f"{tokenizer.n_tokens} have a class of their own; {n_parameters / 1e6:.2f} M parameters")
        return NeuralLM(network, tokenizer, name=str(self.folder / "model"), made_for=self.config.tokenizer or "",
                        spelling=self.config.data.spelling)

    def _about(self) -> dict:
        train = self.config.train
        return {"sizes": asdict(self.network.dims), "seed": train.seed, "batch_tokens": train.batch_tokens,
                "n_texts": len(self.texts), "n_tokens": sum(map(len, self.texts))}

    def run(self) -> TrainedLM:
        """Take steps until the last one, or until the time is up."""
        train, state = self.config.train, self.state
        batches, log = self._batches(), TrainingLog(self.folder, 0, state.step)
        stopped = state.step >= train.steps
        try:
            while not stopped:
                values = self._step(next(batches))
                self.options.progress("training", state.step, train.steps, "steps")
                log.write(state.step, values)
                due = state.step % train.valid_every == 0 or state.step == train.steps
                minutes = self.options.minutes
                stopped = state.step >= train.steps or (minutes is not None and time.monotonic() - self.started > 60 * minutes)
                if state.step % 50 == 0 or due or stopped:
                    self.options.say(self._line(values))
                if due or stopped:
                    log.write(state.step, {"valid_perplexity": self._validate()})
                if stopped or due or state.step % train.save_every == 0:
                    save_state(self.folder, state, self.network, self.optimiser, self._about())
        except KeyboardInterrupt:
            self.options.say(f"interrupted at step {state.step}; {how_to_continue(self.folder)}")
            raise
        finally:
            log.close()
        done = state.step >= train.steps
        return TrainedLM(self.folder, self.folder / "model", state.step, done, state.best[0][0] if state.best else None)

    def _line(self, values: dict[str, float]) -> str:
        return (f"step {self.state.step}/{self.config.train.steps}  loss {values['loss']:.3f}  lr {values['lr']:.1e}  "
                f"norm {values['norm']:.1f}  {values['tokens_s']:.0f} tokens/s")

    def _batches(self) -> Iterator[Tensor]:
        """Batches of token rows (N, L + 2), padded with -1, from the step of the state on, without end. An epoch's order
        follows from the seed and the epoch alone."""
        epoch, at = 0, 0
        while True:
            batches = order_batches([len(text) + 2 for text in self.texts], self.config.train.batch_tokens,
                                    np.random.default_rng([self.config.train.seed, epoch]))
            for numbers in batches:
                at += 1
                if at > self.state.step:
                    yield _padded([self.texts[number] for number in numbers], self.model.tokenizer.end,
                                  self.network.n_context)
            epoch += 1

    def _step(self, batch: Tensor) -> dict[str, float]:
        train, step, began = self.config.train, self.state.step, time.monotonic()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, step)
        torch.manual_seed(zlib.crc32(f"{train.seed} {step}".encode()))           # of dropout
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        # Processors without AVX-512 have no LSTM in bfloat16.
        half = train.bfloat16 and (self.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            loss, n_tokens = self._loss(batch.to(self.device))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), train.clip or math.inf).item()
        value = loss.item()
        if not math.isfinite(value) or not math.isfinite(norm):
            raise AvsrError(f"{self.folder}: at step {step} the loss is {value} and its gradient's norm {norm}.  Lower "
                            f"train.lr and {how_to_continue(self.folder)}.")
        self.optimiser.step()
        self.state.step += 1
        self.state.seconds = self.before + time.monotonic() - self.started
        return {"loss": value, "norm": norm, "lr": learning_rate(self.config, step), "minutes": self.state.seconds / 60,
                "tokens_s": n_tokens / (time.monotonic() - began)}

    def _loss(self, batch: Tensor) -> tuple[Tensor, int]:
        """The mean cross-entropy of each next token's class, in nats, and how many tokens count."""
        counts = batch[:, 1:] >= 0
        classes = self.network.classes(batch.clamp(min=0))
        hidden = self.network(classes[:, :-1], self.network.start())
        logits = self.network.logits(hidden[counts])
        loss = F.cross_entropy(logits.float(), classes[:, 1:][counts], label_smoothing=self.config.train.smoothing)
        return loss, int(counts.sum())

    def _validate(self) -> float:
        """The perplexity per word of the validation's sentences; the model is saved if it is the best so far."""
        began, state = time.monotonic(), self.state
        found = round(perplexity(self.model.score_texts(self.valid)).per_word.value, 3)
        best = not state.best or found < state.best[0][0]
        self.options.say(f"valid at step {state.step}: perplexity {found:.2f} per word{', the best so far' if best else ''}  "
                         f"({time.monotonic() - began:.0f} s)")
        if best:
            state.best = [(found, state.step, {})]
            self.model.training = {
                "name": self.config.name, "data": [Path(name).as_posix() for name in self.config.data.train],
                "sentences": len(self.texts), "tokens": sum(map(len, self.texts)), "step": state.step,
                "minutes": round(state.seconds / 60, 2), "valid_perplexity": found, "commit": commit(),
                "torch": torch.__version__.partition("+")[0]}
            self.model.save(self.folder / "model")
        return found


def order_batches(lengths: Sequence[int], batch_tokens: int, rng: np.random.Generator) -> list[list[int]]:
    """The sentences of an epoch in batches of about one length, of at most `batch_tokens` tokens with padding: in an order by
    chance, sorted by length within pools, and the batches in an order by chance again."""
    order = rng.permutation(len(lengths))
    n_pool = max(1, POOL * batch_tokens // max(1, sum(lengths) // max(1, len(lengths))))
    batches: list[list[int]] = []
    for first in range(0, len(order), n_pool):
        batch: list[int] = []
        for number in sorted(order[first:first + n_pool].tolist(), key=lambda one: lengths[one]):
            if batch and (len(batch) + 1) * lengths[number] > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(number)
        batches.append(batch)
    return [batches[number] for number in rng.permutation(len(batches))]


def _padded(texts: Sequence[Sequence[int]], end: int, most: int | None) -> Tensor:
    """Rows of end, text, end, padded with -1; a text beyond the context is cut off there."""
    rows = [[end, *text, end][:None if most is None else most + 1] for text in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows])


def _take_decoder(network: LanguageNetwork, decoder: Decoder, name: str) -> None:
    """Begin with the weights of a recogniser's text decoder: embeddings, positions, self-attention and feed-forward; what it
    attends to of sound and video is left out. The class of all other tokens gets the mean of all embeddings. Raises BadConfig
    where the sizes differ."""
    theirs, mine = decoder.state_dict(), network.state_dict()
    theirs["embedding.weight"] = torch.cat([theirs["embedding.weight"].mean(dim=0, keepdim=True),
                                            theirs["embedding.weight"][network.known]])
    theirs["positions"] = theirs["positions"][:len(mine["positions"])] if "positions" in mine else theirs["positions"]
    n_layers = len(decoder.blocks)
    wanted = {key for key in mine if key not in ("known", "bias")}
    wrong = sorted(key for key in wanted if key not in theirs or theirs[key].shape != mine[key].shape)
    if wrong or network.dims.n_layers != n_layers:
        width, n_context = decoder.embedding.weight.shape[1], len(decoder.positions)
        raise BadConfig(f"{name}: from_decoder wants the sizes of the recogniser's decoder.  Write kind = \"gpt\", and in "
                        f"[network] width = {width}, n_layers = {n_layers}, n_heads = {decoder.blocks[0].attention.n_heads}, "
                        f"n_context = {min(256, n_context)}.")
    network.load_state_dict({**mine, **{key: theirs[key] for key in wanted}})


def _optimiser(network: LanguageNetwork, config: LMConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, embeddings left out."""
    train = config.train
    decayed = [parameter for name, parameter in network.named_parameters() if parameter.ndim > 1 and "embedding" not in name
               and name != "positions"]
    others = {id(parameter) for parameter in decayed}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in others]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": train.weight_decay}, {"params": rest, "weight_decay": 0.0}],
                             lr=train.lr, betas=train.betas)
