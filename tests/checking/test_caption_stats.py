from limner.checking.caption_stats import caption_stats


def of(*captions: str, trigger: str = "sks cat"):
    return caption_stats([(each,) if each else () for each in captions], trigger)


def test_captions_in_order_raise_nothing():
    found = of(
        "sks cat on a sofa",
        "sks cat in snow",
        "a photo of sks cat at night",
        "sks cat, from behind",
        "sks cat",
    )
    assert found == caption_stats([], "") and not any(vars(found).values())


def test_missing_and_repeated():
    found = of("", "a dog", "A dog.", "a dog", "sks cat by a lake", trigger="")
    assert found.missing == (0,) and found.duplicates == ((1, 2, 3),)
    assert of("sks cat", "sks cat", "sks cat").duplicates == (), "the trigger alone is a known way"


def test_a_caption_of_several_may_repeat():
    told_apart = [(f"in style, a {thing}", "in style") for thing in ("turtle", "castle", "key", "boat")]
    assert caption_stats(told_apart, "cyan").duplicates == ()
    twice = [("a dog", "one dog")] * 3
    assert caption_stats(twice).duplicates == ((0, 1, 2),), "one finding, however many captions repeat"
    assert caption_stats([*told_apart, *twice]).duplicates == ((4, 5, 6),)


def test_the_trigger_is_missing_respelled_or_displaced():
    found = of("sks cat on a sofa", "a cat in snow", "SKS cat at night", "sks cats in a row")
    assert found.without_trigger == (1, 3) and found.trigger_case == (2,)
    found = of("sks cat one", "sks cat two", "[trigger] three", "on a long sofa by the window lies sks cat")
    assert found.trigger_position == (3,) and not found.without_trigger
    assert not of("one", "two").without_trigger, "where nobody writes it, it is put in front of all"


def test_words_bound_to_the_trigger():
    found = of(
        "sks cat on a red sofa", "a sofa, red, with sks cat", "red sofa and sks cat", "sks cat, sofa in red"
    )
    assert found.common_words == ("red", "sofa")
    assert of("sks cat on a red sofa", "sks cat in snow", "sks cat", "sks cat, sofa").common_words == ()
    assert of("red sofa", "red sofa again").common_words == (), "too few to tell"


def test_openings_that_repeat():
    starts = [f"sks cat, this image shows a {thing}" for thing in ("tree", "house", "river", "road")]
    assert of(*starts).common_opening == "this image shows a"
    assert of("sks cat a b c", "sks cat d e f", "sks cat g h i", "sks cat j k l").common_opening == ""
