import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from nacgen.models.denoiser import Denoiser
from nacgen.models.gan import Generator
from nacgen.models.image_model import PretrainedImageModel
from nacgen.models.own import OwnDiscriminator, OwnGenerator
from nacgen.models.sampling import sample_images
from nacgen.models.vae import Decoder


class Tiny(nn.Module):
    latent_dim = 3 * 8 * 8

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z.reshape(-1, 3, 8, 8).tanh()


class Sigmoid(Tiny):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(z).sigmoid()


MODELS = {
    "Generator": lambda: Generator(8, 4, (8, 8), num_classes=3),
    "Decoder": lambda: Decoder(8, 4, (8, 8)),
    "Denoiser": lambda: Denoiser(8, channels=(8, 8)),
    "OwnGenerator": lambda: OwnGenerator.probed(Tiny(), 8, 4, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_four_lines_of_a_card_load_the_model_and_sample_it(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: PretrainedImageModel = MODELS[name]()
    model.card_notes = "Trained on nothing at all."
    model.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: nacgen\ntags: [image-generation]\n---\n")
    assert f"\n# {name}: images of 8x8 px\n" in card
    assert "\n\nTrained on nothing at all.\n" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) == 4
    scope = {"my_network": Tiny()}
    exec(code.replace("path/to/this/folder", str(tmp_path / "model")), scope)
    expected = sample_images(model.eval(), torch.arange(16))  # type: ignore[arg-type,attr-defined]
    assert torch.equal(scope["images"], expected)  # type: ignore[arg-type]
    assert expected.shape == (16, 3, 8, 8)


def test_a_generator_of_ones_own_that_never_gives_black_is_told_of() -> None:
    with pytest.warns(
        UserWarning, match=r"should give images in \[-1, 1\].* with 0\.\d+ to 0\.\d+"
    ):
        OwnGenerator.probed(Sigmoid(), 8, 4, None)


def test_a_discriminator_of_ones_own_with_a_sigmoid_is_told_of() -> None:
    logits = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OwnDiscriminator(logits, 8)
    flat = nn.Sequential(logits, nn.Sigmoid(), nn.Flatten(0))
    patches = nn.Sequential(nn.Conv2d(3, 1, 4), nn.Sigmoid())
    for network in (flat, patches):
        with pytest.warns(
            UserWarning, match=r"should give logits.* ends with a sigmoid, which the"
        ):
            OwnDiscriminator(network, 8)
