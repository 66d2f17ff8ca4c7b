"""47 figures that others published of real GPUs, numbered, each with its source and how far to trust it.

A: settings known, measured by the program's authors; B: some settings are missing; C: one user's report.
Where somebody wrote GB of a card's label, 2^30 bytes are meant; elsewhere it is 10^9.
"""

from dataclasses import replace

from benchmarks.speed.published_peers import Case, Decoder, flux, krea2, latents, model, qwen
from benchmarks.speed.published_simpletuner import SETTINGS
from diffusers import FluxTransformer2DModel, Krea2Transformer2DModel, QwenImageTransformer2DModel
from torch import nn

GB = 1e9 / 2**30
BLOG = "huggingface.co/blog/flux-qlora"
AO = "github.com/sayakpaul/diffusers-torchao, README; a 28th, less encoding and VAE (0.1 + 0.1 s an image)"
MUSUBI = "musubi-tuner, docs/qwen_image.md"


def _flux() -> nn.Module:
    return model(FluxTransformer2DModel, "flux-dev")


def _krea() -> nn.Module:
    return model(Krea2Transformer2DModel, "krea2")


def _qwen() -> nn.Module:
    return model(QwenImageTransformer2DModel, "qwen-image")


def _forward(rows: int, images: int, seconds: float, *, compiled: bool) -> Case:
    mode = "compiled" if compiled else "eager"
    return Case(
        name=f"flux-forward-{mode}-b{images}",
        rows=(rows,),
        card="H100",
        peer=f"diffusers, FLUX.1-dev, a forward pass, 1024 px, batch {images}, bf16, {mode}",
        source=AO,
        trust="A",
        model=_flux,
        inputs=flux(1024, 1024, 512),
        images=images,
        compiled=compiled,
        seconds=seconds,
    )


