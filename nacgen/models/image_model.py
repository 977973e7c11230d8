"""Saved networks that make images, and their model card: what it is, how to sample it, how it was trained."""

from nacgen.models.folder import PretrainedModel

CARD = """---
library_name: nacgen
tags: [image-generation]
---
# {name}: images of {size}x{size} px

{about} Image `i` always comes from seed `i`.

```python
from torch import arange
from {module} import {name}
from nacgen.models.sampling import sample_images
images = sample_images({name}.from_pretrained({arguments}), arange(16))  # uint8 (16, 3, {size}, {size})
```

{notes}
"""


class PretrainedImageModel(PretrainedModel):
    """A saved network that makes images.

    Attributes:
        about: Sentence on what it is.
        card_notes: Markdown at the end of its card: training, scores, data.
    """

    about = "A network of the nacgen library that makes images."
    card_notes = ""
    image_size: int

    def model_card(self) -> str:
        """Return Markdown that describes the model, with four lines that sample it."""
        given = "".join(f", {name}=my_{name}" for name in self.given_arguments())
        return CARD.format(
            name=type(self).__name__,
            module=type(self).__module__,
            size=self.image_size,
            about=self.about,
            arguments=f'"path/to/this/folder"{given}',
            notes=self.card_notes,
        )
