"""From what annotators typed to clauses: spaces, capitals and full stops go; a verb phrase gets its third person.

    clean("  Stirs the Pasta . ")             # "stirs the pasta"
    clause("the camera wearer", "add salt")   # "the camera wearer adds salt"

Datasets write steps in every form: "Knead the dough", "kneads the dough", "kneading the dough". Only verbs that stand
in VERBS are inflected: guessing would turn "noodles in a pot" into a verb. What is not known is quoted as it stands.
"""

from __future__ import annotations

import re

VERBS = frozenset(
    """
    accept activate add adjust allow appear apply arrange ask assemble attach awaken bake bandage baste beat begin
    bend bite blanch blend blow boil bow braid braise bread break breathe brew bring broil brush build bury buy call
    caress carry carve catch change charge chase check chew chop clap clean clear click climb clip close coat
    collect comb combine come compress connect continue cook cool core count cover crack crawl create creep crimp
    cross crouch crush cut dance deactivate debone decide declutter decompress decorate deep-fry deepfry defrost
    deliver deposit detach devein dice dig dilute dip discard disconnect dish dispose dissolve distribute divide do
    drag drain draw dress dribble drink drive drizzle drop dry dump dust eat email embed embrace empty enter envelop
    examine exchange exercise exit expel extract face fasten feed fetch fight fill find finish fit fix flatten flick
    flip float fluff fly fold follow form freeze fry garnish gather get give glaze glue go grab grate grease greet
    grill grind grip hammer hand hang heat hide hit hold hop hug ignite immerse include increase ingest inject
    insert inspect install introduce iron jiggle juggle juice jump keep kick kiss knead kneel knock lather laugh lay
    lead lean leave lick lie lift light link listen load lock look loosen lose lower lubricate maintain make manage
    march marinate mash massage measure meet melt microwave mince mix mold mop mould move nail nod notice offer open
    operate organise organize overlook pack package paddle paint pan-fry parade park pass paste pat patch pause pay
    peek peel perch perform pet pick pin pinch pipe place plait plant play pluck plug poach point polish pose
    position pound pour power practice pre-heat preheat prepare present press pretend proceed proof prop pull pump
    punch puree push put race raise reach react read rearrange record redo reduce refill refrigerate regulate
    rehearse reheat rekindle relax release remain remember remove reopen repackage repeat replace reply reposition
    request reroll reset respond rest restart return reveal reverse rewind ride ring rinse rip roast rock roll
    rollerblade rotate row rub run rush sail sample sand sauce saute sauté savor say scald scatter scoop score
    scrape scratch screw scrub seal sear search season see seem select separate serve set settle sew shake shape
    sharpen shave shift shine shoot shout shovel show shower shred shut sieve sift sign simmer sing sip sit sizzle
    skate skewer ski skim skin skip slap slash sleep slice slide smash smell smile smoke smooth smoothen snack snap
    sneeze sniff snip snow snuggle soak solder sort span spar speak spice spill spin spit splash split spoon spray
    spread sprinkle sprint squat squeeze squirt stab stack stand stare start steam steer step stick stir stir-fry
    stirfry stop store straighten strain stretch stride strip struggle strum study stuff stumble style suck suit
    sunbathe surf surround swap sweat sweep sweeten swim swing swirl switch tackle take talk tap tape taste teach
    tear tell tenderize test text thicken thin thrash throw tickle tidy tie tighten tilt toast top toss touch tow
    trace train transfer trash travel treat trim trip try turn twist type unbox unclose uncover undo undress unfold
    unload unlock unpack unplug unscrew unseal unwrap use vacuum ventilate view visit vlog volunteer wade wait wake
    walk wander warm wash watch water wave wear weave weigh welcome weld wet whip whisk whistle wind wipe withdraw
    work wrap wrestle write yawn yell zoom
    """.split()  # noqa: SIM905 - a list of words reads best as text
)


def clean(text: str) -> str:
    """One line, lower case, single spaces, without list marks at its start and marks at its end; may become empty."""
    line = re.sub(r"\s+", " ", re.sub(r"\s*\n[\s\-*•]*", ", ", text.strip())).lower()
    line = re.sub(r"\s+([,.;:!?])", r"\1", line)
    return line.strip(' .;,!?`-*•"')


def third_person(verb: str) -> str:
    """ "stir" becomes "stirs", "wash" "washes", "dry" "dries", "have" "has"."""
    if verb == "have":
        return "has"
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


_THIRD = {third_person(verb): verb for verb in VERBS}
_BE = frozenset({"is", "are", "was", "has", "does", "goes"})
_PAST = frozenset(
    """
    ate began brought came did drank drew drove fed fell felt fled flew found gave got had held hung kept knelt laid
    lay left lit lost made met paid ran rode sang sat saw shook shot shut slept slid spoke spun stood stuck swam swept
    swung took tore threw went woke wore wrote
    """.split()  # noqa: SIM905
)


def _stem(gerund: str) -> str | None:
    """The known verb of which a word is the -ing form: "stir" of "stirring", "bake" of "baking"."""
    stem = gerund.removesuffix("ing")
    if stem == gerund or not stem:
        return None
    single = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
    return next((verb for verb in (stem, stem + "e", single, stem[:-1] + "ie") if verb in VERBS), None)


def clause(subject: str, phrase: str) -> str:
    """`subject` with a clean verb phrase as its predicate: one clause.

    The phrase may begin with a base form ("add salt"), a third person ("adds salt"), a gerund ("adding salt"), a past
    ("added salt") or a form of be, and with an adverb before it. Anything else cannot be inflected without guessing and
    follows after "is at this:".
    """
    return predicated(subject, phrase) or f"{subject} is at this: {phrase}"


def predicated(subject: str, phrase: str) -> str | None:
    """As `clause`, or None where the phrase does not begin with a known verb."""
    first, _, rest = phrase.partition(" ")
    if first.endswith("ly") and rest:
        return predicated(f"{subject} {first}", rest)
    if first in _BE or first in _THIRD or first in _PAST:
        return f"{subject} {phrase}"
    if first in VERBS:
        return f"{subject} {third_person(first)}{_inflect_second(f' {rest}' if rest else '')}"
    if _stem(first):
        return f"{subject} is {phrase}"
    if first.endswith("ed") and bool({first[:-1], first[:-2], first[:-3], first[:-3] + "y"} & VERBS):
        return f"{subject} {phrase}"
    return None


def base_form(phrase: str) -> str:
    """A clean verb phrase with its first verb in the base form: "adds salt" and "adding salt" become "add salt".

    So one activity has one name however it was typed. What does not begin with a known verb stays as it is.
    """
    first, _, rest = phrase.partition(" ")
    base = _THIRD.get(first) or _stem(first) or first
    return f"{base} {rest}" if rest else base


def _inflect_second(tail: str) -> str:
    """ "chop and fry onions" has two verbs of one subject: "chops and fries onions"."""
    match = re.match(r"^( and | or )([^ ]+)(.*)$", tail)
    if match and match[2] in VERBS:
        return match[1] + third_person(match[2]) + match[3]
    return tail


def noun(category: str) -> str:
    """A dataset's class name as a noun phrase: "paper/notebook" becomes "paper or notebook", "hand_bag" "hand bag"."""
    return clean(category.replace("_", " ").replace("/", " or "))
