"""Models of a base: read one at a time from safetensors, tensor by tensor, or as weightless skeletons."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from limner.errors import BadBase, BrokenGraph, first_line
from limner.imports import hush, swiftly
from limner.models.facts import is_tokenizer
from limner.models.family import Family
from limner.models.source import Source
from limner.nn.layers import quantization
from limner.nn.layers.quantized_linear import QuantizedLinear, freeze, storable
from limner.nn.memory.host_buffer import OFTEN, Placement, give_back
from limner.nn.memory.plan import Plan, Products, QuantKind


def read(
    model: nn.Module,
    files: Sequence[Path],
    dtype: torch.dtype,
    device: torch.device,
    *,
    layer_kinds: Mapping[str, QuantKind],
    matmul_precision: Products = "full",
    placement: Callable[[nn.Module], Placement] | None = None,
) -> list[str]:
    """Fill a model of diffusers whose parameters have no data, on ``device``.

    At any time one tensor of the files is there in full, and in the files' own precision; host memory holds
    mapped pages of them and no copy, but for what stays on the host.

    Args:
        model: What to fill; its parameters are on meta.
        files: Its shards.
        dtype: Of what is neither stored in few bits nor kept in fp32. Whole numbers stay what they are.
        device: Where to.
        layer_kinds: Linear layer -> how its weight is stored in few bits.
        matmul_precision: How those layers multiply.
        placement: Of a model whose layers are stored as they will be, what of it stays on the host instead.

    Returns:
        Names that the files lack.

    Raises:
        ValueError: A tensor has another shape, or is to be stored in few bits and is not finite.
        BadRecipe: The device cannot multiply in 8 bits.
        DiskFull: There is no room for what stays in files.
    """
    model.requires_grad_(requires_grad=False)
    for kind in sorted(set(layer_kinds.values())):
        if matmul_precision == "8bit":
            quantization.require(kind, device)
        names = [name for name, layer_kind in layer_kinds.items() if layer_kind == kind]
        freeze(model, names, kind, products=matmul_precision, kernels=quantization.kernels_for(device))
    targets, host = _targets(model), torch.device("cpu")
    host_layers = placement(model) if placement else None
    if host_layers:
        host_layers.expect(layer for layer, _ in targets.values())
    byte_count = 0
    for name, tensor in tensors(model, files):
        if name not in targets:
            continue
        byte_count += tensor.nbytes
        if byte_count > OFTEN:
            byte_count = 0
            give_back()
        layer, shape = targets.pop(name)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, and the config makes it {shape}")
        kind = torch.float32 if kept_in_fp32(model, name) else dtype
        _put(layer, name, tensor.to(host if host_layers and layer in host_layers else device), kind)
        if host_layers:
            host_layers.took(layer)
    give_back()
    return sorted(targets)


def kept_in_fp32(model: nn.Module, name: str) -> bool:
    """Whether a weight stays in fp32 in a model of lower precision: the rule of diffusers' own loader."""
    modules = getattr(model, "_keep_in_fp32_modules", None) or ()
    return not set(name.split(".")).isdisjoint(modules)


def _targets(model: nn.Module) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Names in the files -> the module that holds a tensor, and its shape."""
    layers = dict(model.named_modules())
    entries = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner, _, leaf = name.rpartition(".")
        layer = layers[owner]
        if isinstance(layer, QuantizedLinear) and leaf != "bias":
            entries[f"{owner}.weight"] = layer, layer.shape
        else:
            entries[name] = layer, tuple(tensor.shape)
    return entries


def _put(layer: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    leaf = name.rpartition(".")[2]
    if isinstance(layer, QuantizedLinear) and leaf == "weight":
        try:
            layer.hold(quantization.quantize(tensor, layer.kind))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return
    data = tensor.to(dtype) if tensor.is_floating_point() else tensor
    if leaf in layer._parameters:
        setattr(layer, leaf, nn.Parameter(data.contiguous(), requires_grad=False))
    else:
        setattr(layer, leaf, data.contiguous())


DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Of weights that are computed with; safetensors' words."""


def dtypes(model: Any, files: Sequence[Path]) -> dict[str, torch.dtype]:
    """Names, as the model has them -> the precision of its files. What is stored in few bits is left out."""
    entries: dict[str, torch.dtype] = {}
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name, key in _file_names(model, shard).items():
                kind = shard.get_slice(key).get_dtype()
                if kind in DTYPES:
                    entries[name] = DTYPES[kind]
    return entries


