"""Pre-training without text: masked prediction of acoustic clusters from sound and mouths."""

from avsr.pretrain.run import Pretrainer, pretrain

__all__ = ["Pretrainer", "pretrain"]
