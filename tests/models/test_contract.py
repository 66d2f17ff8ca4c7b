"""What every family keeps: the cut, the laws, equality with the stock pipeline and its training example."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cases import CASES, EDIT_CASES, Case, true_base
from limner.assembly.resolve import resolve
from limner.generation.settings import Settings
from limner.graph.unit import split
from limner.lora import diffusers_loader, file
from limner.lora.adapters import Dora, Lokr, to_lora
from limner.lora.factors import Factors, rename_for_model
from limner.lora.tools import DIFFUSERS, unsupported
from limner.models import sampling
from limner.models.family import Objective, SamplingParams, pad_collate
from limner.models.loading import skeleton
from limner.models.registry import families, family_keys, family_of
from limner.nn.layers import lora
from limner.nn.loop import Fit, fit
from limner.nn.optim import optimizer, schedule
from limner.run_folder import RunDir
from limner.runs import train
from limner.training.model import TrainableModel
from limner.training.samples import sample_prompts, shown_images
from loras import warned
from small import Told, equal, generated, losses, weights, wish
from straight import Straight
from tinybase import CAPTIONS, FRAME, IMAGE, PLACES, Base

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""diffusers' Euler sampler makes NumPy arrays of tensors in an old way."""


@pytest.fixture(scope="module", params=CASES + EDIT_CASES, ids=lambda case: case.name)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(request.param, tmp_path_factory.mktemp("bases") / request.param.name)


def test_every_family_has_a_case():
    assert {case.pipeline for case in CASES + EDIT_CASES} == {facts.pipeline for facts in families().values()}


def test_the_cut_is_as_documented(base: Base):
    cut = split(base.bound(Objective()), {base.family.denoiser: 0})
    assert cut.boundary == {"latent_mean", "latent_logvar", *base.case.text, *base.case.more}
    assert cut.loaded == (base.family.denoiser,)
    assert set(base.family.text) == set(base.case.text)


@pytest.mark.parametrize("captions", [CAPTIONS, ("",), ("many words, " * 120,)], ids=["two", "empty", "long"])
def test_captions_are_encoded_as_the_stock_pipeline_does(base: Base, captions: tuple[str, ...]):
    units = [unit for unit in base.bound(Objective()) if not unit.draws]
    rows = []
    with torch.no_grad():
        for caption in captions:
            values: dict[str, Any] = {"caption": (caption,), **base.inputs(0)}
            for unit in units:
                if set(unit.reads) <= set(values):
                    values |= unit.run(base.models, values)
            rows.append({name: values[name] for name in base.case.text})
        wanted = base.encode(base.pipe, list(captions))
    for name in base.case.text:
        mine = pad_collate([row[name] for row in rows]) if name in base.family.padded_values else None
        mine = torch.cat([row[name] for row in rows]) if mine is None else mine
        assert mine.shape == wanted[name].shape
        assert torch.allclose(mine.float(), wanted[name].float(), atol=1e-5), name


def test_an_image_is_encoded_and_decoded_back_by_the_pipelines_own_scale(base: Base):
    """The latent, put through the pipeline's decoding, is the VAE's own reconstruction."""
    values = base.row(0)
    assert values["latent_logvar"].isfinite().all() and values["latent_mean"].isfinite().all()
    posterior = base.models["vae"].encode(latent_input(base, IMAGE[:1])).latent_dist
    with torch.no_grad():
        wanted = base.case.latent(base.pipe, posterior.mean)
    assert torch.allclose(values["latent_mean"], wanted, atol=1e-5)


def latent_input(base: Base, image: Tensor) -> Tensor:
    pixels = image.float() / 255 * 2 - 1
    pixels = torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, int(base.case.opaque)), value=1.0)
    return pixels[:, :, None] if base.case.video else pixels


def test_loss_and_gradients_are_those_of_diffusers_own_example(base: Base):
    denoiser = base.moved()
    values = base.batch(0, 1)
    seen = base.live(denoiser, values, PLACES)
    assert seen["loss"].shape == (2,) and seen["pred"].shape == seen["latent"].shape
    gradients = torch.autograd.grad(seen["loss"].mean(), lora.trained(denoiser), allow_unused=True)
    fixed = {name: seen[name].detach() for name in ("latent", "noise", "time")} | values | {"frame": FRAME}
    wanted = base.case.loss(base.pipe, base.case.pred(base.pipe, denoiser, fixed), fixed)
    theirs = torch.autograd.grad(wanted, lora.trained(denoiser), allow_unused=True)
    assert torch.allclose(seen["loss"].mean(), wanted, rtol=1e-5)
    for one, other in zip(gradients, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)
    moving = sum(each is not None and bool(each.abs().max() > 0) for each in gradients)
    assert moving >= len(gradients) * base.case.alive


