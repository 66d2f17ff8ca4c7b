import hashlib
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from limner.bases import mascot
from limner.bases.mascot import ARMS, MOUTHS, PROPS, Pose


def test_the_resting_mascot_is_drawn_byte_for_byte_as_it_was():
    digest = hashlib.sha256(mascot.svg(Pose()).encode()).hexdigest()
    assert digest == "9d5a51b6e7f51a084ea454a60e0b977326523903b78bc84c256f42c74bf56abd"


def test_a_pose_is_a_function_of_its_seed():
    assert [mascot.pose(seed) for seed in range(40)] == [mascot.pose(seed) for seed in range(40)]
    assert len({mascot.svg(mascot.pose(seed)) for seed in range(200)}) == 200


def test_poses_cover_every_variation():
    poses = [mascot.pose(seed) for seed in range(300)]
    assert {each.left for each in poses} == {each.right for each in poses} == set(ARMS)
    assert {each.mouth for each in poses} == set(MOUTHS)
    assert {each.prop for each in poses} == {None, *PROPS}
    assert {each.jump for each in poses} == {each.asleep for each in poses} == {True, False}
    assert all(each.right in ("out", "wave") for each in poses if each.prop)


@pytest.mark.parametrize("prop", [None, *PROPS])
@pytest.mark.parametrize("arm", ARMS)
def test_every_drawing_is_well_formed(arm, prop):
    root = ElementTree.fromstring(mascot.svg(Pose(left=arm, right=arm, prop=prop, jump=True)))
    assert root.get("viewBox") == "0 0 128 128"


def test_drawings_are_square_on_a_clear_ground_and_count_up_from_their_seed():
    four = mascot.drawings(4, seed=7)
    assert four.shape == (4, 128, 128, 4)
    assert four.dtype == np.uint8
    assert np.array_equal(four[1:], mascot.drawings(3, seed=8))
    assert (four[:, 0, 0] == 0).all()
    cover = (four[..., 3] > 128).mean((1, 2))
    assert ((cover > 0.25) & (cover < 0.6)).all()


def test_the_mascot_stays_inside_its_picture():
    edge = np.ones((128, 128), bool)
    edge[1:-1, 1:-1] = False
    cut = (mascot.drawings(60)[..., 3][:, edge] > 0).any(1)
    assert cut.mean() <= 0.05


def test_no_drawings_are_no_rows():
    assert mascot.drawings(0).shape == (0, 128, 128, 4)


def test_an_unknown_mouth_is_refused():
    with pytest.raises(KeyError, match="sneer"):
        mascot.svg(Pose(mouth="sneer"))


def test_importing_it_loads_no_renderer():
    heavy = "('resvg_py', 'torch', 'PIL')"
    code = f"import sys, limner.bases.mascot; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
