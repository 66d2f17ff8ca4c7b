"""The recipe (training config): all that a person decides, and nothing that a machine can work out."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from limner.errors import BadRecipe
from limner.imports import imported
from limner.recipe import contradictions, objectives
from limner.recipe.fields import (
    ConceptType,
    PathField,
    Paths,
    Prompts,
    Resolution,
    Section,
    Share,
    Shares,
    Size,
    Tool,
    Tracker,
    TriggerField,
)
from limner.recipe.train import Distill, Instant, Inversion, Lora, Prior, Slider, Train


class DataSet(Section):
    """One of several folders of images that are trained together."""

    section: ClassVar[str] = "data.sets"

    images: PathField | None = Field(default=None, examples=["cats"])
    """Folder of images, as data.images is one."""
    trigger: TriggerField = ""
    """Trigger word(s) of this set. Empty: data.trigger."""
    default_caption: str = ""
    """Caption of its images that have none. Empty: data.default_caption, else the trigger."""
    class_word: str = ""
    """Of prior.kind = "teacher": what stands in captions in place of the trigger. Empty: prior.class_word."""
    repeats: Annotated[int, Field(ge=1, le=10000)] = 1
    """How often an epoch shows each of its images."""
    share: Share | None = Field(default=None, examples=[0.5])
    """Share of the draws (0 to 1, 1 in all sets), in place of repeats. Unset: by images and repeats."""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Loss weight of its images."""
    flip: bool | None = Field(default=None, examples=[True])
    """Unset: data.flip."""
    validation_count: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[2])
    """Unset: data.validation_count, which then holds for each set."""
    validation_images: PathField | None = Field(default=None, examples=["more-cats"])
    """A second folder, of its validation images only."""
    control: Paths = ()
    """Folders of its control images, as data.control names them."""
    masks: Literal["alpha", "sidecar"] | PathField | None = Field(default=None, examples=["cat-masks"])
    """Its masks, as data.masks names them. Unset: data.masks."""


