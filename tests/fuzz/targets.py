"""The table of fuzz targets: every reader of bytes that others wrote.

Used three ways: `test_targets` runs each for a moment in the suite, on its seeds and on mutations of them;
``python tools/fuzz.py`` runs them for as long as it is told; and what it finds becomes a file in ``seeds/NAME``.
"""

from collections.abc import Mapping

from tests.fuzz.codec_targets import CODEC_TARGETS
from tests.fuzz.file_targets import FILE_TARGETS
from tests.fuzz.target import Target
from tests.fuzz.text_targets import TEXT_TARGETS

TARGETS: Mapping[str, Target] = {target.name: target for target in (*TEXT_TARGETS, *CODEC_TARGETS, *FILE_TARGETS)}