def test_a_batch_is_the_sum_of_its_samples(base: Base):
    """Captions of unequal lengths included: padding and masks change nothing but rounding."""
    denoiser = base.moved()
    together_ = base.live(denoiser, base.batch(0, 1), PLACES)["loss"]
    alone = [base.live(denoiser, base.row(number), [PLACES[number]])["loss"] for number in (0, 1)]
    assert torch.allclose(together_, torch.cat(alone), rtol=2e-5)
    one, other = (
        torch.autograd.grad(loss.sum(), lora.trained(denoiser), allow_unused=True)
        for loss in (together_, torch.cat(alone))
    )
    for a, b in zip(one, other, strict=True):
        assert a is None or torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_step_zero_is_the_base(base: Base):
    model = base.load(base.family.denoiser)
    names = lora.matching(model, base.family.endings(base.family.denoiser, base.case.targets))
    lora.attach(model, names, rank=2, alpha=2, dropout=0.0, seed=1)
    values = base.batch(0, 1)
    bare = base.live(base.models[base.family.denoiser], values, PLACES)
    assert torch.equal(base.live(model, values, PLACES)["pred"], bare["pred"])


def test_pictures_are_those_of_the_stock_pipeline(base: Base):
    canvas = SamplingParams(width=64, height=32, steps=2, seed=11)
    texts = []
    with torch.no_grad():
        for number, caption in ((0, CAPTIONS[0]), (1, CAPTIONS[1]), (0, ""), (1, "")):
            values: dict[str, Any] = {"caption": (caption,), **base.inputs(number)}
            for unit in (unit for unit in base.bound(Objective()) if not unit.draws):
                if set(unit.reads) <= set(values):
                    values |= unit.run(base.models, values)
            texts.append({name: values[name] for name in base.family.text})
        canvases = [replace(canvas, controls=tuple(base.shown(n)), seed=11 + n) for n in (0, 1)]
        groups = [([texts[n]], texts[2 + n], canvases[n]) for n in (0, 1)]
        groups = groups if base.case.controls else [(texts[:2], texts[2], canvas)]
        mine = [
            image
            for group, empty, params in groups
            for image in sampling.sample_images(base.family, base.source, base.models, group, empty, params)
        ]
    for number, (caption, picture) in enumerate(zip(CAPTIONS, mine, strict=True)):
        generator = torch.Generator().manual_seed(11 + number)
        options = base.family.pipeline_kwargs(base.source, canvas)
        options |= base.family.control_kwargs(canvases[number])
        theirs = base.pipe(prompt=caption, **options, generator=generator).images[0]
        assert picture.size == (64, 32)
        assert np.abs(np.asarray(picture, int) - np.asarray(theirs, int)).max() <= 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_true_model_has_as_many_weights_and_target_layers(case: Case):
    family = family_of(case.pipeline)
    model = skeleton(family, true_base(case), family.denoiser, dtype=torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == case.parameters
    for group, count in case.linears.items():
        assert len(lora.matching(model, family.endings(family.denoiser, group))) == count
    assert set(case.linears) <= set(family.targets)


def changes(model: torch.nn.Module, names: list[str], kind: str) -> dict[str, Any]:
    """A change of each layer, of one kind."""
    draw, made = torch.Generator().manual_seed(7), {}
    for name in names:
        weight = model.get_submodule(name).get_parameter("weight")
        down = 0.1 * torch.randn(2, *weight.shape[1:], generator=draw)
        up = torch.randn(weight.shape[0], 2, *[1] * (weight.dim() - 2), generator=draw)
        made[name] = Factors(down, up)
        if kind == "DoRA":
            norm = weight.detach().float().flatten(1).norm(dim=1)
            made[name] = Dora(made[name], norm * (0.5 + torch.rand(len(norm), generator=draw)), "out")
        if kind == "LoKr":
            first = 0.1 * torch.randn(2, 2, generator=draw)
            second = torch.randn(weight.shape[0] // 2, weight.shape[1] // 2, generator=draw)
            made[name] = Lokr((first,), (second,))
    return made


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "LoKr"])
def test_stock_diffusers_loads_every_kind_without_a_word_as_the_merged_model(
    base: Base, kind: str, tmp_path: Path
):
    family = base.family
    if kind not in family_keys(family.pipeline).tools["diffusers"].kinds:
        layer = {
            family.denoiser: changes(
                base.models[family.denoiser],
                lora.matching(base.models[family.denoiser], family.endings(family.denoiser, "attention"))[:1],
                kind,
            )
        }
        assert f"diffusers reads no {kind} for" in "".join(
            unsupported(layer, family.name, DIFFUSERS).values()
        )
        return
    merged, stock_ = ({name: base.load(name) for name in base.models} for _ in range(2))
    loadable = [name for name in base.pipe._lora_loadable_modules if name in merged]
    held = {}
    for part in loadable:
        if part == family.denoiser or part in family.text_targets:
            names = lora.matching(merged[part], family.endings(part, "attention"))
            held[part] = changes(merged[part], names, kind)
    for part, adapter in held.items():
        for name, change in adapter.items():
            weight = merged[part].get_submodule(name).weight
            new = (
                change.over(weight.data)
                if kind == "DoRA"
                else weight.data + to_lora(change).dense().reshape(weight.shape)
            )
            weight.data.copy_(new)
    file.write(tmp_path / "lora.safetensors", held, {})
    pipe = base.pipe_with({part: stock_[part] for part in loadable})
    with warned() as said:
        pipe.load_lora_weights(str(tmp_path / "lora.safetensors"))
    encoders = [part for part in loadable if part.startswith("text_encoder") and part not in held]
    without = [type(stock_[part]).__name__ for part in encoders]
    assert len(said) == len(
        without
    )  # diffusers says of a text encoder that it has no LoRA, and that this is safe
    assert all(f"No LoRA keys associated to {name}" in line for name, line in zip(without, said, strict=True))
    assert not any(p.is_meta for part in loadable for p in stock_[part].parameters())
    values = base.batch(0, 1)
    with torch.no_grad():
        found, wished, bare = (
            base.live(each[family.denoiser], values, PLACES)["pred"] for each in (stock_, merged, base.models)
        )
    assert torch.allclose(found, wished, atol=1e-4 * float(wished.abs().max()))
    assert not torch.allclose(found, bare, atol=1e-2 * float(bare.abs().max()))
    others = base.pipe_with({part: merged[part] for part in loadable})
    with torch.no_grad():
        texts, wanted = (base.encode(each, list(CAPTIONS)) for each in (pipe, others))
    for name, value in wanted.items():
        assert torch.allclose(texts[name].float(), value.float(), atol=1e-4 * float(value.abs().max())), name


