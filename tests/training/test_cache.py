import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageStat
from safetensors.torch import load_file, save_file

from limner.assembly.resolve import cache_root, resolve
from limner.data.folder import read_folder
from limner.data.masks import OPACITY, TINT
from limner.errors import BadCache, DiskFull, RunBusy, Stopped
from limner.files import human
from limner.graph import cache as graph_cache
from limner.graph.cache import Cache, digest
from limner.graph.contents import contents, prune
from limner.recipe import toml
from limner.run_folder import RunDir
from limner.runs import cache, train
from limner.training import cache as module
from limner.training.cache import Store, all_rows, data_sheet, fill_cache
from limner.training.encode import survey
from limner.training.samples import prompts_of
from messages import raises
from small import Told, equal, wish
from waiting import LONGEST

OWN = {"validation_count": 0}


@pytest.fixture
def recipe(tiny_base, photos):
    return wish(tiny_base, photos, data=OWN)


def entries(recipe) -> list[Path]:
    return sorted(cache_root(recipe).rglob("*.safetensors"))


def values(paths: Iterable[Path]) -> dict[str, str]:
    """Name of each entry -> digest of its tensors; the header of two equal files may differ in its order."""
    return {path.name: digest(load_file(path)) for path in paths}


def test_the_verb_says_what_it_computed_and_what_it_reused(recipe, tmp_path):
    told = Told()
    first = cache(recipe, tmp_path / "run", told)
    assert (first.computed, first.reused, first.entries) == (20, 0, 20)
    assert first.bytes == sum(path.stat().st_size for path in entries(recipe)) > 0
    assert "20 to compute" in told.text
    again = cache(recipe, tmp_path / "run", told)
    assert (again.computed, again.reused, again.bytes) == (0, 20, 0)
    run = RunDir(tmp_path / "run")
    assert toml.load(run.recipe_path) == recipe
    index = json.loads(run.index_path.read_text())
    assert index["addresses"] == sorted(path.stem for path in entries(recipe))
    assert [image["name"] for image in run.data()["images"]] == [f"{n}.png" for n in range(6)]
    assert all(image["thumb"] and image["size"] for image in run.data()["images"])
    assert not any("mask" in image for image in run.data()["images"])


def test_masks_are_shown_over_their_images(recipe, photos, tmp_path):
    Image.new("L", (64, 64), 51).save(photos / "0-mask.png")
    folder = read_folder(photos, masks="sidecar")
    first, second = data_sheet(folder, [], [], [])["images"][:2]  # pyright: ignore
    assert (first["mask_share"], "mask" in second) == (0.2, False)
    pictures = [Image.open(io.BytesIO(base64.b64decode(first[name]))) for name in ("thumb", "mask")]
    assert pictures[0].size == pictures[1].size
    plain, over = (ImageStat.Stat(picture).mean for picture in pictures)
    veil = 0.8 * OPACITY
    expected = [plain[n] * (1 - veil) + TINT[n] * veil for n in range(3)]
    assert over == pytest.approx(expected, abs=4)


def test_an_image_left_out_is_in_the_data_sheet(recipe, photos, tmp_path):
    (photos / "torn.png").write_bytes(b"\x89PNG")
    cache(recipe, tmp_path / "run", Told())
    (rejected,) = RunDir(tmp_path / "run").data()["rejected"]
    assert rejected["name"] == "torn.png" and rejected["reason"]


