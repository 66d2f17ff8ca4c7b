"""The published image-to-LoRA models of the first generation, read from their files without their code.

Qwen-Image-i2L Style, Coarse and Fine, and Z-Image-i2L (ModelScope 2025; Apache-2.0). Which one a file is, its
names and shapes tell. Heads are read one group of layers at a time: Coarse has 15.9 GB, and a group 66 MB.
Its mathematics: with an embedding x, and of Coarse and Fine states R of a vision-language model,

    r = P_out flat(0.05 R P_in^T),   A = view(W_out (W_in x + r)) (rank, in),   B alike (out, rank)

so that A and B are linear in x, and dW = B A has no scale.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from limner.errors import BadBase
from limner.hyper.targets import Target

RESIDUAL_SCALE = 0.05
"""What the states of the vision-language model are multiplied by."""
Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""


@dataclass(frozen=True)
class Stack:
    """A list of blocks of the denoiser; a file counts its heads group by group, each through all blocks."""

    stem: str
    """Before ``blocks`` in the file."""
    prefix: str
    """Of the denoiser's own names."""
    groups: tuple[tuple[str, ...], ...]
    """The layers of each group."""


_Z_GROUPS = (
    ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"),
    ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
)
STACKS = {
    "qwen-image": (
        Stack(
            "",
            "transformer_blocks",
            (
                ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
                ("img_mlp.net.2", "img_mod.1"),
                ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
                ("txt_mlp.net.2", "txt_mod.1"),
            ),
        ),
    ),
    "z-image": tuple(
        Stack(f"{name}_lora.", name, _Z_GROUPS) for name in ("layers", "context_refiner", "noise_refiner")
    ),
}
"""Family -> its stacks, in the order in which the models emit them."""
POSITIVE_GUIDANCE = {"z-image": 4.0}
"""Family -> guidance at which its model is used with the LoRA on the positive branch only; others on both."""


@dataclass(frozen=True)
class Head:
    """The heads of one group of layers in one block."""

    stem: str
    """Of their names in the file."""
    layers: tuple[str, ...]
    """In the denoiser's names."""


@dataclass(frozen=True, kw_only=True)
class PublishedLayout:
    """What a file is, by its names and shapes."""

    family: str
    expert: str
    """ "style", "coarse" or "fine"; of Z-Image "style" too, which is its only one."""
    width: int
    """Of the embedding: of the true ones 1536 of SigLIP2-G and 4096 of DINOv3-7B."""
    bottleneck: int
    tokens: int = 0
    """States of the vision-language model that it reads; 0: none."""
    state_width: int = 0
    heads: tuple[Head, ...]

    @property
    def positive_guidance(self) -> float | None:
        """Guidance scale that goes with the LoRA on the positive branch only; None: it is on both."""
        return POSITIVE_GUIDANCE.get(self.family)


def layout_of(shapes: Shapes) -> PublishedLayout:
    """Tell which model a file is.

    Raises:
        BadBase: A name is missing, unknown, or has a wrong shape.
    """
    family = "z-image" if any(name.startswith("layers_lora.") for name in shapes) else "qwen-image"
    heads = tuple(_heads(shapes, family))
    with_states = any(".proj_residual." in name for name in shapes)
    names = {name for head in heads for name in _names(head, with_states=with_states)}
    if difference := sorted(names ^ set(shapes)):
        verb = "lacks" if difference[0] in names else "has"
        raise BadBase(f"No published image-to-LoRA model: it {verb} {difference[0]}. Fetch the file again.")
    bottleneck, width = shapes[f"{heads[0].stem}.layers.0.proj_a.proj_in.weight"]
    middle, state_width, tokens = 0, 0, 0
    if with_states:
        middle, state_width = shapes[f"{heads[0].stem}.proj_residual.proj_in.weight"]
        tokens = shapes[f"{heads[0].stem}.proj_residual.proj_out.weight"][1] // middle
    for name, shape in shapes.items():
        fits = {
            "in": shape == ((middle, state_width) if ".proj_residual." in name else (bottleneck, width)),
            "out": shape == (bottleneck, tokens * middle)
            if ".proj_residual." in name
            else len(shape) == 2 and shape[1] == bottleneck,
        }[name.split(".proj_")[-1].removesuffix(".weight")]
        if not fits:
            raise BadBase(f"No published image-to-LoRA model: {name} is {shape}. Fetch the file again.")
    expert = "style" if not with_states else "coarse" if middle > bottleneck else "fine"
    return PublishedLayout(
        family=family,
        expert=expert,
        width=width,
        bottleneck=bottleneck,
        tokens=tokens,
        state_width=state_width,
        heads=heads,
    )


