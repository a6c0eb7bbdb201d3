"""Small Whispers of random weights in the layouts that are published: Hugging Face's and faster-whisper's."""

import shutil
from copy import deepcopy
from pathlib import Path

N_VOCAB, WIDTH = 51_864, 32
CONFIG = {"suppress_ids": [1, 2], "suppress_ids_begin": [220], "lang_ids": [50_258], "alignment_heads": [[1, 0]]}


def small_whisper():
    """By transformers. Its biases are all zero and its norms all one, as many as there are: CTranslate2 stores one of them, and
    names the others as its aliases."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    return WhisperForConditionalGeneration(WhisperConfig(
        d_model=WIDTH, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=4 * WIDTH, decoder_ffn_dim=4 * WIDTH, vocab_size=N_VOCAB, max_target_positions=30)).eval()


def as_hugging_face(network, folder: Path, tokenizer: Path) -> Path:
    """A folder that transformers writes, with this tokenizer.json."""
    network.save_pretrained(folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return folder


def as_ctranslate2(network, folder: Path, tokenizer: Path, kind: str) -> Path:
    """A folder in faster-whisper's layout that CTranslate2's own converter writes, its weights of one of its types."""
    from ctranslate2.converters.transformers import WhisperLoader
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(tokenizer)).get_vocab()
    vocabulary = sorted(ids, key=ids.get)
    spec = WhisperLoader().get_model_spec(deepcopy(network))                # which it scales in place
    for name, value in CONFIG.items():
        setattr(spec.config, name, value)
    spec.register_vocabulary(vocabulary + [f"<|{i * 0.02:.2f}|>" for i in range(N_VOCAB - len(vocabulary))])
    spec.validate()
    spec.optimize(quantization=kind)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return folder
