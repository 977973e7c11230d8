import pytest
import torch

from nacgen.data.datasets import load_dataset
from nacgen.probes.features import extract


def mean_color(images: torch.Tensor) -> torch.Tensor:
    return images.mean((2, 3))


def test_rows_do_not_depend_on_the_batch_size() -> None:
    dataset = load_dataset("digits", "test")
    whole = extract(mean_color, dataset, batch_size=1000)
    assert torch.equal(whole, extract(mean_color, dataset, batch_size=7))
    assert torch.equal(whole, mean_color(dataset.read(torch.arange(len(dataset))) / 127.5 - 1))


def test_a_module_in_training_mode_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    dataset = load_dataset("digits", "test")
    for function in (network, network.forward):
        with pytest.raises(ValueError, match=r"evaluation mode, but Sequential\.training is True"):
            extract(function, dataset)
    assert extract(network.eval(), dataset).shape == (355, 3)
