"""The cache: mouths and sound of each utterance, packed in shards, each read with one range request.

    Cached (images (T, 96, 96) uint8, missing (T,) bool, audio (S,) float32)  <->  bytes of a shard, found by a CacheEntry

A shard is a plain tar (WebDataset's layout): `ID.mouths.zlib`, `ID.flac` and `ID.json` follow one another, so a
CacheEntry's offset and size fetch all three at once, from a disk, a mount, object storage or a web server.
Mouths are stored bit for bit. Sound is stored with 16 bits below its own peak: exact if the source was 16 bits at 16 kHz, else
within 2^-16 of the peak (-96 dB), which is under the noise of any microphone and of AAC, MP2 and Opus.
packing.py makes the bytes of an utterance, shards.py the files that hold them.
"""

from avsr.cache.packing import MAX_SECONDS, Cached, Packed, pack, unpack
from avsr.cache.shards import MAX_BYTES, SETTINGS, ShardWriter, read_entry, read_mouth_crop, read_range, write_mouth_crop

__all__ = ["MAX_BYTES", "MAX_SECONDS", "SETTINGS", "Cached", "Packed", "ShardWriter", "pack", "read_entry", "read_mouth_crop",
           "read_range", "unpack", "write_mouth_crop"]
