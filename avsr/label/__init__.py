"""Own corpora of raw video: a recogniser writes the texts on clean sound, and only what it is sure of is kept.

    folder of recordings -> find_recordings -> label -> LabelledCorpus: manifest.jsonl, shards, labels.jsonl, labels.html
The files: labels (a segment and the limits that it must pass), readings (two passes of the recogniser), labeller (one
recording, in a worker process), journal (what is labelled), run (all recordings), result (the summary), page (to look at).
"""

from avsr.label.labeller import LabelSettings
from avsr.label.labels import LabelLimits
from avsr.label.result import LabelledCorpus, Recording, find_recordings
from avsr.label.run import label

__all__ = ["LabelLimits", "LabelSettings", "LabelledCorpus", "Recording", "find_recordings", "label"]
