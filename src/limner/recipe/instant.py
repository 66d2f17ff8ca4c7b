"""The table [instant] of the recipe: a predictor of LoRAs that is trained, and what it looks at."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from limner.errors import BadRecipe
from limner.recipe.fields import PathField, Paths, Section

Encoder = Literal["pixels", "siglip2", "dinov3", "dinov2"]


class Instant(Section):
    """A predictor of LoRAs, with train.method = "instant": its size, what it sees, how styles are drawn."""

    section: ClassVar[str] = "instant"

    encoders: Annotated[tuple[Encoder, ...], Field(strict=False)] = ("pixels",)
    """What the predictor sees of a picture: "pixels" (a small convolutional network that is trained with it),
    "siglip2", "dinov3", "dinov2" (frozen, cached); several are added up. Empty: nothing, so that what is
    trained is one LoRA for all pictures (a bias), and is exported as a LoRA."""
    encoder_folder: PathField | None = Field(default=None, examples=["encoders"])
    """Folder with a subfolder for each frozen encoder. Unset: the cache of the Hugging Face hub."""
    references: Annotated[
        tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(strict=False, min_length=1)
    ] = (1, 2, 4)
    """How many pictures of a style it is shown: each step draws one of these numbers."""
    group: Annotated[int, Field(ge=1, le=1024)] = 4
    """Pictures of a style in a row that share its references; train.batch is a multiple."""
    side: Annotated[int, Field(ge=16, le=1024)] = 64
    """Side in pixels of the squares that "pixels" sees."""
    width: Annotated[int, Field(ge=8, le=16384)] = 192
    """Numbers of a style's vector."""
    bottleneck: Annotated[int, Field(ge=1, le=4096)] = 16
    """Numbers between the two matrices of each head; a head writes one side of one layer's LoRA."""
    static_steps: Annotated[int, Field(ge=0)] = 0
    """Steps at the start in which only the part is trained that is the same for all styles."""
    experts: Paths = ()
    """Predictors that stay as they are and whose LoRAs are added while this one learns what they lack: a
    second expert. `limner instant --experts` adds them up again."""
    guidance: Annotated[float, Field(ge=1, le=30)] = 2.0
    """Guidance scale that files of the predictor ask for, with the LoRA on the positive branch."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if twice := [name for name in self.encoders if self.encoders.count(name) > 1]:
            raise BadRecipe(f'instant.encoders names "{twice[0]}" twice. Remove one of them.')
        if not self.encoders and self.static_steps:
            raise BadRecipe(
                f"instant.static_steps is {self.static_steps}, and instant.encoders is empty: all steps "
                "train the static part. Remove instant.static_steps."
            )
        return self