QLORA = Case(
    name="flux-nf4-4090",
    rows=(1, 3),
    card="RTX 4090",
    peer="diffusers, FLUX.1-dev QLoRA, 512 x 768, text 77, rank 4 on attention, NF4, all checkpointed",
    source=BLOG,
    trust="A",
    model=_flux,
    inputs=flux(512, 768, 77),
    rank=4,
    checkpoints=True,
    weights="nf4",
    state=2,
    seconds=0.879,
    memory=9 * GB,
    kind="device",
    remark="memory: about 9 GB, of which kind is not said",
)
DIFFUSERS = (
    QLORA,
    replace(
        QLORA,
        name="flux-bf16-memory",
        rows=(2,),
        trust="B",
        peer="the same with a base in bf16",
        weights="bf16",
        seconds=None,
        memory=26 * GB,
        remark="of which kind is not said",
    ),
    Case(
        name="flux-fp8-h100",
        rows=(4, 5),
        card="H100",
        peer="diffusers, FLUX.1-dev, torchao's fp8 training, 512 x 768, batch 1, eager",
        source=BLOG,
        trust="B",
        seconds=20 * 60 / 2800,
        memory=36.57 * GB,
        remark="torchao's fp8 layers, T5 and the VAE on the GPU too: a graph of its own, not traced",
    ),
    replace(
        QLORA,
        name="flux-nf4-t4",
        rows=(6,),
        card="T4",
        trust="B",
        compute="fp16",
        seconds=4 * 3600 / 2800,
        memory=None,
        peer="the same in fp16",
        remark="about 4 hours for 2800 micro-batches",
    ),
)
REPORT = Case(
    name="flux-nf4-512-4090",
    rows=(24,),
    card="RTX 4090",
    peer="SimpleTuner, FLUX.1-dev, 512 px, NF4, paged 8-bit Lion, all checkpointed; rank not said, 16 taken",
    source="SimpleTuner, documentation/quickstart/FLUX.md",
    trust="C",
    model=_flux,
    inputs=flux(512, 512, 512),
    rank=16,
    checkpoints=True,
    weights="nf4",
    state=1,
    seconds=1.4,
    memory=9090 / 1024,
    kind="device",
    remark="elsewhere the same page says 1.4 steps a second",
)
QWEN_MUSUBI = Case(
    name="qwen-image-musubi",
    rows=(26,),
    card="RTX 6000 Ada",
    peer="musubi-tuner, Qwen-Image, 1024 px, batch 1, rank 16, bf16, all checkpointed",
    source=MUSUBI,
    trust="B",
    model=_qwen,
    inputs=qwen(1024, 64),
    rank=16,
    targets="all-linear",
    checkpoints=True,
    state=2,
    memory=42,
    kind="device",
)
BLOCKS = ("attn", "mlp")
QWEN_FP8 = replace(
    QWEN_MUSUBI, peer=f"{QWEN_MUSUBI.peer}, fp8 but for modulations", weights="fp8", coded=BLOCKS
)
QWEN_ALL = replace(
    QWEN_MUSUBI,
    peer="musubi-tuner, Qwen-Image, 1328 px, fp8, all checkpointed",
    source="musubi-tuner, issue 715",
    trust="C",
    weights="fp8",
    coded=("transformer_blocks",),
    inputs=qwen(1328, 64),
)
KREA_MUSUBI = Case(
    name="krea2-fp8-3090",
    rows=(32,),
    card="RTX 3090",
    peer="musubi-tuner, Krea 2, 1024 px, batch 1, fp8 weights, all checkpointed",
    source="github.com/kohya-ss/musubi-tuner, pull request 1008",
    trust="A",
    model=_krea,
    inputs=krea2(1024, 128),
    rank=32,
    targets="all-linear",
    checkpoints=True,
    weights="fp8",
    seconds=7.1,
)
MUSUBIS = (
    REPORT,
    replace(
        REPORT, name="flux-nf4-1024-4090", rows=(25,), inputs=flux(1024, 1024, 512), seconds=3.5, memory=None
    ),
    QWEN_MUSUBI,
    replace(QWEN_FP8, name="qwen-image-musubi-fp8", rows=(27,), memory=30),
    replace(
        QWEN_FP8,
        name="qwen-image-musubi-swap16",
        rows=(28,),
        memory=24,
        swapped=(("transformer_blocks", 16),),
        remark="it keeps one block more",
    ),
    replace(
        QWEN_FP8,
        name="qwen-image-musubi-swap45",
        rows=(29,),
        memory=12,
        swapped=(("transformer_blocks", 45),),
        remark="it keeps one block more; a rounded figure",
    ),
    replace(QWEN_ALL, name="qwen-image-musubi-1328-r4", rows=(30,), rank=4, memory=25),
    replace(
        QWEN_ALL,
        name="qwen-image-musubi-1328-r128",
        rows=(31,),
        rank=128,
        memory=35,
        remark="autocast's copies of the factors, 1.6 GiB, and Adafactor's scratch are that program's",
    ),
    KREA_MUSUBI,
    *(
        replace(
            KREA_MUSUBI,
            name=f"krea2-{weights}-pro-6000-max-q",
            rows=rows,
            card="RTX PRO 6000 Max-Q",
            peer=f"musubi-tuner, Krea 2, 1024 px, batch 1, {weights} weights, all checkpointed",
            weights=weights,
            seconds=seconds,
            remark="held to 300 W",
        )
        for weights, rows, seconds in (("bf16", (33,), 2.0), ("fp8", (34,), 2.3), ("int8", (34,), 1.9))
    ),
    Case(
        name="qwen-image-swap40-3090",
        rows=(35,),
        card="RTX 3090",
        peer="musubi-tuner, Qwen-Image, 40 of 60 blocks swapped, copies to the device only",
        source="musubi-tuner, docs/block_swap.md",
        trust="C",
        seconds=11.0,
        remark="resolution not said",
    ),
)
DECODING = Case(
    name="flux-vae-1024-b1",
    rows=(42,),
    card="H100",
    peer="diffusers, FLUX.1-dev, decoding 1024 px: peak less what models take (33.851 - 31.438 GiB)",
    source=AO,
    trust="A",
    model=Decoder,
    inputs=latents(1024),
    bare=True,
    memory=33.851 - 31.438,
    remark="workspaces of cuDNN's convolutions are not traced",
)
SCRIPTS = Case(
    name="flux-bf16-1024-kohya",
    rows=(43,),
    card="RTX 6000 Ada",
    peer="sd-scripts, FLUX.1-dev, 1024 px, rank 4, bf16, 8-bit AdamW, all checkpointed",
    source="the card of a model by its author on the hub",
    trust="B",
    model=_flux,
    inputs=flux(1024, 1024, 512),
    rank=4,
    targets="all-linear",
    checkpoints=True,
    state=2,
    memory=26 * GB,
    bound="at least",
)
MISC = (
    _forward(36, 1, 0.228, compiled=False),
    _forward(37, 4, 0.869, compiled=False),
    _forward(38, 8, 1.734, compiled=False),
    _forward(39, 1, 0.143, compiled=True),
    _forward(40, 4, 0.552, compiled=True),
    _forward(41, 8, 1.099, compiled=True),
    DECODING,
    replace(
        DECODING,
        name="flux-vae-1024-b8",
        peer="the same of eight images (47.51 - 31.438 GiB)",
        images=8,
        memory=47.51 - 31.438,
    ),
    SCRIPTS,
    *(
        replace(
            SCRIPTS,
            name=f"flux-fp8-kohya-swap{count}",
            rows=(44,),
            peer=f"sd-scripts, FLUX.1-dev, 1024 px, fp8, swap {count}: {count // 2} double, {count} single",
            source="sd-scripts, docs/flux_train_network.md",
            weights="fp8",
            swapped=(("transformer_blocks", count // 2), ("single_transformer_blocks", count)),
            memory=size,
            kind="device",
            bound="at most",
            remark=f"a card of {size} GB on which it fits",
        )
        for count, size in ((16, 12), (22, 10), (28, 8))
    ),
    replace(
        SCRIPTS,
        name="flux-r128-a6000",
        rows=(45,),
        card="RTX A6000",
        peer="sd-scripts, FLUX.1-dev, 1024 px, rank 128, bf16, all checkpointed, T5 on the GPU, Windows",
        source="sd-scripts, pull request 1374",
        trust="C",
        rank=128,
        beside=9.1,
        seconds=8.25,
        memory=44.18 * GB,
        kind="device",
        bound="",
        timed=False,
        remark="Windows; autocast's copies of the factors are that program's",
    ),
    *(
        Case(
            name=f"sdxl-full-fused-{weights}",
            rows=(46,),
            card="RTX 4090",
            peer=f"sd-scripts, SDXL full fine-tune in {weights}, 1024 px, fused backward pass, Adafactor",
            source="sd-scripts, pull request 1259",
            trust="B",
            memory=size * GB,
            remark="gradients are used as they are made, by hooks of that program: not traced",
        )
        for weights, size in (("fp32", 16.4), ("bf16", 10.0))
    ),
    *(
        Case(
            name=f"{base}-{size}-gb",
            rows=(47,),
            card=card,
            peer=f"{peer}: trains on a card of {size} GB",
            source=peer,
            trust="C",
            memory=size,
            kind="device",
            bound="at most",
            remark="settings not said",
        )
        for base, size, card, peer in (
            ("flux-512", 6, "RTX 2060", "OneTrainer, FLUX.1-dev at 512 px"),
            ("qwen-image", 5, "RTX 2060", "OneTrainer, Qwen-Image, in musubi-tuner's discussion 528"),
        )
    ),
)
CASES = (*DIFFUSERS, *SETTINGS, *MUSUBIS, *MISC)
"""All 47 figures."""
