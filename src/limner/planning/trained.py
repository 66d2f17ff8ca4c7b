"""What is trained, as far as it decides how a run can be computed: a value of a few kinds. No torch."""

from dataclasses import dataclass, replace

from limner.nn.memory.plan import OptimizerState, Plan


@dataclass(frozen=True, kw_only=True)
class TrainedKind:
    """What a plan may do where this is trained. ``assembly.trainable`` has what trains it."""

    keeps_blocks: bool
    """Whether the base's weights stay what they are in training: they may then be stored in fewer bits, wait
    in the computer's memory or in files until they are needed, and be precomputed with."""
    half_gradients: bool
    """Whether gradients may be kept in bf16 until the optimizer steps."""
    optimizer_states: tuple[OptimizerState, ...]
    """Ways of storing the optimizer's state that there are, the plain one first."""
    leaves_loras: bool
    """Whether a LoRA of each checkpoint stays; else a model is left at the end, as large as the base."""
    maps_checkpoints: bool
    """Whether a checkpoint is so large that mapping it, to be compared, counts."""
    divides_heads: bool = False
    """Whether processes may divide between them what is trained, layer by layer, while each has the base."""
    label: str
    """Of the precision in which it is stored, for people: ``weights {}`` gets that of the frozen weights."""

    def precision(self, plan: Plan) -> str:
        """How weights are stored, for people."""
        return self.label.format(plan.weights)


ADAPTERS = TrainedKind(
    keeps_blocks=True,
    half_gradients=False,
    optimizer_states=("fp32", "8bit"),
    leaves_loras=True,
    maps_checkpoints=False,
    label="weights {}",
)
"""Adapters of any kind on frozen weights."""
WHOLE_MODEL = TrainedKind(
    keeps_blocks=False,
    half_gradients=True,
    optimizer_states=("fp32", "8bit", "host"),
    leaves_loras=False,
    maps_checkpoints=True,
    label="full fine-tune: weights fp32",
)
"""Every weight of the denoiser, in fp32 masters."""
PREDICTOR = replace(ADAPTERS, divides_heads=True)
"""A predictor, which leaves the base's weights as adapters do."""
TRAINED = {"lora": ADAPTERS, "instant": PREDICTOR, "inversion": ADAPTERS, "full": WHOLE_MODEL}
"""``train.method`` -> what a plan is made for."""
