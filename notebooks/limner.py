# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     provenance: []
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   language_info:
#     name: python
# ---

# %% [markdown]
# # Limner: from a handful of images to a LoRA
#
# Set what you want in the next cell, then run the cells from top to bottom (Colab: Runtime, Run all). SDXL is
# planned at about twenty minutes on the free T4, besides fetching 14 GB; FLUX.2 klein wants an L4.
# With `BASE = "glyph"`, a toy of 64 pixels, everything can be tried in minutes without a GPU.
#
# [The same in words](https://github.com/OWNER/limner/blob/main/docs/guide/notebook.md)

# %% tags=["parameters"]
BASE = "sdxl"  # or "flux2-klein-4b", "sd15", "glyph"; `limner plan` without a base lists all of them
IMAGES = "sample"  # ten images that come along; "upload": asks for files or a zip; or a folder, or a zip
TRIGGER = "zorbix"  # a word that the base does not know; it stands for what the images share
CONCEPT = "subject"  # what they share: "subject", "face", "object", "style"
CAPTIONS = ""  # who writes them: "claude" or "openai" (you are asked for a key); "": those that are there
BUDGET = 1.0  # US dollars that captions may cost at most
STEPS = 1000
SAMPLE_EVERY = 200  # steps between sample images
PROMPTS = [f"{TRIGGER}, on a white background", f"{TRIGGER}, on a pink background"]
SEEDS = [0, 1]
STRENGTHS = [0.0, 0.8, 1.0]  # of the LoRA; 0 is the base alone
OUT = "runs/notebook"

FULL_STEPS = 0  # more than 0: the last cell trains a whole base with DreamBooth, and extracts a LoRA
FULL_BASE = "sd15"  # fits a T4; "sdxl" wants an A100
CLASS = "a cartoon animal"  # the kind of thing, without the trigger
CLASS_IMAGES = 50  # that the base generates of it, so as not to forget it
RANK = 64  # of the LoRA that is extracted

CLONE = "https://github.com/OWNER/limner"  # write whose clone it is for OWNER

# %% [markdown]
# ## Install
# The torch that is here stays.

# %%
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from getpass import getpass
from pathlib import Path

if importlib.util.find_spec("limner") is None:
    if "/OWNER/" in CLONE:
        raise SystemExit("Set CLONE in the cell above: OWNER stands for whoever's clone it is.")
    torch_version = importlib.metadata.version("torch")
    Path("torch.txt").write_text(f"torch=={torch_version}\n")
    package = f"limner[gpu,caption] @ git+{CLONE}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", "torch.txt", package], check=True)

from IPython.display import FileLink, Image, display

import limner
from limner.events import Done, Message, Sampled, Saved, Validated


def say(event):
    """Print what is worth a line."""
    if isinstance(event, Message):
        print(event.text)


# %% [markdown]
# ## Images
# Captions are text files beside the images, `cat.txt` for `cat.jpg`; `[trigger]` in them is the trigger word.
# The ten samples are drawings of 128 pixels, enlarged for a larger base: good for trying, no test of quality.


# %%
def unpacked(source, folder):
    """Images of a folder or a zip, or one more image, in ``folder``."""
    if source.suffix == ".zip":
        shutil.unpack_archive(source, folder)
    else:
        shutil.copy(source, folder / source.name)


def samples(folder):
    """The mascot of the package, enlarged unless the base is as small."""
    import PIL.Image

    from limner.bases.demo_sets import folder as demo_folder

    for path in demo_folder("mascot").iterdir():
        if path.suffix == ".png" and BASE != "glyph":
            PIL.Image.open(path).convert("RGB").resize((1024, 1024)).save(folder / path.name)
        else:
            shutil.copy(path, folder / path.name)


if IMAGES == "sample" or IMAGES == "upload" or IMAGES.endswith(".zip"):
    images = Path("images")
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    if IMAGES == "sample":
        samples(images)
    elif IMAGES == "upload":
        from google.colab import files

        for name in files.upload():
            unpacked(Path(name), images)
    else:
        unpacked(Path(IMAGES), images)
else:
    images = Path(IMAGES)
print(f"{sum(path.is_file() for path in images.rglob('*'))} files in {images}")

# %% [markdown]
# ## Captions
# Price first, and never more than `BUDGET`. The key stays in this session's memory and is written nowhere.
# Captions of your own stay as they are.