def tensors(model: Any, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names, as the model has them, and tensors of its files, each mapped from the disk."""
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name, key in _file_names(model, shard).items():
                yield name, shard.get_tensor(key)


def _file_names(model: Any, shard: Any) -> dict[str, str]:
    """Name as the model has it -> name in the file."""
    file_names: dict[str, str] = {name: name for name in shard.keys()}  # noqa: SIM118  it is no mapping
    model._fix_state_dict_keys_on_load(file_names)  # attention of bases from before diffusers renamed it
    return file_names


def shapes(files: Sequence[Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names in files and the shapes of their tensors, from the headers alone."""
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118  it is no mapping
                yield name, tuple(shard.get_slice(name).get_shape())


LOAD_ERRORS = (
    *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, SafetensorError),
    *(ArithmeticError, AssertionError, ImportError, MemoryError, StrictDataclassError),
)
"""What the libraries raise over the files of a base that are torn, foreign or of another model."""


def precision_of(family: Family, part: str, dtype: torch.dtype) -> torch.dtype:
    """What a part runs in: the run's precision, unless the family keeps it in fp32."""
    return torch.float32 if part in family.full_precision else dtype


def fingerprint(
    family: Family, source: Source, part: str, dtype: torch.dtype, weights: QuantKind | None = None
) -> str:
    """Identity of a part for cache addresses: its files, its precision, and how its blocks are stored."""
    if part in family.own_parts:
        return family.own_parts[part].fingerprint()
    if is_tokenizer(part):
        return source.fingerprint(part, "")
    precision = str(precision_of(family, part, dtype)).removeprefix("torch.")
    return source.fingerprint(part, f"{precision} {weights}" if weights else precision)


def load(  # noqa: PLR0913  what is read, how, and where to
    family: Family,
    source: Source,
    part: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    plan: Plan | None = None,
    folder: Path | None = None,
) -> Any:
    """A tokenizer, or a frozen model in evaluation mode on ``device``.

    A denoiser goes there tensor by tensor, so that no second copy of it exists anywhere.

    Args:
        family: Of the base.
        source: The base.
        part: Which of its models.
        dtype: Of weights and arithmetic, unless the family keeps the part in fp32.
        device: Where to.
        plan: How the linear layers inside the denoiser's blocks are stored, which happens while they are
            read, and what of it stays on the host. Its buffers stay there then, too: ``nn.memory.engine``
            brings to the device what is to be there. None: all as one, all on the device.
        folder: Where weights go that the plan keeps in files; none: the system's place for such.

    Raises:
        BadBase: Files are missing or do not fit the class.
        BadRecipe: The device cannot multiply in 8 bits.
        DiskFull: There is no room for what stays in files.
    """
    hush()
    if own_part := family.own_parts.get(part):
        return own_part.load(source, device).requires_grad_(requires_grad=False).eval()
    library, cls = _imported(family, part)
    files = source.weights(part)
    on_host = plan if plan and (plan.swapped_blocks or plan.precompute_modulation) else None
    placement = partial(_placement, family, on_host, folder) if on_host else None
    try:
        if is_tokenizer(part):
            return cls.from_pretrained(source.folder(part), local_files_only=True)
        kind = precision_of(family, part, dtype)
        if library == "diffusers" and part in family.denoisers:
            model = hollow(cls, cls.load_config(source.folder(part), local_files_only=True), kind)
            missing = read(model, files, kind, device, **_storage(family, model, plan), placement=placement)
        else:
            if plan and plan.codes:
                raise BrokenGraph(f"{part} has no blocks that could be stored in {plan.codes}.")
            model, missing = _whole(library, cls, source, part, kind)
    except torch.OutOfMemoryError:  # the files are whole
        raise
    except LOAD_ERRORS as error:
        raise BadBase(
            f"{source.name}: {part}/ cannot be loaded: {first_line(error)}. {source.again}"
        ) from error
    _require_whole(source, part, missing)
    if placement is None:
        model = model.to(device)
    return model.requires_grad_(requires_grad=False).eval()


def _storage(family: Family, denoiser: nn.Module, plan: Plan | None) -> dict[str, Any]:
    """How a plan stores and multiplies the linear layers of a denoiser: arguments of ``weights.read``."""
    codes = plan.codes if plan else None
    kinds: dict[str, QuantKind] = {}
    if plan and codes:
        kinds = dict.fromkeys(storable(denoiser, family.arch, modulations=plan.code_modulations), codes)
    return {"layer_kinds": kinds, "matmul_precision": plan.matmul_precision if plan else "full"}


def _placement(family: Family, plan: Plan, folder: Path | None, denoiser: nn.Module) -> Placement:
    """What of a denoiser a plan keeps on the host, or in files."""
    blocks = plan.swapped_of(len(family.arch.blocks_of(denoiser)))
    mmap_folder = folder if plan.mmap_weights else None
    return Placement(
        denoiser, family.arch, streamed=blocks, hoist=plan.precompute_modulation, folder=mmap_folder
    )


def library_model(family: Family, source: Source, part: str, dtype: torch.dtype) -> nn.Module:
    """A model as its own library reads it, on the host.

    Raises:
        BadBase: Its files lack tensors.
    """
    model, missing = _whole(*_imported(family, part), source, part, dtype)
    _require_whole(source, part, missing)
    return model


