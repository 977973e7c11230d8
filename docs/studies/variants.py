"""Train an encoder by a variant of NAC's update that `pretrain_nac.py` has no option for.

    python docs/studies/variants.py stop --preset digits --seed 0

Arms of `objective.py` name these variants; the flags after the name are those of `pretrain_nac.py`.
"""

import sys
from functools import partial

from torch import Tensor

from nacgen.data.stream import Batch
from nacgen.functional.closed_form import flip_probability_of_temperature
from nacgen.pretraining import build
from nacgen.pretraining.nac import NACUpdate
from nacgen.pretraining.options import PretrainConfig
from nacgen.recipes import pretrain_nac
from nacgen.system.processes import gather_rows


class StoppedPosterior(NACUpdate):
    """Steps with no gradient through the posterior, the other view's code, in either role of the views."""

    def rows_of_loss(
        self, batch: Batch, code_logits: Tensor, posterior_logits: Tensor, *rest: Tensor
    ) -> Tensor:
        """Compute the loss of each code, see `NACUpdate.rows_of_loss`."""
        return super().rows_of_loss(batch, code_logits, posterior_logits.detach(), *rest)


class StoppedOthers(StoppedPosterior):
    """Steps whose only gradient is that of the code sent: posterior and mixture are constants."""

    def rows_of_loss(
        self, batch: Batch, code_logits: Tensor, posterior_logits: Tensor, *rest: Tensor
    ) -> Tensor:
        """Compute the loss of each code, see `NACUpdate.rows_of_loss`."""
        keys = gather_rows(code_logits).detach()
        return super().rows_of_loss(batch, code_logits, posterior_logits, rest[0], keys)


class FallingNoise(NACUpdate):
    """Steps whose channel becomes colder from the first to the last, evenly on a logarithmic scale."""

    def __init__(self, first: float, last: float, total_images: int, *parts: object) -> None:
        super().__init__(*parts)  # type: ignore[arg-type]
        self.first, self.last, self.total_images = first, last, total_images

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step at the temperature of this moment."""
        done = batch.images_seen / self.total_images
        temperature = self.first * (self.last / self.first) ** done
        self.encoder.flip_probability = flip_probability_of_temperature(
            temperature, self.encoder.code_dim
        )
        return super().update(batch)


def variant(name: str, config: PretrainConfig) -> partial[NACUpdate]:
    """Return what builds the update of a variant: `stop`, `stop_all` or `fall:FIRST:LAST`, two temperatures."""
    kind, *temperatures = name.split(":")
    if kind == "fall":
        first, last = map(float, temperatures)
        return partial(FallingNoise, first, last, config.total_images)
    return partial({"stop": StoppedPosterior, "stop_all": StoppedOthers}[kind])


def main() -> None:
    """Run the recipe with the variant in the place of the update."""
    name = sys.argv.pop(1)
    original = build.build_update

    def build_variant(config: PretrainConfig, *parts: object) -> object:
        build.NACUpdate = variant(name, config)
        return original(config, *parts)

    build.build_update = build_variant
    pretrain_nac.run()


if __name__ == "__main__":
    main()
