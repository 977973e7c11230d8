"""The update of a flow model: the velocity's loss, and a hidden state's distance to an encoder's features."""

from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch
from nacgen.flow.options import FlowConfig
from nacgen.functional.flow import flow_matching_loss, straight_path
from nacgen.models.denoiser import Denoiser
from nacgen.training.update import descend
from nacgen.transplant.alignment import Alignment

MAX_NORM = 1.0  # of a gradient


class FlowLoss(nn.Module):
    """The losses of a denoiser in one module, so that processes exchange all of its gradients."""

    def __init__(self, denoiser: Denoiser, alignment: Alignment | None = None) -> None:
        super().__init__()
        self.denoiser, self.alignment = denoiser, alignment

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        noise: Float[Tensor, "b 3 h w"],
        time: Float[Tensor, " b"],
        is_aligned: bool = True,
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"] | None]:
        """Compute the velocity's loss of each image in [-1, 1], and its distance to the encoder's features.

        Without alignment there is no distance, and the projector's gradient is 0.
        """
        velocity = self.denoiser(straight_path(images, noise, time), time)
        loss = flow_matching_loss(velocity.float(), images, noise)
        if self.alignment is None:
            return loss, None
        if is_aligned:
            return loss, self.alignment(images)
        self.alignment.remove_hook()
        # Processes wait for a gradient of every parameter.
        return loss + 0 * sum(p.sum() for p in self.alignment.parameters()), None


class FlowUpdate:
    """One step on the velocity's mean square error, with the alignment's distance beside it.

    `optimizer` trains the parameters of both modules; `ema` holds the denoiser's averaged weights.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        denoiser: Denoiser,
        ema: AveragedModel,
        optimizer: torch.optim.Optimizer,
        config: FlowConfig,
        alignment: Alignment | None = None,
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self.denoiser, self.alignment, self.ema = denoiser, alignment, ema
        self.losses = FlowLoss(denoiser, alignment)
        self.prepared, prepared_optimizer = accelerator.prepare(self.losses, optimizer)
        self.modules: dict[str, nn.Module] = {"denoiser": denoiser, "ema": ema}
        if alignment is not None:
            self.modules["alignment"] = alignment
        self.optimizers: dict[str, AcceleratedOptimizer] = {"flow": prepared_optimizer}

    @property
    def averaged_denoiser(self) -> Denoiser:
        """The denoiser with averaged weights, which is scored and kept."""
        return cast(Denoiser, self.ema.module)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step and return losses, that of the alignment while it has weight, and the gradient's norm."""
        images = to_float(batch.images)
        if self.config.flip:
            drawn = torch.rand(batch.global_size, 1, 1, 1, generator=batch.generator("flip"))
            images = torch.where(batch.local(drawn) < 0.5, images.flip(3), images)
        noise, time = self.draw(batch)
        weight = self.config.alignment_weight(batch.images_seen)
        flow, distance = self.prepared(images, noise, time, weight > 0)
        loss = loss_flow = flow.mean()
        logs = {"loss_flow": loss_flow}
        if distance is not None:  # a 0 would be read as perfect alignment
            logs["loss_alignment"] = distance.mean()
            loss = loss_flow + weight * logs["loss_alignment"]
        logs["loss"] = loss
        logs["gradient_norm"] = descend(
            self.accelerator,
            loss,
            self.optimizers["flow"],
            self.losses.parameters(),
            batch,
            max_norm=MAX_NORM,
        )
        self.ema.update_parameters(self.denoiser)
        return {name: value.detach() for name, value in logs.items()}

    def draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw this process's noise `(b, 3, h, w)` and times `(b,)` in [0, 1) of a step."""
        shape = (batch.global_size, *batch.images.shape[1:])
        noise = torch.randn(shape, generator=batch.generator("noise"))
        time = torch.rand(batch.global_size, generator=batch.generator("time"))
        return batch.local(noise), batch.local(time)
