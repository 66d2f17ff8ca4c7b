import torch

from limner.assembly.assemble import META, assemble
from limner.assembly.resolve import resolve
from limner.hyper.train import MODEL
from limner.nn.layers import per_sample
from limner.nn.memory.plan import Plan
from style_folders import predictor_recipe, style_folders


def test_the_predictor_is_trained_and_nothing_else(tiny_base, tmp_path):
    styles = style_folders(tmp_path / "styles", 3, 2)
    spec = resolve(predictor_recipe(tiny_base, styles)).spec
    assert spec.first_layers == {MODEL: 0} and spec.trainable.separate and spec.trainable.freezes_base
    assert {"look_pixels_32"} < spec.cut.boundary and "image" not in spec.cut.boundary
    assembly = assemble(spec, Plan(compute="fp32", weights="fp32", micro_batch=1), META)
    layers = per_sample.attached(assembly.denoiser)
    config = assembly.models[MODEL].learner.config
    assert set(layers) == {target.name for target in config.targets} and config.rank == 2
    trained = [p for model in assembly.models.values() for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in assembly.models[MODEL].parameters())
    assert all(p.dtype == torch.float32 for p in trained)


def test_the_lora_can_be_switched_off_the_negative_branch(tiny_base, tmp_path):
    styles = style_folders(tmp_path / "styles", 3, 2)
    spec = resolve(predictor_recipe(tiny_base, styles)).spec
    denoiser = assemble(spec, Plan(compute="fp32", weights="fp32", micro_batch=1), META).denoiser
    spec.trainable.enable(denoiser, enabled=False)
    assert not any(layer.enabled for layer in per_sample.attached(denoiser).values())
