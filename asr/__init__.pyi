from asr.api import SearchOptions as SearchOptions
from asr.api import Transcriber as Transcriber
from asr.api import Transcript as Transcript
from asr.api import load as load

__version__: str
