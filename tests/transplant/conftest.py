"""Images and an encoder for tests of transplants."""

import pytest
import torch
from torch import Tensor, nn

from nacgen.models.encoder import NACEncoder


def images(count: int = 8, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def eager(module: nn.Module) -> nn.Module:
    """As torch.compile wraps it, without a compiler."""
    compiled: nn.Module = torch.compile(module, backend="eager")
    return compiled


@pytest.fixture
def encoder() -> NACEncoder:
    torch.manual_seed(0)
    encoder = NACEncoder(code_dim=16)
    encoder.train()
    encoder(images(32))  # statistics that are not zero and one
    return encoder.eval()
