"""This script writes the mel filters that the package stores, so that no run has to import librosa for them.

    uv run experiments/speed/mel_filters.py

`import librosa.filters` costs more processor time than recognising a short clip, because it imports scipy.signal and numba.
tests/test_features.py compares what is stored with librosa, to the last bit.
"""

import numpy as np
from librosa.filters import mel

from avsr.features import MEL_FILTERS
from avsr.rates import N_FFT, SAMPLE_RATE

SIZES = (80, 128)                                           # every Whisper up to large-v2; large-v3 and its turbo

if __name__ == "__main__":
    np.savez_compressed(MEL_FILTERS, **{str(n): mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=n) for n in SIZES})
    print(f"{MEL_FILTERS.name}: {MEL_FILTERS.stat().st_size} bytes")
