"""The recipe: the whole of what a person decides, and nothing that a machine can work out."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from limner.errors import BadRecipe
from limner.recipe import aliases, explain, optimizers
from limner.recipe.field_types import ConceptType, Names, PathField, Size, Tool, Tracker


class Part(BaseModel):
    """A table of the recipe. However it is built, what it cannot mean is a one-line ``BadRecipe``."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_by_name=True,
        validate_by_alias=True,
    )
    section: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, dict):
            values = aliases.nested(cls.section, values, Recipe)
        try:
            return handler(values)
        except ValidationError as error:
            raise BadRecipe(explain.first_error(cls, cls.section, values, error)) from error


class Data(Part):
    """Which images, under which words, seen how."""

    section: ClassVar[str] = "data"

    images: PathField = Path("images")
    """Folder of images; captions lie beside them (.txt) or in metadata.jsonl / metadata.csv.
    A relative path starts at the folder of this recipe."""
    trigger: Annotated[str, Field(max_length=200, examples=["sks cat"])] = ""
    """The words that shall summon what is learned. Put before each caption that lacks them."""
    resolution: Annotated[int, Field(ge=16, le=8192)] | None = Field(default=None, examples=[1024])
    """Side in pixels of the square whose area every image gets, in its own shape. Unset: the base's own."""
    flip: bool = False
    """Show each image mirrored as well. Not for faces, lettering, or anything with a left and a right."""
    crop: Literal["auto", "subject", "centre"] = "auto"
    """What is kept of an image that is longer than its bucket: "subject" follows faces, else what stands out
    (needs limner[crop]); "centre" the middle. auto: subject where that is installed, else centre."""
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the draws (0 to 1) that see the empty caption instead of the image's own."""
    default_caption: str = ""
    """Caption of images that have none. Empty: the trigger."""
    validation_count: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[2])
    """Images kept out of training to measure over-fitting. Unset: one in ten when there are 20 or more, else
    none, and the held-out loss is that of a fixed subset of the training images."""
    validation_images: PathField | None = Field(default=None, examples=["more-photos"])
    """A second folder whose images serve for the held-out loss only."""
    min_side: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[512])
    """Images with a shorter side in pixels are left out, by name. Unset: half the resolution."""
    cache: PathField | None = Field(default=None, examples=["cache"])
    """Where latents and encoded captions are kept. Unset: $LIMNER_CACHE, else the user's cache folder, shared
    between runs."""

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> Self:
        if self.validation_count and self.validation_images is not None:
            raise BadRecipe(
                f"data.validation_count is {self.validation_count} and data.validation_images is "
                f"{self.validation_images}: "
                "the held-out loss has two sources. Remove one of the two."
            )
        return self


class Lora(Part):
    """The shape of what is trained (Hu 2021, arXiv 2106.09685)."""

    section: ClassVar[str] = "lora"

    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """Inner width of each pair of factors: capacity, and size of the file."""
    alpha: Annotated[float, Field(gt=0)] | None = Field(default=None, examples=[16.0])
    """The update is scaled by alpha / rank. Unset: the rank, so that the scale is 1."""
    targets: Annotated[str, Field(min_length=1)] | Annotated[Names, Field(min_length=1)] = "auto"
    """A group of the family ("auto", "attention", "all-linear"; "locon" of SDXL and SD 1.5: convolutions as
    well), or a list of endings of module names."""
    conv_rank: Annotated[int, Field(ge=1, le=4096)] | None = Field(default=None, examples=[8])
    """Rank of trained convolutions with kernels larger than 1 x 1 (kohya's conv_dim). Unset: the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the inputs of each pair that is zeroed while training."""
    text_encoders: Names = ()
    """Text encoders trained as well, by component: ["text_encoder"], ["text_encoder", "text_encoder_2"]."""
    text_encoder_layers: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[4])
    """Train only the last so many layers of each of them; the layers below stay cached. Unset: all layers."""

    @model_validator(mode="after")
    def _layers_of_something(self) -> Self:
        if self.text_encoder_layers is not None and not self.text_encoders:
            raise BadRecipe(
                f"lora.text_encoder_layers is {self.text_encoder_layers}, but no text encoder is trained. "
                'Set lora.text_encoders = ["text_encoder"], or remove lora.text_encoder_layers.'
            )
        return self


