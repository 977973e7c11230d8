"""Seeded weights for networks whose published weights are not at hand."""

import torch
from torch import Tensor, nn

from nacgen.metrics.extractors.inception import build_inception

State = dict[str, Tensor]
DIM, DEPTH, GRID = 128, 2, 5


def inception_state() -> State:
    """Make weights that keep the size of features; the default initialization loses it."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        network = build_inception()
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    return network.state_dict()


def dinov2_state() -> State:
    """A small ViT whose positions were trained on 5 x 5 patches."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return std * torch.randn(shape, generator=generator)

    tensors = {
        "cls_token": normal(1, 1, DIM),
        "pos_embed": normal(1, 1 + GRID**2, DIM),
        "mask_token": normal(1, DIM),
        "patch_embed.proj.weight": normal(DIM, 3, 14, 14, std=0.04),
        "patch_embed.proj.bias": normal(DIM),
        "norm.weight": 1 + normal(DIM, std=0.1),
        "norm.bias": normal(DIM),
    }
    for i in range(DEPTH):
        for name, rows, columns in (
            ("attn.qkv", 3 * DIM, DIM),
            ("attn.proj", DIM, DIM),
            ("mlp.fc1", 4 * DIM, DIM),
            ("mlp.fc2", DIM, 4 * DIM),
        ):
            tensors[f"blocks.{i}.{name}.weight"] = normal(rows, columns, std=columns**-0.5)
            tensors[f"blocks.{i}.{name}.bias"] = normal(rows)
        for name in ("norm1", "norm2"):
            tensors[f"blocks.{i}.{name}.weight"] = 1 + normal(DIM, std=0.1)
            tensors[f"blocks.{i}.{name}.bias"] = normal(DIM)
        for name in ("ls1", "ls2"):
            tensors[f"blocks.{i}.{name}.gamma"] = normal(DIM)
    return tensors
