"""Pictures of the stock pipeline and sampler of a base, as training and ``generate`` ask for them.

In training it is fed with texts that are encoded already.

Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) runs the denoiser twice at each step, on the
prompt and on the negative prompt. Stock pipelines give both passes the same weights. A LoRA whose style
stands in no prompt is then not amplified: it is in both predictions. With it on the positive branch only,
guidance leads from the base towards the LoRA (:func:`by_branch`).
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from limner.errors import BadBase, BadRecipe, first_line
from limner.imports import swiftly
from limner.models.facts import EPSILON, VELOCITY
from limner.models.family import Family, Guidance, Objective, SamplingParams, pad_collate
from limner.models.key_map import SOFTWARE
from limner.models.loading import LOAD_ERRORS
from limner.models.source import Source

Branch = Literal["positive", "negative"]
Select = Callable[[nn.Module, Branch], None]
"""Gives a model the adapters of a branch."""
WORDS = {"epsilon": EPSILON, "v": VELOCITY}
"""ModelSpec's and the recipe's words -> diffusers'."""


def overrides_of(objective: Objective) -> dict[str, Any]:
    """Settings of the sampler that samples what is trained, where a recipe contradicts the base's own."""
    overrides: dict[str, Any] = {}
    if objective.prediction is not None:
        overrides["prediction_type"] = WORDS[objective.prediction]
    if objective.zero_terminal_snr is not None:
        overrides["rescale_betas_zero_snr"] = objective.zero_terminal_snr
    if objective.zero_terminal_snr:  # Lin et al. 2023, arXiv:2305.08891, section 3.3: begin at the last step
        overrides["timestep_spacing"] = "trailing"
    return overrides


def prediction_metadata(family: Family, source: Source, objective: Objective) -> tuple[str, bool]:
    """What the metadata says: "epsilon" or "v", and whether the last step is pure noise; "" of a flow."""
    if "prediction" not in family.supported_options:
        return "", False
    config = {"prediction_type": EPSILON, **source.config("scheduler"), **overrides_of(objective)}
    words = {diffusers_word: word for word, diffusers_word in WORDS.items()}
    return words[config["prediction_type"]], bool(config.get("rescale_betas_zero_snr"))


def overrides_from_metadata(family: Family, source: Source, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The same settings, of a LoRA that Limner wrote, as far as the base's own config differs from them."""
    prediction = metadata.get("modelspec.prediction_type", "")
    is_ours = metadata.get("software", "").startswith(SOFTWARE)
    if not is_ours or prediction not in WORDS or "prediction" not in family.supported_options:
        return {}
    zero_terminal_snr = metadata.get("ss_zero_terminal_snr") == "True"
    base_metadata = prediction_metadata(family, source, Objective())
    return overrides_of(
        Objective(
            prediction=None if prediction == base_metadata[0] else prediction,
            zero_terminal_snr=None if zero_terminal_snr == base_metadata[1] else zero_terminal_snr,
        )
    )


def sampler(source: Source, overrides: Mapping[str, Any]) -> Any:
    """The base's own sampler, with ``overrides`` over its config.

    Raises:
        BadBase: Its config means nothing, or needs a package that is missing.
        BadRecipe: That sampler knows no such setting, and would paint as if it had not been told.
    """
    name = source.index["scheduler"][1]
    if source.config("scheduler").get("use_beta_sigmas") and find_spec("scipy") is None:
        raise BadBase(
            f"{source.name} samples at times of a beta distribution (use_beta_sigmas in its scheduler's "
            "config), which diffusers computes with scipy, and that is not installed. Run: pip install scipy"
        )
    with swiftly():  # in a training, diffusers is imported here first
        import diffusers

        kind = getattr(diffusers, name)
    parameters = inspect.signature(kind).parameters
    if unknown := [f"{key} = {value}" for key, value in overrides.items() if value and key not in parameters]:
        raise BadRecipe(
            f"{source.name} samples by {name}, which knows no {unknown[0]}: it could not show what is "
            "trained. Remove train.zero_terminal_snr, or name a sampler that knows it in the base's "
            "model_index.json and scheduler/scheduler_config.json, such as DDIMScheduler."
        )
    try:
        return kind.from_config({**source.config("scheduler"), **overrides})
    except LOAD_ERRORS as error:
        raise BadBase(
            f"{source.name}: scheduler/scheduler_config.json means nothing to {name}: {first_line(error)}. "
            f"{source.again}"
        ) from error


def sample_images(
    family: Family,
    source: Source,
    models: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Tensor]],
    empty_prompt: Mapping[str, Tensor],
    params: SamplingParams,
    select: Select | None = None,
) -> list[Image.Image]:
    """One picture for each prompt, each from its own seed: ``params.seed`` and those after it.

    Args:
        family: The family of the base.
        source: The base.
        models: The denoiser, the ``vae``, and what makes the negative pass where that is another model and
            there is such a pass; others are passed over.
        prompts: For each picture the values named in ``family.text``, batch size 1.
        empty_prompt: The same values of the empty prompt, which guidance leads away from.
        params: Size, steps, guidance.
        select: Where the branches of guidance differ in the denoiser's adapters: gives it those of a branch.
    """
    branches = by_branch(family.guidance, models[family.denoiser], (), select) if select else nullcontext()
    with branches:
        return list(_images(family, source, models, prompts, empty_prompt, params))


