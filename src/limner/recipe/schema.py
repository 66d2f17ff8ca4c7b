"""The recipe (training config): all that a person decides, and nothing that a machine can work out."""

from math import ceil
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
from limner.recipe import aliases, contradictions, optimizers
from limner.recipe.field_types import (
    ConceptType,
    Names,
    Options,
    PathField,
    Ranks,
    Rates,
    Size,
    Tool,
    Tracker,
    TriggerField,
)


class Section(BaseModel):
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
            raise BadRecipe(aliases.first_error(cls, cls.section, values, error)) from error


class Data(Section):
    """The dataset: images, captions, resolution, validation images."""

    section: ClassVar[str] = "data"

    images: PathField = Path("images")
    """Folder of images; captions lie beside them (.txt) or in metadata.jsonl / metadata.csv.
    A relative path starts at the folder of this recipe."""
    trigger: Annotated[TriggerField, Field(examples=["sks cat"])] = ""
    """Trigger word(s), such as "sks cat". Put before each caption that lacks them."""
    resolution: Annotated[int, Field(ge=16, le=8192)] | None = Field(default=None, examples=[1024])
    """Training resolution: side in pixels of the square whose area every image is resized to, in the
    aspect-ratio bucket of its shape. Unset: the base's own."""
    flip: bool = False
    """Horizontal flip: each image mirrored as well. Not for faces, lettering, or what has left and right."""
    crop: Literal["auto", "subject", "centre"] = "auto"
    """How an image that is longer than its bucket is cropped: "subject" follows faces, else what stands out
    (needs limner[crop]); "centre" the middle. auto: subject where that is installed, else centre."""
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of draws (0 to 1) with the empty caption instead of the image's own."""
    default_caption: str = ""
    """Caption of images that have none (an instance prompt). Empty: the trigger."""
    validation_count: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[2])
    """Validation images: how many are held out of training to measure overfitting. Unset: one in ten of 20
    or more, else none, and the validation loss is that of a fixed subset of the training images."""
    validation_images: PathField | None = Field(default=None, examples=["more-photos"])
    """A second folder, of validation images only."""
    min_side: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[512])
    """Images whose shorter side has fewer pixels are left out, by name. Unset: half the resolution."""
    cache: PathField | None = Field(default=None, examples=["cache"])
    """Folder for cached latents and text embeddings. Unset: $LIMNER_CACHE, else the user's cache folder,
    shared between runs."""

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> Self:
        if self.validation_count and self.validation_images is not None:
            raise BadRecipe(
                f"data.validation_count is {self.validation_count} and data.validation_images is "
                f"{self.validation_images}: "
                "the validation loss has two sources. Remove one of the two."
            )
        return self


class Lora(Section):
    """The adapter: its kind, its size, and the layers that get one."""

    section: ClassVar[str] = "lora"

    kind: Literal["lora", "loha", "lokr", "dora"] = "lora"
    """Kind of adapter: lora (Hu 2021, arXiv 2106.09685), loha (Hyeon-Woo 2022, arXiv 2108.06098), lokr (Yeh
    2024, arXiv 2309.14859), dora (Liu 2024, arXiv 2402.09353)."""
    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """LoRA rank (network_dim): capacity, and size of the file."""
    alpha: Annotated[float, Field(gt=0)] | None = Field(default=None, examples=[16.0])
    """LoRA alpha (network_alpha): the update is scaled by alpha / rank. Unset: the rank, a scale of 1."""
    targets: Annotated[str, Field(min_length=1)] | Annotated[Names, Field(min_length=1)] = "auto"
    """Target modules: a group of the family ("auto", "attention", "all-linear"; "locon" of SDXL and SD 1.5:
    convolutions as well), or a list of groups and endings of module names. In an ending "*" stands for
    anything and "4-12" for the numbers from 4 to 12; one that begins with "!" leaves out what it matches."""
    ranks: Ranks = Field(default={}, validate_default=True, examples=[{"*.ff.*": 32}])
    """Ranks of layers by endings as in targets, the last that matches; others have the rank. Those of a text
    encoder begin with its name. alpha / rank, the strength, is that of all."""
    rates: Rates = Field(default={}, validate_default=True, examples=[{"*.ff.*": 0.5}])
    """Multipliers of the learning rate of layers, by endings as in ranks."""
    conv_rank: Annotated[int, Field(ge=1, le=4096)] | None = Field(default=None, examples=[8])
    """Rank of trained convolutions with kernels larger than 1 x 1 (kohya's conv_dim). Unset: the rank."""
    factor: Annotated[int, Field(ge=2, le=4096)] | None = Field(default=None, examples=[8])
    """Of a LoKr: side of the smaller matrix, where it divides the layer's sides. The smaller, the more is
    trained. Unset: as near to the square root as goes, which trains least."""
    full_matrix: bool = False
    """Of a LoKr: the larger matrix is never factored, whatever the rank. It is whole anyway where the rank is
    at least half of its longer side."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """LoRA dropout: share of the inputs of each adapter that is zeroed while training."""
    text_encoders: Names = ()
    """Text encoders trained as well, by component: ["text_encoder"], ["text_encoder", "text_encoder_2"]."""
    text_encoder_layers: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[4])
    """Train only so many last layers of each text encoder; those below stay cached. Unset: all layers."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        contradictions.refuse_layers(self)
        return self


