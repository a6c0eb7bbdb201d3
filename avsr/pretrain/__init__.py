"""Pre-training without text: masked prediction of cluster labels from sound and mouths."""
