"""An order-4 context model over bytes, as a yardstick: PPM with escape method C and exclusions.

Cleary and Witten, "Data compression using adaptive coding and partial string matching" (1984); Moffat,
"Implementing the PPM data compression scheme" (1990). Adaptive: it learns while it reads, so its bits are those of an
encoder whose decoder needs nothing but the bits (and the text it was primed with).
"""

from __future__ import annotations

import math
from collections import defaultdict

ORDER = 4
ALPHABET = 256


class ContextModel:
    """Counts of the byte after each context of 0 to 4 bytes."""

    def __init__(self) -> None:
        self._counts: list[dict[bytes, dict[int, int]]] = [defaultdict(dict) for _ in range(ORDER + 1)]

    def read(self, text: bytes) -> float:
        """Bits that ``text`` costs, learning on the way; its first bytes have shorter contexts."""
        return sum(self._read_byte(text[max(0, at - ORDER) : at], byte) for at, byte in enumerate(text))

    def _read_byte(self, context: bytes, byte: int) -> float:
        bits, excluded = 0.0, set[int]()
        visited = []
        for order in range(len(context), -1, -1):
            counts = self._counts[order][context[len(context) - order :]]
            visited.append(counts)
            seen = {symbol: count for symbol, count in counts.items() if symbol not in excluded}
            if not seen:
                continue
            total = sum(seen.values()) + len(seen)
            if byte in seen:
                bits -= math.log2(seen[byte] / total)
                break
            bits -= math.log2(len(seen) / total)
            excluded.update(seen)
        else:
            bits += math.log2(ALPHABET - len(excluded))
        # Only the contexts down to the one that knew the byte learn it ("update exclusion"): better and faster.
        for counts in visited:
            counts[byte] = counts.get(byte, 0) + 1
        return bits


def context_model_bits(text: bytes, primed_with: bytes = b"") -> float:
    """Bits a byte of ``text`` under the order-4 model, after it has read ``primed_with``."""
    model = ContextModel()
    model.read(primed_with)
    return model.read(text) / len(text)
