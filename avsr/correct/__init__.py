"""Text to text: an encoder-decoder that reads n-best lists of sound, lips and both, and writes the corrected text."""
