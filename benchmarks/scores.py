"""Scores: Fréchet distance and Inception features.

Both sides work on the same images and the same weights (seeded ones: their values mean nothing, their cost is that
of the published).
"""

import torch
from torch import Tensor, nn

import page
from nacgen.functional.frechet import frechet_distance
from nacgen.metrics.extractors.inception import InceptionExtractor, build_inception
from timing import Row, Size, agree, in_turns, missing, noise


def time_frechet(size: Size) -> list[Row]:
    """Two Gaussians whose covariances have full rank, of 2,048 dimensions at full size."""
    d = size.of(64, 1024, 2048)
    what = f"Fréchet distance, {d:,} dimensions"
    if reason := missing("pytorch-fid"):
        return [Row(what=what, peer="pytorch-fid", skipped=reason)]
    from pytorch_fid.fid_score import calculate_frechet_distance

    def gaussian(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(2 * d, d, generator=generator, dtype=torch.float64)
        rows = (rows * torch.linspace(0.1, 1, d, dtype=torch.float64)).clamp(min=0) + seed
        return rows.mean(dim=0), rows.mT.cov()

    moments = (*gaussian(0), *gaussian(1))
    arrays = [part.numpy() for part in moments]

    def theirs() -> Tensor:
        return torch.tensor(float(calculate_frechet_distance(*arrays)), dtype=torch.float64)

    def ours() -> Tensor:
        return torch.tensor(float(frechet_distance(*moments).value), dtype=torch.float64)

    there, here = theirs(), ours()
    agreement = agree(there / there, here / there, 1e-6, "relative values")
    return [
        in_turns(what, "pytorch-fid", theirs, ours, size.turns, agreement=agreement, at_least=5)
    ]


def time_features(size: Size) -> list[Row]:
    """Images of 32 px through the network, resize included; batches of 50 as pytorch-fid's default."""
    n = size.of(2, 8, 50)
    what = f"Inception features of {n} images"
    if reason := missing("pytorch-fid"):
        return [Row(what=what, peer="pytorch-fid", skipped=reason)]
    state = seeded_state()
    their_network = their_inception(state)
    network = build_inception()
    network.load_state_dict(state)
    extractor = InceptionExtractor(network, is_published=False)
    images = noise(n, 32)

    def theirs() -> Tensor:
        with torch.no_grad():
            parts = [their_network(part.float() / 255)[0].flatten(1) for part in images.split(50)]
        return torch.cat(parts)

    def ours() -> Tensor:
        return torch.cat([extractor(part).pooled for part in images.split(50)])

    there = theirs()
    agreement = f"{agree(there, ours(), 1e-4, 'features')} (deviation {there.std():.2g})"
    return [
        in_turns(
            what,
            "pytorch-fid",
            theirs,
            ours,
            size.turns,
            agreement=agreement,
            items=(n, "images"),
            at_least=1.3,
        )
    ]


def seeded_state() -> dict[str, Tensor]:
    """Weights that keep features alive; freshly initialised ones give features near 1e-7."""
    generator = torch.Generator().manual_seed(0)
    network = build_inception()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    return network.state_dict()


def their_inception(state: dict[str, Tensor]) -> nn.Module:
    """pytorch-fid's network with given weights in place of a download."""
    from pytorch_fid import inception

    download, inception.load_state_dict_from_url = (
        inception.load_state_dict_from_url,
        lambda *args, **options: state,
    )
    try:
        return inception.InceptionV3().eval()
    finally:
        inception.load_state_dict_from_url = download


PARTS = {"frechet": time_frechet, "features": time_features}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("pytorch-fid", "scipy", "numpy"))