class Train(Section):
    """Steps, batch size, optimizer, schedule, noise, validation, checkpoints."""

    section: ClassVar[str] = "train"

    method: Literal["lora", "full"] = "lora"
    """"lora" trains an adapter; "full" (full fine-tuning) every weight of the denoiser, which takes 16 bytes
    for each of them, in VRAM or RAM, and wants a tenth of the learning rate."""
    init: str = Field(default="", examples=["my-cat.safetensors"])
    """Start from a LoRA: a file of any tool (written with ".safetensors" or a leading "./"), a hub id, or
    "instant" for one pass of the base's predictor. Its strength is multiplied in; LoHa and LoKr become LoRA;
    a higher rank is cut to lora.rank, and how much is kept is said. Empty: from nothing."""
    steps: Annotated[int, Field(ge=0)] = 1000
    """Optimizer steps."""
    batch: Annotated[int, Field(ge=1, le=65536)] = 1
    """Batch size: images per optimizer step = micro-batch x gradient accumulation. The plan decides the
    micro-batch; limits.micro_batch bounds it."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-4
    """Learning rate after warm-up. With prodigy a multiplier of the rate that it finds: 1.0."""
    text_encoder_learning_rate: Annotated[float, Field(gt=0, le=10)] | None = Field(
        default=None, examples=[5e-5]
    )
    """Learning rate of the text encoders. Unset: learning_rate."""
    optimizer: optimizers.OptimizerName = Field(default="adamw", description=optimizers.described())
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """Decoupled weight decay of the trained weights, per step and unit of learning rate."""
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Field(strict=False)
    ] = (0.9, 0.999)
    """Adam betas: decay rates of the first and second moment."""
    optimizer_args: Options = Field(default={}, validate_default=True, examples=[{"eps": 1e-6}])
    """Further arguments of the optimizer's constructor, as its own documentation has them."""
    schedule: Literal[
        "constant", "cosine", "linear", "cosine_with_restarts", "polynomial", "warmup_stable_decay"
    ] = "constant"
    """Learning-rate schedule after warm-up: constant, or to zero: in a cosine or a line, in a cosine that
    starts again (Loshchilov 2017, arXiv 1608.03983), by a power, or constant until a decay at the end (Hu
    2024, arXiv 2404.06395)."""
    schedule_cycles: Annotated[int, Field(ge=1, le=1000)] = 1
    """Of cosine_with_restarts: how often the cosine falls to zero."""
    schedule_power: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Of polynomial: the power of what is left of the steps. 1: a line."""
    schedule_decay: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[200])
    """Of warmup_stable_decay: steps at the end in which the rate falls to zero, by a cosine. Unset: a tenth
    of all."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Warm-up: steps over which the learning rate rises from zero."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Max gradient norm: a longer gradient is scaled down to it. 0: off."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """EMA decay per step; the averaged weights are what is exported. 0: off."""
    time_density: Literal["auto", "logit-normal", "uniform", "sigmoid"] = "auto"
    """Timestep sampling (Esser 2024, arXiv 2403.03206, section 3.1). auto: as the family prefers."""
    time_shift: Literal["auto", "none"] | Annotated[float, Field(gt=0)] = "auto"
    """Timestep shift (discrete_flow_shift) towards noise. auto: by resolution, as the family samples."""
    noise_range: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]], Field(strict=False)
    ] = (0.0, 1.0)
    """Part of the noise levels that is trained, 0 = the image, 1 = pure noise: timesteps are sampled as ever,
    then laid between the two. Low levels teach detail and texture, high ones composition."""
    loss: Literal["mse", "l1", "huber", "smooth_l1"] = "mse"
    """Loss of a sample: mse (l2), l1, or a pseudo-Huber one (Song 2023, arXiv 2310.14189), which outliers
    pull less: scaled as mse near 0 (huber) or as l1 far out (smooth_l1)."""
    huber_c: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Of huber and smooth_l1: the error at which it turns from square to straight, at pure noise."""
    huber_schedule: Literal["exponential", "constant"] = "exponential"
    """How huber_c falls from 1 at the image to itself at pure noise, or "constant"."""
    guidance: Annotated[float, Field(ge=0)] = 1.0
    """Embedded guidance scale in training, for guidance-distilled bases. 1.0 keeps the distillation whole."""
    prediction: Literal["auto", "epsilon", "v"] = "auto"
    """Prediction type of a Stable Diffusion base: epsilon or v-prediction (Salimans 2022, arXiv 2202.00512).
    auto: as its scheduler says. A checkpoint in one file cannot say it."""
    min_snr: Annotated[float, Field(ge=0, le=1000, examples=[5.0])] = 0.0
    """Min-SNR gamma (Hang 2023, arXiv 2303.09556), for Stable Diffusion bases. 0: off."""
    noise_offset: Annotated[float, Field(ge=0, le=1, examples=[0.05])] = 0.0
    """Noise offset, one number per channel, so that very dark and very bright images can be learned; for
    Stable Diffusion bases. 0: off."""
    zero_terminal_snr: bool | None = Field(default=None, examples=[True])
    """Zero terminal SNR (Lin 2023, arXiv 2305.08891), for Stable Diffusion bases with v-prediction. Unset: as
    the base's scheduler says."""
    validation_every: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[100])
    """Steps between measurements of the validation loss. Unset: at each checkpoint."""
    save_every: Annotated[int, Field(ge=1)] = 250
    """Steps between checkpoints."""
    keep: Annotated[int, Field(ge=1)] = 3
    """How many of the newest checkpoints are kept. The best by validation loss is kept besides."""

    @property
    def checkpoints_written(self) -> int:
        """Checkpoints that a run writes."""
        return ceil(self.steps / self.save_every)

    @property
    def checkpoints_held(self) -> int:
        """Checkpoints that are there at once, at most.

        The newest that the recipe keeps, the best, and the one being written before an old one goes. A short
        run has as many as it writes, and one that an interruption writes.
        """
        return min(self.keep + 2, self.checkpoints_written + 1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        contradictions.refuse_schedule(self)
        contradictions.refuse_optimizer(self)
        contradictions.refuse_loss(self)
        return self


class Prior(Section):
    """Prior preservation by class (regularization) images, beside yours (DreamBooth, arXiv 2208.12242)."""

    section: ClassVar[str] = "prior"

    images: PathField | None = Field(default=None, examples=["ordinary-cats"])
    """A folder of class images: other things of the kind, with captions that lack the trigger. Unset: the
    base generates them from prior.prompts before it is trained."""
    prompts: Names = ()
    """Class prompts, from which the base generates class images: the kind of thing, without the trigger."""
    images_per_prompt: Annotated[int, Field(ge=1, le=1000)] = 1
    """Class images generated from each of the prompts."""
    batch: Annotated[int, Field(ge=1, le=65536)] = 1
    """Class images per optimizer step, besides train.batch."""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Prior loss weight: weight of the mean loss of class images; that of your images has 1."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.images is not None and self.prompts:
            raise BadRecipe(
                f"prior.images is {self.images} and prior.prompts has {len(self.prompts)} prompts: class "
                "images from two sources. Remove one of the two."
            )
        return self

    @property
    def wanted(self) -> bool:
        """Whether there are class images."""
        return self.images is not None or bool(self.prompts)


class Sample(Section):
    """Samples (validation images): which are generated during training, and when."""

    section: ClassVar[str] = "sample"

    every: Annotated[int, Field(ge=-1)] = 0
    """Steps between samples. 0: at the start and the end only. -1: never."""
    prompts: Names = ()
    """One image each; [trigger] stands for data.trigger. If there are none: captions of the folder."""
    prompt_file: PathField | None = Field(default=None, examples=["prompts.txt"])
    """A text file with one more prompt per line. Lines that begin with # or ; are comments."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Inference (denoising) steps per image."""
    guidance: Annotated[float, Field(ge=0)] | None = Field(default=None, examples=[3.5])
    """Guidance scale (CFG). Unset: the base's own."""
    lora_on: Literal["both", "positive"] = "both"
    """Branches of guidance that the LoRA is on: "positive" leaves it off the negative one, so that guidance
    amplifies what no prompt names, such as a style; it wants a lower scale then. Written into the LoRA's
    metadata together with the scale, and `limner generate` follows it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the first image. All steps share their seeds, so that their images can be compared."""
    width: Annotated[int, Field(ge=16, le=8192)] | None = Field(default=None, examples=[1024])
    """Pixels. Unset: the training resolution."""
    height: Annotated[int, Field(ge=16, le=8192)] | None = Field(default=None, examples=[1024])
    """Pixels. Unset: the training resolution."""


class Export(Section):
    """The tools that the finished LoRA is exported for."""

    section: ClassVar[str] = "export"

    for_: Annotated[tuple[Tool, ...], Field(strict=False, alias="for")] = ("diffusers",)
    """"diffusers" is always written, as lora.safetensors; "comfyui", "kohya" (A1111, Forge), "sd-scripts",
    "musubi" and "diffsynth" get a file of their own besides, read back by that tool's rules."""


class Limits(Section):
    """Limits of memory and precision, within which the plan chooses."""

    section: ClassVar[str] = "limits"

    vram: Annotated[Size, Field(examples=["12GB"])] = "auto"
    """VRAM that the run is planned for: "12GB", "900MB"; GB is 2^30 bytes, as on a card's label. Some of it
    is left to the desktop. auto: what is free on the device that is there."""
    ram: Annotated[Size, Field(examples=["32GB"])] = "auto"
    """RAM that the run may use, written alike. auto: what is free."""
    weights_precision: Literal["16bit", "8bit", "4bit"] = "8bit"
    """Coarsest quantization of frozen weights: 16bit (bf16), 8bit (int8 or fp8), 4bit (nf4). The plan takes a
    finer one where it costs no time. What is trained stays in fp32."""
    matmul_precision: Literal["full", "8bit"] = "full"
    """Matmul of weights stored in 8 bits: dequantized ("full"), or 8 bits by 8 bits, forward and backward
    (all blocks are then stored so). No GPU has shown its speed and quality yet."""
    compute_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Compute dtype (mixed precision) of the frozen model. auto: bf16 on a GPU that has it, else fp32."""
    micro_batch: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[1])
    """Largest micro-batch: images that pass through the device at once; the rest of the batch is gradient
    accumulation. Unset: the whole batch. Less memory, the same result."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda, else mps, else cpu."""
    exclusive: bool | None = Field(default=None, examples=[False])
    """Wait while another run trains on the same device. Unset: on a GPU, not on a CPU."""

    @model_validator(mode="after")
    def _coarse_enough(self) -> Self:
        if self.matmul_precision == "8bit" and self.weights_precision == "16bit":
            raise BadRecipe(
                'limits.matmul_precision is "8bit", which reads weights stored in 8 bits, and '
                "limits.weights_precision is "
                '"16bit". Set limits.weights_precision = "8bit", or limits.matmul_precision = "full".'
            )
        return self


class Track(Section):
    """Experiment trackers; metrics.jsonl is always written."""

    section: ClassVar[str] = "track"

    with_: Annotated[tuple[Tracker, ...], Field(strict=False, alias="with")] = ()
    """Trackers that get a copy of the metrics: "tensorboard", "wandb", "trackio"."""


class Recipe(Section):
    """What a person decides about a run. Two equal recipes train the same LoRA on the same machine.

    Raises:
        BadRecipe: An unknown key, an impossible value or a contradiction, in one line with the remedy.
    """

    base: Annotated[str, Field(min_length=1)] = "glyph"
    """The base model: a registered name ("glyph", "flux-dev", "sdxl" ..), a hub id, or a folder in
    diffusers layout (written with a leading "./", "../", "~/" or "/"), or one .safetensors file of SDXL,
    Stable Diffusion 1.5 or FLUX.1."""
    components_from: str = Field(default="", examples=["sdxl"])
    """For a base in one file: the base whose configs, tokenizers and components (VAE, text encoders) fill in
    what the file lacks. Empty: the family's own, of which only what is needed is fetched."""
    name: Annotated[str, Field(pattern=r'^[^./\\:*?"<>|\x00-\x1f][^/\\:*?"<>|\x00-\x1f]{0,99}$')] = "lora"
    """What the LoRA is called in its own metadata and in reports. Does not begin with a dot."""
    concept_type: ConceptType = "subject"
    """What the images have in common. Chooses the preset."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Random seed of the whole run."""
    data: Data = Field(default_factory=Data)
    lora: Lora = Field(default_factory=Lora)
    train: Train = Field(default_factory=Train)
    prior: Prior = Field(default_factory=Prior)
    sample: Sample = Field(default_factory=Sample)
    export: Export = Field(default_factory=Export)
    limits: Limits = Field(default_factory=Limits)
    track: Track = Field(default_factory=Track)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        contradictions.refuse_method(self)
        contradictions.refuse_adapter(self)
        return self
