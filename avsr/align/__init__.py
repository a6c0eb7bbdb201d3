"""A recording and its text, or its subtitles -> the times of words and phones."""
