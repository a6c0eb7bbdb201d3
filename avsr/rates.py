"""Rates and sizes, each defined once; the others are derived from them by exact division.

    audio 16 kHz  ->  log-mel 100 /s  ->  memory 50 /s        video 25 /s  ->  memory 50 /s (each frame twice)
"""


def exact_div(a: int, b: int) -> int:
    """`a / b`, which must leave no remainder."""
    assert a % b == 0, f"{a} is not a multiple of {b}"
    return a // b


SAMPLE_RATE = 16_000                                        # audio samples per second, mono
VIDEO_FPS = 25                                              # frames per second, after resampling
HOP = 160                                                   # samples from one log-mel column to the next: 10 ms
N_FFT = 400                                                 # samples in one log-mel window: 25 ms
FEATURE_RATE = exact_div(SAMPLE_RATE, HOP)                  # log-mel columns per second: 100
MEMORY_RATE = exact_div(FEATURE_RATE, 2)                    # encoder positions per second: 50
SAMPLES_PER_FRAME = exact_div(SAMPLE_RATE, VIDEO_FPS)       # 640
FEATURES_PER_FRAME = exact_div(FEATURE_RATE, VIDEO_FPS)     # 4
MEMORY_PER_FRAME = exact_div(MEMORY_RATE, VIDEO_FPS)        # 2
SEGMENT_SECONDS = 30                                        # the longest segment that a model takes at once (Whisper's)
SEGMENT_SAMPLES = SEGMENT_SECONDS * SAMPLE_RATE
SEGMENT_FEATURES = SEGMENT_SECONDS * FEATURE_RATE           # 3000
SEGMENT_FRAMES = SEGMENT_SECONDS * VIDEO_FPS                # 750
MOUTH_SIZE = 96                                             # pixels, square, as cached
MOUTH_INPUT = 88                                            # pixels, square, as the video encoder takes it


def frames_to_seconds(n_frames: int) -> float:
    """The start of video frame number `n_frames`, in seconds."""
    return n_frames / VIDEO_FPS


def frames_to_samples(n_frames: int) -> int:
    """The number of audio samples in `n_frames` video frames."""
    return n_frames * SAMPLES_PER_FRAME


def samples_to_frames(n_samples: int) -> int:
    """The number of video frames that cover `n_samples` audio samples, rounded up."""
    return -(-n_samples // SAMPLES_PER_FRAME)
