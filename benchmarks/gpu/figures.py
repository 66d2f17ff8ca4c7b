"""From what was seen to what is shown: medians, peaks, shares, the table's rows. No torch."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpu import peers
from gpu.cells import GIB

LIMNER = "limner"
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
    values_sorted = sorted(values)
    place = share * (len(values_sorted) - 1)
    low = int(place)
    high = min(low + 1, len(values_sorted) - 1)
    return values_sorted[low] + (place - low) * (values_sorted[high] - values_sorted[low])


def merged(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The turns of one side as one: the median of their medians, the largest of their peaks."""
    good = [turn for turn in turns if "failed" not in turn]
    if not good:
        return {"failed": turns[0]["failed"] if turns else "not run"}
    steps = [turn["step"] for turn in good]
    peaks = [turn.get("device_peak") or 0 for turn in good]
    return {
        "step": statistics.median(steps),
        "p90": max(turn["p90"] for turn in good),
        "spread": max(max(turn["spread"] for turn in good), (max(steps) - min(steps)) / min(steps)),
        "first_step": statistics.median(turn["first_step"] for turn in good),
        "allocated": max(most(turn, "allocated") for turn in good),
        "reserved": max(most(turn, "reserved") for turn in good),
        "device": max(peaks),
        "turns": len(good),
    }


def most(sides: Mapping[str, Any], key: str) -> int:
    """A peak of torch's allocator over a whole turn, loading included."""
    return max(sides.get(phase, {}).get(key, 0) for phase in ("warm_up", "memory"))


def sides_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Side -> its turns as one, in the order of the first round."""
    names = list(dict.fromkeys(turn["side"] for turn in result["turns"]))
    return {name: merged([turn for turn in result["turns"] if turn["side"] == name]) for name in names}


def off(predicted_bytes: float, measurement: float) -> float | None:
    """How far a prediction is from what was measured, as a share of it; None where nothing was."""
    return (predicted_bytes - measurement) / measurement if measurement else None


def used(result: Mapping[str, Any], side: str) -> float:
    """FLOPs that a side's step computes, what it computes twice included."""
    prediction = result["predicted"]
    if side == LIMNER:
        return prediction["useful"] + prediction["repeated"]
    return prediction["useful"] + (prediction["whole_forward"] if peers.PEERS[side].checkpointed else 0.0)


def lines(result: Mapping[str, Any]) -> list[list[str]]:
    """The table's rows of one cell."""
    prediction = result["predicted"]
    rows = []
    for side, sides in sides_of(result).items():
        level = result["levels"].get(side)
        name = f"{side} ({level})" if level else side
        if "failed" in sides:
            rows.append([result["label"], name, sides["failed"][:40], *["-"] * (len(HEADER) - 3)])
            continue
        cells_ = [f"{sides['step']:.4f}", f"{sides['p90']:.4f}", f"{100 * sides['spread']:.1f} %"]
        cells_ += [f"{result['batch'] / sides['step']:.2f}", f"{sides['first_step']:.1f}"]
        cells_ += [gib(sides[key]) for key in ("allocated", "reserved", "device")]
        share = off(prediction["reserved"] - prediction["context"], sides["reserved"])
        limner_step = side == LIMNER and share is not None
        cells_ += (
            [gib(prediction["reserved"] - prediction["context"]), f"{100 * share:+.1f} %"]
            if limner_step
            else ["-", "-"]
        )
        cells_ += [
            f"{flops / sides['step'] / 1e12:.4g}" for flops in (prediction["useful"], used(result, side))
        ]
        cells_ += [f"{prediction['seconds']:.3f}" if side == LIMNER else "-"]
        rows.append([result["label"], name, *cells_])
    return rows


def gib(count: float) -> str:
    """Bytes for a narrow column."""
    return f"{count / GIB:.2f}" if count else "-"


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the table's columns do not hold: the plan, the bar, the best peer, who was left out."""
    prediction, sides = result["predicted"], sides_of(result)
    plan = {key: value for key, value in prediction["plan"].items() if value not in (False, 0)}
    text_lines = [f"{result['label']}: planned {plan}"]
    gate = result.get("gradients", {})
    if "failed" in gate:
        text_lines.append(f"  gradient: {gate['failed']}")
    elif gate:
        verdict = "good" if gate["good"] else "BAD"
        text_lines.append(
            f"  gradient: cosine {gate['cosine']:.6f} (at least {gate['least']}), loss off by "
            f"{gate['loss']:.1e} (at most {gate['most']}): {verdict}"
        )
    limner_step = sides.get(LIMNER, {}).get("step")
    peer_steps = {name: turn["step"] for name, turn in sides.items() if name != LIMNER and "step" in turn}
    if limner_step and peer_steps:
        best = min(peer_steps, key=lambda name: peer_steps[name])
        text_lines.append(
            f"  {peer_steps[best] / limner_step:.2f} x as fast as {best}, the fastest peer that ran"
        )
    if limner_step and result["wanted"]:
        text_lines.append(
            f"  wanted at most {result['wanted']} s/step: "
            f"{'met' if limner_step <= result['wanted'] else 'missed'}"
        )
    if result["left_out"]:
        text_lines.append(f"  left out, no source given or not proved: {', '.join(result['left_out'])}")
    return text_lines