def _require_whole(source: Source, part: str, missing: Sequence[str]) -> None:
    """The libraries would go on with random numbers."""
    if missing:
        raise BadBase(f"{source.name}: {part}/ lacks {len(missing)} tensors: {missing[0]} .. {source.again}")


def _whole(library: str, cls: Any, source: Source, part: str, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """A model on the host, to the bit as its library reads it, and the names that the files lack."""
    folder = source.folder(part)
    if library == "diffusers":
        model = hollow(cls, cls.load_config(folder, local_files_only=True), dtype).eval()
        return model, read(model, source.weights(part), dtype, torch.device("cpu"), layer_kinds={})
    return pretrained(cls, folder, dtype)


BUILDING = RLock()
"""Held while a model of transformers is made, which replaces functions of that library for all threads."""


def pretrained(
    cls: Any, folder: str | Path | None, dtype: torch.dtype | str = "auto", **further: Any
) -> tuple[Any, list[str]]:
    """``cls.from_pretrained`` of transformers, on this disk, under no other default dtype of torch.

    Args:
        cls: A model class.
        folder: In the layout of transformers, or a hub id whose files are here.
        dtype: Of the parameters; "auto": as they are stored. Tables have a precision of their own.
        further: Options of ``from_pretrained``; with ``config`` and ``state_dict`` there need be no folder.

    Returns:
        The model, and the names of parameters that the files lack, sorted.
    """
    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False, **further}
    with BUILDING:
        model, report = _loader(cls).from_pretrained(folder, **options, dtype=dtype, output_loading_info=True)
    model.__class__ = cls
    return model, sorted(report["missing_keys"])


def _loader(cls: Any) -> Any:
    """A class for one loading; torch's default dtype, every thread's, stays as it is."""
    dtypes: list[torch.dtype] = []

    def init(self: nn.Module, *arguments: Any, **options: Any) -> None:
        cls.__init__(self, *arguments, **options)
        for parameter in self.parameters():  # on meta: they take the weights in their dtype
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtypes[0])

    def get_init_context(kind: Any, dtype: torch.dtype, *arguments: Any) -> Any:
        dtypes[:] = [dtype]
        return super(loader, kind).get_init_context(torch.get_default_dtype(), *arguments)

    methods = {"__init__": init, "get_init_context": classmethod(get_init_context)}
    loader = type(cls.__name__, (cls,), {**methods, "__module__": cls.__module__})  # whose old names it knows
    return loader


class _WithoutData(TorchFunctionMode):
    """In its own thread alone, ``torch.empty`` gives tensors without data: what layers make weights of."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Put what says no device on meta; anything else is as ever, so tables have their numbers."""
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def hollow(cls: Any, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """A model whose parameters have no data yet; its buffers and tables are as diffusers makes them.

    Nothing of the process is changed for it: other threads may compute meanwhile. (accelerate's
    ``init_empty_weights`` and torch's default dtype are everybody's.)

    Args:
        cls: A model class of diffusers.
        config: Of the model.
        dtype: Of the parameters. Tables have a precision of their own.
    """
    with _WithoutData():
        model = cls.from_config(config)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                kind = dtype if parameter.is_floating_point() else parameter.dtype
                empty = torch.empty_like(parameter, device="meta", dtype=kind)
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    return model


def skeleton(family: Family, source: Source, part: str, *, dtype: torch.dtype) -> nn.Module:
    """A model with true shapes and no weights, on the meta device, from its config alone.

    Raises:
        BadBase: The config does not describe such a model.
    """
    if part in family.own_parts:
        return family.own_parts[part].skeleton(source).requires_grad_(requires_grad=False).eval()
    library, cls = _imported(family, part)
    try:
        with BUILDING, torch.device("meta"):
            if library == "diffusers":
                model = cls.from_config(source.config(part))
            else:
                model = cls(cls.config_class.from_dict(source.config(part)))
    except LOAD_ERRORS as error:
        raise BadBase(
            f"{source.name}: {part}/config.json means nothing: {first_line(error)}. {source.again}"
        ) from error
    nn.Module.to(model, precision_of(family, part, dtype))  # diffusers' own `to` warns even of empty lists
    for name, parameter in model.named_parameters():
        # transformers keeps such weights in fp32 of models in fp16 alone: T5's ``wo``
        if (library == "diffusers" or dtype == torch.float16) and kept_in_fp32(model, name):
            parameter.data = parameter.data.float()
    return model.requires_grad_(requires_grad=False).eval()


def _imported(family: Family, part: str) -> tuple[str, Any]:
    """The library of a part, and its class."""
    library, kind = family.library(part)
    with swiftly():
        return library, getattr(importlib.import_module(library), kind)
