"""Sections of a report, made of results: one file per kind of result.

    effect.effect(EffectAttribution)              readings.attribution(Attribution), readings.made_of(...)
    singular.singular(SingularAttribution)        paths.paths(PathAttribution)
    logits.logits(LogitAttribution)               features.features(FeatureScores, seen=..., quality=...)
    probe.probe(ProbeEvaluation)                  trajectories.trajectories(TrajectoryTopology)
    training.training(FitResult), .adapter(...), .traces(...)
    arms.arms(Evaluation)                         verdicts.verdict(Evaluation), .probe_verdict(ProbeEvaluation)
    generation.generation(Generation)             suite.suite(SuiteResult)
    mixing.mixture(MixtureWeights), .atoms(Atoms)
    cards.cards(FeatureCards), .card(FeatureCard)  clusters.clusters(FeatureClusters), .kinds(FeatureKinds)
    strengths.strengths(Strengths)                where.where_steered(tokens, delta_norm), where.readings(...)

Each takes the result first and gives a list of `Section`. A notebook shows a result by the function that
`mechsteer.show` names for its class; files load one by one, so that a probe is shown without any model library.
"""
