"""Concepts to steer by: seventeen, each with contrast pairs, its vectors in a model, and a check that the model knows it."""

from mechsteer.concepts.checking import CheckSettings, ConceptCheck, auroc_interval, check_concept
from mechsteer.concepts.dictionary import concept_dictionary, labelled
from mechsteer.concepts.effect_page import effect_sections
from mechsteer.concepts.explaining import ConceptEffect, concept_bases, explain_concept
from mechsteer.concepts.extracting import DEPTHS, concept_vectors
from mechsteer.concepts.introspection import Introspection, IntrospectionTrial, introspect, yes_or_no
from mechsteer.concepts.knowing import check_concepts, checks_to_markdown
from mechsteer.concepts.prompts import NEUTRAL
from mechsteer.concepts.reading import NAMES, Concept, ConceptFile, as_concept, concept, concepts
from mechsteer.concepts.showing import ShowsConcept, neutral_items
from mechsteer.concepts.sweeping import ConceptMixing, mix_concepts, sweep_concept

__all__ = [
    "DEPTHS",
    "NAMES",
    "NEUTRAL",
    "CheckSettings",
    "Concept",
    "ConceptCheck",
    "ConceptEffect",
    "ConceptFile",
    "ConceptMixing",
    "Introspection",
    "IntrospectionTrial",
    "ShowsConcept",
    "as_concept",
    "auroc_interval",
    "check_concept",
    "check_concepts",
    "concept_bases",
    "concept_dictionary",
    "effect_sections",
    "explain_concept",
    "labelled",
    "checks_to_markdown",
    "concept",
    "concept_vectors",
    "concepts",
    "introspect",
    "mix_concepts",
    "neutral_items",
    "sweep_concept",
    "yes_or_no",
]
