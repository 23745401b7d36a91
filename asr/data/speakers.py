"""What utterances of no known speaker are called."""

from __future__ import annotations

# Of every utterance whose corpus does not say who speaks.
UNKNOWN_SPEAKER = "unknown"
