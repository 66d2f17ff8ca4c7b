"""What is known of a model family, and asked of it by a recipe, without computing anything: data, no torch.

Each family's folder has a ``facts.py`` with one ``FACTS``. The planner, the presets, the captions and the
LoRA tools read it through ``models.registry``; the family's computation is in ``family.py`` beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from limner.models.key_map import KeyMap

CaptionStyleName = Literal["sentences", "phrases", "brief", "tags"]
Precision = Literal["bf16", "fp32"]
PartNames = Literal["ldm-unet", "ldm-vae", "transformers", "open-clip", "key-map"]
"""How the authors' one file names the tensors of a part: as CompVis' latent-diffusion, as transformers behind
a prefix, as OpenCLIP, or by a key map of the family's own."""


FLOW_SAMPLERS = tuple(
    f"{name}Scheduler"
    for name in (
        *("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM"),
        *("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep"),
    )
)
"""Samplers of diffusers for rectified flows."""
DIFFUSION_SAMPLERS = tuple(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "HeunDiscrete", "EulerAncestralDiscrete"),
        *("DPMSolverMultistep", "DPMSolverSinglestep", "KDPM2Discrete", "KDPM2AncestralDiscrete"),
        *("DEISMultistep", "UniPCMultistep", "EDMEuler", "LCM", "TCD"),
    )
)
"""Samplers of diffusers for denoising diffusion: its own ``KarrasDiffusionSchedulers`` but for the one that
wants a package besides, and two for distilled models."""


@dataclass(frozen=True)
class PresetValue:
    """One value of a preset.

    Attributes:
        value: What the key is set to.
        source: A name in ``presets.SOURCES``, or a sentence that names some of them.
    """

    value: Any
    source: str


Preset = Callable[[str, int], dict[str, PresetValue]]
"""From the concept and the index into ``presets.SIZES`` to values by dotted path of the recipe."""


@dataclass(frozen=True, kw_only=True)
class RegisteredBase:
    """A base that recipes call by a short name."""

    name: str
    hub_id: str = ""
    """Where it is on the Hugging Face hub; "" of a base that comes with the package."""
    licence: str
    purpose: str = "photographs and art"
    """What it is for, in a few words."""
    resolution: int = 1024
    """Side in pixels of the square whose area it was made for."""
    toy: bool = False
    """Whether it is for trying Limner, and no base of pictures that people want."""
    gated: bool = False
    """Whether its licence must be accepted on the hub before it can be fetched."""
    gated_part: str = ""
    """Hub id of a part that lies elsewhere and whose licence must be accepted."""
    weight_bytes: int = 0
    """Of its weights on the hub, each at the precision of its file. Tokenizers and the headers of files add
    less than 0.2 %; those of SD 3.5 hold its position grid besides, 0.2 and 0.5 GB."""
    file_precision: Precision = "bf16"
    """Precision of its files."""
    part_precisions: Mapping[str, Precision] = field(default_factory=dict)
    """Part -> precision, where it differs from ``file_precision``."""
    caption_style: CaptionStyleName | None = None
    """Where it differs from the family's."""
    preset: Preset | None = None
    """A whole preset of its own, in place of the family's."""
    train_on: str = ""
    """Of a distilled base: the registered base to train on in its place, its twin. A LoRA of either works on
    both."""
    steps: int = 0
    """Of a distilled base: the steps that it was distilled to."""
    lora: str = ""
    """Of a distilled base that is ``train_on`` with a LoRA in its denoiser: that file, in the folder of the
    bases that come with the package, or on the hub (owner/name/file.safetensors). Such a base has no hub id.
    "": it has weights of its own."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of such a base: "limner" (limner.json) or "scheduler" -> keys with values of its own."""
    civitai: str = ""
    """What Civitai's list of base models calls it; "" of a base that it does not list."""

    @property
    def gate(self) -> str:
        """Hub id whose licence must be accepted before all of it can be fetched; "" of an open base."""
        return self.hub_id if self.gated else self.gated_part

    def precision(self, part: str) -> Precision:
        """Precision of a part's files."""
        return self.part_precisions.get(part, self.file_precision)


@dataclass(frozen=True, kw_only=True)
class FilePart:
    """A part of a base in one file."""

    prefixes: tuple[str, ...]
    """How the names of its tensors may begin; the first that fits is taken."""
    names: PartNames
    key_map: KeyMap | None = None
    """For ``names = "key-map"``: from the authors' names to diffusers'."""
    leaves: Mapping[str, str] = field(default_factory=dict)
    """Ending of diffusers' module name, less its number in a list -> the authors' word for its weight, where
    that is not "weight"."""


