from dataclasses import replace

import pytest
import torch

from limner.assembly import assemble
from limner.assembly.resolve import resolve
from limner.errors import BadData, DiskFull
from limner.graph.cache import Cache, Held
from limner.graph.unit import Unit
from limner.nn import distributed
from limner.nn.memory import engine
from limner.training import rows as row_module
from limner.training.cache import all_rows
from limner.training.encode import Work, bytes_needed, fill, require_alike, survey
from limner.training.encoders import uncached
from limner.training.rows import rows_of
from messages import raises
from small import Told, equal, wish

PARTLY = {"text_encoders": ["text_encoder", "text_encoder_2"], "text_encoder_layers": 1}


@pytest.fixture
def resolved(tiny_base, photos):
    return resolve(
        wish(tiny_base, photos, data={"validation_count": 0, "flip": True, "caption_dropout": 0.2})
    )


def test_machines_that_read_other_images_are_refused(monkeypatch):
    work = Work({}, {}, frozenset(["a key"]), Held(frozenset(), ()), [])  # pyright: ignore
    require_alike(work)
    monkeypatch.setattr(distributed, "several_machines", lambda: True)
    monkeypatch.setattr(distributed, "gather", lambda mark: [mark, mark])
    require_alike(work)
    monkeypatch.setattr(distributed, "gather", lambda mark: [mark, mark, "another"])
    with raises(BadData):
        require_alike(work)


def test_every_address_is_known_before_anything_is_loaded(resolved, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "load", None)
    monkeypatch.setattr(row_module, "pixels", None)
    rows = rows_of(resolved, resolved.views)
    work = survey(resolved, Cache(tmp_path), rows)
    assert all(row.outputs <= set(places) for row, places in zip(rows, work.table, strict=True))
    counts = {name: len(todo) for name, todo in work.missing.items()}
    captions = 8  # seven of the images, and the empty one
    assert counts == {
        "tokenize": captions, "tokenize_2": captions, "encode_clip": captions, "encode_t5": captions,
        "encode_image": 12,
    }  # fmt: skip
    assert len(work.missing_keys) == 12 + 2 * captions and not work.present


@pytest.mark.parametrize("lora", [{}, PARTLY], ids=["denoiser", "partly-trained-encoders"])
def test_what_is_stored_is_what_is_computed_straight(tiny_base, photos, tmp_path, lora):
    resolved = resolve(
        wish(tiny_base, photos, data={"validation_count": 0, "flip": True}, lora=lora, sample={"every": 0})
    )
    cache, rows, told = Cache(tmp_path), all_rows(resolved), Told()
    work = survey(resolved, cache, rows)
    written = fill(resolved, cache, rows, work, told)
    assert written == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert told.counts["Caching"] == [len(work.missing_keys), len(work.missing_keys)]
    for row, places, straight in zip(rows, work.table, uncached(resolved, rows), strict=True):
        assert equal(straight, {name: cache.read(places[name])[name] for name in row.outputs})
    again = survey(resolved, cache, rows)
    assert (
        not again.missing_keys
        and len(again.present) == len(work.missing_keys)
        and not any(again.missing.values())
    )


def test_the_bytes_are_known_beforehand(resolved, tmp_path):
    cache, rows = Cache(tmp_path), all_rows(resolved)
    work = survey(resolved, cache, rows)
    wanted = bytes_needed(resolved, rows, work)
    written = fill(resolved, cache, rows, work, Told())
    assert written <= wanted <= written + 512 * len(work.missing_keys)
    assert bytes_needed(resolved, rows, survey(resolved, cache, rows)) == 0


def test_no_image_is_decoded_to_know_its_bytes(resolved, tmp_path, monkeypatch):
    cache, rows = Cache(tmp_path), rows_of(resolved, resolved.views)
    work = survey(resolved, cache, rows)
    monkeypatch.setattr(row_module, "pixels", None)
    assert bytes_needed(resolved, rows, work) > 0


def test_a_disk_that_fills_up_behind_the_encoder_is_told(resolved, tmp_path, monkeypatch):
    cache, rows = Cache(tmp_path), rows_of(resolved, resolved.views)

    def full(*_):
        raise DiskFull("The disk filled up.")

    monkeypatch.setattr(cache, "write", full)
    with raises(DiskFull):
        fill(resolved, cache, rows, survey(resolved, cache, rows), Told())


def test_an_image_is_decoded_once_and_no_text_needs_it(resolved, tmp_path, monkeypatch):
    decoded, true = [], row_module.pixels
    monkeypatch.setattr(row_module, "pixels", lambda view: decoded.append(view) or true(view))
    rows = rows_of(resolved, resolved.views)
    fill(resolved, Cache(tmp_path), rows, survey(resolved, Cache(tmp_path), rows), Told())
    assert len(decoded) == 12


