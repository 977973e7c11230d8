"""The progress of a run or of scoring: a bar on a terminal and in a notebook, elsewhere a line every tenth."""

import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from tqdm import TqdmWarning

from nacgen.system.documents import flatten
from nacgen.system.terminal import is_terminal

with warnings.catch_warnings():  # without ipywidgets a notebook has a bar of text
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

PARTS = 10  # lines of a run without a terminal


class Progress:
    """The position of a run with its last losses and scores, on stderr of the main process.

    Args:
        total: Number of images of the whole run.
        images_seen: Position at which this session starts.
        goal: Dotted name of the number that decides which evaluation is the best, if any; it is shown.
        is_shown: False on all processes but one.
    """

    def __init__(self, total: int, images_seen: int, goal: str | None, is_shown: bool) -> None:
        self.total, self.images_seen, self.goal = total, images_seen, goal
        self._values: dict[str, str] = {}
        self._start, self._started_at = time.monotonic(), images_seen
        is_bar = is_terminal(sys.stderr)
        self._has_lines = is_shown and not is_bar
        self._bar = tqdm(
            total=total,
            initial=images_seen,
            unit=" images",
            unit_scale=True,
            file=sys.stderr,
            dynamic_ncols=True,
            disable=not (is_shown and is_bar),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar, which stays to be read."""
        self._bar.close()

    def note_losses(self, values: Mapping[str, float]) -> None:
        """Show the losses among the values of a step."""
        self._note({name: value for name, value in values.items() if "loss" in name})

    def note_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Show the scores of an evaluation, and the number that its run is judged by."""
        values = {
            name.removesuffix(".value").removeprefix("evaluation.scores."): value
            for name, value in flatten(evaluation).items()
            if name == self.goal
            or (name.startswith("evaluation.scores.") and name.endswith(".value"))
        }
        self._note({k.removeprefix("health.information."): v for k, v in values.items()})

    def _note(self, values: Mapping[str, Any]) -> None:
        self._values |= {
            k: f"{float(f'{v:.3g}'):g}" for k, v in values.items() if isinstance(v, int | float)
        }
        self._bar.set_postfix(self._values)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Name something other than training in front of the bar, as long as it lasts."""
        self._bar.set_description(what)
        yield
        self._bar.set_description(None)

    def move_to(self, images_seen: int) -> None:
        """Show a position; without a bar a line tells the first one of each tenth of the run."""
        part = images_seen * PARTS // self.total
        is_due = self._has_lines and part > self.images_seen * PARTS // self.total
        self._bar.update(images_seen - self.images_seen)
        self.images_seen = images_seen
        if is_due:
            seconds = time.monotonic() - self._start
            left = seconds * (self.total - images_seen) / (images_seen - self._started_at)
            values = ", ".join(f"{name} {value}" for name, value in self._values.items())
            print(
                f"{images_seen:,} of {self.total:,} images ({images_seen / self.total:.0%}), "
                f"{tqdm.format_interval(left)} left{': ' if values else ''}{values}",
                file=sys.stderr,
            )
