"""Files of a run's folder, EXP: training, decoding and comparing agree on their names here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Of a model folder, which is EXP/model and stands alone too; the tokenizer's files are its own.
WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
# A model card for people; `asr push` writes one.
CARD = "README.md"
# A language model that a model carries, for whoever transcribes with it; and its weights in a search.
CARRIED_LM, SEARCH_WEIGHTS = "lm.arpa.gz", "search.yaml"


@dataclass(frozen=True)
class RunFolder:
    """The files of one training and of what was decoded with its model.

    Attributes:
        root: EXP.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The whole configuration."""
        return self.root / CONFIG

    @property
    def run(self) -> Path:
        """Record of how the model came about: words, data, commit, speed."""
        return self.root / "run.json"

    @property
    def log(self) -> Path:
        """A record per logged step and per validation."""
        return self.root / "log.jsonl"

    def diff(self, after_step: int = 0) -> Path:
        """Changes of the checkout beyond its commit, at the start or when the run went on."""
        name = f"uncommitted-after-{after_step}" if after_step else "uncommitted"
        return self.root / f"{name}.diff"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """The model folder, written at the end of training."""
        return self.root / "model"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def profile(self) -> Path:
        return self.root / "profile"

    @property
    def decode(self) -> Path:
        """A folder for each decoded set."""
        return self.root / "decode"


@dataclass(frozen=True)
class DecodedFolder:
    """The files of one decoded set.

    Attributes:
        root: EXP/decode/<set>, or wherever ``--out`` put it.
    """

    root: Path

    @property
    def hypotheses(self) -> Path:
        """A line per utterance: reference, hypothesis, speaker, duration."""
        return self.root / "hypotheses.jsonl"

    @property
    def decoding(self) -> Path:
        """Record of how the set was decoded."""
        return self.root / "decode.json"

    @property
    def score(self) -> Path:
        """Error counts in all and by speaker."""
        return self.root / "score.json"

    @property
    def alignment(self) -> Path:
        """Each reference beside its hypothesis, for a reader."""
        return self.root / "alignment.txt"

    @property
    def reference_trn(self) -> Path:
        """The references as sclite reads them."""
        return self.root / "ref.trn"

    @property
    def hypothesis_trn(self) -> Path:
        """The hypotheses as sclite reads them."""
        return self.root / "hyp.trn"
