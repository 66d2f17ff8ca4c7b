"""Published image-to-LoRA models beside DiffSynth's own modules, on random weights.

    pip install --target DIR --no-deps diffsynth==2.1.12
    python -m benchmarks.robustness.diffsynth_instant DIR

Style, Coarse and Fine of Qwen-Image-i2L with two blocks and narrow bottlenecks, and Z-Image-i2L whole but for
its bottleneck and rank: files written from DiffSynth's modules, read by ours, and the LoRAs of one random
embedding compared tensor by tensor. Its ``__init__``, which wants torchvision, is passed by.
"""

import argparse
import importlib
import sys
import types
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import outcome
from limner.hyper.published import PublishedPredictor
from limner.hyper.targets import Target
from limner.models.bundled import known
from limner.models.loading import skeleton
from limner.models.registry import family_of

QWEN, Z_IMAGE = "qwen_image_image2lora:QwenImageImage2LoRAModel", "z_image_image2lora:ZImageImage2LoRAModel"
CASES: dict[str, tuple[str, str, dict[str, Any], tuple[int, int] | None]] = {
    "style": ("qwen-image", QWEN, {"num_blocks": 2, "use_residual": False, "compress_dim": 4}, None),
    "coarse": (
        "qwen-image",
        QWEN,
        {"num_blocks": 2, "compress_dim": 4, "residual_length": 71, "residual_mid_dim": 16},
        (71, 3584),
    ),
    "fine": (
        "qwen-image",
        QWEN,
        {"num_blocks": 2, "compress_dim": 4, "residual_length": 1376, "residual_mid_dim": 2},
        (1376, 3584),
    ),
    "z-image": ("z-image", Z_IMAGE, {"compress_dim": 4, "rank": 1}, None),
}
"""Expert -> base, module, its size, shape of the states that it reads."""


def main() -> None:
    """Compare all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where diffsynth was installed")
    args = parser.parse_args()
    for name in ("diffsynth", "diffsynth.models"):
        package = types.ModuleType(name)
        package.__path__ = [str(args.folder / name.replace(".", "/"))]
        sys.modules[name] = package
    rows = {expert: compare(expert) for expert in CASES}
    outcome.save("diffsynth_instant", rows)


@torch.no_grad()
def compare(expert: str) -> dict[str, Any]:
    """Largest difference of a tensor, and how many there are."""
    base, path, sizes, states_shape = CASES[expert]
    module, _, cls = path.partition(":")
    torch.manual_seed(0)
    network = getattr(importlib.import_module(f"diffsynth.models.{module}"), cls)(**sizes)
    embedding = torch.randn(5632)
    states = None if states_shape is None else torch.randn(states_shape)
    output = network(embedding[None], None if states is None else states.view(1, -1))
    reference = {name.replace(".default.", "."): tensor for name, tensor in output.items()}
    family = family_of({"qwen-image": "QwenImagePipeline", "z-image": "ZImagePipeline"}[base])
    denoiser = skeleton(family, known(base), family.denoiser, dtype=torch.bfloat16)
    targets = {
        name: Target(name, layer.in_features, layer.out_features)
        for name, layer in denoiser.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file(network.state_dict(), file)
        predictor = PublishedPredictor(file, targets)
        pairs = predictor.predict(embedding, states)
    lora_state = {f"{name}.lora_A.weight": down for name, (down, _) in pairs.items()}
    lora_state |= {f"{name}.lora_B.weight": up for name, (_, up) in pairs.items()}
    difference = max(float((lora_state[name] - reference[name]).abs().max()) for name in reference)
    largest = max(float(tensor.abs().max()) for tensor in reference.values())
    return {
        "told as": f"{predictor.layout.family} {predictor.layout.expert}, rank {predictor.rank}",
        "same names": lora_state.keys() == reference.keys(),
        "tensors": len(reference),
        "largest difference": difference,
        "largest number": largest,
    }


if __name__ == "__main__":
    main()
