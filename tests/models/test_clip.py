import torch
from transformers import CLIPTextModelWithProjection

from limner.models.clip import encode_both
from tiny import clip_config


def test_the_second_clip_gives_a_state_and_a_pooled_vector_wherever_it_is_cut():
    torch.manual_seed(0)
    model = CLIPTextModelWithProjection(clip_config(projection_dim=12)).eval()
    tokens = torch.randint(2, 100, (2, 77), generator=torch.Generator().manual_seed(1))
    tokens[:, 40:] = 1
    with torch.no_grad():
        whole = model(tokens, output_hidden_states=True)
        models, given = {"text_encoder_2": model}, {"clip_tokens_2": tokens}
        seen = encode_both.run(models, given)
        assert torch.equal(seen["context_2"], whole.hidden_states[-2])
        assert torch.equal(seen["pooled_2"], whole.text_embeds)
        for layer in (1, 2):
            below, above = encode_both.cut(layer)
            again = above.run(models, given | below.run(models, given))
            assert torch.equal(again["pooled_2"], seen["pooled_2"])
            assert torch.equal(again["context_2"], seen["context_2"])
