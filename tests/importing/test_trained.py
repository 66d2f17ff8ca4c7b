from limner.importing.trained import FUSED, TRAINED, TrainedLayers, silent
from limner.models.registry import families, family_of


def test_a_trainer_s_layers_are_looked_up_by_family_and_by_its_kin():
    assert silent("ai-toolkit", "qwen-image-edit") == silent("ai-toolkit", "qwen-image")
    assert silent("SimpleTuner", "sdxl") == TrainedLayers(("to_q", "to_k", "to_v", "to_out.0"))
    assert silent("musubi-tuner", "sdxl") is None and silent("nobody", "flux") is None


def test_every_family_and_group_in_the_table_is_one_of_ours():
    for table in TRAINED.values():
        for name, layers in table.items():
            family = family_of(families()[name].pipeline)
            assert family.endings(family.denoiser, layers.targets)
            assert all(family.endings(encoder, "auto") for encoder in layers.encoders)


def test_a_shared_matrix_is_announced_where_kohya_trains_fused_layers():
    assert {name for name, layers in TRAINED["sd-scripts"].items() if FUSED in layers.differs} == {
        "flux",
        "sd3",
        "chroma",
    }
