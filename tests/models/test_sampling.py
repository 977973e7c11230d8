import pytest
import torch

from nacgen.data.pixels import to_uint8
from nacgen.models.gan import Generator
from nacgen.models.sampling import interpolate, sample_images
from nacgen.system.randomness import normal_rows


def small_generator(num_classes: int | None) -> Generator:
    torch.manual_seed(0)
    return Generator(8, 5, (16, 8), num_classes=num_classes).eval()


@pytest.mark.parametrize("num_classes", [None, 3])
def test_image_i_depends_on_i_alone(num_classes: int | None) -> None:
    generator = small_generator(num_classes)
    together = sample_images(generator, torch.arange(8))
    assert len({image.numpy().tobytes() for image in together}) == 8
    for i in (6, 1):
        assert (
            sample_images(generator, torch.tensor([i]))[0].int() - together[i].int()
        ).abs().max() <= 1
    z = normal_rows(0, "sample", torch.arange(8), 5)
    labels = None if num_classes is None else torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    assert torch.equal(together, to_uint8(generator(z, labels)))


@pytest.mark.parametrize("num_classes", [None, 2])
def test_an_interpolation_leads_from_sample_to_sample(num_classes: int | None) -> None:
    generator = small_generator(num_classes)
    rows = interpolate(generator, 3, 4).reshape(3, 4, 3, 8, 8)
    z = normal_rows(0, "sample", torch.arange(6), 5)
    labels = None if num_classes is None else torch.tensor([0, 0, 1, 1, 0, 0])
    ends = to_uint8(generator(z, labels)).reshape(3, 2, 3, 8, 8)
    for column, end in ((0, 0), (3, 1)):
        assert (rows[:, column].int() - ends[:, end].int()).abs().max() <= 1
    middle = rows[:, 1].float()
    assert ((middle - ends[:, 0].float()).abs().mean((1, 2, 3)) > 0.1).all()
