"""The optimiser of a run: which weights learn, how fast each of them, and the learning rate by step.

    LossModule, Config -> AdamW over groups of weights with one rate each;  step -> learning rate
"""

from __future__ import annotations

import fnmatch
import math

import torch
from torch import nn

from avsr.checkpoint.old_names import current_tensor
from avsr.config import Config
from avsr.errors import BadConfig
from avsr.lm.config import LMConfig
from avsr.losses import LossModule
from avsr.train.initialise import rate


def learning_rate(config: Config | LMConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final` times `lr` at the last step."""
    train = config.train
    if step < train.warmup:
        return train.lr * (step + 1) / train.warmup
    along = min(1.0, (step - train.warmup) / max(1, train.steps - train.warmup))
    return train.lr * (train.final + (1 - train.final) * 0.5 * (1 + math.cos(math.pi * along)))


def freeze_weights(loss_module: LossModule, config: Config) -> None:
    """Freeze the weights with a rate of 0 in train.rates. Raises BadConfig if all are, or a pattern fits no weight."""
    names = [name.removeprefix("model.") for name, _ in loss_module.named_parameters()]
    for pattern in config.train.rates:
        if not fnmatch.filter(names, current_tensor(pattern)):
            parts = ", ".join(sorted({f"{name.partition('.')[0]}.*" for name in names}))
            raise BadConfig(f"{config.name}: train.rates \"{pattern}\" fits no weight.  Known are {parts}, and names within.")
    for name, parameter in loss_module.named_parameters():
        parameter.requires_grad_(rate(config, name.removeprefix("model.")) > 0)
    if not any(parameter.requires_grad for parameter in loss_module.parameters()):
        raise BadConfig(f"{config.name}: train.rates freezes every weight.  Give some part a rate above 0.")


def make_optimiser(loss_module: LossModule, config: Config) -> torch.optim.AdamW:
    """AdamW over the weights that are not frozen, with weight decay on matrices only."""
    groups: dict[tuple[float, float, type], list[nn.Parameter]] = {}
    for name, parameter in loss_module.named_parameters():
        if parameter.requires_grad:
            decay = config.train.weight_decay if parameter.ndim > 1 and "embedding" not in name else 0.0
            # torch's operations on lists take no mixture of sharded tensors and others, so each kind has groups of its own.
            groups.setdefault((rate(config, name.removeprefix("model.")), decay, type(parameter.data)), []).append(parameter)
    return torch.optim.AdamW([{"params": parameters, "factor": factor, "weight_decay": decay}
                              for (factor, decay, _), parameters in groups.items()],
                             lr=config.train.lr, betas=config.train.betas)


def freeze_batch_norms(loss_module: nn.Module) -> None:
    """Keep the running means of batch norms whose weights are frozen."""
    for module in loss_module.modules():
        own = list(module.parameters())
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in own):
            module.eval()