class Train(Part):
    """How long, how fast, with what."""

    section: ClassVar[str] = "train"

    method: Literal["lora", "full"] = "lora"
    """"lora" trains a pair of factors per layer; "full" every weight of the denoiser, which takes 16 bytes
    for each of them, on the device or in the host's memory, and wants a tenth of the learning rate."""
    steps: Annotated[int, Field(ge=0)] = 1000
    """Optimizer steps."""
    batch: Annotated[int, Field(ge=1, le=65536)] = 1
    """Images per optimizer step. How many pass through the device at once is limits.micro_batch."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-4
    """Step size at full strength. With prodigy a multiplier of the rate that it finds: 1.0."""
    text_encoder_learning_rate: Annotated[float, Field(gt=0, le=10)] | None = Field(
        default=None, examples=[5e-5]
    )
    """Step size of the text encoders. Unset: learning_rate."""
    optimizer: optimizers.OptimizerName = Field(default="adamw", description=optimizers.described())
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """Decoupled decay of the trained weights, per step and unit of learning rate."""
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Field(strict=False)
    ] = (0.9, 0.999)
    """Memory of the first and the second moment."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Learning rate after the warm-up: held, or falling to zero along a cosine or a line."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from zero."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; a longer one is scaled down. 0: off."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of a running mean of the weights, which is then what is exported. 0: off."""
    time_density: Literal["auto", "logit-normal", "uniform", "sigmoid"] = "auto"
    """How noise levels are drawn (Esser 2024, arXiv 2403.03206, section 3.1). auto: as the family prefers."""
    time_shift: Literal["auto", "none"] | Annotated[float, Field(gt=0)] = "auto"
    """Shift of the noise levels towards noise. auto: by resolution, as the family samples."""
    guidance: Annotated[float, Field(ge=0)] = 1.0
    """Embedded guidance while training, for bases that have one. 1.0 leaves the distillation whole."""
    prediction: Literal["auto", "epsilon", "v"] = "auto"
    """What a base of the Stable Diffusion kind was made to say of its input: the noise, or the velocity v
    (Salimans 2022, arXiv 2202.00512). auto: as its scheduler says. A checkpoint in one file cannot say it."""
    min_snr: Annotated[float, Field(ge=0, le=1000, examples=[5.0])] = 0.0
    """Cap on what nearly clean steps count, by their signal-to-noise ratio (Hang 2023, arXiv 2303.09556).
    0: off. For bases of the Stable Diffusion kind."""
    noise_offset: Annotated[float, Field(ge=0, le=1, examples=[0.05])] = 0.0
    """Share of noise that is one number per channel, so that very dark and very bright pictures can be
    learned. 0: off. For bases of the Stable Diffusion kind."""
    zero_terminal_snr: bool | None = Field(default=None, examples=[True])
    """Whether the last step is pure noise (Lin 2023, arXiv 2305.08891), for bases of the Stable Diffusion
    kind that predict v. Unset: as the base's scheduler says."""
    validation_every: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[100])
    """Steps between measurements of the held-out loss. Unset: at each checkpoint."""
    save_every: Annotated[int, Field(ge=1)] = 250
    """Steps between checkpoints."""
    keep: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints that are kept. The best by held-out loss is kept besides."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup and self.warmup >= self.steps:
            raise BadRecipe(
                f"train.warmup is {self.warmup} and train.steps is {self.steps}: the full learning rate "
                f"is never reached. Set train.warmup below {self.steps}, for instance to {self.steps // 20}."
            )
        optimizer = optimizers.optimizer_of(self.optimizer)
        if optimizer.finds_rate and self.learning_rate < 0.01:
            raise BadRecipe(
                f"train.learning_rate is {self.learning_rate:g} with {optimizer.name}, which finds the rate "
                "itself and multiplies it by this. Set train.learning_rate = 1.0."
            )
        if optimizer.averages and self.schedule != "constant":
            raise BadRecipe(
                f'train.schedule is "{self.schedule}" with the {optimizer.name} optimizer, which replaces '
                'schedules. Set train.schedule = "constant", or train.optimizer = "adamw".'
            )
        if optimizer.averages and self.ema:
            raise BadRecipe(
                f"train.ema is {self.ema:g} with the {optimizer.name} optimizer, which averages the "
                'weights already. Set train.ema = 0.0, or train.optimizer = "adamw".'
            )
        return self