def _heads(shapes: Shapes, family: str) -> Iterator[Head]:
    for stack in STACKS[family]:
        pattern = re.compile(rf"{re.escape(stack.stem)}blocks\.(\d+)\.")
        numbers = {int(match[1]) for name in shapes if (match := pattern.match(name))}
        depth, rest = divmod(max(numbers, default=-1) + 1, len(stack.groups))
        if rest or not depth:
            count = max(numbers, default=-1) + 1
            raise BadBase(
                f"No published image-to-LoRA model: {count} blocks of {stack.prefix} do not part into "
                f"{len(stack.groups)} groups. Fetch the file again."
            )
        for number in range(depth * len(stack.groups)):
            layers = tuple(
                f"{stack.prefix}.{number % depth}.{layer}" for layer in stack.groups[number // depth]
            )
            yield Head(f"{stack.stem}blocks.{number}", layers)


def _names(head: Head, *, with_states: bool) -> Iterator[str]:
    for number in range(len(head.layers)):
        for side in "ab":
            for end in ("in", "out"):
                yield f"{head.stem}.layers.{number}.proj_{side}.proj_{end}.weight"
    if with_states:
        yield from (f"{head.stem}.proj_residual.proj_{end}.weight" for end in ("in", "out"))


def is_published(path: Path) -> bool:
    """Whether a file looks like one of the published models, by the names in it; torn ones do not."""
    try:
        with safe_open(path, "pt") as content:
            return any(".proj_a.proj_in." in name for name in content.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False


def rank_of(layout: PublishedLayout, shapes: Shapes, targets: Mapping[str, Target]) -> int:
    """The rank of what a model emits, held against the layers of a base.

    Raises:
        BadBase: A layer is not in the base, or what is emitted does not fit it.
    """
    ranks = set()
    for head in layout.heads:
        for number, layer in enumerate(head.layers):
            target = targets.get(layer)
            rows = [shapes[f"{head.stem}.layers.{number}.proj_{side}.proj_out.weight"][0] for side in "ab"]
            if target is None or rows[0] % target.inputs or rows[1] % target.outputs:
                size = f"is {target.inputs} to {target.outputs}" if target else "is not there"
                raise BadBase(
                    f"The predictor writes a LoRA of {layout.family} for {layer}, which in this base {size}. "
                    "Name its base with --base."
                )
            ranks |= {rows[0] // target.inputs, rows[1] // target.outputs}
    if len(ranks) != 1:
        raise BadBase(
            f"The predictor writes ranks {min(ranks)} to {max(ranks)} for this base. Name its own --base."
        )
    return ranks.pop()


class PublishedPredictor:
    """One of the published models, its weights left in the file.

    Args:
        path: The file.
        targets: Layers of the base it is for: name -> sizes.

    Raises:
        BadBase: The file is damaged, none of these models, or for another base.
    """

    def __init__(self, path: Path, targets: Mapping[str, Target]) -> None:
        """See the class."""
        self.path = path
        try:
            with safe_open(path, "pt") as content:
                shapes = {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise BadBase(f"{path} cannot be read ({str(error).splitlines()[0]}). Fetch it again.") from error
        self.layout = layout_of(shapes)
        self.rank = rank_of(self.layout, shapes, targets)

    def predict(
        self,
        embedding: Tensor,
        states: Tensor | None = None,
        advance: Callable[[], object] = lambda: None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer -> A (rank, in) and B (out, rank) in float32, of one picture.

        Args:
            embedding: (width,).
            states: (tokens, state width) of the vision-language model, where the model reads them.
            advance: Called once per group of layers.

        Raises:
            BadBase: An encoder's output has another size than the model reads.
        """
        layout = self.layout
        _require(embedding, (layout.width,), "The embedding of the encoders")
        if layout.tokens:
            if states is None:
                raise BadBase(
                    f"{self.path.name} reads states of a vision-language model, and there are none."
                )
            _require(states, (layout.tokens, layout.state_width), "The states of the vision-language model")
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        with safe_open(self.path, "pt") as content:

            def weight(name: str) -> Tensor:
                return content.get_tensor(f"{name}.weight").float()

            x = embedding.float()
            for head in layout.heads:
                shift: Tensor | float = 0.0
                if states is not None and layout.tokens:
                    inner = (states.float() * RESIDUAL_SCALE) @ weight(f"{head.stem}.proj_residual.proj_in").T
                    shift = weight(f"{head.stem}.proj_residual.proj_out") @ inner.flatten()
                for number, layer in enumerate(head.layers):
                    down, up = (
                        weight(f"{head.stem}.layers.{number}.proj_{side}.proj_out")
                        @ (weight(f"{head.stem}.layers.{number}.proj_{side}.proj_in") @ x + shift)
                        for side in "ab"
                    )
                    # rows of A stand one behind the other; of B, the ranks of each row
                    pairs[layer] = down.view(self.rank, -1), up.view(-1, self.rank)
                advance()
        return pairs


def _require(value: Tensor, shape: tuple[int, ...], subject: str) -> None:
    if tuple(value.shape) != shape:
        size, wanted = (" x ".join(map(str, numbers)) for numbers in (value.shape, shape))
        raise BadBase(
            f"{subject}: {size} numbers, and the predictor reads {wanted}. Use the encoders that it was "
            "trained with."
        )
