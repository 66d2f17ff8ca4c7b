"""Law 6: what is asked for and cannot be done is an error with the remedy; nothing falls back in silence.

Each case runs the command as a person types it (in this process, for speed), and must end in one line on
stderr, with status 1 or 2, without a traceback.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limner.assembly.resolve import cache_root
from limner.cli import main
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir
from limner.runs import cache, train
from small import Told, wish


class Scene:
    """A tiny base, six pictures, a recipe on both, and the line typed at the end."""

    def __init__(self, base: Path, photos: Path, work: Path) -> None:
        self.base, self.photos, self.work = base, photos, work
        self.out = work / "run"
        self.recipe = wish(base, photos)

    def write(self, recipe: Recipe | None = None, **replaced: str) -> Path:
        """The recipe as a file; ``replaced`` lines are put in verbatim, by key."""
        path = self.work / "recipe.toml"
        text = toml.dump(recipe or self.recipe)
        for key, line in replaced.items():
            text, count = re.subn(rf"(?m)^{key} = .*$", line, text)
            assert count, key
        path.write_text(text)
        return path

    def type(self, verb: str, target: Path, *more: str) -> list[str]:
        return [verb, str(target), "--out", str(self.out), *more]


@pytest.fixture
def scene(tiny_base, photos, tmp_path) -> Scene:
    return Scene(tiny_base, photos, tmp_path)


def ends(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Status and last words of a command."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return int(left.value.code or 0), said.err.strip().splitlines()[-1] if said.err.strip() else ""


def no_images(scene: Scene) -> list[str]:
    empty = scene.work / "empty"
    empty.mkdir()
    return scene.type("train", empty, "--base", str(scene.base))


def only_torn_images(scene: Scene) -> list[str]:
    for path in scene.photos.glob("*.png"):
        path.write_bytes(path.read_bytes()[:50])
    return scene.type("train", scene.write())


def no_folder(scene: Scene) -> list[str]:
    return scene.type("train", scene.work / "nowhere")


def images_moved_away(scene: Scene) -> list[str]:
    path = scene.write()
    scene.photos.rename(scene.work / "elsewhere")
    return scene.type("train", path)


def unknown_base(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(), "--base", "flux-pro-ultra")


def base_without_vae(scene: Scene) -> list[str]:
    base = Path(shutil.copytree(scene.base, scene.work / "base"))
    shutil.rmtree(base / "vae")
    return scene.type("train", scene.write(), "--base", str(base))


def base_without_a_tensor(scene: Scene) -> list[str]:
    base = Path(shutil.copytree(scene.base, scene.work / "base"))
    path = base / "text_encoder_2" / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    return scene.type("train", scene.write(), "--base", str(base))


def unknown_key(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(steps="stpes = 4"))


def rank_zero(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(), "--set", "lora.rank=0")


def unknown_targets(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(), "--set", 'lora.targets=["attn.to_qq"]')


def no_prompt_file(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(), "--set", "sample.prompt_file=no-such.txt")


def full_training(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(), "--set", "train.method=full", "--set", "lora.rank=4")


def no_gpu(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(), "--set", "limits.device=mps")


def everything_held_out(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(), "--set", "data.validation_count=6")


def odd_sample_size(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(), "--set", "sample.width=100")


def tracker_missing(scene: Scene) -> list[str]:
    return scene.type("train", scene.write(), "--set", 'track.with=["wandb"]')


def another_versions_cache(scene: Scene) -> list[str]:
    cache(scene.recipe, scene.out, Told())
    path = next(cache_root(scene.recipe).rglob("*.safetensors"))
    save_file({"x": torch.zeros(1)}, path, metadata={"format": "0"})
    return scene.type("train", scene.write())


def another_rank(scene: Scene) -> list[str]:
    train(scene.recipe, scene.out, Told())
    return scene.type("train", scene.write(), "--set", "lora.rank=5")


def fewer_steps(scene: Scene) -> list[str]:
    train(scene.recipe, scene.out, Told())
    return scene.type("train", scene.write(), "--steps", "3")


def out_is_a_file(scene: Scene) -> list[str]:
    scene.out.write_text("in the way")
    return scene.type("train", scene.write())


def no_lora_yet(scene: Scene) -> list[str]:
    cache(scene.recipe, scene.out, Told())
    return ["generate", str(scene.out), "--prompt", "zorb"]


CASES: dict[Callable[[Scene], list[str]], tuple[int, str]] = {
    no_images: (1, r"no (usable )?image"),
    only_torn_images: (1, r"no usable image.*6|0\.png"),
    no_folder: (2, r"There is no .*nowhere"),
    images_moved_away: (1, r"photos"),
    unknown_base: (2, r"'flux-pro-ultra' is no folder here and no known name.*flux-dev"),
    base_without_vae: (1, r"vae/.* is missing.*[Cc]opy"),
    base_without_a_tensor: (1, r"text_encoder_2/ lacks 1 tensors: encoder\.block\.1.*[Cc]opy"),
    unknown_key: (2, r"stpes.*steps"),
    rank_zero: (2, r"lora\.rank"),
    unknown_targets: (2, r"no linear layer or convolution ends in 'attn\.to_qq'.*attn\.to_q"),
    no_prompt_file: (2, r"prompt_file.*no such file.*sample\.prompts"),
    full_training: (2, r"train\.method is \"full\".*lora\.rank is 4"),
    no_gpu: (2, r'limits\.device is "mps".*"cpu"'),
    everything_held_out: (1, r"validation_count is 6.*at most 5"),
    odd_sample_size: (2, r"sample\.width is 100.*96"),
    tracker_missing: (2, r"wandb.*pip install wandb"),
    another_versions_cache: (1, r"format '0'.*data\.cache"),
    another_rank: (1, r"another lora.*--out"),
    fewer_steps: (1, r"has 4 steps already.*--out"),
    out_is_a_file: (2, r"cannot be used as a run folder.*--out"),
    no_lora_yet: (2, r"no lora\.safetensors yet.*limner train"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.replace("_", "-"))
def test_what_cannot_be_done_is_told_in_one_line(scene, capsys, case, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    status, told = CASES[case]
    found, line = ends(case(scene), capsys)
    assert found == status, line
    assert re.search(told, line), line


def test_a_full_disk_is_told(scene, capsys, monkeypatch):
    usage = shutil.disk_usage(scene.work)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5000))
    status, line = ends(scene.type("train", scene.write()), capsys)
    assert status == 1 and re.search(r"needs .* and 5\.0 kB are free.*[Ff]ree", line)


def test_a_folder_in_use_is_told(scene, capsys):
    with RunDir(scene.out).lock():
        status, line = ends(scene.type("train", scene.write()), capsys)
    assert status == 1 and f"process {os.getpid()}" in line and "--out" in line


def test_a_pickled_checkpoint_is_never_opened_and_said(scene, capsys):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (scene.work / "exploded",))

    path = RunDir(scene.out).checkpoint_path(2)
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(Bomb()))
    status, line = ends(scene.type("train", scene.write()), capsys)
    assert status == 1 and re.search(r"is a pickled file.*Delete it", line)
    assert path.exists() and not (scene.work / "exploded").exists()


def test_errors_are_one_object_for_tools(scene, capsys):
    with pytest.raises(SystemExit) as left:
        main([*unknown_base(scene), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert left.value.code == 2 and "flux-pro-ultra" in json.dumps(said)