def control_folders(photos: Path, count: int) -> list[str]:
    """So many folders with an image of another look for each photograph."""
    folders = [photos.parent / f"control-{number}" for number in range(count)]
    for number, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        for path in photos.glob("*.png"):
            with Image.open(path) as image:
                image.convert("RGB").rotate(90 + 90 * number).resize((96, 80)).save(folder / path.name)
    return [str(folder) for folder in folders]


class Run:
    """A short run on the base of a case, and the recipe it followed."""

    def __init__(self, base: Base, photos: Path, out: Path) -> None:
        encoders = sorted(base.family.text_targets)[:1]
        self.base, self.out = base, RunDir(out)
        self.recipe = wish(
            Path(base.source.root),
            photos,
            data={
                "flip": True,
                "caption_dropout": 0.3,
                "trigger": "zorb",
                "resolution": 32,
                "control": control_folders(photos, base.case.controls),
            },
            lora={"rank": 2, "text_encoders": encoders, "targets": base.case.targets},
            train={"steps": 6, "batch": 2, "learning_rate": 1e-2, "save_every": 3},
            sample={"every": 0, "prompts": ["zorb"], "steps": 2, "width": 32, "height": 32},
        )
        self.told = Told()
        train(self.recipe, out, self.told)

    def pipeline(self, folder: Path) -> Any:
        """The stock pipeline on a folder."""
        case, unused_parts = self.base.case, dict.fromkeys(self.base.family.unused_parts)
        pipe = self.base.pipe.__class__.from_pretrained(folder, **unused_parts, **case.given(folder))
        pipe.set_progress_bar_config(disable=True)
        return case.complete(pipe)

    def painted(self, pipe: Any, kind: str = "latent") -> Any:
        """What a stock pipeline makes of the trigger."""
        options = self.base.family.pipeline_kwargs(self.base.source, self.params)
        options |= self.base.family.control_kwargs(self.params)
        generator = torch.Generator().manual_seed(0)
        return pipe(prompt="zorb", **options, generator=generator, output_type=kind).images[0]

    @property
    def params(self) -> SamplingParams:
        """How the run samples its prompt, with the control images of the first image that it holds out."""
        resolved = resolve(self.recipe)
        (item,) = sample_prompts(resolved)
        shown = shown_images(resolved, item)
        return SamplingParams(width=32, height=32, steps=2, controls=shown)

    def generated(self) -> Any:
        """What ``limner generate --image`` makes of the trigger, (h, w, 3)."""
        (item,) = sample_prompts(resolve(self.recipe))
        files = tuple(control.path for control in item.controls)
        settings = Settings(steps=2, width=32, height=32, controls=files)
        (path,) = generated(self.out.path, self.out.path / "generated", "zorb", settings=settings)
        with Image.open(path) as image:
            return np.asarray(image, int)

    def merged(self) -> Any:
        """The stock pipeline on the base, what the exported file changes added to its weights."""
        pipe = self.pipeline(self.base.source.root)
        for component, adapter in file.read(self.out.lora_path).components.items():
            layers = dict(pipe.components[component].named_modules())
            for name, change in rename_for_model(adapter, layers).items():
                weight = layers[name].weight.data
                weight += to_lora(change).dense().reshape(weight.shape).float()
        return pipe


