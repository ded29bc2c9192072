"""Attribution: an intervention's deltas in a labelled basis, their effect on logits and on a metric, and its check.

What is added, in a basis; which of it carries an effect; which way the effect takes:

    d = deltas(model, iv, prompts)
    attribute(d, basis), attribute_encoder(d, sae), attribute_maps(d, singular_basis), attribute_logits(model, d)
    attribute_effect(model, iv, prompts, basis, metrics.log_odds(yes, no))
    attribute_paths(model, iv, prompts, metrics.log_odds(yes, no))
    logit_lens(model, text), residual_change(model, iv, text, v)     after every layer
    attribute_singular(model, steering, prompts, metrics.log_odds(yes, no))     in a singular adapter's own basis
"""

from mechsteer.attribution import metrics
from mechsteer.attribution.decompose import Attribution, attribute, attribute_encoder, attribute_maps
from mechsteer.attribution.deltas import Deltas, SiteDeltas, deltas
from mechsteer.attribution.effect import attribute_effect, attribute_on
from mechsteer.attribution.effect_attribution import EffectAttribution, EffectSettings, compare_bases
from mechsteer.attribution.explained import NullExplained
from mechsteer.attribution.facts import DirectionFacts, direction_facts
from mechsteer.attribution.ground import Ground, effect_ground
from mechsteer.attribution.layer_changes import ResidualChange, residual_change
from mechsteer.attribution.lens import LogitLens, logit_lens
from mechsteer.attribution.logits import LogitAttribution, attribute_logits
from mechsteer.attribution.paths import PathAttribution, PathSettings, attribute_paths
from mechsteer.attribution.pursuit import matching_pursuit
from mechsteer.attribution.singular import attribute_singular
from mechsteer.attribution.singular_attribution import SingularAttribution, SingularSettings

__all__ = [
    "Attribution",
    "Deltas",
    "DirectionFacts",
    "EffectAttribution",
    "EffectSettings",
    "Ground",
    "LogitAttribution",
    "LogitLens",
    "PathAttribution",
    "PathSettings",
    "NullExplained",
    "ResidualChange",
    "SingularAttribution",
    "SingularSettings",
    "SiteDeltas",
    "attribute",
    "attribute_effect",
    "attribute_encoder",
    "attribute_logits",
    "compare_bases",
    "attribute_maps",
    "attribute_on",
    "attribute_paths",
    "attribute_singular",
    "deltas",
    "direction_facts",
    "effect_ground",
    "logit_lens",
    "matching_pursuit",
    "metrics",
    "residual_change",
]
