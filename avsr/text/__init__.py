"""Text: to tokens and back, tokens to words, and as it is compared when errors are counted.

tokenizers.py has the tokenizers of models and the languages of Whisper, normaliser.py the rules by which texts are compared.
"""

from avsr.text.normaliser import (
    CTC_LETTERS,
    FORMER_NORMALISERS,
    NORMALISER,
    NORMALISERS,
    NUMBERS,
    WHISPER_NORMALISER,
    ctc_classes,
    ctc_text,
    find_normaliser,
    normalise,
    normalise_as_whisper,
    present_normaliser,
)
from avsr.text.tokenizers import (
    BLANK,
    END,
    LANGUAGE_NAMES,
    LONGEST_TOKENIZER,
    SentencePieceTokenizer,
    Tokenizer,
    WordTokens,
    language_code,
    open_tokenizer,
    target_tokens,
    write_characters,
    write_sentencepiece,
)

__all__ = ["BLANK", "CTC_LETTERS", "END", "FORMER_NORMALISERS", "LANGUAGE_NAMES", "LONGEST_TOKENIZER", "NORMALISER",
           "NORMALISERS", "NUMBERS", "WHISPER_NORMALISER", "SentencePieceTokenizer", "Tokenizer", "WordTokens", "ctc_classes",
           "ctc_text", "find_normaliser", "language_code", "normalise", "normalise_as_whisper", "open_tokenizer",
           "present_normaliser", "target_tokens", "write_characters", "write_sentencepiece"]