@dataclass(frozen=True, kw_only=True)
class SingleFile:
    """How a base of the family looks in one file."""

    title: str
    """As people call such checkpoints."""
    mark: str
    """A pattern of tensor names: a checkpoint with one is of this family .."""
    unless: str | None = None
    """.. unless it has a tensor of this name."""
    parts: Mapping[str, FilePart]
    """Part -> what its tensors are called."""
    donors: tuple[tuple[str, str], ...]
    """(ending of a tensor's name, registered base that has what the file lacks): the first that is there."""
    flags: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Part -> (key of its config, ending of the tensor by whose presence the key is true)."""


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """What is known of one family."""

    name: str
    """Its folder's name with "-" for "_". The only name that the family has anywhere."""
    pipeline: str
    """Class of diffusers in ``model_index.json``: how a folder says which family it is."""
    denoiser: str
    """What diffusers calls the denoiser: "transformer", "unet"."""
    parts: Mapping[str, str]
    """Model name -> 'library:Class'. The folder of a part bears its name."""
    processors: Mapping[str, str] = field(default_factory=dict)
    """Part -> the class that ``model_index.json`` names there, of a processor of text and images of which the
    tokenizer alone is read."""
    borrowed: Mapping[str, str] = field(default_factory=dict)
    """Part -> hub id of the model that it is, where no repository of a base holds it. Its files are at the
    top there, its config in the family's ``configs/parts/<part>.json``."""
    samplers: tuple[str, ...]
    """Classes of diffusers that a base may name as its sampler: no other class is ever loaded by a name."""
    bases: tuple[RegisteredBase, ...]
    """The first is what a preset starts from."""
    caption_style: CaptionStyleName
    """How the captions were written that its bases learned from."""
    fp16: bool = False
    """Whether its activations stay below 65504, so that it computes in fp16, but for VAE and T5's wo."""
    controls: tuple[int, int] = (0, 0)
    """How many control images it needs and how many it was made for: more than none of an edit model."""
    embeddings: Mapping[str, str] = field(default_factory=dict)
    """Text encoder -> what files of a textual inversion call its vectors; of families that tools know any of.
    "" where a file holds one encoder's, under any name."""
    modular: bool = False
    """Whether diffusers has its pipeline as modular blocks, which load their parts when they are told to."""
    keys_of: str = ""
    """Another family whose denoiser this is, so that names of modules and LoRA files are the same."""
    also_named: tuple[str, ...] = ()
    """Parts of names of bases that tell this family, in lower case, besides its own."""
    preset: Mapping[str, PresetValue | None] = field(default_factory=dict)
    """What differs from ``presets.common``; None takes a key away."""
    single_file: SingleFile | None = None
    folder_only: tuple[str, str] | None = None
    """A pattern of tensor names in the authors' one file, and what such a file is, of a family whose bases
    Limner reads from folders only."""


def is_tokenizer(part: str) -> bool:
    """Whether a part is a tokenizer, or a processor of text and images of which its tokenizer is read."""
    return "tokenizer" in part or part.startswith("processor")


EPSILON, VELOCITY = "epsilon", "v_prediction"
"""What a denoiser says: the noise, or Salimans and Ho's velocity (arXiv:2202.00512, section 4)."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The wishes of a recipe that change what is learned. ``None`` leaves a choice to the family."""

    time_density: str | None = None
    time_shift: float | None = None
    guidance: float = 1.0
    prediction: str | None = None
    """What the denoiser says: "epsilon" or "v"."""
    min_snr: float = 0.0
    noise_offset: float = 0.0
    zero_terminal_snr: bool | None = None
    noise_range: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest time that is drawn, 1 = noise."""
    loss: str = "mse"
    huber_c: float = 0.1
    huber_schedule: str = "exponential"
    distill_steps: int = 0
    """Sampling steps through which the gradient goes, of a student that is distilled; 0: none is."""
    mask_floor: float | None = None
    """What the loss counts where a mask is black, beside 1 where it is white; None: there are no masks."""


COMMON = frozenset({"noise_range", "loss", "huber_c", "huber_schedule", "mask_floor"})
"""Wishes that every family can grant."""
