"""The tables of the recipe that say what is trained and how, from [lora] to [prior]."""

import re
from math import ceil
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from limner.errors import BadRecipe
from limner.recipe import contradictions, optimizers
from limner.recipe.fields import Names, Options, PathField, Paths, Ranks, Rates, Section

KindName = Literal["lora", "loha", "lokr", "dora"]
Encoder = Literal["pixels", "siglip2", "dinov3", "dinov2", "qwen2.5-vl", "vae"]


class Lora(Section):
    """The adapter: its kind, its size, and the layers that get one."""

    section: ClassVar[str] = "lora"

    kind: KindName = "lora"
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

    method: Literal["lora", "full", "instant", "inversion"] = "lora"
    """"lora" trains an adapter; "full" (full fine-tuning) every weight of the denoiser, which takes 16 bytes
    for each of them, in VRAM or RAM, and wants a tenth of the learning rate; "instant" a predictor, which
    writes a LoRA of pictures in one pass (image-to-LoRA): see [instant]; "inversion" (textual inversion)
    token vectors of a new word, which is data.trigger: see [inversion]."""
    objective: Literal["denoise", "distill", "slider"] = "denoise"
    """"denoise" learns from images with noise; "distill" (DiffSynth's direct distillation) has a few sampling
    steps end where a teacher's many steps ended, from the same start noise, for rectified flows; "slider"
    (concept slider, Gandikota 2023, arXiv 2311.12092) learns the way from one prompt to another."""
    init: str = Field(default="", examples=["my-cat.safetensors"])
    """Start from a LoRA: a file of any tool (written with ".safetensors" or a leading "./"), a hub id, or
    "instant" for one pass of the base's predictor. Its strength is multiplied in; LoHa and LoKr become LoRA;
    a higher rank is cut to lora.rank, and how much is kept is said. Empty: from nothing."""
    adapter: str = Field(default="", examples=["de-distill.safetensors"])
    """Training adapter (ai-toolkit's assistant LoRA): a LoRA that is part of the frozen base while training
    and is in no sample and in no exported file, so that a distilled base (Z-Image-Turbo, FLUX.1-schnell)
    keeps its few steps. A file, a hub id, or owner/name/file.safetensors. Empty: none."""
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
    time_density: Literal["auto", "logit-normal", "uniform", "sigmoid", "content", "style"] = "auto"
    """Timestep sampling (Esser 2024, arXiv 2403.03206, section 3.1). auto: as the family prefers. "content"
    favours high noise, where composition is decided, "style" low noise (ai-toolkit's content_or_style; Mou
    2023, arXiv 2302.08453, section 3.4); both, as "sigmoid", without a shift unless time_shift sets one."""
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
    mask_floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """With data.masks: what black counts in the loss (unmasked weight), beside 1 for white. In each image the
    weights are scaled to a mean of 1, so that small subjects learn at the same rate."""
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
    patience: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[3])
    """Early stopping: after so many evaluations without a better validation loss the run ends. The LoRA is
    then that of the best evaluation, of which a checkpoint is kept. Wants held-out images. Unset: never."""
    save_every: Annotated[int, Field(ge=1)] = 250
    """Steps between checkpoints."""
    keep: Annotated[int, Field(ge=1)] = 3
    """How many of the newest checkpoints are kept. The best by validation loss is kept besides."""

    @property
    def checkpoints_written(self) -> int:
        """Checkpoints that a run writes, at most: with patience, each better evaluation brings one."""
        better = self.steps // self.validation_every if self.patience and self.validation_every else 0
        return ceil(self.steps / self.save_every) + better

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
        contradictions.refuse_patience(self)
        return self


