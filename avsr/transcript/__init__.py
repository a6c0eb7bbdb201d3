"""Transcripts, and their output as txt, srt, vtt, tsv, json, TextGrid and CTM.

    Words + Segments -> Transcript -> Cues -> text of one format | files
The formats and their options are those of openai-whisper's command line. All times are in seconds.
"""

from avsr.transcript.cues import Cue, cues, segment
from avsr.transcript.formats import FORMATS, WORD_FORMATS, format_timestamp, format_transcript, label, parse_formats, write
from avsr.transcript.words import LipsUse, Phone, Segment, Transcript, Word, of_speaker

__all__ = ["FORMATS", "WORD_FORMATS", "Cue", "LipsUse", "Phone", "Segment", "Transcript", "Word", "cues", "format_timestamp",
           "format_transcript", "label", "of_speaker", "parse_formats", "segment", "write"]
