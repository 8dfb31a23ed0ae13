"""What a gate file sees of a dump scope: its streams really encoded, decoded and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_h2o.gate.item import GateItem, Targets
from pytest_h2o.gate.measured import Measured

if TYPE_CHECKING:
    from pytest_h2o.gate.figures import Figures
    from pytest_h2o.lossless import LosslessResult
    from pytest_h2o.scopes import Scope


class LosslessItem(GateItem):
    """One dump scope: its streams really encoded, decoded and compared."""

    kind = "scope"

    def __init__(self, session: Figures, scope: Scope, targets: Targets) -> None:
        super().__init__(session, scope.name, targets)
        self.scope = scope

    @property
    def result(self) -> LosslessResult:
        """The evaluation of this scope. DumpError if it cannot be read, or entries of it cannot."""
        self.asked = True
        return self.session.dumps.evaluate(self.scope)

    @property
    def ratio(self) -> Measured:
        """Raw fp16 bytes over encoded bytes, all headers counted, K and V together."""
        return self.measured("lossless_ratio", self.result.lossless_ratio, self.name)

    @property
    def streams(self) -> int:
        """Streams that were encoded and counted."""
        return self.result.encoded_streams

    @property
    def decoded_streams(self) -> int:
        """Streams that were decoded from the counted bytes and equal their input bit for bit."""
        return self.result.verified_streams