class Instant(Section):
    """A predictor of LoRAs, with train.method = "instant": its size, what it sees, how styles are drawn."""

    section: ClassVar[str] = "instant"

    encoders: Annotated[tuple[Encoder, ...], Field(strict=False)] = ("pixels",)
    """What the predictor sees of a picture: "pixels" (a small convolutional network that is trained with it),
    "siglip2", "dinov3", "dinov2", "qwen2.5-vl" (frozen, cached; the last is a language model that sees, 16.6
    GB), "vae" (latents of the base's own autoencoder, place by place, cached); several are added up. Empty:
    nothing, so that what is trained is one LoRA for all pictures (a bias), and is exported as a LoRA."""
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
    vae_side: Annotated[int, Field(ge=16, le=1024)] | None = Field(default=None, examples=[128])
    """Side in pixels of the squares whose latents "vae" is. Unset: instant.side. Larger ones say more of what
    the pictures show."""
    width: Annotated[int, Field(ge=8, le=16384)] = 192
    """Numbers of a style's vector."""
    bottleneck: Annotated[int, Field(ge=1, le=4096)] = 16
    """Numbers between the two matrices of each head; a head writes one side of one layer's LoRA."""
    detail: Annotated[int, Field(ge=0, le=16384)] = 0
    """Numbers of a second vector that the heads read beside the style's, made by "vae" alone: what stands
    where, for experts that learn detail. 0: none, and "vae" is a part of the style's vector."""
    static_steps: Annotated[int, Field(ge=0)] = 0
    """Steps at the start in which only the part is trained that is the same for all styles."""
    experts: Paths = ()
    """Predictors that stay as they are and whose LoRAs are added while this one learns what they lack: a
    second expert. `limner instant --experts` adds them up again."""
    target: Literal["images", "base"] = "images"
    """What a prediction is compared with: "images", as in any training, or "base", what the bare base
    predicts at the same noise, to which instant.experts are led back. Of images that the base generated both
    have the same best answer, and the second has less noise in its gradient."""
    guidance: Annotated[float, Field(ge=1, le=30)] = 2.0
    """Guidance scale that files of the predictor ask for, with the LoRA on the positive branch."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if twice := [name for name in self.encoders if self.encoders.count(name) > 1]:
            raise BadRecipe(f'instant.encoders names "{twice[0]}" twice. Remove one of them.')
        if self.detail and "vae" not in self.encoders:
            raise BadRecipe(
                f'instant.detail is {self.detail}, which "vae" makes, and instant.encoders has no "vae". Add '
                "it, or remove instant.detail."
            )
        if self.target == "base" and not self.experts:
            raise BadRecipe(
                'instant.target is "base", and instant.experts is empty: nothing is to be led back to the '
                'base. Name predictors there, or set instant.target = "images".'
            )
        if self.vae_side is not None and "vae" not in self.encoders:
            raise BadRecipe(
                f'instant.vae_side is {self.vae_side}, and instant.encoders has no "vae". Add it, or remove '
                "instant.vae_side."
            )
        if not self.encoders and self.static_steps:
            raise BadRecipe(
                f"instant.static_steps is {self.static_steps}, and instant.encoders is empty: all steps "
                "train the static part. Remove instant.static_steps."
            )
        return self


class Inversion(Section):
    """Textual inversion (Gal 2022, arXiv 2208.01618): token vectors of a new word, which is data.trigger."""

    section: ClassVar[str] = "inversion"

    tokens: Annotated[int, Field(ge=1, le=64)] = 4
    """Token vectors of the word in each text encoder (num_vectors). Each takes the place of one token of a
    caption."""
    init: str = Field(default="", examples=["cat"])
    """Initial words, as whose tokens the vectors begin: of at most as many tokens as there are vectors,
    repeated if fewer. Empty: random, as spread as the encoder's own vectors."""
    rate: Annotated[float, Field(gt=0, le=10)] | None = Field(default=None, examples=[5e-3])
    """Learning rate of the vectors. Unset: 2e-3, or train.learning_rate where the optimizer finds it."""
    encoders: Names = ()
    """Text encoders that get vectors, by component: ["text_encoder"]. Empty: all of the base that can."""
    with_lora: bool = False
    """Pivotal tuning: a LoRA is trained beside the vectors, as [lora] says, at train.learning_rate."""
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With a LoRA: the share of the steps after which the vectors stay as they are. 1: they learn to the
    end."""


class Distill(Section):
    """Step distillation: a teacher's pictures, each with the seed of its noise, and the student's steps."""

    section: ClassVar[str] = "distill"

    steps: Annotated[int, Field(ge=1, le=50)] = 4
    """Inference steps of the student (4, 8), without guidance. The gradient goes through all of them."""
    prompts: Names = ()
    """Prompts of the teacher, the bare base, which generates its pictures before training. None: data.images
    holds a teacher's pictures, and metadata.jsonl their "text" and "seed"."""
    images_per_prompt: Annotated[int, Field(ge=1, le=1000)] = 1
    """The teacher's pictures of each prompt, each from a seed of its own."""
    teacher_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Inference steps of the teacher."""
    teacher_guidance: Annotated[float, Field(ge=0)] | None = Field(default=None, examples=[3.5])
    """Guidance scale (CFG) of the teacher, which the student learns to do without. Unset: the base's own."""


