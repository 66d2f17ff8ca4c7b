"""Token vectors of a new word: cached = uncached, resumed = whole, stock diffusers makes the same images."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import small
import tiny
from limner.assembly.resolve import cache_root, resolve
from limner.data.order import SampledView
from limner.graph.cache import Cache
from limner.lora import embeddings
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from limner.training.cache import Store, all_rows, fill_cache, joined
from limner.training.encode import survey
from limner.training.encoders import uncached
from limner.training.model import TrainableModel

SAVE = {"sd15": tiny.save_sd15, "sdxl": tiny.save_sdxl, "flux": tiny.save_flux}


def wish(base: Path, photos: Path, *, pivotal: bool = False, **sections: Any) -> Recipe:
    """Four steps; beside a LoRA with captions that lack the word, so that micro-batches are mixed."""
    plain: dict[str, Any] = {
        "data": {"images": str(photos), "trigger": "<mimo>", "caption_dropout": 0.4 if pivotal else 0.0},
        "lora": {"rank": 2} if pivotal else {},
        "train": {
            "method": "inversion",
            "steps": 4,
            "batch": 3,
            "save_every": 1,
            "keep": 9,
            "learning_rate": 1e-2,
        },
        "inversion": {"tokens": 4, "init": "dog", "rate": 1e-2, "with_lora": pivotal},
        "sample": {"every": -1, "steps": 2, "prompts": ["[trigger] on red", "a dog"]},
    }
    for name, values in sections.items():
        plain[name] = {**plain.get(name, {}), **values}
    return Recipe(base=str(base), **plain)


@pytest.fixture(scope="module", params=SAVE)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, SAVE[request.param](tmp_path_factory.mktemp("bases") / request.param)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_stock_diffusers_makes_the_samples_of_an_exported_word(
    base: tuple[str, Path], photos: Path, tmp_path: Path
):
    name, folder = base
    recipe = wish(folder, photos, train={"steps": 1}, sample={"every": 0, "width": 32, "height": 32})
    done = train(recipe, tmp_path / "run", Reporter())
    run = RunDir(tmp_path / "run")
    assert done.lora is None and done.embedding == run.embedding_path
    pipe: Any = getattr(diffusers, resolve(recipe).family.pipeline).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    _load_as_the_guide_says(pipe, name, run.embedding_path)
    ours = small.generated(run.path, tmp_path / "pictures", "<mimo> on red", settings=_settings())
    images = pipe(
        "<mimo> on red", generator=torch.Generator().manual_seed(0), **_stock_options(recipe)
    ).images
    for path in (run.sample_path(1, 0), *ours):
        assert np.abs(np.asarray(Image.open(path), int) - np.asarray(images[0], int)).max() <= 1
    assert not np.array_equal(np.asarray(images[0]), np.asarray(Image.open(run.sample_path(0, 0))))
    word = run.embeddings_path / "mimo.safetensors"  # A1111 takes the word from the name
    assert embeddings.read(word).word == "<mimo>"
    assert set(load_file(word)) == {"emb_params"} if name == "sd15" else len(load_file(word)) == 2


def _settings() -> Any:
    from limner.generation.settings import Settings

    return Settings(steps=2, width=32, height=32)


def _stock_options(recipe: Recipe) -> dict[str, Any]:
    from limner.models.family import SamplingParams

    resolved = resolve(recipe)
    params = SamplingParams(width=32, height=32, steps=2)
    return resolved.family.pipeline_kwargs(resolved.source, params)


def _load_as_the_guide_says(pipe: Any, name: str, path: Path) -> None:
    if name == "sd15":
        pipe.load_textual_inversion(str(path))
        return
    state = load_file(path)
    parts = {"clip_l": "", "clip_g": "_2", "t5": "_2"}
    for key, tensor in state.items():
        encoder, tokenizer = (getattr(pipe, f"{part}{parts[key]}") for part in ("text_encoder", "tokenizer"))
        pipe.load_textual_inversion(tensor, token="<mimo>", text_encoder=encoder, tokenizer=tokenizer)


@pytest.mark.parametrize("pivotal", [False, True], ids=["alone", "beside-a-lora"])
def test_resumed_training_is_the_same_training(
    tiny_base: Path, photos: Path, tmp_path: Path, *, pivotal: bool
):
    lora = {"rank": 2, "text_encoders": ("text_encoder",)} if pivotal else {}
    recipe = wish(
        tiny_base, photos, pivotal=pivotal, lora=lora, inversion={"until": 0.75 if pivotal else 1.0}
    )
    train(recipe, tmp_path / "whole", Reporter())
    half = wish(tiny_base, photos, pivotal=pivotal, lora=lora, train={"steps": 2})
    train(half, tmp_path / "parts", Reporter())
    train(recipe, tmp_path / "parts", Reporter())
    whole, parts = (small.weights(tmp_path / name, 4) for name in ("whole", "parts"))
    assert small.equal(whole, parts)
    vectors = [name for name in whole if name.endswith("token_vectors")]
    assert vectors == ["text_encoder.token_vectors", "text_encoder_2.token_vectors"]
    assert (len(whole) > 2) == pivotal
    third = small.weights(tmp_path / "whole", 3)
    changed = {name for name in whole if not torch.equal(third[name], whole[name])}
    assert (set(vectors) <= changed) != pivotal and changed
    first = small.weights(tmp_path / "whole", 1)
    assert not any(torch.equal(first[name], third[name]) for name in vectors)


def test_captions_without_the_word_stay_cached_and_all_are_what_they_would_be(
    tiny_base: Path, photos: Path, tmp_path: Path
):
    recipe = wish(tiny_base, photos, pivotal=True, data={"cache": tmp_path / "cache"})
    resolved = resolve(recipe)
    store, _ = fill_cache(resolved, Reporter())
    rows = all_rows(resolved)
    names = {bool(resolved.spec.word_in(row.caption)): row.outputs for row in rows}
    assert names[True] >= {"clip_tokens", "t5_tokens"} and names[False] >= {"pooled", "context"}
    assert not names[True] & {"pooled", "context"} and not names[False] & {"clip_tokens", "t5_tokens"}
    for number, values in enumerate(uncached(resolved, rows)):
        assert small.equal(values, store.row(number))
    plain = resolve(wish(tiny_base, photos, pivotal=True, data={"cache": tmp_path / "cache"}))
    work = survey(plain, Cache(cache_root(recipe)), all_rows(plain))
    assert not work.missing_keys
    _mixed_micro_batches_are_their_rows(TrainableModel(resolved, store), store)


def _mixed_micro_batches_are_their_rows(model: TrainableModel, store: Store) -> None:
    kinds = [frozenset(row.outputs) for row in store.rows]
    first = {kind: kinds.index(kind) for kind in set(kinds[: len(model.resolved.views)])}
    views = model.resolved.views
    numbers = [n for n in range(len(views)) if views[n].size == views[next(iter(first.values()))].size]
    assert len({kinds[n] for n in numbers}) == 2
    samples = [SampledView(position, number) for position, number in enumerate(numbers)]
    values = joined(store, samples, model.device, model._read)
    for position, number in enumerate(numbers):
        alone = model._read(store.batch([number], model.device))
        for name in ("pooled", "context", "latent_mean"):
            assert torch.allclose(values[name][position], alone[name][0], atol=1e-6), (name, number)