class Prior(Part):
    """Pictures by the base itself, trained beside yours to keep the rest (DreamBooth, arXiv 2208.12242)."""

    section: ClassVar[str] = "prior"

    images: PathField | None = Field(default=None, examples=["ordinary-cats"])
    """A folder of pictures of other things of the kind, with captions that lack the trigger. Unset: the base
    paints them from prior.prompts before it is trained."""
    prompts: Names = ()
    """What the base paints such pictures from, before training: the kind of thing, without the trigger."""
    images_per_prompt: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pictures painted from each of the prompts."""
    batch: Annotated[int, Field(ge=1, le=65536)] = 1
    """Such pictures per optimizer step, besides train.batch."""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Weight of their mean loss; that of your images has 1."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.images is not None and self.prompts:
            raise BadRecipe(
                f"prior.images is {self.images} and prior.prompts has {len(self.prompts)} prompts: the same "
                "pictures from two sources. Remove one of the two."
            )
        return self

    @property
    def wanted(self) -> bool:
        """Whether there are such pictures at all."""
        return self.images is not None or bool(self.prompts)


class Sample(Part):
    """Which pictures are painted to look at, and when."""

    section: ClassVar[str] = "sample"

    every: Annotated[int, Field(ge=-1)] = 0
    """Steps between samples. 0: at the start and the end only. -1: never."""
    prompts: Names = ()
    """One picture each; [trigger] stands for data.trigger. If there are none: captions of the folder."""
    prompt_file: PathField | None = Field(default=None, examples=["prompts.txt"])
    """A text file with one more prompt per line."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Denoising steps per picture."""
    guidance: Annotated[float, Field(ge=0)] | None = Field(default=None, examples=[3.5])
    """Guidance of the pictures. Unset: the base's own."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the first picture. All steps share their seeds, so that their pictures can be compared."""
    width: Annotated[int, Field(ge=16, le=8192)] | None = Field(default=None, examples=[1024])
    """Pixels. Unset: the training resolution."""
    height: Annotated[int, Field(ge=16, le=8192)] | None = Field(default=None, examples=[1024])
    """Pixels. Unset: the training resolution."""


class Export(Part):
    """Which tools the finished LoRA is written for."""

    section: ClassVar[str] = "export"

    for_: Annotated[tuple[Tool, ...], Field(strict=False, alias="for")] = ("diffusers",)
    """"diffusers" is always written, as lora.safetensors; "comfyui", "kohya" (also for A1111 and Forge) and
    "diffsynth" get a file of their own besides, read back by that tool's rules."""


