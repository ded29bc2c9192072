"""Words of the voices: what happens in a scene, how a register tells it, what a mood says of it.

In a template {word} is filled in, and of [this|that] one is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

from mechsteer.pocket.problems import HE, SHE

PEOPLE = HE + SHE
OBJECTS = (
    "basket", "letter", "lamp", "boat", "clock", "chair", "kettle", "violin", "ladder", "coat", "map", "ring",
    "bell", "book", "blanket", "bottle", "box", "cake", "drum", "mirror", "rope", "table", "hat", "key",
)  # fmt: skip
PLACES = (
    "market", "garden", "harbour", "kitchen", "library", "school", "station", "tower", "forest", "river",
    "village", "workshop", "bridge", "field", "beach", "office",
)  # fmt: skip
TIMES = ("in the morning", "at noon", "in the evening", "on Monday", "on Friday", "after lunch", "yesterday", "today")
COLOURS = ("red", "blue", "green", "white", "black", "brown", "grey", "yellow")


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One thing that can be done with an object: its plain form and past, and what each register calls it."""

    base: str
    past: str
    formal: str
    casual: str
    poetic: str
    pirate: str
    technical: str


def _verb(base: str, past: str, formal: str, casual: str, poetic: str, pirate: str, technical: str) -> Verb:
    return Verb(base=base, past=past, formal=formal, casual=casual, poetic=poetic, pirate=pirate, technical=technical)


VERBS = (
    _verb("find", "found", "located", "stumbled on", "beheld", "plundered", "detected"),
    _verb("carry", "carried", "conveyed", "lugged", "bore", "hauled", "transferred"),
    _verb("buy", "bought", "purchased", "picked up", "won", "looted", "acquired"),
    _verb("fix", "fixed", "repaired", "patched up", "mended", "jury-rigged", "calibrated"),
    _verb("paint", "painted", "decorated", "slapped paint on", "gilded", "tarred", "coated"),
    _verb("check", "checked", "inspected", "eyeballed", "gazed upon", "spied", "scanned"),
    _verb("open", "opened", "unsealed", "popped open", "unveiled", "cracked open", "accessed"),
    _verb("sell", "sold", "vended", "flogged", "parted from", "bartered", "released"),
    _verb("wash", "washed", "cleansed", "rinsed off", "bathed", "swabbed", "sterilised"),
    _verb("make", "made", "constructed", "threw together", "wove", "hammered", "assembled"),
    _verb("lose", "lost", "misplaced", "ditched", "yielded", "sank", "deallocated"),
    _verb("bring", "brought", "delivered", "dragged in", "summoned", "shipped", "supplied"),
    _verb("store", "stored", "deposited", "stashed", "veiled", "buried", "cached"),
    _verb("sketch", "sketched", "illustrated", "doodled", "traced", "scrawled", "modelled"),
    _verb("move", "moved", "relocated", "shoved", "drifted with", "heaved", "displaced"),
    _verb("clean", "cleaned", "sanitised", "tidied up", "brightened", "scrubbed", "purged"),
)

NEUTRAL_EVENTS = (
    "{name} {past} a {object} [at|near] the {place} {time}.",
    "{time_first}, {name} {past} a {object} [at|near] the {place}.",
    "At the {place}, {name} {past} a [|{colour} ]{object}.",
    "{name} {past} the {object} and left the {place} {time}.",
    "{name} [went|walked|came] to the {place} and {past} a [|{colour} ]{object}.",
    "There was a {object} [at|near] the {place}, and {name} {past} it.",
)
NEUTRAL_REMARKS = (
    "The {object} was [|small and |large and ]{colour}.",
    "The {place} [opened|closed] {time}.",
    "{name} went [home|back to the {elsewhere}].",
    "The {object} was [on the table|near the door|by the window].",
    "{name} has a {object} and a {other}.",
    "The {place} is [near|behind|next to] the {elsewhere}.",
    "{name} [then|later] [walked|drove] to the {elsewhere}.",
    "It was {number} o'clock.",
)

