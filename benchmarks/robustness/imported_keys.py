"""Configurations in other trainers' own repositories, imported: which of their keys no table has.

    cd benchmarks/programs      # which git ignores; any other folder can be named
    git clone https://github.com/ostris/ai-toolkit && git -C ai-toolkit checkout 27a03a91
    git clone https://github.com/Nerogar/OneTrainer && git -C OneTrainer checkout 23df3832
    git clone https://github.com/bmaltais/kohya_ss && git -C kohya_ss checkout 45088f04
    git clone https://github.com/bghira/SimpleTuner && git -C SimpleTuner checkout bc8e6ab7
    git clone https://github.com/modelscope/DiffSynth-Studio && git -C DiffSynth-Studio checkout fed7b18f
    python -m benchmarks.robustness.imported_keys [FOLDER]

A file that is no configuration, or torn, must be told in one line.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks import outcome
from limner.errors import LimnerError
from limner.importing.importer import import_recipe

FOLDER = Path(__file__).resolve().parents[1] / "programs"
FORMS = (
    *("*/config/examples/**/*.yaml", "*/training_presets/**/*.json", "*/**/presets/lora/*.json"),
    *("*/test/config/*.json", "*/test/config/*.toml", "*/**/examples/*/config.json"),
    *("*/**/examples/*/config.toml", "*/examples/*/model_training/lora/*.sh"),
)


def main() -> None:
    """Import every configuration, and write what no table has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    folder = parser.parse_args().folder
    files, keys, refusals = Counter[str](), defaultdict[str, Counter[str]](Counter), list[str]()
    for path in sorted({path for form in FORMS for path in folder.glob(form)}):
        try:
            translation = import_recipe(path)
        except LimnerError as error:
            refusals.append(str(error).replace(str(folder), "")[:120])
            continue
        files[translation.trainer] += 1
        unknown = {row.key.rpartition(".")[2] for row in translation.rows if row.outcome == "unknown"}
        keys[translation.trainer].update(unknown - {"(base)"})
    facts = {"files": dict(files), "unknown": {name: dict(counts) for name, counts in keys.items()}}
    print(sum(files.values()), facts, *refusals, sep="\n")
    outcome.save("imported_keys", {**facts, "refusals": refusals})


if __name__ == "__main__":
    main()