class Limits(Part):
    """What the machine may be asked for."""

    section: ClassVar[str] = "limits"

    vram: Annotated[Size, Field(examples=["12GB"])] = "auto"
    """Memory of the GPU that the run is planned for: "12GB", "900MB"; GB is 2^30 bytes, as on a card's label.
    Some of it is left to the desktop. auto: what is free on the device that is there."""
    ram: Annotated[Size, Field(examples=["32GB"])] = "auto"
    """Memory of the host that the run may use, written alike. auto: what is free."""
    weights_precision: Literal["16bit", "8bit", "4bit"] = "8bit"
    """The coarsest precision in which frozen weights may be stored. The plan takes a finer one where it costs
    no time. What is trained stays at 32 bits."""
    matmul_precision: Literal["full", "8bit"] = "full"
    """How weights stored in 8 bits multiply: turned back in full, or 8 bits by 8 bits, forward and backward
    (all blocks are then stored so). No GPU has shown its speed and quality yet."""
    compute_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the frozen weights and of the arithmetic. auto: bf16 on a GPU that has it, else fp32."""
    micro_batch: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[1])
    """Largest number of images that pass through the device at once. Unset: the whole batch. Less memory, the
    same result."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda, else mps, else cpu."""

    @model_validator(mode="after")
    def _coarse_enough(self) -> Self:
        if self.matmul_precision == "8bit" and self.weights_precision == "16bit":
            raise BadRecipe(
                'limits.matmul_precision is "8bit", which reads weights stored in 8 bits, and '
                "limits.weights_precision is "
                '"16bit". Set limits.weights_precision = "8bit", or limits.matmul_precision = "full".'
            )
        return self


class Track(Part):
    """Where else the figures go; metrics.jsonl is always written."""

    section: ClassVar[str] = "track"

    with_: Annotated[tuple[Tracker, ...], Field(strict=False, alias="with")] = ()
    """Trackers that get a copy of the metrics: "tensorboard", "wandb", "trackio"."""


class Recipe(Part):
    """What a person decides about a run. Two equal recipes train the same LoRA on the same machine.

    Raises:
        BadRecipe: An unknown key, an impossible value or a contradiction, in one line with the remedy.
    """

    base: Annotated[str, Field(min_length=1)] = "glyph"
    """The model to teach: a registered name ("glyph", "flux-dev", "sdxl" ..), a hub id, or a folder in
    diffusers layout (written with a leading "./", "../", "~/" or "/"), or one .safetensors file of SDXL,
    Stable Diffusion 1.5 or FLUX.1."""
    components_from: str = Field(default="", examples=["sdxl"])
    """For a base in one file: the base that lends configs, tokenizers, and whole parts that the file lacks.
    Empty: the family's own, of which only what is needed is fetched."""
    name: Annotated[str, Field(pattern=r'^[^./\\:*?"<>|\x00-\x1f][^/\\:*?"<>|\x00-\x1f]{0,99}$')] = "lora"
    """What the LoRA is called in its own metadata and in reports. Does not begin with a dot."""
    concept_type: ConceptType = "subject"
    """What the images have in common."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every random draw of the run."""
    data: Data = Field(default_factory=Data)
    lora: Lora = Field(default_factory=Lora)
    train: Train = Field(default_factory=Train)
    prior: Prior = Field(default_factory=Prior)
    sample: Sample = Field(default_factory=Sample)
    export: Export = Field(default_factory=Export)
    limits: Limits = Field(default_factory=Limits)
    track: Track = Field(default_factory=Track)

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        if self.train.method == "full":
            if self.limits.matmul_precision == "8bit":
                raise BadRecipe(
                    'train.method is "full", which trains every weight, and limits.matmul_precision '
                    '"8bit" is for '
                    'frozen ones. Set limits.matmul_precision = "full", or train.method = "lora".'
                )
            for key in Lora.model_fields:
                value = getattr(self.lora, key)
                if value != Lora.model_fields[key].default:
                    raise BadRecipe(
                        f'train.method is "full", which trains every weight of the denoiser, and lora.{key} '
                        f'is {value}. Remove lora.{key}, or set train.method = "lora".'
                    )
            if others := [tool for tool in self.export.for_ if tool != "diffusers"]:
                raise BadRecipe(
                    f'train.method is "full", which makes a whole model, and export.for names "{others[0]}", '
                    f'which gets a LoRA. Remove "{others[0]}"; afterwards `limner lora extract` makes a LoRA '
                    "of the difference, and `limner lora convert` turns it."
                )
        if self.train.text_encoder_learning_rate is not None and not self.lora.text_encoders:
            raise BadRecipe(
                f"train.text_encoder_learning_rate is {self.train.text_encoder_learning_rate:g}, but no text "
                'encoder is trained. Set lora.text_encoders = ["text_encoder"], or remove it.'
            )
        return self
