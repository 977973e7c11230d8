"""How views usually come about: PIL images, transforms of one image at a time, worker processes."""

from collections.abc import Callable, Sequence

from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from nacgen.data.augment import ViewPolicy

WORKERS = 2
Views = Callable[[Image.Image], Sequence[Tensor]]


class TwoViews:
    """torchvision's transforms of PIL images, drawn twice as a policy says.

    Args:
        policy: What is varied.
        size: Height and width in pixels.
    """

    def __init__(self, policy: ViewPolicy, size: int) -> None:
        jitter = transforms.ColorJitter(policy.jitter, policy.jitter, policy.saturation, policy.hue)
        ratio = (1 / policy.crop_ratio, policy.crop_ratio)
        self.view = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=policy.crop_scale, ratio=ratio),
                transforms.RandomHorizontalFlip(0.5 if policy.flip else 0.0),
                transforms.RandomApply([jitter], policy.jitter_probability),
                transforms.RandomGrayscale(policy.grayscale_probability),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        """Two views in [-1, 1]."""
        return self.view(picture), self.view(picture)


class Pictures(Dataset[tuple[Tensor, ...]]):
    """Views of PIL images.

    Args:
        images: `(n, 3, h, w)` uint8.
        views: Of one picture.
    """

    def __init__(self, images: Tensor, views: Views) -> None:
        self.views = views
        self.pictures = [
            Image.fromarray(rearrange(image, "c h w -> h w c").numpy()) for image in images
        ]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(self.views(self.pictures[index]))


def build_loader(images: Tensor, views: Views, batch_size: int) -> "DataLoader[tuple[Tensor, ...]]":
    """Shuffled batches from worker processes that stay alive between epochs."""
    return DataLoader(
        Pictures(images, views),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
