"""What is claimed of dynamic boosters, and what decides each claim: see README.md."""

from common import Claim

MARGIN = 0.03  # of accuracy: less would not matter
DRAB = "the idea of dynamic reasoning adaptive boosters (DRAB)"
_POOLED = "difference of accuracy on held-out problems, pooled over adapter seeds"

CLAIMS = (
    Claim(
        key="dynamic beats static",
        text="A booster that reads the prompt solves more than vectors of as many parameters, at the same divergence from the model",
        source=DRAB,
        decides=f"{_POOLED}, drab − bias_only: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="hybrid helps",
        text="Scaling the residual beside adding to it solves more than adding alone",
        source=DRAB,
        decides=f"{_POOLED}, hybrid − add at the same divergence: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="mixtures help",
        text="A dictionary of vectors mixed token by token solves more than one network on the prompt",
        source=DRAB,
        decides=f"{_POOLED}, dictionary − drab at the same divergence: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="boosters beat rivals",
        text="A booster solves more than a published adapter of as many parameters, at the same divergence",
        source=f"{DRAB}; LoReFT is arXiv 2404.03592",
        decides=f"{_POOLED}, drab − LoReFT: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="fifty samples",
        text="Fifty samples train a booster as well as five hundred",
        source=f"{DRAB}: 50 to 500 samples",
        decides=f"{_POOLED}, the fewest samples − the most: at least −.03",
        bound=-MARGIN,
    ),
    Claim(
        key="most adapters help",
        text="85 to 95 % of trained adapters help",
        source=DRAB,
        decides="share of trained adapters, strength chosen on dev, that are above base on held-out problems: at least .85",
        bound=0.85,
        tolerance=0.1,
    ),
    Claim(
        key="skill",
        text="What the best booster gains is reasoning: within one and the same style of writing, too, it solves more",
        source=DRAB,
        decides="best booster on dev − base within styles (both written in the same style), pooled over seeds: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="style",
        text="It makes the model write in its more careful style more often, and that alone solves more",
        source="doubt about the claim above",
        decides="best booster on dev − base less the effect within styles, pooled over seeds: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="quiet",
        text="What a mixture adds is small on tokens without reasoning",
        source=DRAB,
        decides="mean ‖delta‖ on neutral text over that on the traces' own text, pooled over seeds: at most .5",
        bound=0.5,
        at_most=True,
        tolerance=0.1,
    ),
    Claim(
        key="weights move",
        text="The weights of a mixture change where the answer is drawn",
        source=DRAB,
        decides="total variation between weights at the conclusion and in the working, less that within the working: at least .1",
        bound=0.1,
        tolerance=0.05,
    ),
    Claim(
        key="fails softer",
        text="A mixture of fixed vectors does less harm far from its training text than a network",
        source=DRAB,
        decides="loss on neutral text, network − dictionary, both everywhere and at the same divergence: at least .02 nats",
        bound=0.02,
        tolerance=0.05,
    ),
    Claim(
        key="atoms have tasks",
        text="Atoms of one dictionary, trained on arithmetic, comparison, honesty and the form of answers, take up tasks of their own",
        source=f"{DRAB}: a universal booster",
        decides="accuracy of naming the task from a prompt's weights, less that with an untrained router: at least .1",
        bound=0.1,
        tolerance=0.1,
    ),
    Claim(
        key="longer problems",
        text="What is learned on problems of one and two steps helps on three and four",
        source=f"{DRAB}: transfer",
        decides=f"{_POOLED} of three and four steps, drab − base: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="left-out operation",
        text="What is learned without multiplication helps on multiplication",
        source=f"{DRAB}: transfer",
        decides=f"{_POOLED} with multiplication, drab − base: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="no harm",
        text="A booster leaves neutral text as it was",
        source=DRAB,
        decides="loss on neutral text, drab − base, steered as it was trained: at most .02 nats per token",
        bound=0.02,
        at_most=True,
        tolerance=0.02,
    ),
    Claim(
        key="few features carry it",
        text="A few features of a sparse autoencoder carry the effect of the best booster",
        source="common practice",
        decides="sufficiency of the first k on other contexts, less that of meaningless bases, pooled: above 0",
        bound=0.0,
        tolerance=0.15,
    ),
    Claim(
        key="few singular directions",
        text="A few singular directions of the weights carry the effect of the best booster",
        source="common practice",
        decides="the same for the left singular basis of the MLP's output map",
        bound=0.0,
        tolerance=0.15,
    ),
)
