import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from launching.machines import MACHINE, Row, catalogue, profile_at_hand, recipes, toy, without_skypilot
from limner.errors import BadUsage, LaunchFailed
from limner.launching import launch as room
from limner.launching.launch import LaunchRequest, launch, new_bucket, start, start_command
from limner.launching.task import TaskRequest, secrets_of
from limner.recipe.toml import load
from limner.reporter import Reporter
from messages import raises


@pytest.fixture
def request_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LaunchRequest:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    without_skypilot(monkeypatch)
    profile_at_hand(monkeypatch)
    return LaunchRequest(
        recipe=toy(tmp_path), home=tmp_path / "run", out=tmp_path / "task.yaml", gpu="H100", dry_run=True
    )


def program(folder: Path, name: str, status: int = 0) -> Path:
    """A program that writes down how it was called."""
    (folder / "bin").mkdir(exist_ok=True)
    path, log = folder / "bin" / name, folder / f"{name}.log"
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\necho "token ${{HF_TOKEN:-none}}" >> {log}\nexit {status}\n'
    )
    path.chmod(0o755)
    return log


def test_a_dry_run_needs_no_skypilot(request_here: LaunchRequest, tmp_path: Path):
    done = launch(request_here, Reporter())
    value = yaml.safe_load(request_here.out.read_text())
    assert value["resources"]["accelerators"] == "H100:1" and "infra" not in value["resources"]
    assert value["file_mounts"]["~/limner/recipe.toml"] == str(tmp_path / "task.recipe.toml")
    assert load(tmp_path / "task.recipe.toml").data.images == tmp_path / "files" / "data-images"
    assert not done.is_running and done.cost is None and done.command[:2] == ("sky", "launch")
    cloud = launch(replace(request_here, cloud="Lambda"), Reporter())
    assert cloud.machine.cloud == "lambda"
    spot = launch(replace(request_here, spot=True), Reporter())
    assert spot.command[:3] == ("sky", "jobs", "launch")
    run = yaml.safe_load(request_here.out.read_text())["file_mounts"]["~/limner/run"]
    assert run == {"name": new_bucket("limner-my-cat", request_here.home), "mode": "MOUNT_CACHED"}


def test_the_catalogue_gives_the_price(request_here: LaunchRequest, tmp_path: Path, monkeypatch):
    catalogue(monkeypatch, [Row("AWS", "T4", 1, 0.6), Row("Lambda", "H100", 1, 2.0)])
    done = launch(replace(request_here, gpu=""), Reporter())
    assert done.machine.price in (0.6, 2.0) and done.cost == done.machine.cost
    program(tmp_path, "sky")
    named = launch(request_here, Reporter())
    assert (named.machine.cloud, named.machine.price) == ("lambda", 2.0)
    lines: list[str] = []
    catalogue(monkeypatch, OSError("no network"))
    launch(request_here, Reporter(lambda event: lines.append(getattr(event, "text", ""))))
    assert lines[0].startswith("No price: SkyPilot's catalogue cannot be had: no network.")


def test_a_new_bucket_is_of_this_run_alone(request_here: LaunchRequest, monkeypatch):
    spot = replace(request_here, spot=True, cloud="aws")
    names = []
    for home, computer in ((spot.home, 1), (spot.home, 1), (spot.home / "other", 1), (spot.home, 2)):
        monkeypatch.setattr("uuid.getnode", lambda computer=computer: computer)
        launch(replace(spot, home=home), Reporter())
        names.append(yaml.safe_load(spot.out.read_text())["file_mounts"]["~/limner/run"]["name"])
    assert names[0] == names[1] and len(set(names)) == 3
    assert names[0].startswith("limner-my-cat-") and len(new_bucket("a" * 80, spot.home)) == 63


@pytest.mark.parametrize(
    "changes",
    [{"gpu": ""}, {"dry_run": False}, {"cloud": "moon"}, {"gpu": "H100:9x"}, {"cloud": "vast", "spot": True}],
)
def test_what_cannot_be_launched_is_told(request_here: LaunchRequest, changes):
    with raises(BadUsage):
        launch(replace(request_here, **changes), Reporter())


def test_skypilot_is_given_the_task_and_secrets_by_name(
    request_here: LaunchRequest, tmp_path: Path, monkeypatch
):
    sky, rsync = program(tmp_path, "sky"), program(tmp_path, "rsync")
    catalogue(monkeypatch, [Row("Lambda", "H100", 1, 2.0)])
    done = launch(replace(request_here, dry_run=False), Reporter())
    assert done.is_running and sky.read_text().splitlines() == [
        f"launch --cluster limner-my-cat {request_here.out}",
        "token none",
    ]
    assert f"limner-my-cat:limner/run/ {tmp_path / 'run'}/" in rsync.read_text()
    assert json.dumps([str(line) for line in done.lines])


def test_a_token_is_handed_over_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.defpath}")
    log = program(tmp_path, "sky")
    machine = replace(MACHINE, gated=True)
    request = TaskRequest(recipe=recipes(tmp_path)["plain"], machine=machine, bucket="s3://cats")
    command = start_command(request, tmp_path / "t.yaml", secrets_of(request.recipe, machine))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with raises(BadUsage):
        start(command, request, tmp_path / "run", Reporter())
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_stored")
    start(command, request, tmp_path / "run", Reporter())
    assert log.read_text().splitlines() == [
        f"jobs launch --name limner-my-cat --secret HF_TOKEN {tmp_path / 't.yaml'}",
        "token hf_stored",
    ]
    wandb = replace(request, recipe=recipes(tmp_path)["spot"])
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with raises(BadUsage):
        start(command, wandb, tmp_path / "run", Reporter())


def test_an_error_of_skypilot_is_told(request_here: LaunchRequest, tmp_path: Path, monkeypatch):
    program(tmp_path, "sky", status=7)
    catalogue(monkeypatch, [Row("Lambda", "H100", 1, 2.0)])
    monkeypatch.setattr(room, "SYNC_EVERY", 0.01)
    with raises(LaunchFailed):
        launch(replace(request_here, dry_run=False), Reporter())


@pytest.mark.parametrize(
    ("bucket", "words"),
    [
        ("", "rsync -az"),
        ("s3://a", "aws s3 sync s3://a"),
        ("gs://a", "gcloud storage rsync"),
        ("a", "sky storage ls"),
    ],
)
def test_how_the_run_comes_back_is_said(tmp_path: Path, bucket: str, words: str):
    request = TaskRequest(recipe=recipes(tmp_path)["plain"], machine=MACHINE, bucket=bucket)
    assert words in room.fetching(request, tmp_path / "run")[0]
