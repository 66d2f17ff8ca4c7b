"""A thousand damaged LoRA files: none may crash the reader, none may pass for what it is not.

    python -m benchmarks.robustness.lora_mutations --files 1000

Whole files of every form and kind are damaged at random: bytes flipped, cut, added and moved, lengths,
shapes, dtypes, places and names in the header changed, numbers made NaN, keys doubled, wrapped as something
else. Each must end in ``BadLora``, or in a file whose modules are all finite and fit their shapes: then
what was changed was a name, a number or a text, which no reader can know to be wrong. Of files that carry a
hash it must be noted whenever a byte of a tensor differs: another program may have changed them.
"""

import argparse
import json
import random
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save

from benchmarks import outcome
from limner.errors import BadLora
from limner.lora import file
from limner.lora.adapters import Dora, Loha, Lokr, WeightDelta
from limner.lora.factors import Factors
from limner.lora.metadata import HASH
from limner.lora.tools import TOOLS

Damage = Callable[[bytes, random.Random], bytes]


def adapter(kind: str) -> dict[str, WeightDelta]:
    """A module or three of Qwen-Image."""
    draw = torch.Generator().manual_seed(1)

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    deltas: dict[str, WeightDelta] = {}
    for name in ("img_in", "txt_in", "transformer_blocks.3.attn.to_q"):
        match kind:
            case "LoHa":
                deltas[name] = Loha(new(6, 2), new(2, 8), new(6, 2), new(2, 8))
            case "LoKr":
                deltas[name] = Lokr((new(2, 2),), (new(3, 2), new(2, 4)))
            case "DoRA":
                deltas[name] = Dora(Factors(new(2, 8), new(6, 2)), new(6).abs(), "out")
            case _:
                deltas[name] = Factors(new(2, 8), new(6, 2))
    return deltas


