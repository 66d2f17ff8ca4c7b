"""Keyword arguments of the front door, each with its meaning: what editors complete, and the guide lists."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict


class RecipeKeys(TypedDict, total=False):
    """Keys of the recipe by their short names, as on the command line.

    Every other key goes by its dotted path in ``settings``: ``settings={"train.clip": 0.5}``. Keys as kohya,
    ai-toolkit or diffusers spell them are understood, too.
    """

    base: str
    """Base model: "glyph", "flux-dev", "sdxl", a hub id, a folder, a file."""
    components_from: str
    """For a base in one file: the base that lends what the file lacks."""
    trigger: str
    """Trigger word, such as "sks cat"."""
    concept_type: str
    """What the images share: subject, face, object, style, concept."""
    rank: int
    """LoRA rank."""
    steps: int
    """Optimizer steps."""
    lr: float
    """Learning rate."""
    batch: int
    """Images per step."""
    resolution: int | Sequence[int]
    """Side of the training square, in pixels, or several."""
    seed: int
    """Seed of every random draw."""
    save_every: int
    """Steps between checkpoints."""
    vram: str
    """Memory of the GPU to plan for, such as "12GB"."""
    weights_precision: str
    """Coarsest precision of frozen weights: 16bit, 8bit, 4bit."""
    matmul_precision: str
    """How 8-bit weights multiply: full, or 8bit."""
    sample_every: int
    """Steps between samples; 0: start and end, -1: never."""


class CaptionKeys(TypedDict, total=False):
    """How captions are made, and who is asked."""

    model: str
    """The provider's model; a folder or hub id for local ones."""
    trigger: str
    """Name of what is learned, such as "sks cat"."""
    concept_type: str
    """What the images share: subject, face, object, style, concept."""
    base: str
    """Write as this base has learned to read."""
    style: str
    """sentences, phrases, brief or tags, in place of what ``base`` says."""
    variants: int
    """Captions per image."""
    overwrite: bool
    """Write anew what Limner wrote before; never captions of your own."""
    consistency: bool
    """Whether the captions of the set are made to agree afterwards."""
    dry_run: bool
    """Only say what would go where, and the price."""
    budget: float
    """US dollars that it may cost at most."""
    url: str
    """Address of a server that speaks OpenAI's or Anthropic's protocol."""
    key_env: str
    """Environment variable with the key."""
    timeout: float
    """Seconds to wait for an answer."""
    concurrency: int
    """Requests at once."""
    stream: bool
    """Read answers while they are written."""
    max_image_size: int
    """Longer side in pixels of the copies that are looked at."""
    device: str
    """For local models: auto, cpu, cuda, mps."""


class SamplingKeys(TypedDict, total=False):
    """How images are sampled. What is left out is the base's own."""

    components_from: str
    """For a base in one file: the base that lends what the file lacks."""
    sample_base: str
    """Another base to sample on with its own few steps: "twin", the distilled twin, or a base's name."""
    step: int | str | Sequence[int | str]
    """Of a run: the step of the LoRA, "best" by validation loss, or "last"; or several to compare."""
    loras: Mapping[str, float] | Mapping[Path, float]
    """Further LoRAs, by file or run folder, and the strength of each."""
    embeddings: Sequence[str | Path]
    """Textual inversions, by file or run folder, whose words prompts may hold."""
    negative_prompt: str
    """What the images shall not show."""
    prompt_file: str
    """A text file with one more prompt per line; flags of sd-scripts are read: "a cat --n blurry --w 512"."""
    steps: int
    """Denoising steps; 20 when left out."""
    guidance: float
    """Guidance scale."""
    seed: int | Sequence[int]
    """Seed of the first image of each prompt, or several; 0 when left out."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    images_per_prompt: int
    """Images per prompt; 1 when left out."""
    lora_on: str
    """Branches of guidance that the LoRA is on: "both" or "positive"; as the LoRA asks for when left out."""
    negative_lora: str | Path
    """A LoRA for the negative branch, in place of the other."""
    images: Sequence[str | Path]
    """Control images of every prompt, for an edit model; those of the run's recipe when left out."""


class JudgeKeys(TypedDict, total=False):
    """What of a run is judged."""

    steps: int | str | Sequence[int | str]
    """Training steps, "best" or "last"; all that kept a LoRA when left out."""
    strengths: Sequence[float]
    """Strengths that each is judged at; 0.4, 0.6, 0.8, 1 and 1.2 when left out."""
    prompts: str | Sequence[str]
    """With "[trigger]" or the trigger itself; those of the recipe when left out."""
    prompt_file: str | Path
    """A text file with one more prompt per line."""
    leak_prompts: str | Sequence[str]
    """Without the trigger; the others with the trigger taken out when left out."""
    seeds: int | Sequence[int]
    """How many seeds, or which; 4 when left out."""
    size: int | tuple[int, int]
    """Pixels of a side, or width and height; as samples have it when left out."""
    encoders: str | Sequence[str]
    """Vision encoders by folder or hub id: the first looks, the first with a text tower reads prompts.

    SigLIP 2 when left out, on glyph its own judge."""


class InstantKeys(TypedDict, total=False):
    """How a LoRA is made in one pass."""

    predictor: str
    """File or folder of a predictor, a published one (`z-image-i2l`), or a hub id; else the base's own."""
    encoders: str
    """For a published predictor: the folder of its image encoders; the hub's cache when left out."""
    experts: str
    """Files of the predictor's folder, such as "style,bias:0.9": their LoRAs are joined along the rank."""
    rank: int
    """Rank of the file, at most that of the prediction, which it is when left out."""
    strength: float
    """Multiplied into the LoRA; 1 when left out."""
    tool: str
    """Whose names to write: "diffusers", "comfyui", "kohya", "sd-scripts", "musubi", "diffsynth"."""
