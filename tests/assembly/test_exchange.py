import torch

from limner.assembly.assemble import ModelSpec, assemble
from limner.assembly.exchange import exchange
from limner.assembly.trainable import LoRA
from limner.models.registry import family_of
from limner.models.source import locate
from limner.nn.layers import lora
from limner.nn.memory.plan import Plan
from limner.recipe.train import Lora


def test_a_base_takes_the_place_of_the_one_beneath_the_adapters_which_is_emptied(tiny_base):
    source = locate(str(tiny_base), folders={})
    spec = ModelSpec(
        family=family_of("FluxPipeline"),
        source=source,
        trainable=LoRA(Lora(rank=2)),
        compute="fp32",
        kind="cpu",
    )
    cpu = torch.device("cpu")
    assembly = assemble(spec, Plan(), cpu)
    before, adapters = assembly.denoiser, lora.attached(assembly.denoiser)
    weights = {name: weight.clone() for name, weight in before.named_parameters()}
    exchange(assembly, spec, adapters, Plan(), cpu, None)
    assert assembly.denoiser is not before and not list(before.parameters())
    assert lora.attached(assembly.denoiser) == adapters
    now = dict(assembly.denoiser.named_parameters())
    assert now.keys() == weights.keys() and all(torch.equal(now[name], weights[name]) for name in now)