def header(raw: bytes) -> tuple[dict, bytes]:
    """The JSON and the bytes behind it."""
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def again(table: dict | bytes, data: bytes) -> bytes:
    """A file of a header and bytes."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


def flip(raw: bytes, dice: random.Random) -> bytes:
    """One to eight bytes changed, anywhere."""
    buffer = bytearray(raw)
    for _ in range(dice.randint(1, 8)):
        buffer[dice.randrange(len(buffer))] ^= dice.randint(1, 255)
    return bytes(buffer)


def cut(raw: bytes, dice: random.Random) -> bytes:
    """The end is missing."""
    return raw[: dice.randrange(len(raw))]


def more(raw: bytes, dice: random.Random) -> bytes:
    """Bytes behind the end."""
    return raw + dice.randbytes(dice.randint(1, 64))


def move(raw: bytes, dice: random.Random) -> bytes:
    """A piece of the file taken out and put elsewhere."""
    start, two = sorted(dice.randrange(len(raw)) for _ in range(2))
    rest = raw[:start] + raw[two:]
    place = dice.randrange(len(rest) + 1)
    return rest[:place] + raw[start:two] + rest[place:]


def length(raw: bytes, dice: random.Random) -> bytes:
    """Another length of the header."""
    return struct.pack("<Q", dice.choice([0, 1, 2**63, 2**40, dice.randrange(10**6)])) + raw[8:]


def entry(raw: bytes, dice: random.Random) -> bytes:
    """A shape, a dtype, a place or a name changed in the header."""
    table, data = header(raw)
    name = dice.choice([key for key in table if key != "__metadata__"])
    odd = dice.choice([-1, 0, 2**62, 1.5, "8", None, [], {}, True, float("nan"), dice.randrange(99)])
    match dice.choice(["shape", "dtype", "data_offsets", "name", "gone", "none"]):
        case "shape":
            table[name]["shape"] = dice.choice([odd, [odd], [odd, 8], [2, odd], [1] * 9])
        case "dtype":
            table[name]["dtype"] = dice.choice(["F64", "I8", "U8", "BOOL", "F8_E4M3", "F16", "", odd])
        case "data_offsets":
            table[name]["data_offsets"] = dice.choice([odd, [odd], [0, odd], [odd, 64], [64, 0], [0, 8]])
        case "name":
            table[
                dice.choice(["../../etc/passwd", "", "a\n", "\u202e", "x" * 9999, "vae.x.lora_A.weight"])
            ] = table.pop(name)
        case "gone":
            del table[name]
        case "none":
            table[name] = odd
    return again(table, data)


def metadata(raw: bytes, dice: random.Random) -> bytes:
    """Entries that are no strings, endless, or settings that mean nothing."""
    table, data = header(raw)
    odd = dice.choice([1, None, [], {"a": {}}, {"a": 1}, {"a": "x" * 1_100_000}, "text"])
    config_text = dice.choice(
        ["{", "[]", "1", '{"transformer.r": 1}', '{"transformer.lora_alpha": []}', "[" * 9999]
    )
    table["__metadata__"] = dice.choice(
        [odd, {"lora_adapter_metadata": config_text}, {HASH: "0x" + "0" * 64}]
    )
    return again(table, data)


def double(raw: bytes, dice: random.Random) -> bytes:
    """A key twice."""
    table, data = header(raw)
    name = dice.choice([key for key in table if key != "__metadata__"])
    text = json.dumps(table)[:-1] + f', "{name}": {json.dumps(table[name])}}}'
    return again(text.encode(), data)


def nan(raw: bytes, dice: random.Random) -> bytes:
    """A number that is none."""
    table, data = header(raw)
    buffer = bytearray(data)
    place = dice.randrange(len(buffer) // 4) * 4
    buffer[place : place + 4] = struct.pack("<f", dice.choice([float("nan"), float("inf"), -float("inf")]))
    return again(table, bytes(buffer))


def wrapped(raw: bytes, dice: random.Random) -> bytes:
    """Something else under that name."""
    return (
        dice.choice(
            [b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"<html>", b"version https://git-lfs", b"\n", b"{}"]
        )
        + raw
    )


DAMAGES: tuple[Damage, ...] = (flip, cut, more, move, length, entry, metadata, double, nan, wrapped)


def originals() -> dict[str, bytes]:
    """Whole files of every form and kind, with and without a hash."""
    deltas = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        for kind, tool in (
            ("LoRA", "diffusers"),
            ("LoRA", "comfyui"),
            ("LoRA", "kohya"),
            ("LoRA", "diffsynth"),
        ):
            file.write(
                path, {"transformer": adapter(kind)}, {"a": "b"}, tool=TOOLS[tool], family="qwen-image"
            )
            deltas[f"{kind} for {tool}, hashed"] = path.read_bytes()
            deltas[f"{kind} for {tool}"] = save(file.tensors(path))
        for kind, tool in (("LoHa", "kohya"), ("LoKr", "kohya"), ("DoRA", "diffusers")):
            file.write(path, {"transformer": adapter(kind)}, {}, tool=TOOLS[tool], family="qwen-image")
            deltas[f"{kind} for {tool}"] = save(file.tensors(path))
    return deltas


def judged(path: Path, whole: bytes, bytes_damaged: bytes, *, has_hash: bool) -> str:
    """What became of a file: refused, noted, harmless, passed (wrongly), or what it crashed with."""
    path.write_bytes(bytes_damaged)
    try:
        buffer = file.read(path, "qwen-image")
    except BadLora as error:
        return "refused" if "\n" not in str(error) else "more than one line"
    except Exception as error:  # noqa: BLE001  a crash of any kind is what is looked for
        return f"crashed: {type(error).__name__}"
    if bytes_damaged == whole:
        return "harmless"
    probes = {
        change.shape[1]: torch.ones(change.shape[1])
        for a in buffer.components.values()
        for change in a.values()
    }
    for parts in buffer.components.values():
        for change in parts.values():
            plain = change.factors if isinstance(change, Dora) else change
            if not plain.times(probes[change.shape[1]]).isfinite().all():
                return "passed"
    if has_hash and HASH in buffer.metadata and header(bytes_damaged)[1] != header(whole)[1]:
        return "noted" if file.STALE_HASH in buffer.notes else "passed"
    return "harmless"


def main() -> None:
    """Damage, read, count, save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="lora_mutations")
    options = parser.parse_args()
    dice, whole = random.Random(options.seed), originals()
    tally: dict[str, Counter[str]] = {damage.__name__: Counter() for damage in DAMAGES}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.files):
            name, damage = dice.choice(sorted(whole)), DAMAGES[number % len(DAMAGES)]
            raw = damage(whole[name], dice)
            verdict = judged(Path(folder) / "x.safetensors", whole[name], raw, has_hash="hashed" in name)
            tally[damage.__name__][verdict] += 1
    kinds = sorted({verdict for counts in tally.values() for verdict in counts})
    bad = [kind for kind in kinds if kind not in ("refused", "noted", "harmless")]
    facts = {
        "files": options.files,
        "seed": options.seed,
        "seconds": time.perf_counter() - began,
        "crashed_or_passed": sum(counts[kind] for counts in tally.values() for kind in bad),
        "by_damage": {name: dict(counts) for name, counts in tally.items()},
    }
    path = outcome.save(options.out, facts)
    print(outcome.table(["damage", *kinds], [[n, *(str(c[k]) for k in kinds)] for n, c in tally.items()]))
    print(path)
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
