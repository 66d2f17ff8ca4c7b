from limner.captions.captioner import caption, is_plain, taken
from limner.captions.client import Declined, Patience, Reply
from limner.captions.prompt_image import PromptImage
from limner.captions.spec import STYLES, CaptionSpec

SEEN = PromptImage(b"", 8, 8)
GOOD = "A grey dog runs over wet sand towards the sea, seen from the side, under low clouds."


class Scripted:
    """Says one text after the other."""

    name = model = destination = "scripted"
    parallel, several = 1, False

    def __init__(self, takes, *texts):
        self.takes = takes
        self.texts = list(texts)
        self.requests = []

    def ask(self, request):
        self.requests.append(request)
        said = self.texts.pop(0)
        if isinstance(said, Exception):
            raise said
        return Reply(text=said, model="scripted", tokens_in=10, tokens_out=1)

    def close(self):
        pass


def test_a_model_that_describes_in_text_is_taken_at_its_word():
    one = Scripted("text", "This image shows a dog.", GOOD)
    outcome = caption(one, CaptionSpec(), SEEN, Patience())
    assert outcome.captions == (GOOD,)
    assert (outcome.requests, outcome.tokens_in, outcome.tokens_out) == (2, 20, 2)
    assert one.requests[0].schema == {}
    assert "opens with 'This image shows'" in one.requests[1].text


def test_several_variants_are_asked_for_in_json():
    one = Scripted("text", "{}")
    assert is_plain(one, CaptionSpec())
    assert not is_plain(one, CaptionSpec(variants=2))
    assert is_plain(Scripted("nothing"), CaptionSpec())


def test_a_captioner_that_takes_no_instructions_is_asked_once_and_mended_by_rule():
    wish = CaptionSpec(trigger="sks dog", by_rule=True)
    one = Scripted("nothing", "The image shows a dog on a beach.", "never asked")
    assert caption(one, wish, SEEN, Patience()).captions == ("sks dog, A dog on a beach.",)
    outcome = caption(Scripted("nothing", "dog dog", "never asked"), wish, SEEN, Patience())
    assert outcome.captions == ()
    assert "no usable caption in 1 answers; the last: it has 2 words" in outcome.flag


def test_a_question_that_is_declined_is_flagged_with_the_reason():
    outcome = caption(Scripted("json", Declined("too large")), CaptionSpec(), SEEN, Patience())
    assert (outcome.captions, outcome.flag, outcome.requests) == ((), "too large", 0)


def test_styles_are_signed_after_they_were_looked_at():
    reply = Reply(text='{"captions": ["cat, on a blue background"]}', model="m")
    wish = CaptionSpec(concept_type="style", trigger="ink", style=STYLES["brief"])
    assert taken(reply, wish, plain=False) == (("ink style cat, on a blue background",), "")
