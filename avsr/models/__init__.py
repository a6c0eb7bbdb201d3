"""The network: blocks, audio, video, fusion, decoder -> AVSR; and published weights into it."""
