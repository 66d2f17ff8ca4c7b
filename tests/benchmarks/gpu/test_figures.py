import pytest

from gpu import figures, peers
from gpu.cells import CELLS, GIB, TARGETS, WARM_UP, chosen, tiny

SAID = {
    "plan": {
        "weights": "int8",
        "checkpointed_blocks": 30,
        "swapped_blocks": 0,
        "precompute_modulation": False,
    },
    "context": GIB // 2,
    "reserved": 10 * GIB + GIB // 2,
    "useful": 100e12,
    "repeated": 20e12,
    "whole_forward": 50e12,
    "seconds": 0.3,
}


def turn(side: str, step: float, **more):
    plain = {"p90": step * 1.1, "spread": 0.01, "first_step": 12.0, "device_peak": 11 * GIB}
    memory = {"warm_up": {"allocated": 3 * GIB, "reserved": 4 * GIB}, "memory": {"allocated": 9 * GIB}}
    memory["memory"]["reserved"] = 8 * GIB
    return {"side": side, "step": step, **plain, **memory, **more}


def result(*turns):
    return {
        "label": "2: flux-dev",
        "batch": 2,
        "wanted": 0.35,
        "predicted": SAID,
        "left_out": ["sd-scripts"],
        "levels": {"diffusers": "script"},
        "turns": list(turns),
    }


def test_cells_are_ten_and_each_can_be_told_to_every_side():
    assert {cell.name.rstrip("bc") for cell in CELLS} == {str(number) for number in range(1, 11)}
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        assert TARGETS[cell.base]
        assert set(cell.peers) <= set(peers.PEERS)
        assert tiny(cell).largest < cell.largest
    assert [cell.name for cell in chosen(["7", "2"], small=False)] == ["2", "7"]
    with pytest.raises(SystemExit, match="No cell 11"):
        chosen(["11"], small=True)


def test_steps_of_the_warm_up_do_not_count():
    slow = [9.0] * (WARM_UP - 1)  # as many times as steps, less one: the first has no beginning
    seen = figures.counted({"seconds": [*slow, 1.0, 2.0, 3.0, 4.0, 5.0]}, WARM_UP)
    assert seen["step"] == 3.0
    assert seen["p90"] == pytest.approx(4.6)
    assert seen["spread"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="No step"):
        figures.counted({"seconds": slow}, WARM_UP)


def test_quantile_is_linear():
    assert figures.quantile([5.0], 0.9) == 5.0
    assert figures.quantile([1.0, 3.0], 0.5) == 2.0
    assert figures.quantile([4.0, 1.0, 2.0, 3.0], 1.0) == 4.0


def test_turns_become_one_with_the_largest_peak_and_failures_stay_failures():
    seen = figures.merged([turn("limner", 0.30), turn("limner", 0.36), {"failed": "out of memory"}])
    assert seen["step"] == pytest.approx(0.33)
    assert seen["spread"] == pytest.approx(0.2)
    assert seen["allocated"] == 9 * GIB
    assert seen["reserved"] == 8 * GIB
    assert seen["turns"] == 2
    assert figures.merged([{"failed": "out of memory"}]) == {"failed": "out of memory"}
    assert figures.merged([]) == {"failed": "not run"}


def test_peak_of_loading_counts_too():
    loaded = turn("limner", 0.3, warm_up={"reserved": 9 * GIB})
    assert figures.most(loaded, "reserved") == 9 * GIB


def test_rows_say_how_far_off_a_prediction_was():
    mine, other = figures.lines(result(turn("limner", 0.25), turn("diffusers", 0.5)))
    row, peer = (dict(zip(figures.HEADER, each, strict=True)) for each in (mine, other))
    assert row["predicted"] == "10.00"
    assert row["resvd"] == "8.00"
    assert row["off"] == "+25.0 %"
    assert row["img/s"] == "8.00"
    assert float(row["useful"]) == 400
    assert float(row["used"]) == 480
    assert peer["side"] == "diffusers (script)"
    assert peer["predicted"] == peer["off"] == peer["said s"] == "-"
    assert float(peer["used"]) == 300  # it computes its whole forward pass twice


def test_a_side_that_failed_has_a_row_of_the_same_width():
    (row,) = figures.lines(result({"side": "diffusers", "failed": "out of memory"}))
    assert len(row) == len(figures.HEADER)
    assert row[2] == "out of memory"


def test_notes_name_the_best_peer_the_bar_and_who_was_left_out():
    told = "\n".join(figures.notes(result(turn("limner", 0.4), turn("diffusers", 0.6))))
    assert "1.50 x as fast as diffusers" in told
    assert "wanted at most 0.35 s/step: missed" in told
    assert "left out, no source given or not proved: sd-scripts" in told
    assert "'weights': 'int8'" in told
    assert "precompute_modulation" not in told
    assert "met" in "\n".join(figures.notes(result(turn("limner", 0.3))))


def test_notes_judge_the_gradient():
    gate = {"cosine": 0.98, "least": 0.99, "loss": 1e-3, "most": 1e-2, "good": False}
    told = "\n".join(figures.notes({**result(turn("limner", 0.3)), "gradients": gate}))
    assert "cosine 0.980000 (at least 0.99)" in told
    assert "BAD" in told


def test_nothing_measured_gives_no_share():
    assert figures.off(5, 0) is None
    assert figures.off(11, 10) == pytest.approx(0.1)


def test_options_of_a_command_line():
    assert peers.options(a=1, b=True, c=None, d="x y") == ["--a=1", "--b", "--d=x y"]


def test_a_peer_is_told_what_limner_is_told(tmp_path):
    for cell in chosen([], small=False):
        base = tmp_path / f"{cell.name}-base"
        (base / "transformer").mkdir(parents=True)
        (base / "transformer" / "diffusion_pytorch_model-00001-of-00003.safetensors").touch()
        for name in cell.peers:
            out = tmp_path / f"{cell.name}-{name}"
            out.mkdir()
            sources = dict.fromkeys((peer.source for peer in peers.PEERS.values()), tmp_path)
            told = peers.Turn(cell=cell, tiny=False, base=base, photos=tmp_path, out=out, sources=sources)
            line = " ".join(peers.command(name, told))
            assert str(base) in line
            if peers.level(name, cell.base) == "script":
                assert f"--max_train_steps={WARM_UP + cell.steps + 1}" in line
                assert "=16" in line.partition("rank" if "rank" in line else "network_dim")[2][:4]
                assert "bf16" in line
