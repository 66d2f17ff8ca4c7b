"""The Dockerfile, read and not built: what it copies is there, versions are pinned, nobody is root."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word, rest) for word, rest in pairs]


def values(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def test_what_is_copied_is_there_and_is_sent_to_the_build():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [source for rest in values("COPY") for source in rest.split()[:-1]]
    assert sources and all((ROOT / source).exists() for source in sources)
    assert set(sources) == sent


def test_all_that_the_wheel_is_made_of_is_copied():
    sources = {source for rest in values("COPY") for source in rest.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"pyproject.toml", "src", project["readme"], *project["license-files"]} <= sources


def test_every_install_is_pinned_and_asks_for_extras_that_are_there():
    installs = [rest for rest in values("RUN") if "pip install" in rest]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        name for rest in installs for names in re.findall(r"\.\[(.*?)\]", rest) for name in names.split(",")
    ]
    assert len(installs) == 2 and all("-c constraints.txt" in rest for rest in installs)
    assert extras and set(extras) <= project["optional-dependencies"].keys()


def test_it_stands_on_the_cuda_runtime_and_runs_as_nobody_in_particular():
    assert re.fullmatch(r"nvidia/cuda:\$\{CUDA\}-runtime-ubuntu\d\d\.\d\d", values("FROM")[0])
    words = [word for word, _ in instructions()]
    assert values("USER") == ["limner"] and words.index("USER") < words.index("ENTRYPOINT")
    assert "RUN" not in words[words.index("USER") :] and values("ENTRYPOINT") == ['["limner"]']


def test_the_volumes_of_the_guide_are_those_of_the_image():
    guide = (ROOT / "docs/guide/launch.md").read_text(encoding="utf-8")
    mounts = re.findall(r'-v "?[^\s":]+:(/[\w/]+)', guide)
    volumes = re.findall(r'"(/[\w/]+)"', values("VOLUME")[0])
    assert set(volumes) <= set(mounts) and len(mounts) == 3
    homes = re.findall(r"(?:XDG_CACHE_HOME|HF_HOME|LIMNER_CACHE|T\w+_CACHE_DIR)=(\S+)", values("ENV")[0])
    assert len(homes) == 5 and all(path.startswith("/cache") for path in homes)


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_where_no_docker_runs_the_image_is_skipped_with_the_reason(tmp_path: Path):
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["make", "image"], cwd=ROOT, env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout == "image: skipped, as no docker daemon runs here\n"