class Data(Section):
    """The dataset: images, captions, resolution, validation images."""

    section: ClassVar[str] = "data"

    images: PathField = Path("images")
    """Folder of images; captions lie beside them (.txt) or in metadata.jsonl / metadata.csv.
    A relative path starts at the folder of this recipe."""
    sets: Annotated[tuple[DataSet, ...], Field(strict=False)] = ()
    """Several folders in place of data.images, each a table [[data.sets]] with images, trigger and what else
    is its own: default_caption, class_word, repeats or share, weight, flip, validation_count,
    validation_images, control, masks."""
    trigger: Annotated[TriggerField, Field(examples=["sks cat"])] = ""
    """Trigger word(s), such as "sks cat". Put before each caption that lacks them."""
    resolution: Resolution | None = Field(default=None, examples=[1024])
    """Training resolution: side in pixels of the square whose area every image is resized to, in the
    aspect-ratio bucket of its shape. A list ([512, 768, 1024]): each image is seen at each of them that it
    fills, in place of one that it does not at the next smaller. Unset: the base's own."""
    resolution_shares: Shares = Field(default=(), examples=[[0.25, 0.25, 0.5]])
    """Share of the draws (0 to 1, 1 in all) of each resolution of a list. Empty: as many of each."""
    flip: bool = False
    """Horizontal flip: each image mirrored as well. Not for faces, lettering, or what has left and right."""
    crop: Literal["auto", "subject", "centre"] = "auto"
    """How an image that is longer than its bucket is cropped: "subject" follows faces, else what stands out
    (needs limner[crop]); "centre" the middle. auto: subject where that is installed, else centre."""
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of draws (0 to 1) with the empty caption instead of the image's own."""
    tag_shuffle: bool = False
    """Captions are lists of tags, with commas between them, whose order changes from draw to draw. Tags with
    the trigger stay where they are, in front."""
    keep_tags: Annotated[int, Field(ge=0)] = 0
    """So many first tags are neither shuffled nor dropped."""
    tag_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the other tags (0 to 1) that a draw leaves out, each by itself."""
    tag_variants: Annotated[int, Field(ge=2, le=64)] = 8
    """How many captions are made of one by tag_shuffle and tag_dropout, each of which is cached. A text
    encoder's states of a caption take 0.3 MB (SDXL) to 4 MB (FLUX.1)."""
    default_caption: str = ""
    """Caption of images that have none (an instance prompt). Empty: the trigger."""
    validation_count: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[2])
    """Validation images: how many are held out of training to measure overfitting. Unset: one in ten of 20
    or more, at most 64; else none, and the validation loss is that of a fixed subset of the training
    images."""
    validation_images: PathField | None = Field(default=None, examples=["more-photos"])
    """A second folder, of validation images only."""
    control: Paths = ()
    """Folder of control images (source, reference or conditioning images) for an edit model: each bears the
    name of its target in data.images. A list of folders gives several to each; in one folder, cat_1.png and
    cat_2.png do. Empty: those that metadata.jsonl / metadata.csv names in a column control or edit_image."""
    masks: Literal["alpha", "sidecar"] | PathField | None = Field(default=None, examples=["masks"])
    """Masks for masked training: the loss sees what is white, not what is black (train.mask_floor), gray in
    part. A folder, where cat.png or cat-mask.png goes with cat.jpg; "sidecar": cat-mask.png, cat_mask.png or
    cat.mask.png beside cat.jpg; "alpha": the alpha channel of the images. Where there is none, all counts."""
    min_side: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[512])
    """Images whose shorter side has fewer pixels are left out, by name. Unset: half the resolution, of
    several the smallest."""
    cache: PathField | None = Field(default=None, examples=["cache"])
    """Folder for cached latents and text embeddings. Unset: $LIMNER_CACHE, else the user's cache folder,
    shared between runs."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        contradictions.refuse_resolutions(self)
        contradictions.refuse_sets(self)
        contradictions.refuse_tags(self)
        if self.validation_count and self.validation_images is not None:
            raise BadRecipe(
                f"data.validation_count is {self.validation_count} and data.validation_images is "
                f"{self.validation_images}: "
                "the validation loss has two sources. Remove one of the two."
            )
        return self

    @cached_property
    def folders(self) -> tuple[DataSet, ...]:
        """The sets, with what they leave to this table; of the short form the one that it is."""
        if not self.sets:
            names = [name for name in DataSet.model_fields if name in Data.model_fields]
            return (DataSet(**{name: getattr(self, name) for name in names}),)
        return tuple(
            entry.model_copy(
                update={
                    "trigger": entry.trigger or self.trigger,
                    "default_caption": entry.default_caption or self.default_caption,
                    "flip": self.flip if entry.flip is None else entry.flip,
                    "masks": self.masks if entry.masks is None else entry.masks,
                    "validation_count": self.validation_count
                    if entry.validation_count is None
                    else entry.validation_count,
                }
            )
            for entry in self.sets
        )

    @cached_property
    def roots(self) -> tuple[Path, ...]:
        """The folder of images of each set."""
        return tuple(entry.images for entry in self.folders if entry.images is not None)

    @cached_property
    def triggers(self) -> tuple[str, ...]:
        """The triggers of the sets."""
        return tuple(dict.fromkeys(entry.trigger for entry in self.folders if entry.trigger))


class ImagePair(Section):
    """Two folders of images of the same names and captions, before and after a change that is learned."""

    section: ClassVar[str] = "pairs"

    before: PathField | None = Field(default=None, examples=["plain"])
    """Folder of images without what is learned."""
    after: PathField | None = Field(default=None, examples=["inked"])
    """Folder of the same images with it, under the same names and captions."""
    caption: str = ""
    """Caption of images that have none, in both folders."""


class Sample(Section):
    """Samples (validation images): which are generated during training, and when."""

    section: ClassVar[str] = "sample"

    every: Annotated[int, Field(ge=-1)] = 0
    """Steps between samples. 0: at the start and the end only. -1: never."""
    prompts: Prompts = ()
    """One image each; [trigger] stands for data.trigger. If there are none: captions of the folder. A prompt
    may end in flags of its own: --n negative prompt, --w width, --h height, --d seed, --s steps, --l
    guidance, --am LoRA strength; or be a table with prompt, negative_prompt, width, height, seed, steps,
    guidance, strength."""
    prompt_file: PathField | None = Field(default=None, examples=["prompts.txt"])
    """A text file with one more prompt per line, with flags likewise. Lines that begin with # or ; are
    comments."""
    base: Annotated[str, Field(min_length=1)] = "own"
    """The base whose denoiser generates the samples, with the LoRA in it: "own" is what is trained on; "twin"
    its distilled twin (krea2: krea2-turbo) with its own guidance and at most its few steps; or a base of the
    same architecture, named as base is. Both denoisers are read anew for each round of samples."""
    control: Paths = ()
    """Control images of the prompts for an edit model, in their order: of the first, of the second ..; as
    many for each as the images of the folder have. Empty: those of the first images of the folder."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Inference (denoising) steps per image. A distilled base takes at most those that it is made for."""
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
    compute_dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute dtype (mixed precision) of the frozen model. auto: bf16 on a GPU that has it, else fp16 where
    GPU and base are up to it, else fp32. fp16 scales the loss (Micikevicius 2018, arXiv 1710.03740)."""
    micro_batch: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[1])
    """Largest micro-batch: images that pass through the device at once; the rest of the batch is gradient
    accumulation. Unset: the whole batch. Less memory, the same result."""
    shard: Literal["auto", "off", "on"] = "auto"
    """Shard the denoiser's weights over the processes of the run (FSDP2); for train.method "full" gradients
    and optimizer states too. For "instant" the base stays whole, and the predictor's heads are divided layer
    by layer, with their gradients and optimizer states. auto: where the plan finds that nothing else fits, or
    that it is faster for a full fine-tune or a predictor. The same training, to rounding."""
    timeout: Annotated[int, Field(ge=1, le=10080)] = 120
    """Minutes that the processes of a run wait for each other, as while one samples, exports, encodes its
    share or waits for its GPU, before the run ends. One that is gone is noticed within a minute."""
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
    pairs: Annotated[tuple[ImagePair, ...], Field(strict=False)] = ()
    """A differential LoRA: tables [[pairs]], each of two folders, before and after, and a caption, in place
    of data.images. A LoRA is trained on the images before, stays frozen while a second one is trained on
    those after, and the second alone is exported: the difference."""
    data: Data = Field(default_factory=Data)
    lora: Lora = Field(default_factory=Lora)
    train: Train = Field(default_factory=Train)
    inversion: Inversion = Field(default_factory=Inversion)
    prior: Prior = Field(default_factory=Prior)
    distill: Distill = Field(default_factory=Distill)
    slider: Slider = Field(default_factory=Slider)
    instant: Instant = Field(default_factory=Instant)
    sample: Sample = Field(default_factory=Sample)
    export: Export = Field(default_factory=Export)
    limits: Limits = Field(default_factory=Limits)
    track: Track = Field(default_factory=Track)

    @property
    def distill_steps(self) -> int:
        """Steps of a student that is distilled; 0 where nothing is."""
        return self.distill.steps if self.train.objective == "distill" else 0

    @property
    def trains_words(self) -> bool:
        """Whether vectors of a new word are trained."""
        return self.train.method == "inversion"

    @property
    def sample_steps(self) -> int:
        """Inference steps of samples: of a distilled LoRA those that it is made for."""
        return self.distill_steps or self.sample.steps

    @property
    def sample_guidance(self) -> float | None:
        """Guidance scale of samples; None: the base's own. A distilled LoRA goes without."""
        return 1.0 if self.distill_steps else self.sample.guidance

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        contradictions.refuse_method(self)
        contradictions.refuse_instant(self)
        objectives.refuse_inversion(self)
        contradictions.refuse_adapter(self)
        objectives.refuse_distillation(self)
        objectives.refuse_slider(self)
        objectives.refuse_pairs(self)
        contradictions.refuse_prior(self)
        contradictions.refuse_kept(self)
        contradictions.refuse_masks(self)
        if self.limits.shard == "on":
            imported("limner.recipe.sharding:refuse_shard")(self)
        return self
