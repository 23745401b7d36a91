"""Who speaks: espeak's accents times its voice variants, and which variants only testing hears.

A variant is a timbre: formants, pitch, breath. Held out is the timbre, with every accent it is
given; accents recur, or a test would ask for sounds never heard. Variants that are near copies of
each other (klatt4 and klatt5, Diogo and michel, steph and steph2, ...) stand on one side only.

Left out are whispering and croaking variants, heavy echo (robots) and timbres far away from all
others, as measured by warped cepstral distance.
"""

from __future__ import annotations

from dataclasses import dataclass

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en")

TRAIN_MALE = (
    "m1", "m2", "m3", "m5", "m6", "m8", "Alex", "Diogo", "Gene", "Jacky", "Mario", "Michael",
    "Nguyen", "Reed", "adam", "caleb", "ed", "edward2", "john", "klatt4", "max", "miguel", "paul",
    "pedro", "sandro", "travis",
)  # fmt: skip
TRAIN_FEMALE = ("f1", "f2", "f4", "f5", "Andrea", "aunty", "belinda", "linda")
DEV_MALE = ("Mike", "iven4", "quincy", "rob")
DEV_FEMALE = ("anika",)
TEST_MALE = ("m4", "m7", "Denis", "antonio", "pablo", "victor")
TEST_FEMALE = ("f3", "Annie", "grandma", "steph")

# Women are the smaller part of espeak's variants: more accents each even out the training speech.
_ACCENTS_PER_MALE = 2
_ACCENTS_PER_FEMALE = 4


@dataclass(frozen=True)
class Voice:
    speaker: int
    sex: str
    accent: str
    variant: str

    @property
    def name(self) -> str:
        return f"{self.accent}+{self.variant}"


def _voices(
    first_speaker: int, males: tuple[str, ...], females: tuple[str, ...], per_female: int
) -> tuple[Voice, ...]:
    chosen: list[tuple[str, str, str]] = []
    next_accent = 0
    for sex, variants, count in (("M", males, _ACCENTS_PER_MALE), ("F", females, per_female)):
        for variant in variants:
            for _ in range(count):
                chosen.append((sex, ACCENTS[next_accent % len(ACCENTS)], variant))
                next_accent += 1
    return tuple(
        Voice(first_speaker + index, sex, accent, variant)
        for index, (sex, accent, variant) in enumerate(chosen)
    )


VOICES: dict[str, tuple[Voice, ...]] = {
    "train": _voices(1001, TRAIN_MALE, TRAIN_FEMALE, _ACCENTS_PER_FEMALE),
    "dev": _voices(2001, DEV_MALE, DEV_FEMALE, _ACCENTS_PER_MALE),
    "test": _voices(3001, TEST_MALE, TEST_FEMALE, _ACCENTS_PER_MALE),
}