NEUTRAL = re.compile(r"\[neutral\]", re.IGNORECASE)
"""In the prompts of a slider: its neutral prompt."""


class Slider(Section):
    """Concept slider: a LoRA that leads one way at strength 1 and the other way at strength -1."""

    section: ClassVar[str] = "slider"

    neutral: Names = ()
    """Prompts of what is changed (target class), such as "a house". The bare base generates images of them
    before training. None: data.images holds images, and their captions are the prompts."""
    positive: str = Field(default="", examples=["[neutral], red"])
    """Prompt of strength 1; [neutral] stands for the neutral one."""
    negative: str = Field(default="", examples=["[neutral], blue"])
    """Prompt of strength -1, likewise (unconditional). Empty: the empty caption."""
    guidance: Annotated[float, Field(gt=0, le=100)] = 1.0
    """How far from what the bare base says to the neutral prompt, in units of what it says to the positive
    less what it says to the negative one: the target of strength 1, and of -1 the other way. A base that
    samples with guidance multiplies it once more."""
    images_per_prompt: Annotated[int, Field(ge=1, le=1000)] = 4
    """Images generated from each neutral prompt."""

    def texts(self, neutral: str) -> tuple[str, str]:
        """The positive and the negative prompt of a neutral one."""
        positive, negative = (NEUTRAL.sub(lambda _: neutral, text) for text in (self.positive, self.negative))
        return positive, negative


class Prior(Section):
    """Prior preservation, by class (regularization) images (DreamBooth, arXiv 2208.12242) or a teacher."""

    section: ClassVar[str] = "prior"

    kind: Literal["images", "teacher", "blank", "experts"] = "images"
    """"images": class images, if any are named. "teacher" (differential output preservation): your images,
    with captions that lack the trigger, must be denoised as the bare base does it. "blank" (blank prompt
    preservation): likewise with the empty caption. Both cost one more forward pass and no images. "experts",
    with train.method = "instant": LoRAs that instant.experts make of prior.images, a folder for each style,
    must keep their effect; what is trained beside them must leave their predictions as they are."""
    class_word: str = Field(default="", examples=["cat"])
    """Of the teacher: what stands in captions in place of the trigger. Empty: nothing."""

    images: PathField | None = Field(default=None, examples=["ordinary-cats"])
    """A folder of class images: other things of the kind, with captions that lack the trigger. Unset: the
    base generates them from prior.prompts before it is trained."""
    prompts: Names = ()
    """Class prompts, from which the base generates class images: the kind of thing, without the trigger."""
    images_per_prompt: Annotated[int, Field(ge=1, le=1000)] = 1
    """Class images generated from each of the prompts."""
    count: Annotated[int, Field(ge=1, le=100000)] | None = Field(default=None, examples=[100])
    """Class images generated in all: as many from each prompt, and of the rest one from each of the first.
    Unset: as prior.images_per_prompt says."""
    batch: Annotated[int, Field(ge=1, le=65536)] = 1
    """Class images, or images shown to the teacher, per optimizer step, besides train.batch."""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Prior loss weight: weight of the mean loss of class images; that of your images has 1."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.images is not None and self.prompts and self.kind != "experts":
            raise BadRecipe(
                f"prior.images is {self.images} and prior.prompts has {len(self.prompts)} prompts: class "
                "images from two sources. Remove one of the two."
            )
        return self

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if self.count is not None and self.images is not None and not self.prompts:
            raise BadRecipe(
                f"prior.count is {self.count}, and prior.images is {self.images}: the base generates none. "
                "Remove prior.count, or set prior.prompts in place of prior.images."
            )
        if self.count is not None and self.images_per_prompt > 1:
            raise BadRecipe(
                f"prior.count is {self.count} and prior.images_per_prompt {self.images_per_prompt}: two "
                "numbers of class images. Remove one of the two."
            )
        return self

    @property
    def counts(self) -> tuple[int, ...]:
        """Class images that are generated from each of the prompts."""
        if self.count is None or not self.prompts:
            return (self.images_per_prompt,) * len(self.prompts)
        each, rest = divmod(self.count, len(self.prompts))
        return tuple(each + (number < rest) for number in range(len(self.prompts)))

    @property
    def wanted(self) -> bool:
        """Whether steps have more images than one's own."""
        return self.taught or self.images is not None or bool(self.prompts)

    @property
    def taught(self) -> bool:
        """Whether the bare base, or experts alone, say what is right for them."""
        return self.kind != "images"