def test_one_model_is_loaded_at_a_time(resolved, tmp_path, monkeypatch):
    import gc
    import weakref

    loaded, true = [], assemble.load

    def load(family, source, part, **more):
        gc.collect()
        assert not any(ref() is not None for ref in loaded), "another model is still there"
        model = true(family, source, part, **more)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(assemble, "load", load)
    rows = rows_of(resolved, resolved.views)
    fill(resolved, Cache(tmp_path), rows, survey(resolved, Cache(tmp_path), rows), Told())
    assert len(loaded) == 5


def test_a_text_encoder_is_measured_once_for_all_shapes_of_images(tiny_base, photos, tmp_path, monkeypatch):
    resolved = resolve(wish(tiny_base, photos, data={"validation_count": 0, "resolution": 64}))
    runs, true = [], Unit.run
    monkeypatch.setattr(Unit, "run", lambda unit, *given: runs.append(unit.name) or true(unit, *given))
    rows = rows_of(resolved, resolved.views)
    work = survey(resolved, Cache(tmp_path), rows)
    size = bytes_needed(resolved, rows, work)
    shapes = {row.shape for row in rows}
    assert len(shapes) > 1 and runs.count("encode_image") == len(shapes)
    assert runs.count("encode_clip") == runs.count("encode_t5") == 1
    written = fill(resolved, Cache(tmp_path), rows, work, Told())
    assert 0.5 * size < written < 1.5 * size


def test_shares_of_processes_cover_everything_whatever_the_others_have_done(resolved, tmp_path, monkeypatch):
    """The second process looks when the first has finished, or has not begun: all is computed once."""
    rows = all_rows(resolved)
    whole = survey(resolved, Cache(tmp_path / "none"), rows)
    cache, computed = Cache(tmp_path / "cache"), []
    for rank in range(2):
        share = survey(resolved, cache, rows, distributed.Share(rank, 2).owns)
        monkeypatch.setattr(distributed, "any_rank", bool)
        fill(resolved, cache, rows, share, Told())
        computed.append(len(share.missing_keys))
    assert sum(computed) == len(whole.missing_keys) and min(computed) > 0
    assert not survey(resolved, cache, rows).missing_keys
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == len(whole.missing_keys)


def test_intermediate_values_are_reused_when_they_are_there(tiny_base, photos, tmp_path):
    """Tokens stored for a trained encoder serve another run, where they are only a step on the way."""
    cache = Cache(tmp_path)
    partly = resolve(wish(tiny_base, photos, data={"validation_count": 0}, lora=PARTLY))
    rows = rows_of(partly, partly.views)
    fill(partly, cache, rows, survey(partly, cache, rows), Told())
    plain = resolve(wish(tiny_base, photos, data={"validation_count": 0}))
    rows = rows_of(plain, plain.views)
    work = survey(plain, cache, rows)
    assert {name: len(todo) for name, todo in work.missing.items() if todo} == {
        "encode_clip": 7,
        "encode_t5": 7,
    }
    fill(plain, cache, rows, work, Told())
    stored = [cache.read(work.table[0][name])[name] for name in sorted(plain.cut.boundary)]
    straight = uncached(plain, rows[:1])[0]
    assert all(
        torch.equal(a, straight[name]) for a, name in zip(stored, sorted(plain.cut.boundary), strict=True)
    )


def test_images_larger_than_a_tile_are_kept_apart(tiny_base, photos, tmp_path, monkeypatch):
    """The long buckets are longer than a tile of 64 pixels, the square one is not."""
    monkeypatch.setattr(engine, "TILE_SIDE", 64)
    resolved = resolve(wish(tiny_base, photos, data={"validation_count": 0, "resolution": 64}))
    cache, rows = Cache(tmp_path), all_rows(resolved)
    plain = survey(resolved, cache, rows)
    fill(resolved, cache, rows, plain, Told())
    tiled = replace(resolved, encode_tiled=True)
    work, told = survey(tiled, cache, rows), Told()
    long = {number for number, row in enumerate(rows) if max(row.shape, default=0) > 64}
    assert 0 < len(long) < len(rows)
    assert {number for _, number in work.missing["encode_image"]} <= long and len(work.missing_keys)
    for number, (one, other) in enumerate(zip(plain.table, work.table, strict=True)):
        assert {name for name in one if one[name] != other[name]} == (
            {"latent_mean", "latent_logvar"} if number in long else set()
        )
    fill(tiled, cache, rows, work, told)
    assert (
        f"{len(work.missing_keys)} of {len(work.missing_keys)} images are encoded in tiles of 64 pixels."
        in told.lines
    )
    for number, straight in enumerate(uncached(tiled, rows)):
        stored = {name: cache.read(work.table[number][name])[name] for name in rows[number].outputs}
        assert equal(straight, stored), "in tiles too, what is stored is what is computed straight"
    number = min(long)
    whole = cache.read(plain.table[number]["latent_mean"])["latent_mean"]
    pieces = cache.read(work.table[number]["latent_mean"])["latent_mean"]
    assert not torch.equal(whole, pieces)