def test_images_of_sub_folders_and_of_the_held_out_are_told_apart(recipe, photos, tmp_path):
    others = tmp_path / "others"
    for place in (photos / "sub", others):
        place.mkdir()
    (photos / "sub" / "0.png").write_bytes(b"")
    (others / "torn.png").write_bytes(b"\x89PNG")
    (photos / "5.png").rename(others / "5.png")
    told = Told()
    changed = recipe.data.model_copy(update={"validation_images": others})
    cache(recipe.model_copy(update={"data": changed}), tmp_path / "run", told)
    assert [each["name"] for each in RunDir(tmp_path / "run").data()["rejected"]] == ["sub/0.png", "torn.png"]
    assert any(line.startswith("Left out: sub/0.png: is empty") for line in told.lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_computed_and_says_so(recipe, tmp_path, number):
    class Sending(Told):
        @contextmanager
        def progress(self, label, total):
            with super().progress(label, total) as bar:
                forth = bar.advance

                def advance(n=1, note=""):
                    forth(n, note)
                    if self.counts[label][0] >= 5:
                        signal.raise_signal(number)

                bar.advance = advance
                yield bar

    with raises(Stopped):
        cache(recipe, tmp_path / "run", Sending())
    kept = len(entries(recipe))
    again = cache(recipe, tmp_path / "run", Told())
    assert 0 < kept == again.reused < again.entries


def test_two_runs_share_a_cache(recipe, tmp_path):
    cache(recipe, tmp_path / "one", Told())
    assert cache(recipe.model_copy(update={"name": "other"}), tmp_path / "two", Told()).computed == 0


def test_runs_are_on_record_and_give_their_entries_up(recipe, tmp_path):
    for name in ("one", "two"):
        cache(recipe, tmp_path / name, Told())
    listing = contents(cache_root(recipe))
    assert {run.name for run in listing.runs} == {str(tmp_path / name) for name in ("one", "two")}
    assert all(run.entries == listing.entries == 20 for run in listing.runs)
    assert listing.in_use == 0 and "" not in {unit.name for unit in listing.units}
    assert {"encode_image", "encode_clip", "encode_t5"} <= {unit.name for unit in listing.units}


def test_where_the_cache_is(recipe, tmp_path, monkeypatch):
    own = recipe.model_copy(update={"data": recipe.data.model_copy(update={"cache": tmp_path / "own"})})
    assert cache_root(own) == tmp_path / "own"
    monkeypatch.setenv("LIMNER_CACHE", "/somewhere")
    assert cache_root(recipe) == Path("/somewhere")
    monkeypatch.delenv("LIMNER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root(recipe) == Path("/xdg/limner/cache")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root(recipe) == Path.home() / ".cache" / "limner" / "cache"


def damaged(raw: bytes, how: str) -> bytes | None:
    return {
        "cut": raw[: len(raw) // 2],
        "flip": raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:],
        "empty": b"",
        "text": b"not this",
        "gone": None,
    }[how]


def test_damaged_entries_are_computed_again_and_said(recipe, tmp_path):
    cache(recipe, tmp_path / "run", Told())
    good = values(entries(recipe))
    for path, how in zip(entries(recipe)[::4], ("cut", "flip", "empty", "text", "gone"), strict=True):
        raw = damaged(path.read_bytes(), how)
        path.unlink() if raw is None else path.write_bytes(raw)
    told = Told()
    report = cache(recipe, tmp_path / "run", told)
    assert (report.computed, report.reused) == (5, 15)
    assert told.text.count("Cache: computed again: Cache entry") == 4
    assert values(entries(recipe)) == good


def test_a_large_cache_is_read_once_and_what_is_damaged_then_is_computed_again(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "MIN_ENTRIES", 10)
    cache(recipe, tmp_path / "run", Told())
    good, read = values(entries(recipe)), []
    damage = Cache.damage
    monkeypatch.setattr(Cache, "damage", lambda store, key: read.append(key) or damage(store, key))
    assert cache(recipe, tmp_path / "run", Told()).computed == 0
    assert not read
    for path, how in zip(entries(recipe)[::5], ("cut", "flip", "empty", "gone"), strict=True):
        raw = damaged(path.read_bytes(), how)
        path.unlink() if raw is None else path.write_bytes(raw)
    told = Told()
    report = cache(recipe, tmp_path / "run", told)
    assert (report.computed, report.reused, len(read)) == (4, 16, 3)
    assert told.text.count("Cache: computed again: Cache entry") == 3
    assert values(entries(recipe)) == good


def test_a_damaged_value_on_the_way_to_a_missing_one_is_healed_as_well(tiny_base, photos, tmp_path):
    partly = {"text_encoders": ["text_encoder"], "text_encoder_layers": 1}
    recipe = wish(tiny_base, photos, data=OWN, lora=partly)
    cache(recipe, tmp_path / "run", Told())
    resolved = resolve(recipe)
    store = Cache(cache_root(recipe))
    places = survey(resolved, store, all_rows(resolved)).table[0]
    store.path(places["clip_tokens"]).write_bytes(b"torn")
    store.discard(places["encode_clip@2"])
    assert cache(recipe, tmp_path / "run", Told()).computed == 2


def test_a_cache_of_another_version_is_refused_and_kept(recipe, tmp_path):
    cache(recipe, tmp_path / "run", Told())
    path = entries(recipe)[0]
    values = {"x": torch.zeros(1)}
    save_file(values, path, metadata={"address": path.stem, "digest": digest(values), "format": "0"})
    kept = path.read_bytes()
    with raises(BadCache):
        cache(recipe, tmp_path / "run", Told())
    assert path.read_bytes() == kept


def test_a_full_disk_is_told_before_anything_is_computed(recipe, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(DiskFull, match=r"The cache of this run needs .* and 10\.0 kB are free"):
        cache(recipe, tmp_path / "run", Told())
    assert entries(recipe) == []


def test_a_folder_in_use_is_refused(recipe, tmp_path):
    with RunDir(tmp_path / "run").lock(), pytest.raises(RunBusy, match=f"process {os.getpid()}"):
        cache(recipe, tmp_path / "run", Told())


def test_prompts_are_those_of_the_recipe_or_captions_of_the_folder(tiny_base, photos):
    def of(**sample):
        return prompts_of(resolve(wish(tiny_base, photos, data={**OWN, "trigger": "zorb"}, sample=sample)))

    assert of(every=0, prompts=["[trigger] on the moon"]) == ["zorb on the moon"]
    assert of(every=0) == [
        "zorb, a thing number 0",
        "zorb, another",
        "zorb, a thing number 1",
        "zorb, a thing number 2",
    ]
    assert of(every=-1, prompts=["[trigger] on the moon"]) == []


def test_rows_are_views_held_out_views_prompts_and_the_empty_caption(tiny_base, photos):
    resolved = resolve(wish(tiny_base, photos, data=OWN, sample={"every": 0, "prompts": ["a", "b"]}))
    rows = all_rows(resolved)
    assert len(rows) == len(resolved.views) + len(resolved.held_out) + 3
    assert [row.value("caption") for row in rows[-3:]] == [("a",), ("b",), ("",)]


def test_a_store_reads_each_entry_once_while_there_is_room(recipe, monkeypatch):
    resolved = resolve(recipe)
    store, _ = fill_cache(resolved, Told())
    reads, true = [], Cache.read
    monkeypatch.setattr(
        Cache, "read", lambda self, cache_key: reads.append(cache_key) or true(self, cache_key)
    )
    batch = store.batch([0, 0], torch.device("cpu"))
    assert batch["context"].shape == (2, 12, 16) and len(reads) == 3
    store.batch([0], torch.device("cpu"))
    assert len(reads) == 3
    narrow = Store(store.cache, store.table, [], room=100)
    one, other = (narrow.batch([0], torch.device("cpu")) for _ in range(2))
    assert len(reads) > 6 and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_has_begun_keeps_its_recipe(recipe, tmp_path):
    train(recipe, tmp_path / "run", Told())
    cache(recipe.model_copy(update={"seed": 9}), tmp_path / "run", Told())
    assert toml.load(tmp_path / "run" / "recipe.toml") == recipe


def test_the_recipe_of_the_run_is_not_recorded_before_the_cache_is_whole(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fill", lambda *_: (_ for _ in ()).throw(DiskFull("full")))
    with pytest.raises(DiskFull):
        cache(recipe, tmp_path / "run", Told())
    assert not RunDir(tmp_path / "run").recipe_path.exists()


TRAIN = """
import sys
from pathlib import Path
from limner.recipe.toml import load
from limner.reporter import Reporter
from limner.training import cache
from limner.runs import train

cache.Store.__init__.__kwdefaults__["room"] = 0  # every step reads its entries anew
train(load(Path(sys.argv[1])), Path(sys.argv[2]), Reporter())
"""


def test_a_training_loses_nothing_to_prunes_beside_it(recipe, tmp_path):
    """Another process deletes all that it may, again and again, while the run fills the cache and trains."""
    cache(recipe, tmp_path / "earlier", Told())  # some entries are there before, and are found
    train(recipe, tmp_path / "alone", Told())
    stray = Cache(cache_root(recipe))
    path = tmp_path / "recipe.toml"
    path.write_text(toml.dump(recipe))
    command = [sys.executable, "-c", TRAIN, str(path), str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    prunes = 0
    while process.poll() is None:
        report = prune(stray.root, max_size=0)
        if report.in_use:  # from here on, all that it reads must stay
            prunes += 1
            stray.write("0" * 64, {"x": torch.zeros(1)})
            report = prune(stray.root, max_size=0)
            assert report.deleted_entries == 1 or not report.in_use, (
                "it deletes what nobody holds, and no more"
            )
    _, error = process.communicate()
    assert process.returncode == 0, error[-3000:]
    assert prunes > 10
    alone, beside = (load_file(tmp_path / name / "lora.safetensors") for name in ("alone", "run"))
    assert equal(alone, beside)
    assert prune(stray.root, max_size=0).remaining_entries == 0, "the lease ends with the run"


@pytest.mark.slow
def test_two_processes_fill_one_cache(recipe, tmp_path):
    whole = cache(recipe, tmp_path / "one", Told())
    path = tmp_path / "recipe.toml"
    path.write_text(toml.dump(recipe))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0", "-m", "limner", "cache", str(path), "--out", str(tmp_path / "two"),
    ]  # fmt: skip
    environment = {**os.environ, "LIMNER_CACHE": str(tmp_path / "fresh"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = values((tmp_path / "fresh").rglob("*.safetensors"))
    assert made == values(entries(recipe))
    assert len(made) == whole.computed
    size = sum(path.stat().st_size for path in (tmp_path / "fresh").rglob("*.safetensors"))
    assert f"{len(made)} entries: 0 reused, {len(made)} computed ({human(size)})" in done.stdout
    assert f"Cache: 0 entries reused, {len(made)} to compute, " in done.stderr, "not one process's share"