def _images(  # noqa: PLR0913  as above
    family: Family,
    source: Source,
    models: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Tensor]],
    empty_prompt: Mapping[str, Tensor],
    params: SamplingParams,
) -> Iterator[Image.Image]:
    pipe = _pipeline(family, source, models, params)
    options = {**family.pipeline_kwargs(source, params), **family.control_kwargs(params)}
    options.pop("negative_prompt", None)
    count = batch_size(params, family)
    for start in range(0, len(prompts), count):
        texts = prompts[start : start + count]
        positives, negatives = _embeds(family, texts, [empty_prompt] * len(texts))
        negatives = {  # a pipeline of bases with guidance in their weights reads none
            f"negative_{name}": value
            for name, value in negatives.items()
            if f"negative_{name}" in inspect.signature(pipe.__call__).parameters
        }
        seeds = range(params.seed + start, params.seed + start + len(texts))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        yield from pipe(**{**options, **positives, **negatives}, generator=generators).images


def batch_size(params: SamplingParams, family: Family) -> int:
    """How many samples are generated together."""
    if params.controls or family.one_prompt:  # a list of control images is several of one prompt
        return 1
    return max(1, min(16, 512 * 512 // (params.width * params.height)))


def _pipeline(family: Family, source: Source, models: Mapping[str, Any], params: SamplingParams) -> Any:
    """The stock pipeline without tokenizers and text encoders."""
    components = {name: models[name] for name in ("vae", family.denoiser)}
    if part := family.guidance.model:
        passes = family.has_negative_pass(source, params.guidance)
        components[part] = models[part] if passes else _Unheard(models[family.denoiser].device)
    components |= {part: make() for part, make in family.processors.items()}
    pipe = put_together(family, source, components, params.sampler)
    pipe.set_progress_bar_config(disable=True)
    if family.encode_prompt:
        pipe.encode_prompt = partial(family.encode_prompt, pipe)
    return pipe


def put_together(
    family: Family, source: Source, components: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Any:
    """The stock pipeline of a base from its parts; those that are not among ``components`` are None.

    Args:
        family: The family of the base.
        source: The base.
        components: Part -> model or tokenizer.
        overrides: Settings of the sampler, over those of its config.
    """
    flags = {name: value for name, value in source.index.items() if isinstance(value, bool)}
    return pipeline_class_of(family)(
        scheduler=sampler(source, overrides),
        **{name: components.get(name) for name in (*family.parts, *family.unused_parts)},
        **flags,
    )


def pipeline_class_of(family: Family) -> Any:
    """The class of the stock pipeline. Any: its annotations forbid the None that it accepts."""
    import diffusers  # takes half a second to load

    return family.pipeline_class() if family.pipeline_class else getattr(diffusers, family.pipeline)


class _Unheard(nn.Module):
    """In the place of the model of a negative pass that counts nothing, as guidance is 1."""

    dtype = torch.float32

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        """Zeros of the shape of the latent."""
        return (torch.zeros_like(hidden_states),)


def _embeds(
    family: Family, prompts: Sequence[Mapping[str, Tensor]], negatives: Sequence[Mapping[str, Tensor]]
) -> list[dict[str, Any]]:
    """What the stock pipeline is given of the prompts, and of what guidance leads away from."""
    sides: list[dict[str, Tensor]] = [{}, {}]
    for name in family.text:
        rows = [[text[name] for text in texts] for texts in (prompts, negatives)]
        if family.equal_text_lengths:
            batch = pad_collate(rows[0] + rows[1])
            sides[0][name], sides[1][name] = batch[: len(prompts)], batch[len(prompts) :]
        else:
            sides[0][name], sides[1][name] = pad_collate(rows[0]), pad_collate(rows[1])
    return [dict(family.prompt_kwargs(side)) for side in sides]


@contextmanager
def by_branch(
    guidance: Guidance, denoiser: nn.Module, text_encoders: Iterable[nn.Module], select: Select
) -> Iterator[None]:
    """While entered, one call of the stock pipeline gives each pass the adapters of its branch.

    Text encoders are selected by their calls: stock pipelines encode the prompt first, then the negative one.
    A pass alone computes what it does within a batch of both, up to rounding. Afterwards all have the
    adapters of the positive branch.

    Args:
        guidance: The family's.
        denoiser: The pipeline's denoiser.
        text_encoders: Those of its text encoders that have adapters.
        select: Called before each pass.
    """
    models = (denoiser, *text_encoders)
    with ExitStack() as stack:
        for encoder in models[1:]:
            stack.enter_context(_replaced(encoder, "forward", _in_turn(encoder, select)))
        if guidance.model:  # the denoiser makes the positive pass alone
            select(denoiser, "positive")
        elif guidance.passes == "in-turn":
            stack.enter_context(_replaced(denoiser, "forward", _in_turn(denoiser, select)))
        elif guidance.passes == "separate":
            stack.enter_context(_replaced(denoiser, "cache_context", _in_context(denoiser, select)))
        else:
            first: Branch = "negative" if guidance.passes == "negative-first" else "positive"
            stack.enter_context(_replaced(denoiser, "forward", _in_halves(denoiser, select, first, guidance)))
        try:
            yield
        finally:
            for model in models:
                select(model, "positive")


@contextmanager
def _replaced(model: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """A method of one model, replaced while entered."""
    before = vars(model).get(name)
    setattr(model, name, function)
    try:
        yield
    finally:
        delattr(model, name)
        if before is not None:
            setattr(model, name, before)


def _in_turn(model: nn.Module, select: Select) -> Callable[..., Any]:
    forward, branches = model.forward, cycle(("positive", "negative"))

    def run(*args: Any, **kwargs: Any) -> Any:
        select(model, next(branches))
        return forward(*args, **kwargs)

    return run


def _in_context(denoiser: Any, select: Select) -> Callable[..., Any]:
    context = denoiser.cache_context

    @contextmanager
    def named(name: str, **kwargs: Any) -> Iterator[None]:
        select(denoiser, "negative" if name == "uncond" else "positive")
        with context(name, **kwargs):
            yield

    return named


def _in_halves(denoiser: nn.Module, select: Select, first: Branch, guidance: Guidance) -> Callable[..., Any]:
    forward, axes = denoiser.forward, guidance.batch_axes
    order: tuple[Branch, ...] = (first, "positive" if first == "negative" else "negative")

    def run(*args: Any, **kwargs: Any) -> Any:
        count = len(next(iter((*args, *kwargs.values()))))  # the noisy latents come first
        outputs = []
        for part, branch in enumerate(order):
            select(denoiser, branch)
            half_args = [_half(value, count, part) for value in args]
            half_kwargs = {
                name: _half(value, count, part, axes.get(name, 0)) for name, value in kwargs.items()
            }
            outputs.append(forward(*half_args, **half_kwargs)[0])
        is_tensor = isinstance(outputs[0], Tensor)
        return (torch.cat(outputs) if is_tensor else [*outputs[0], *outputs[1]],)

    return run


def _half(value: Any, count: int, part: int, axis: int = 0) -> Any:
    """The first or second half of what has a batch of ``count`` on an axis; anything else as it is."""
    half = slice(part * count // 2, (part + 1) * count // 2)
    match value:
        case Mapping():
            return {name: _half(inner, count, part) for name, inner in value.items()}
        case Tensor() if value.dim() > axis and value.shape[axis] == count:
            return value.narrow(axis, half.start, half.stop - half.start)
        case list() if len(value) == count:
            return value[half]
    return value
