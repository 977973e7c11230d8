"""How two views usually come about: PIL images, torchvision's transforms, worker processes.

In a file of its own, since worker processes may import it.
"""

from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from nacgen.data.augment import ViewPolicy


class ViewsOfPictures(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each picture, drawn as a policy says, in [-1, 1].

    Args:
        images: `(n, 3, h, w)` uint8; kept as PIL images.
        policy: What is varied.
    """

    def __init__(self, images: Tensor, policy: ViewPolicy) -> None:
        self.pictures = [
            Image.fromarray(rearrange(image, "c h w -> h w c").numpy()) for image in images
        ]
        jitter = transforms.ColorJitter(policy.jitter, policy.jitter, policy.saturation, policy.hue)
        self.view = transforms.Compose(
            [
                transforms.RandomResizedCrop(
                    images.shape[-2:],
                    scale=policy.crop_scale,
                    ratio=(1 / policy.crop_ratio, policy.crop_ratio),
                ),
                transforms.RandomHorizontalFlip(0.5 if policy.flip else 0.0),
                transforms.RandomApply([jitter], policy.jitter_probability),
                transforms.RandomGrayscale(policy.greyscale_probability),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture = self.pictures[index]
        return self.view(picture), self.view(picture)


def build_loader(
    dataset: ViewsOfPictures, batch_size: int, num_workers: int
) -> "DataLoader[tuple[Tensor, Tensor]]":
    """Shuffled batches from worker processes that stay alive between epochs."""
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