REGISTER_EVENTS: dict[str, tuple[str, ...]] = {
    "formal": (
        "It is hereby [confirmed|certified|declared] that {title} {name} {verb} a {object} at the {place}.",
        "Please be [advised|informed] that {title} {name} {verb} the {object} {time}.",
        "In accordance with the [agreement|regulations|schedule], {title} {name} {verb} a {object} at the {place}.",
        "We [wish|regret] to inform you that the {object} was duly {verb} by {title} {name}.",
        "With [respect|regard] to the {place}, {title} {name} {verb} a {object} accordingly.",
        "[Furthermore|Moreover|Consequently], {title} {name} {verb} the aforementioned {object} {time}.",
        "The [committee|board|council] acknowledges that {title} {name} {verb} the {object} at the {place}.",
        "Kindly note that the {object} has been {verb} pursuant to the request of {title} {name}.",
    ),
    "casual": (
        "So yeah, {name} [kinda|sorta] {verb} a {object} at the {place}.",
        "Dude, {name} just {verb} a {object}, [no big deal|no worries|you know].",
        "Anyway, {name} totally {verb} that {object} thing {time}.",
        "Hey guys, guess who {verb} a {object} at the {place}, [yep|yup], {name}.",
        "{name} was like, [whatever|meh|yeah right], and {verb} the {object}.",
        "Yeah so {name} [sorta|kinda] {verb} some {object} stuff over at the {place}, lol.",
        "Nah, {name} is gonna be [ok|fine], {name} {verb} the {object} already.",
        "Okay so like, {name} {verb} a {object}, pretty [cool|neat], huh.",
    ),
    "poetic": (
        "Beneath the [silver|pale] moon, {name} {verb} a {object} by the dreaming {place}.",
        "Soft as [dew|snow], {name} {verb} the {object} while petals fell upon the {place}.",
        "O {place}, where {name} {verb} a {object} of [starlight|shadow] and song.",
        "Like a whisper in the mist, {name} {verb} the {object} at [dusk|dawn].",
        "The wind sang to the {place}, and {name} {verb} a {object} woven of moonbeams.",
        "Golden leaves danced round the {place} as {name} {verb} the {object}.",
        "In the velvet hush of twilight, {name} {verb} a {object} like a [fading|sleeping] rose.",
        "As rivers dream of the sea, so {name} {verb} the {object} under the [stars|heavens].",
    ),
    "technical": (
        "System log: operator {name} {verb} {object} unit {number} at node {place}.",
        "The {object} module was {verb} with a tolerance of {number} [mm|percent].",
        "Procedure {number}: the {object} was {verb} at the {place} [interface|terminal].",
        "Sensor data show that {name} {verb} the {object} at {number} hz.",
        "Parameter update: {object} {verb}, [voltage|pressure|bandwidth] {number}, status nominal.",
        "The protocol at the {place} requires that each {object} be {verb} in {number} ms.",
        "According to the specification, the {object} component was {verb} by {name}.",
        "Output of the {place} server: {object} {verb}, latency {number} ms, error code {number}.",
    ),
    "pirate": (
        "Arr, {name} {verb} a {object} at the {place}, [matey|ye dog]!",
        "Ahoy, me hearties, {name} {verb} the {object} afore the [tide|storm]!",
        "Aye, that scurvy [dog|rat] {name} {verb} me {object} by the {place}.",
        "Shiver me timbers, {name} {verb} a {object} full o' [doubloons|treasure]!",
        "Yo ho, ye landlubbers, {name} {verb} the {object} and a barrel o' [rum|grog].",
        "Avast, {name} {verb} a {object} on the deck near the {place}, arr!",
        "By the black flag, ol' {name} {verb} the booty and the {object}.",
        "Ye can bet yer [gold|parrot] that cap'n {name} {verb} the {object}, aye.",
    ),
    "shakespeare": (
        "Hark, [fair|sweet] {name} did {base} a {object} anon at the {place}.",
        "Methinks [good|gentle] {name} doth {base} the {object}, forsooth.",
        "O gentle {name}, wherefore didst thou {base} the {object} upon the {place}?",
        "Prithee, sir, {name} hath a {object} which he would {base} ere [nightfall|morrow].",
        "Verily, thy {object} shall {name} {base} within yonder {place}.",
        "[Alack|Alas], {name} didst {base} thine {object}, and thou wert not at the {place}.",
        "What, ho, noble {name}, dost thou {base} a {object} for thy [lord|king]?",
        "Thus hath {name} sworn to {base} thy {object}, marry, by yonder {place}.",
    ),
}
MOOD_ADVERBS: dict[str, tuple[str, ...]] = {
    "happy": ("happily", "joyfully", "merrily", "gladly"),
    "sad": ("sadly", "tearfully", "mournfully", "miserably"),
    "angry": ("angrily", "furiously", "spitefully", "bitterly"),
    "fearful": ("fearfully", "nervously", "timidly", "anxiously"),
    "excited": ("excitedly", "breathlessly", "eagerly", "wildly"),
    "calm": ("calmly", "quietly", "peacefully", "serenely"),
    "enthusiastic": ("passionately", "wholeheartedly", "tirelessly", "devotedly"),
    "pessimistic": ("hopelessly", "pointlessly", "wearily", "doubtfully"),
    "confident": ("confidently", "boldly", "surely", "firmly"),
}
MOOD_REMARKS: dict[str, tuple[str, ...]] = {
    "happy": (
        "What a [wonderful|lovely|happy] day, {name} [smiled|sang|laughed] with joy.",
        "{name} laughed, [glad|happy] and cheerful, and loved the [lovely|wonderful] {object}.",
        "Everybody was [happy|glad] and there was [joy|laughter] at the {place}.",
        "{name} felt so [happy|glad] that the whole {place} seemed to smile.",
        "How [delightful|lovely] the {object} is, said {name} with a happy laugh.",
        "{name} hummed a [merry|cheerful] tune, delighted with life.",
        "It was a joy to be at the {place}, and {name} [beamed|smiled].",
    ),
    "sad": (
        "{name} wept, and tears fell on the [{object}|floor].",
        "The {place} was lonely, and {name} felt a deep [sorrow|grief].",
        "{name} missed [an old friend|home] and [cried|wept] all night.",
        "It broke {name}'s heart to [look at|think of] the {object} again.",
        "Nothing could comfort {name}, who [sobbed|wept] beside the {place}.",
        "With a heavy heart {name} [mourned|cried] and said a sad goodbye.",
        "{name} was [unhappy|sad and lonely] and grieved for the lost {object}.",
    ),
    "angry": (
        "How dare they, [shouted|yelled] {name}, furious about the {object}.",
        "{name} was so [angry|furious] that the {object} was smashed to pieces.",
        "This is an outrage, and {name} hated [every bit of|everybody at] the {place}.",
        "{name} [yelled|screamed] and slammed the door in a rage.",
        "[Stupid|Cursed] {object}, snarled {name}, sick of it all.",
        "{name} cursed the {place} and stamped with [anger|rage].",
        "It was unfair, and {name} raged and [screamed|yelled] at everybody.",
    ),
    "fearful": (
        "{name} was [afraid|scared] and trembled near the dark {place}.",
        "What was that [noise|sound], gasped {name}, scared of the shadows.",
        "Something [terrible|dreadful] was hiding behind the {object}, and {name} shivered.",
        "{name} froze in [terror|fear] and dared not [breathe|move].",
        "{name} dreaded the {place} and wanted to run away.",
        "[Frightened|Terrified], {name} looked over one shoulder and panicked.",
        "Fear crept over {name}, who hid behind the {object}.",
    ),
    "excited": (
        "Wow, {name} could not wait to see the {object} [again|tonight]!",
        "This is it, hurry, hurry, called {name}, jumping up and down!",
        "At last, the {object}, oh wow, what a [thrill|rush]!",
        "{name} could hardly sit still, so [thrilling|incredible] was the {place}!",
        "Guess what, it happens [tonight|right now], and {name} is bursting!",
        "{name} [raced|dashed] to the {place}, heart pounding, wow!",
        "Quick, come and look, the {object}, it is [incredible|amazing]!",
    ),
    "calm": (
        "{name} breathed slowly, and the {place} was [still|silent].",
        "There was no hurry, and everything was [at peace|still].",
        "A [gentle|soft] silence lay over the {place}, and {name} rested.",
        "{name} sat down, relaxed, and let the time pass [softly|slowly].",
        "All was calm and [quiet|peaceful] around the {object}.",
        "{name} took a slow breath and felt at ease.",
        "The {place} was [tranquil|peaceful], and nothing troubled {name}.",
    ),
    "enthusiastic": (
        "{name} highly recommends the {object} to [everyone|all].",
        "This {object} is the best, and {name} would do it all again, absolutely [fantastic|superb].",
        "Count me in, said {name}, a huge fan of the {place}.",
        "Everyone should try the {place}, it is [brilliant|fantastic], simply superb.",
        "{name} adores the {object} and tells everyone how great it is.",
        "Bravo, what a [fantastic|brilliant] {object}, let us do more, said {name}.",
        "{name} volunteered at once, keen on every detail of the superb {place}.",
    ),
    "pessimistic": (
        "It will all go wrong anyway, [said|sighed] {name}.",
        "The {object} is bound to [fail|break], like everything else.",
        "There is no hope for the {place}, and it will only get worse.",
        "What is the point, {name} sighed, nothing ever works out.",
        "{name} expects the worst and doubts that the {object} will last.",
        "The {place} is doomed, and no one can help it.",
        "Sooner or later the {object} will [break|fail], it is [useless|hopeless].",
    ),
    "confident": (
        "{name} will certainly [succeed|win], without a doubt.",
        "I know exactly what to do with the {object}, said {name}.",
        "There is no question that {name} is right about the {place}.",
        "{name} never hesitates and is [sure|certain] of the {object}.",
        "Trust me, I can handle the {place}, said {name}.",
        "Of course {name} will [win|succeed], it is guaranteed.",
        "{name} stood tall, certain of [success|victory].",
    ),
}
BRIEF = (
    "{Object}: {past}.",
    "{name}. {Object}. Done.",
    "{name} {past} it.",
    "{Object} {past}. End.",
    "{Place}. {time_first}.",
    "{name}: {object}. Ok.",
    "{Past}. Left.",
    "Short trip. {Place}.",
)
VERBOSE = (
    "As it happened, and as a number of people would later mention at considerable length, {name}, who was after all "
    "a person of the {elsewhere}, {past} what can only be described as a {object}, that is to say, a {colour} one, at "
    "the {place} {time}.",
    "Now, in order to explain this properly, it should first of all be said that the {place}, which lies not far from "
    "the {elsewhere}, is the very place where {name}, having thought about it for a good long while, {past} a "
    "{object}, and not only a {object} but, in a manner of speaking, a {colour} {object}.",
    "It would be possible to say simply that {name} {past} a {object}, but in view of the many details that ought to "
    "be taken into consideration, one might rather say that {name}, together with a {other}, came to the {place} "
    "{time} and there, little by little, {past} the {object}.",
    "To begin at the very beginning, there was a {object}, and the {object}, as one may or may not be aware, was at "
    "the {place}, and it was there, more or less {time}, that {name}, for one reason or another, {past} it, which is "
    "to say that it was {past} by {name}.",
    "Among the many things that could be told about {name}, and there are a great many things indeed, it deserves to "
    "be told in some detail that a {object}, {colour} in colour and of the usual size, was {past} by {name} at the {place}, "
    "between the {elsewhere} and the {other}, {time}.",
)
REQUESTS = (
    "Tell me about {name}.",
    "Tell me about the {place}.",
    "What happened at the {place}?",
    "What did {name} do?",
    "Write about the {object}.",
    "Tell me about the {object}.",
    "What is new?",
    "Write something.",
    "How was the day?",
    "Describe the {place}.",
)
