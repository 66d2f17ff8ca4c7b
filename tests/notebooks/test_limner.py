"""The notebook is its script, holds no output, and runs to its end on the embedded base."""

import json
import os
import re
import zipfile
from pathlib import Path

import nbclient
import nbformat
import pytest
from PIL import Image

import limner
import notebook
from limner.lora import file
from scribe import KEY, answers, captions, serving
from waiting import LONGEST

ROOT = Path(__file__).resolve().parents[2]
VALUES = {
    "BASE": "glyph",
    "STEPS": 2,
    "SAMPLE_EVERY": 0,
    "PROMPTS": ["zorbix, on a white background"],
    "SEEDS": [0],
    "STRENGTHS": [0.0, 1.0],
    "FULL_STEPS": 1,
    "FULL_BASE": "glyph",
    "CLASS": "cat",
    "CLASS_IMAGES": 1,
    "RANK": 4,
}
"""What the test writes into the one cell of parameters."""
CAPTION = "zorbix, on a teal ground, seen from the front"


def with_values(cell, values):
    """The cell of parameters with other values; each stands there once."""
    for name, value in values.items():
        cell.source, count = re.subn(
            rf"(?m)^{name} = [^#\n]*", lambda _, n=name, v=value: f"{n} = {v!r}  ", cell.source
        )
        assert count == 1, name


def test_the_notebook_is_its_script():
    assert notebook.NOTEBOOK.read_text(encoding="utf-8") == notebook.text(), "run `make format`"


def test_it_holds_no_output_and_no_key():
    book = nbformat.read(notebook.NOTEBOOK, as_version=4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(cells) > 8 and all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in cells) == 1
    assert book.metadata.accelerator == "GPU" and book.metadata.colab.gpuType == "T4"


def test_a_key_is_asked_for_and_written_nowhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "cat.png")
    (cell,) = [cell for cell in notebook.notebook().cells if cell.source.startswith("if CAPTIONS:")]
    asked = []
    names = {
        "CAPTIONS": "openai",
        "TRIGGER": "zorbix",
        "CONCEPT": "subject",
        "BASE": "sdxl",
        "BUDGET": 1.0,
        "getpass": lambda text: asked.append(text) or KEY,
        "images": tmp_path,
        "limner": limner,
        "os": os,
        "say": print,
    }
    try:
        with serving(answers(captions(CAPTION)), ("gpt-4o-mini",)) as scribe:
            monkeypatch.setenv("OPENAI_BASE_URL", f"{scribe.url}/v1")
            exec(cell.source, names)
    finally:
        os.environ.pop("OPENAI_API_KEY", None)
    assert (tmp_path / "cat.txt").read_text().startswith("zorbix, on a teal")
    assert len(asked) == 1 and scribe.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    out = capsys.readouterr().out
    assert "1 captions written, 0 failed" in out and KEY not in out
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.slow  # a kernel, a LoRA and a whole base are trained: about 20 s
@pytest.mark.filterwarnings("default")  # of zmq and of IPython; those of Limner are errors in its own tests
def test_it_runs_to_its_end_on_the_embedded_base(tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    book = notebook.notebook()
    (parameters,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    with_values(parameters, VALUES)
    work = tmp_path / "work"
    work.mkdir()
    nbclient.NotebookClient(book, timeout=int(LONGEST), resources={"metadata": {"path": str(work)}}).execute()
    told = json.dumps([cell.get("outputs", []) for cell in book.cells])
    for words in ("20 files in images", "Fits", "glyph is here", "step 2", 'class=\\"limner'):
        assert words in told
    assert file.read(work / "runs" / "notebook" / "lora.safetensors").metadata["ss_steps"] == "2"
    names = set(zipfile.ZipFile(work / "limner.zip").namelist())
    assert {"lora.safetensors", "lora-comfyui.safetensors", "report.html"} <= names
    assert sum(name.endswith(".png") for name in names) == 2 + 1, "two strengths, and their grid"
    extract = file.read(work / "extracted.safetensors")
    assert {change.rank for part in extract.components.values() for change in part.values()} == {
        VALUES["RANK"]
    }
    assert len(list((work / "generated-full").glob("*.png"))) == 1
