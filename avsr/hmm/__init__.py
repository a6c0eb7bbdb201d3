"""Hidden Markov models with Gaussian mixtures: features, training, Viterbi decoding and alignment."""
