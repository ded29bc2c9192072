"""Concepts as atoms: the weights are the formula's, on the bundled model."""

import torch
import torch.nn.functional as F

import mechsteer as ms


def test_weights_are_the_standardised_projections():
    model = ms.load_model("voices")
    known = [ms.concepts.concept(name) for name in ("pirate", "sad")]
    iv, prompts = ms.concepts.concept_dictionary(model, known, 4, prompts=ms.concepts.NEUTRAL[:6]), ["Tom is here."]
    neutral = ms.capture(model, list(ms.concepts.NEUTRAL[:6]), [4], progress=False)[4].flat()
    vectors = torch.stack([v.vector for v in ms.concepts.concept_vectors(model, known, 4)])

    def read(acts):
        return F.rms_norm(acts.float(), (acts.shape[-1],)) @ F.normalize(vectors, dim=-1).T

    out = ms.mixture_weights(model, ms.mixed(iv, "off"), prompts[0], max_new_tokens=1)
    acts = ms.capture(model, prompts, [4], progress=False)[4]
    own = (read(acts.values[0]) - read(neutral).mean(0)) / read(neutral).std(0)
    known_tokens = out.weights[: out.n_prompt_tokens]
    torch.testing.assert_close(known_tokens, own.sigmoid(), rtol=1e-3, atol=1e-4)  # eps of the adapter's norm
