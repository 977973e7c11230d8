"""Random draws as functions of (seed, purpose, position), so that no state has to be restored.

A draw for training is made for the global batch at a position in the stream of images, and then sliced by process.
So one, two and eight processes see the same images, views, latents and noise, and a resumed run continues as if it
had never stopped.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, purpose: str, position: int = 0) -> torch.Generator:
    """Return a fresh CPU generator whose stream depends on the three arguments alone.

    Different purposes, for example `"latents"`, are independent. The position is the number of images seen by all
    processes, an epoch, or the index of a sample.

    Example:
        >>> same = [torch.rand(2, generator=generator(0, "latents", 64)) for _ in range(2)]
        >>> torch.equal(*same)
        True
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def normal_rows(seed: int, purpose: str, indices: torch.Tensor, size: int) -> torch.Tensor:
    """Draw standard normal rows `(b, size)` on the CPU; row `i` depends on (seed, purpose, index i) alone.

    Example:
        >>> rows = normal_rows(0, "latents", torch.arange(8), 4)
        >>> torch.equal(rows[5:6], normal_rows(0, "latents", torch.tensor([5]), 4))
        True
    """
    rows = [torch.randn(size, generator=generator(seed, purpose, int(i))) for i in indices]
    return torch.stack(rows) if rows else torch.empty(0, size)


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global CPU generator by (seed, purpose) for a block, then restore it.

    This is for code that draws from the global generator, such as the initialization of a module. Generators
    of other devices are left alone.
    """
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which also seeds every GPU
        torch.default_generator.manual_seed(generator(seed, purpose).initial_seed())
        yield
