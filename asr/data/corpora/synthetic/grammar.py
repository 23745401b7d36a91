"""A generative grammar of plain English sentences in which guessing does not help.

Words fall into classes, every word in exactly one, drawn uniformly; rules say which classes follow
each other. So the class sequence of a sentence is known from its words, and the entropy of the
whole distribution is exact: that of the class sequences plus the logarithms of the class sizes.

No two words sound alike in any of the accents used (a test asks espeak), because nothing but the
sound tells words of one class apart.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

MIN_WORDS, MAX_WORDS = 4, 9

_CLASS_TEXT = {
    "DET": "the my her his this that every another",
    "NAME": """
        alice anthony barbara benjamin caroline daniel dorothy edward elizabeth frances gabriel
        hannah isabel jonathan katherine leonard margaret nicholas olivia patrick rebecca samuel
        theresa victoria vincent walter yolanda zachary oscar juliet malcolm deborah
    """,
    "PERSON": """
        actor baker captain carpenter cousin dentist doctor driver farmer fisherman grandmother
        guard janitor judge lawyer librarian magician mechanic musician neighbor nurse pilot
        plumber poet president sailor scientist shepherd soldier stranger teacher
    """,
    "ANIMAL": """
        badger camel donkey elephant falcon giraffe hamster kangaroo monkey octopus parrot penguin
        rabbit spider squirrel tiger turtle walrus wolf zebra dolphin
    """,
    "THING": """
        ankle basket bicycle blanket bottle bridge camera candle carpet ceiling clock curtain
        diamond engine garbage guitar hammer helmet instrument jacket kettle ladder lantern
        machine magazine medicine necklace newspaper package parachute pencil photograph piano
        pillow pocket radio refrigerator scarf shovel spoon suitcase sweater telephone ticket
        trumpet umbrella violin wagon whistle window
    """,
    "PLURAL": """
        apples arrows blueberries bricks buttons cakes carrots cherries coins cookies dishes eggs
        feathers flags gloves horses keys lemons letters maps mushrooms onions oranges pancakes
        potatoes pumpkins shirts stamps stones tomatoes tools trees
    """,
    "PLACE": """
        airport attic balcony beach bedroom cathedral cave church corridor desert factory forest
        garage garden harbor hospital hotel island kitchen lake library market mountain museum
        office prison restaurant river stadium theater tower valley village
    """,
    "ADJ": """
        ancient beautiful brave broken careful clever clumsy cold curious dangerous dirty dusty
        empty expensive famous foolish friendly gentle gigantic happy heavy hungry invisible lazy
        little lonely magnificent mysterious narrow nervous ordinary polite proud quick silent
        strong terrible tiny ugly wooden young
    """,
    "COLOR": "black brown crimson golden green orange purple silver white yellow",
    "NUMBER": "three four five six seven nine ten eleven twelve twenty fifty several",
    "DID_TO": """
        admired borrowed broke buried carried caught chose cleaned collected counted covered
        delivered described destroyed discovered dropped examined followed forgot fixed grabbed
        ignored inspected kicked lifted lost mentioned moved noticed ordered polished pushed
        recognized repaired shook sketched smelled stole studied touched unpacked wanted watched
    """,
    "DID": """
        arrived collapsed cried danced disappeared escaped fell hesitated jumped laughed listened
        paused rested returned shouted shivered sneezed stayed stumbled survived swam trembled
        vanished whispered
    """,
    "HOW": """
        accidentally angrily anxiously calmly cautiously eagerly finally immediately never often
        patiently politely quietly rarely secretly silently slowly suddenly together usually
    """,
    "WHEN": """
        yesterday tonight today tomorrow sometimes afterwards monday wednesday thursday saturday
        recently again
    """,
    "WHERE": "above across against around behind below beside beyond inside near under",
    "MODAL": "could must might will cannot",
    "PRONOUN": "you we they she",
    "DO": """
        believe bring change choose climb deserve draw enjoy expect find forgive hide imagine
        leave measure offer open paint protect question remember share solve throw understand
        visit
    """,
    "LINK": "and because but when",
}

CLASSES: dict[str, tuple[str, ...]] = {
    name: tuple(sorted(text.split())) for name, text in _CLASS_TEXT.items()
}

# Lower case: rules, weighted alternatives. Upper case: word classes.
RULES: dict[str, tuple[tuple[float, str], ...]] = {
    "sentence": (
        (5, "someone DID_TO something"),
        (3, "someone DID_TO something place"),
        (4, "someone HOW DID_TO something"),
        (2, "someone DID place"),
        (1, "beast DID place"),
        (1, "beast HOW DID place"),
        (1, "beast DID_TO something WHEN"),
        (2, "PRONOUN MODAL DO something"),
        (1, "PRONOUN MODAL DO something place"),
        (2, "MODAL PRONOUN DO something WHEN"),
        (2, "DO something place"),
        (1, "WHEN someone DID place"),
        (2, "someone DID LINK someone DID"),
        (1, "WHEN beast LINK someone DID HOW"),
        (2, "NAME LINK NAME DID_TO something"),
    ),
    "someone": ((2, "NAME"), (2, "DET PERSON"), (1, "DET ADJ PERSON")),
    "beast": ((2, "DET ANIMAL"), (1, "DET ADJ ANIMAL"), (1, "DET COLOR ANIMAL")),
    "something": (
        (4, "DET THING"),
        (2, "DET ADJ THING"),
        (1, "DET COLOR THING"),
        (2, "NUMBER PLURAL"),
        (1, "NUMBER ADJ PLURAL"),
        (1, "NUMBER COLOR PLURAL"),
    ),
    "place": ((3, "WHERE DET PLACE"), (1, "WHERE DET ADJ PLACE")),
}


@dataclass(frozen=True)
class Entropy:
    """Of the distribution ``draw_sentence`` samples, in bits; exact, not estimated."""

    bits_per_sentence: float
    words_per_sentence: float
    num_sentences: float
    vocabulary: int

    @property
    def bits_per_word(self) -> float:
        return self.bits_per_sentence / self.words_per_sentence

    @property
    def perplexity(self) -> float:
        """Per word, the sentence's length given to nobody: 2 to the bits per word."""
        return 2.0**self.bits_per_word

    def line(self) -> str:
        return (
            f"grammar: {self.vocabulary} words, {self.num_sentences:.2e} sentences, "
            f"{self.bits_per_sentence:.1f} bits per sentence of "
            f"{self.words_per_sentence:.2f} words, {self.bits_per_word:.2f} bits per word "
            f"(perplexity {self.perplexity:.1f})"
        )


