"""Options of pretraining. Does not import torch, which keeps `--help` fast."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from nacgen.data.options import ViewConfig as ViewConfig
from nacgen.errors import ConfigurationError
from nacgen.system.own_parts import check_part
from nacgen.training.config import (
    TrainingConfig,
    refuse_unheeded,
    require_between,
    require_positive,
)

VIEWS = ViewConfig()
Objective = Literal["nac", "simclr", "distillhash", "supervised"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Options of the encoder, see nacgen.NACEncoder."""

    backbone: str = "tiny"
    """Network: tiny, resnet18, resnet34, resnet50, vgg16_bn, timm:<name> or your own. A module of your own is
    named package.module:function. Those of timm and of your own become frozen discriminators only."""
    stem: Literal["small", "standard"] = "small"
    """Stem of ResNets. small: 3x3 convolution; standard: ImageNet's 7x7 with max-pooling."""
    code_dim: int = 128
    """Bits in a code."""
    flip_probability: float = 0.3
    """Probability that the channel flips a bit, between 0 and 1/2."""
    posterior: Literal["shared", "scaled", "separate"] = "shared"
    """Source of the posterior's logits. shared: the code logits after the channel; scaled: the same, times a
    learned confidence; separate: a head of its own, as the authors have."""
    code_normalization: Literal["batch", "sphere", "sqrt_dim"] = "sphere"
    """Normalization of code logits. sphere: standardized and of one length for every image, with a learned
    scale; batch: standardized, of any length; sqrt_dim: divided by sqrt(code_dim), the authors'."""
    compile: bool = False
    """Compile the training step by torch.compile, which takes a minute and a C++ compiler. On a GPU a
    ResNet-18 trains a third faster, a ResNet-50 3 %. Also valid with --encoder."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Options of the optimizer, with linear warm-up and cosine."""

    name: Literal["adamw", "lars", "sgd"] = "adamw"
    """Optimizer: AdamW, LARS or SGD with Nesterov momentum."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 1e-4
    """Weight decay; biases and normalization layers are left out."""
    warmup_images: int = 2_560
    """Length of the linear warm-up."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate")
        require_between(self, 0, math.inf, "weight_decay", "warmup_images")


@dataclass(frozen=True, kw_only=True)
class NACConfig:
    """Options of Neural Activation Coding."""

    relaxation: Literal["marginal", "tanh", "straight_through", "closed_form", "direction"] = "tanh"
    """Relaxation of the codes while training. tanh: the authors'; marginal: makes the loss itself a bound;
    closed_form: a bound without drawn noise; direction: the same by the cosine of codes."""
    own_row: bool = True
    """Keep each code in its own mixture. Without it, as in SimCLR, the closed forms are no bounds."""
    code_penalty: float = 0.0
    """Weight of the relaxed codes' summed squares, with a queue; the authors use 0.1."""
    divide: bool = False
    """Divide inner products by kappa, in place of multiplying, and weigh a separate posterior's own term by two,
    as the authors' queue does."""

    def __post_init__(self) -> None:
        require_between(self, 0, math.inf, "code_penalty")


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """Options of a queue of keys from a momentum encoder, for nac and simclr."""

    size: int = 0
    """Number of keys, at least two for each image of a batch; 0: keys come from the batch."""
    momentum: float = 0.99
    """Momentum of the encoder that computes the keys, 0 or more and below 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ConfigurationError(
                f"momentum must be 0 or more and below 1, got {self.momentum}. Change --queue.momentum."
            )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Options of pretraining."""

    objective: Objective = "nac"
    """Objective of the training; all share encoder, views and evaluation."""
    encoder: str | None = None
    """Folder or Hub id of an encoder to start from. It takes the place of the options of the model."""
    protocol: str | None = None
    """Train on the training images of this retrieval protocol."""
    total_images: int = 38_400
    """Length of training, in images seen. All processes count together, and each image gives two views."""
    batch_size: int = 128
    """Images in one step over all processes together."""
    probe_every: int = 9_600
    """Images between two evaluations of the encoder. Each has a linear probe and the health of the code."""
    temperature: float = 0.5
    """Temperature of simclr's similarities."""
    stages: tuple[str, ...] = ()
    """Earlier stages whose codes join the loss at half its weight. For example layer1 layer2, for nac and simclr
    without a queue. Their heads are thrown away after training."""
    augment: str | None = None
    """Function of your own that makes views, package.module:function. It takes the place of the options of views,
    and takes and returns images (b, 3, h, w) in [-1, 1]."""
    model: ModelConfig = ModelConfig()
    views: ViewConfig = VIEWS
    optim: OptimConfig = OptimConfig()
    nac: NACConfig = NACConfig()
    queue: QueueConfig = QueueConfig()

    @property
    def run_name(self) -> str:
        """Objective and preset."""
        return f"pretrain_{self.objective}-{self.preset}"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "probe_every", "temperature")
        if self.batch_size < 2:
            raise ConfigurationError(
                f"batch_size must be 2 or more, got {self.batch_size}: BatchNorm needs several images."
            )
        if 0 < self.queue.size < 2 * self.batch_size:
            raise ConfigurationError(
                f"queue.size must be 0 or take both views of a batch, {2 * self.batch_size} or more, got "
                f"{self.queue.size}. Raise --queue.size or lower --batch-size."
            )
        check_part("augment", self.augment, ())
        refuse_unheeded(self, self.augment is not None, ["views"], "with --augment")
        chosen = f"with --objective {self.objective}"
        refuse_unheeded(self, self.objective != "nac", ["nac"], chosen)
        refuse_unheeded(self, self.objective != "simclr", ["temperature"], chosen)
        refuse_unheeded(self, self.objective not in ("nac", "simclr"), ["queue", "stages"], chosen)
        of_queue = ["queue.momentum", "nac.divide", "nac.code_penalty"]
        refuse_unheeded(self, not self.queue.size, of_queue, "without --queue.size")
        of_model = [f"model.{f.name}" for f in fields(self.model) if f.name != "compile"]
        has_model = "with --encoder, whose folder says how the encoder is made"
        refuse_unheeded(self, self.encoder is not None, of_model, has_model)
        refuse_unheeded(self, self.queue.size > 0, ["stages", "nac.own_row"], "with --queue.size")
        is_closed = self.nac.relaxation in ("closed_form", "direction")
        drawn = f"with --nac.relaxation {self.nac.relaxation}"
        refuse_unheeded(self, not is_closed, ["nac.own_row"], drawn)
        if self.nac.divide and self.nac.relaxation not in ("tanh", "straight_through"):
            raise ConfigurationError(
                f"nac.divide needs relaxation tanh or straight_through, got {self.nac.relaxation}. Add "
                "--nac.relaxation tanh."
            )
        if self.objective == "distillhash" and self.encoder is None:
            raise ConfigurationError(
                "distillhash learns from pretrained features, but encoder is not given. Add --encoder PATH."
            )