# %%
if CAPTIONS:
    variable = {"claude": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}.get(CAPTIONS)
    if variable and not os.environ.get(variable):
        os.environ[variable] = getpass(f"{variable} (it is not stored): ")
    options = {"trigger": TRIGGER, "concept_type": CONCEPT, "base": BASE, "on_event": say}
    limner.caption(images, CAPTIONS, dry_run=True, **options)
    captions = limner.caption(images, CAPTIONS, budget=BUDGET, **options)
    print(f"{captions.new_captions} captions written, {len(captions.failures)} failed")

# %% [markdown]
# ## Check
# What the model will see, and what is wrong with it.

# %%
recipe = {
    "base": BASE,
    "trigger": TRIGGER,
    "concept_type": CONCEPT,
    "steps": STEPS,
    "sample_every": SAMPLE_EVERY,
}
settings = {"sample.prompts": PROMPTS, "export.for": ["diffusers", "comfyui"]}
report = limner.check(images, out="check", on_event=say, settings=settings, **recipe)
for finding in report.findings:
    if finding.level != "note":
        print(f"{finding.level}: {finding.image or 'the set'}: {finding.reason}. {finding.remedy}")
display(Image(str(report.sheet)))

# %% [markdown]
# ## Plan
# For the GPU that is here; without one for a T4, on which SDXL trains in fp16. Nothing has been fetched yet.

# %%
import torch

from limner.planning.describe import lines

card = None if torch.cuda.is_available() or BASE == "glyph" else "T4"
plan = limner.plan(images, card=card, settings=settings, **recipe)
print("\n".join(lines(plan)))
if not plan.fits:
    raise limner.errors.DoesNotFit(str(plan.misfit))

# %% [markdown]
# ## Fetch the base
# Once; broken off, it goes on where it was. A gated base wants its licence accepted on its page, and then
# `from huggingface_hub import login; login()` in a cell of its own.

# %%
# !{sys.executable} -m limner fetch {BASE}

# %% [markdown]
# ## Train
# The button that stops the cell saves the run; the same cell goes on.

# %%
run, looked = None, 0.0
screen = display(limner.view(OUT), display_id=True)
try:
    for event in limner.train_iter(images, out=OUT, settings=settings, **recipe):
        say(event)
        run = event if isinstance(event, Done) else None
        if isinstance(event, Sampled | Validated | Saved) or time.monotonic() - looked > 3:
            screen.update(limner.view(OUT))
            looked = time.monotonic()
except limner.errors.Stopped as stop:
    print(stop)
screen.update(limner.view(OUT))
print(f"LoRA: {run.lora}; samples, curves and data: {run.report}" if run else "Run this cell again to go on.")

# %% [markdown]
# ## Generate

# %%
generated = limner.generate(run, PROMPTS, out="generated", seed=SEEDS, strength=STRENGTHS, on_event=say)
for path in generated[-len(PROMPTS) :]:  # a grid for each prompt
    display(Image(str(path)))

# %% [markdown]
# ## Download
# The LoRA, also in ComfyUI's names, the report, and the images.

# %%
with zipfile.ZipFile("limner.zip", "w") as archive:
    for path in [*sorted(run.path.glob("lora*.safetensors")), run.report, *generated]:
        archive.write(path, path.name)
try:
    from google.colab import files

    files.download("limner.zip")
except ImportError:
    display(FileLink("limner.zip"))

# %% [markdown]
# ## DreamBooth, and a LoRA of it
# Train every weight of a base with class images, and extract the difference as a LoRA: more capacity while it
# learns, and a small file in the end. It runs where `FULL_STEPS` is more than 0. SD 1.5 wants a T4, 11 GB of
# the computer's memory and 60 GB of disk; SDXL wants an A100.

# %%
if FULL_STEPS:
    dreambooth = {
        "train.method": "full",
        "prior.prompts": [CLASS],
        "prior.images_per_prompt": CLASS_IMAGES,
        "sample.every": -1,
    }
    keys = {"base": FULL_BASE, "trigger": TRIGGER, "concept_type": CONCEPT, "steps": FULL_STEPS}
    full = limner.train(images, out="runs/full", settings=dreambooth, on_event=say, **keys)
    extract = limner.lora.extract(FULL_BASE, full.model, "extracted.safetensors", rank=RANK, on_event=say)
    print(f"{extract.path}: the same from the command line is")
    print(f"limner lora extract {FULL_BASE} {full.model} --rank {RANK} --out extracted.safetensors")
    for path in limner.generate(extract.path, PROMPTS, base=FULL_BASE, out="generated-full"):
        display(Image(str(path)))