@pytest.fixture
def whole(base: Base, photos: Path, tmp_path: Path) -> Iterator[Run]:
    yield Run(base, photos, tmp_path / "run")


def test_a_run_is_cached_exactly_resumes_exactly_learns_and_exports(whole: Run):
    """One run, looked at from four sides, because each run costs a second."""
    recipe, out = whole.recipe, whole.out
    assert "failed" not in whole.told.text, whole.told.text
    finished, seen = weights(out.path, 6), losses(out.path)

    resolved = resolve(recipe)
    straight = TrainableModel(resolved, Straight(resolved))  # pyright: ignore[reportArgumentType]
    train_ = recipe.train
    pace = Fit(
        parameters=straight.parameters,
        optimizer=optimizer("adamw", straight.groups(), weight_decay=train_.weight_decay, betas=train_.betas),
        rate=schedule("constant", 0, 6),
        clip=train_.clip,
    )
    steps = list(fit(pace, straight.losses, start=0, steps=6))
    assert [step.loss for step in steps] == [loss for _, loss, _ in seen if loss is not None]
    mine = {f"{model}.{n}": value for model, state in straight.state().items() for n, value in state.items()}
    assert equal(mine, finished), "cached = uncached, to the bit"

    pipe = whole.pipeline(whole.base.source.root)
    bare = whole.painted(pipe)
    diffusers_loader.load(pipe, out.lora_path)
    theirs = whole.painted(pipe, "pil")
    (painted,) = straight.sample(1)
    assert np.abs(np.asarray(painted, int) - np.asarray(theirs, int)).max() <= 1, "exported = trained"
    if resolved.spec.controls:
        generated_image = whole.generated()
        assert np.abs(generated_image - np.asarray(theirs, int)).max() <= 1, "generated = trained"
    loaded, merged = whole.painted(pipe), whole.painted(whole.merged())
    assert not torch.allclose(bare, loaded, atol=1e-3)
    assert torch.allclose(merged, loaded, atol=1e-4 * float(loaded.abs().max())), "exported = merged"

    again = [step.loss for step in fit(pace, lambda _: straight.losses(0), start=6, steps=14)]
    assert again[-1] < again[0], "the loss falls, on the same images, noise and times"

    out.checkpoint_path(6).unlink()
    out.lora_path.unlink()
    train(recipe, out.path, Told())
    assert equal(weights(out.path, 6), finished), "resumed = whole, to the bit"
    assert losses(out.path) == seen


def test_the_objective_of_the_case_differs_from_none(base: Base):
    """A wish that changes nothing would be a wish that is not heard."""
    case = base.case
    if case.objective == Objective():
        return
    denoiser, values = base.moved(), base.batch(0, 1)
    wished = base.live(denoiser, values, PLACES)["loss"]
    base.case = replace(case, objective=Objective())
    try:
        plain = base.live(denoiser, values, PLACES)["loss"]
    finally:
        base.case = case
    assert not torch.allclose(wished, plain)
