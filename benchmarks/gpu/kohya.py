"""Starts sd-scripts' own FLUX.1 trainer on a base that is not from the hub.

``python -m gpu.kohya JSON ARGUMENTS``. Its program, networks, block swap and loop are its own. Replaced are
the three loaders of models that only fill the cache: they would build CLIP-L, T5-XXL and the autoencoder at
their full size from files of their own layout; here both encoders are those of the folder, with two layers
each, and the autoencoder has random weights. Tokenizers come from the folder. For tiny bases the width is
changed, which the program reads from a table.
"""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import torchvision_standin
from gpu.clock import from_environment

TINY = {"hidden_size": 32, "num_heads": 2, "axes_dim": [4, 6, 6], "context_in_dim": 32, "vec_in_dim": 32}
TINY_AE = {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}
NAMES = {"clip-vit-large-patch14": "tokenizer", "t5-v1_1-xxl": "tokenizer_2"}


def replaced(base: Path, *, tiny: bool) -> None:
    """Put our loaders in the place of sd-scripts', which must be importable."""
    import transformers
    from transformers import CLIPImageProcessor, CLIPTextModel, T5EncoderModel

    # the name of a class that newer versions call otherwise, and that its unused pipelines import
    vars(transformers).setdefault("CLIPFeatureExtractor", CLIPImageProcessor)
    from library import flux_models, flux_utils, strategy_base

    if tiny:
        for name, spec in list(flux_models.configs.items()):
            params, ae = replace(spec.params, **TINY), replace(spec.ae_params, **TINY_AE)
            flux_models.configs[name] = replace(spec, params=params, ae_params=ae)

    def clip(path: Any, dtype: torch.dtype, device: Any, **_: Any) -> Any:
        return CLIPTextModel.from_pretrained(base / "text_encoder").to(device, dtype)

    def t5(path: Any, dtype: torch.dtype | None, device: Any, **_: Any) -> Any:
        return T5EncoderModel.from_pretrained(base / "text_encoder_2").to(device, dtype or torch.bfloat16)

    def autoencoder(path: Any, dtype: torch.dtype, device: Any, **_: Any) -> Any:
        params = flux_models.configs[flux_utils.MODEL_NAME_DEV].ae_params
        return flux_models.AutoEncoder(params).to(device, dtype)

    def tokenizer(self: Any, cls: Any, name: str, *_: Any, **__: Any) -> Any:
        return cls.from_pretrained(base / NAMES[name.rpartition("/")[2]])

    flux_utils.load_clip_l, flux_utils.load_t5xxl, flux_utils.load_ae = clip, t5, autoencoder
    strategy_base.TokenizeStrategy._load_tokenizer = tokenizer


def main() -> None:
    """Run the trainer."""
    settings = json.loads(sys.argv[1])
    torchvision_standin.install()
    sys.path.insert(0, settings["source"])
    clock = from_environment()
    replaced(Path(settings["base"]), tiny=settings["tiny"])
    program = Path(settings["source"]) / "flux_train_network.py"
    sys.argv = [str(program), *sys.argv[2:]]
    runpy.run_path(str(program), run_name="__main__")
    clock.write()


if __name__ == "__main__":
    main()
