"""Language models of a recogniser's own tokens: the folder on disk, the scores of texts.

    runs/NAME/model: model.safetensors + model.json + tokenizer.json  ->  NeuralLM
model.json names the sha256 of the other two, as in the folder of a recogniser.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch

from avsr.checkpoint.folder import TOKENIZER, WEIGHTS, sha256_of
from avsr.errors import AvsrError, BadCheckpoint, quote
from avsr.lm.networks import LanguageNetwork, LMDims, make_network
from avsr.lm.protocol import DESCRIPTION, TextScore
from avsr.lm.spelling import Spelling, spell
from avsr.lm.tokens import TokenScorer
from avsr.models.blocks import TooLarge, outline
from avsr.output import write_files
from avsr.schema import InvalidValue, Printable, read_json, validate_table
from avsr.tensorfiles import check_finite, check_memory, misfit, n_numbers, read_header, read_safetensors
from avsr.text import NORMALISER, SentencePieceTokenizer, Tokenizer, normalise, open_tokenizer, target_tokens

NETWORK = "language model"                                  # in model.json; a recogniser has another word there
LAYOUT = 1
AGAIN = "Copy the whole folder again."
N_AT_ONCE = 2**13                                           # tokens scored at once: 8,000 classes of each take 260 MB


@dataclass(frozen=True)
class LMDescription:
    """model.json. spelling: how the texts were written that it learnt from, see spelling.py. tokenizer: the recogniser whose
    tokens these are, as the user named it. training: free facts for the reader."""

    layout: int
    network: str
    dims: dict[str, Any]
    sha256: dict[str, Annotated[str, Printable(64)]]
    tokenizer: Annotated[str, Printable(4096)]
    spelling: Spelling = "plain"
    normaliser: Annotated[str, Printable(100)] = NORMALISER
    training: dict[str, Any] = field(default_factory=dict)


class NeuralLM:
    """A LanguageModel whose network scores tokens. name: what messages call it. made_for: the recogniser whose tokens it
    scores. spelling: how it expects texts to be written."""

    def __init__(self, network: LanguageNetwork, tokenizer: Tokenizer | SentencePieceTokenizer, *, name: str = "language model",
                 made_for: str = "", spelling: Spelling = "plain", training: dict[str, Any] | None = None):
        self.network, self.tokenizer, self.name = network, tokenizer, name
        self.made_for, self.spelling, self.training = made_for, spelling, training or {}

    @classmethod
    def open(cls, folder: Path | str) -> NeuralLM:
        """Read a folder that `save` wrote. Raises BadCheckpoint."""
        folder = Path(folder)
        about = _read_description(folder)
        for name in (WEIGHTS, TOKENIZER):
            if not (folder / name).is_file() or sha256_of(folder / name) != about.sha256.get(name):
                raise BadCheckpoint(f"{folder}: {name} is not there, or another than its model.json names.  {AGAIN}")
        tokenizer = open_tokenizer(folder / TOKENIZER)
        network = _read_network(folder, about)
        if tokenizer.n_tokens > network.dims.n_tokens:
            raise BadCheckpoint(f"{folder}: its tokenizer has {tokenizer.n_tokens} tokens, and its network "
                                f"{network.dims.n_tokens}.  {AGAIN}")
        return cls(network, tokenizer, name=str(folder), made_for=about.tokenizer, spelling=about.spelling,
                   training=about.training)

    def save(self, folder: Path | str) -> Path:
        """Write model.json, model.safetensors and tokenizer.json, all of them or none. Raises BadOutput."""
        from safetensors.torch import save

        folder = Path(folder)
        weights = save({name: tensor.detach().contiguous().cpu() for name, tensor in self.network.state_dict().items()})
        tokenizer = self.tokenizer.path.read_bytes()
        sha256 = {WEIGHTS: hashlib.sha256(weights).hexdigest(), TOKENIZER: hashlib.sha256(tokenizer).hexdigest()}
        about = LMDescription(LAYOUT, NETWORK, asdict(self.network.dims), sha256, self.made_for, self.spelling,
                              training=self.training)
        write_files({folder / DESCRIPTION: json.dumps(asdict(about), indent=1, ensure_ascii=False) + "\n",
                     folder / WEIGHTS: weights, folder / TOKENIZER: tokenizer},
                    lambda reason: f"{folder}: the language model cannot be written ({reason}).  Choose another folder.")
        return folder

    def check(self, tokenizer: Tokenizer | SentencePieceTokenizer) -> None:
        """See LanguageModel. Files that differ but hold the same tokens, as those of two Whispers for English, are the same."""
        own = self.tokenizer
        if own.sha256 != tokenizer.sha256 and (own.end, own.texts) != (tokenizer.end, tokenizer.texts):
            made_for = f" of {self.made_for}" if self.made_for else ""
            raise BadCheckpoint(f"{self.name}: a language model of the {own.n_tokens} tokens{made_for}, and the recogniser has "
                                f"{tokenizer.n_tokens} others (sha256 {own.sha256[:8]} and {tokenizer.sha256[:8]}).  Train one "
                                "for this recogniser (tokenizer = \"MODEL\" in the config of avsr lm train), or give n-grams.")

    def scorer(self, tokenizer: Tokenizer | SentencePieceTokenizer, *, n_prompt: int, n_vocab: int,
               weight: float) -> TokenScorer:
        """See LanguageModel."""
        return TokenScorer(self.network, end=tokenizer.end, n_prompt=n_prompt, n_vocab=n_vocab, weight=weight)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text as the model expects it written. Raises AvsrError for letters that the tokenizer lacks."""
        spelt = spell(text, self.spelling)
        tokens = target_tokens(self.tokenizer, spelt) if spelt else []
        if lacking := lacking_letters(self.tokenizer, spelt, tokens):
            raise AvsrError(f"{self.name}: its tokens cannot write {quote(lacking)}, which {quote(text)} holds.  Take such "
                            "letters out of the text, or use a model of another tokenizer.")
        return tokens

    def score_texts(self, texts: Sequence[str]) -> list[TextScore]:
        """See LanguageModel. Raises AvsrError for letters that the tokenizer lacks."""
        normalised = [normalise(text) for text in texts]
        sums = self._logprobs([self.tokens(text) for text in texts])
        return [TextScore(logprob, len(text.split()), len(text)) for logprob, text in zip(sums, normalised, strict=True)]

    @torch.inference_mode()
    def _logprobs(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """The log-probability of each text, given as tokens, its end included. Texts of about one length are one batch."""
        self.network.eval()
        sums = [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        while order:
            longest = len(texts[order[-1]]) + 1
            some = [order.pop() for _ in range(min(len(order), max(1, N_AT_ONCE // longest)))]
            for number, logprob in zip(some, self._batch([texts[number] for number in some]), strict=True):
                sums[number] = logprob
        return sums

    def _batch(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """As `_logprobs`, of texts that are read at once; a text that is longer than a GPT's context in parts, each of which
        sees half a context of what is before it."""
        end, device = self.tokenizer.end, self.network.known.device
        longest = max(map(len, texts)) + 1
        tokens = torch.tensor([[end, *text] + [end] * (longest - len(text)) for text in texts], device=device)
        counted = torch.tensor([len(text) + 1 for text in texts], device=device)
        window = self.network.n_context or longest
        sums, first, done = torch.zeros(len(texts), dtype=torch.float64, device=device), 0, 0
        while done < longest:
            last = min(first + window, longest)
            hidden = self.network(self.network.classes(tokens[:, first:last]), self.network.start())[:, done - first:]
            wanted = tokens[:, done + 1:last + 1]
            logprobs = self.network.token_logprobs(hidden.flatten(0, 1), wanted.flatten()).view(wanted.shape).double()
            sums += logprobs.masked_fill(torch.arange(done, last, device=device) >= counted[:, None], 0.0).sum(dim=1)
            done, first = last, last - window // 2
        return sums.tolist()


def lacking_letters(tokenizer: Tokenizer | SentencePieceTokenizer, text: str, tokens: Sequence[int]) -> str:
    """The letters of a text that its tokens do not write, because the tokenizer has none for them; "" for most texts."""
    wanted, there = normalise(text), normalise(tokenizer.decode(tokens))
    if wanted == there:
        return ""
    return "".join(dict.fromkeys(letter for letter in wanted if letter not in there)) or wanted


def _read_description(folder: Path) -> LMDescription:
    values = read_json(folder / DESCRIPTION)
    if values.get("network") != NETWORK:
        raise BadCheckpoint(f"{folder}: no language model, but a network of the kind {quote(values.get('network', 'avsr'))}.  "
                            "Name an ARPA file, or a folder that avsr lm train wrote.")
    if values.get("layout") != LAYOUT:
        raise BadCheckpoint(f"{folder}: model.json of layout {quote(values.get('layout'))}, known is {LAYOUT}.  Install a "
                            "newer avsr.")
    if absent := [f.name for f in fields(LMDescription) if f.name not in values and f.default is MISSING
                  and f.default_factory is MISSING]:
        raise BadCheckpoint(f"{folder}: its model.json lacks {', '.join(absent)}.  {AGAIN}")
    try:
        return LMDescription(**validate_table(LMDescription, values))
    except (InvalidValue, TypeError) as error:
        raise BadCheckpoint(f"{folder / DESCRIPTION}: {error}.  {AGAIN}") from error


def _read_network(folder: Path, about: LMDescription) -> LanguageNetwork:
    if unknown := sorted(about.dims.keys() - {f.name for f in fields(LMDims)}):
        raise BadCheckpoint(f"{folder}: its sizes have {quote(unknown[0])}, which this version does not know.  "
                            "Install a newer avsr.")
    try:
        dims = LMDims(**validate_table(LMDims, about.dims, "dims."))
    except (InvalidValue, TypeError) as error:
        raise BadCheckpoint(f"{folder / DESCRIPTION}: {error}.  {AGAIN}") from error
    header = read_header(folder / WEIGHTS)
    check_memory(n_numbers(header), folder)
    try:
        network = outline(make_network, dims, most=n_numbers(header))
    except (TooLarge, AssertionError):
        raise BadCheckpoint(f"{folder}: its weights are not of the sizes in its model.json.  {AGAIN}") from None
    if problem := misfit(network.state_dict(), header):
        raise BadCheckpoint(f"{folder}: its weights do not fit its dims (it {problem}).  {AGAIN}")
    weights = read_safetensors(folder / WEIGHTS)
    check_finite(weights, folder)
    known = weights["known"]
    if len(known) and not (int(known.min()) >= 0 and int(known.max()) < dims.n_tokens):
        raise BadCheckpoint(f"{folder}: its vocabulary holds tokens beyond its {dims.n_tokens}.  {AGAIN}")
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)