def vocabulary() -> tuple[str, ...]:
    """Every word the grammar can say, sorted."""
    return tuple(sorted(word for words in CLASSES.values() for word in words))


@lru_cache(maxsize=1)
def class_sequences() -> tuple[tuple[tuple[str, ...], float], ...]:
    """All class sequences of MIN_WORDS to MAX_WORDS words with their probabilities (they sum to 1).

    Two derivations may end in the same sequence; their probabilities add.
    """
    found: dict[tuple[str, ...], float] = {}
    for sequence, probability in _expand(("sentence",)):
        if MIN_WORDS <= len(sequence) <= MAX_WORDS:
            found[sequence] = found.get(sequence, 0.0) + probability
    total = sum(found.values())
    return tuple((sequence, p / total) for sequence, p in sorted(found.items()))


def entropy() -> Entropy:
    bits = words = count = 0.0
    for sequence, probability in class_sequences():
        choices = [len(CLASSES[name]) for name in sequence]
        bits += probability * (sum(map(math.log2, choices)) - math.log2(probability))
        words += probability * len(sequence)
        count += math.prod(choices)
    return Entropy(bits, words, count, len(vocabulary()))


def draw_sentence(rng: np.random.Generator) -> tuple[str, ...]:
    """The words of one sentence, lower case."""
    bounds = _cumulative()
    index = min(bisect_right(bounds, float(rng.random())), len(bounds) - 1)
    sequence, _ = class_sequences()[index]
    return tuple(CLASSES[name][int(rng.integers(len(CLASSES[name])))] for name in sequence)


@lru_cache(maxsize=1)
def _cumulative() -> tuple[float, ...]:
    return tuple(accumulate(probability for _, probability in class_sequences()))


def _expand(symbols: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    if not symbols:
        yield (), 1.0
        return
    first, rest = symbols[0], symbols[1:]
    alternatives = RULES.get(first)
    for tail, tail_probability in _expand(rest):
        if alternatives is None:
            yield (first, *tail), tail_probability
            continue
        total = sum(weight for weight, _ in alternatives)
        for weight, text in alternatives:
            for head, probability in _expand(tuple(text.split())):
                yield (*head, *tail), tail_probability * probability * weight / total
