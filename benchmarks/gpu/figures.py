"""From what was seen to what is shown: medians, peaks, shares, the table's rows. No torch."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpu import peers
from gpu.cells import GIB

OURS = "limner"
HEADER = (
    "cell",
    "side",
    "s/step",
    "p90",
    "spread",
    "img/s",
    "first s",
    "alloc",
    "resvd",
    "device",
    "predicted",
    "off",
    "useful",
    "used",
    "said s",
)
LEGEND = (
    "alloc, resvd: peaks of torch's allocator; device: peak of all that the process takes of the card; "
    "predicted: Limner's own of resvd, before the run, and how far off (GiB, %). useful, used: TFLOP/s. "
    "said s: Limner's own prediction of s/step."
)


def counted(facts: dict[str, Any], warm_up: int) -> dict[str, float]:
    """Median, 90th percentile and spread (quartiles, as a share of the median) of the steps that count."""
    seconds = facts["seconds"][warm_up - 1 :] if warm_up else facts["seconds"]
    if not seconds:
        raise ValueError("No step that counts was seen.")
    middle = statistics.median(seconds)
    low, high = quantile(seconds, 0.25), quantile(seconds, 0.75)
    return {"step": middle, "p90": quantile(seconds, 0.9), "spread": (high - low) / middle}


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between the two nearest of the sorted values."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def merged(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The turns of one side as one: the median of their medians, the largest of their peaks."""
    good = [each for each in turns if "failed" not in each]
    if not good:
        return {"failed": turns[0]["failed"] if turns else "not run"}
    steps = [each["step"] for each in good]
    peaks = [each.get("device_peak") or 0 for each in good]
    return {
        "step": statistics.median(steps),
        "p90": max(each["p90"] for each in good),
        "spread": max(max(each["spread"] for each in good), (max(steps) - min(steps)) / min(steps)),
        "first_step": statistics.median(each["first_step"] for each in good),
        "allocated": max(most(each, "allocated") for each in good),
        "reserved": max(most(each, "reserved") for each in good),
        "device": max(peaks),
        "turns": len(good),
    }


def most(seen: Mapping[str, Any], key: str) -> int:
    """A peak of torch's allocator over a whole turn, loading included."""
    return max(seen.get(phase, {}).get(key, 0) for phase in ("warm_up", "memory"))


def sides_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Side -> its turns as one, in the order of the first round."""
    names = list(dict.fromkeys(each["side"] for each in result["turns"]))
    return {name: merged([each for each in result["turns"] if each["side"] == name]) for name in names}


def off(predicted_bytes: float, measured: float) -> float | None:
    """How far a prediction is from what was measured, as a share of it; None where nothing was."""
    return (predicted_bytes - measured) / measured if measured else None


def used(result: Mapping[str, Any], side: str) -> float:
    """FLOPs that a side's step computes, what it computes twice included."""
    said = result["predicted"]
    if side == OURS:
        return said["useful"] + said["repeated"]
    return said["useful"] + (said["whole_forward"] if peers.PEERS[side].checkpointed else 0.0)


def lines(result: Mapping[str, Any]) -> list[list[str]]:
    """The table's rows of one cell."""
    said = result["predicted"]
    rows = []
    for side, seen in sides_of(result).items():
        level = result["levels"].get(side)
        name = f"{side} ({level})" if level else side
        if "failed" in seen:
            rows.append([result["label"], name, seen["failed"][:40], *["-"] * (len(HEADER) - 3)])
            continue
        cells_ = [f"{seen['step']:.4f}", f"{seen['p90']:.4f}", f"{100 * seen['spread']:.1f} %"]
        cells_ += [f"{result['batch'] / seen['step']:.2f}", f"{seen['first_step']:.1f}"]
        cells_ += [gib(seen[key]) for key in ("allocated", "reserved", "device")]
        share = off(said["reserved"] - said["context"], seen["reserved"])
        mine = side == OURS and share is not None
        cells_ += [gib(said["reserved"] - said["context"]), f"{100 * share:+.1f} %"] if mine else ["-", "-"]
        cells_ += [f"{flops / seen['step'] / 1e12:.4g}" for flops in (said["useful"], used(result, side))]
        cells_ += [f"{said['seconds']:.3f}" if side == OURS else "-"]
        rows.append([result["label"], name, *cells_])
    return rows


def gib(count: float) -> str:
    """Bytes for a narrow column."""
    return f"{count / GIB:.2f}" if count else "-"


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the table's columns do not hold: the plan, the bar, the best peer, who was left out."""
    said, seen = result["predicted"], sides_of(result)
    plan = {key: value for key, value in said["plan"].items() if value not in (False, 0)}
    told = [f"{result['label']}: planned {plan}"]
    gate = result.get("gradients", {})
    if "failed" in gate:
        told.append(f"  gradient: {gate['failed']}")
    elif gate:
        verdict = "good" if gate["good"] else "BAD"
        told.append(
            f"  gradient: cosine {gate['cosine']:.6f} (at least {gate['least']}), loss off by "
            f"{gate['loss']:.1e} (at most {gate['most']}): {verdict}"
        )
    mine = seen.get(OURS, {}).get("step")
    others = {name: each["step"] for name, each in seen.items() if name != OURS and "step" in each}
    if mine and others:
        best = min(others, key=lambda name: others[name])
        told.append(f"  {others[best] / mine:.2f} x as fast as {best}, the fastest peer that ran")
    if mine and result["wanted"]:
        told.append(
            f"  wanted at most {result['wanted']} s/step: {'met' if mine <= result['wanted'] else 'missed'}"
        )
    if result["left_out"]:
        told.append(f"  left out, no source given or not proved: {', '.join(result['left_out'])}")
    return told
