from limner.models.facts import RegisteredBase


def test_a_part_may_be_stored_otherwise_than_the_rest():
    base = RegisteredBase(name="a", licence="MIT", file_precision="fp32", part_precisions={"vae": "bf16"})
    assert (base.precision("vae"), base.precision("unet")) == ("bf16", "fp32")
    assert RegisteredBase(name="a", licence="MIT").precision("unet") == "bf16"
