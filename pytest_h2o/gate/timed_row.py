"""Which row the decode verdict is for: chosen before any pair is launched. Pure.

A paired verdict costs dozens of launches, so it is made for one row of a preset and not for all. The choice goes from
what is certain to what is not:

1. The deterministic columns decide which rows could pass at all. Under the joint rule a row that misses the lossy
   target, or that of quality, fails whatever its speed: it is never timed. If no row is left, nothing is launched.
   (The lossless target is one for all rows; where it is missed the joint item fails without launching anything.)
2. Of the rows left the one that was fastest when the sweep ran is timed: the likeliest to hold the decode target. Its
   speed there only picks it. The verdict rests on new launches alone, so that picking the luckiest of many rows
   (the fault of the best-of rule) gives no advantage: its luck does not come again.

The price: where the timed row fails, another eligible row might have held. The diagnosis names those rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_h2o.gate.rule import RowFacts, Thresholds, best_row, row_margins


def eligible_rows(rows: Sequence[RowFacts], asked: Thresholds, *, rule: str) -> tuple[RowFacts, ...]:
    """The rows for which a decode speed can matter: under the joint rule those that meet the targets of their own.

    Parameters
    ----------
    rows : sequence of RowFacts
    asked : Thresholds
        Those of `lossy` and `quality` count; None leaves one out.
    rule : str
        ``joint`` or ``best-of``; under best-of every row may decide.
    """
    own = Thresholds(asked.lossy, None, None, asked.quality)
    if rule != "joint" or own == Thresholds(None, None, None):
        return tuple(rows)
    return tuple(row for row in rows if not row_margins(row, own, baseline_tok_per_s=None, lossless=None).missed)


def choose_timed_row(eligible: Sequence[RowFacts]) -> RowFacts | None:
    """The row to time: the fastest of the eligible ones as the sweep saw them; None if there is none."""
    return best_row(eligible, "decode_tok_per_s") or (eligible[0] if eligible else None)
