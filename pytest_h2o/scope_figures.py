"""The lossless figures of a gate session: each scope evaluated once, whichever process asks first."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import NotMeasured
from pytest_h2o.gate.targets import scope_targets
from pytest_h2o.options import Settings
from pytest_h2o.progress import ProgressWriter
from pytest_h2o.store import OnceStore, keep_error, kept_value

if TYPE_CHECKING:
    from pytest_h2o.gate_files import GateFiles
    from pytest_h2o.lossless import LosslessResult
    from pytest_h2o.report.new_data import NewData
    from pytest_h2o.scopes import Scope


class ScopeFigures:
    """Answers for the dumps: each scope evaluated once, whichever process asks first."""

    def __init__(
        self, settings: Settings, *, store: OnceStore, files: GateFiles, new: NewData, progress: ProgressWriter
    ) -> None:
        self._settings = settings
        self._store = store
        self._files = files
        self._new = new
        self._progress = progress
        self._evaluated: dict[str, LosslessResult] = {}

    def deciding_scope(self) -> Scope | None:
        return next((scope for scope in self._files.scopes.values() if scope.decides), None)

    def deciding_ratio(self) -> float:
        scope = self.deciding_scope()
        if scope is None:
            raise NotMeasured(
                "no scope decides the lossless ratio",
                expected="a scope with decides: true in scopes.yaml beside the gate file",
                hint="name the file with --h2o-scopes FILE",
            )
        return self.evaluate(scope).lossless_ratio

    def evaluate(self, scope: Scope) -> LosslessResult:
        from pytest_h2o.lossless import LosslessResult, refuse_skips

        allow_skips = scope.allow_skips or self._settings["allow-skips"]
        if scope.name not in self._evaluated:
            kept = self._store.once(f"scope/{scope.name}", keep_error(lambda: self._encode(scope)))
            self._evaluated[scope.name] = LosslessResult.from_json(kept_value(kept), scope.name)
            targets = scope_targets(self._settings, scope)
            self._new.add_scope(scope, targets, self._evaluated[scope.name], allow_skips=allow_skips)
        result = self._evaluated[scope.name]
        if not allow_skips:
            refuse_skips(result, scope.name)
        return result

    def _encode(self, scope: Scope) -> dict[str, Any]:
        from pytest_h2o.bench.machine_lock import heavy_work
        from pytest_h2o.known_rope import find_rope
        from pytest_h2o.lossless import LosslessSettings, evaluate_lossless

        settings = LosslessSettings(
            **{field.name: getattr(scope, field.name) for field in dataclasses.fields(LosslessSettings)}
        )
        rope = find_rope(scope, self._settings.given["base-config"])
        root, executor, progress = self.root(scope), self._settings["executor"], self._progress
        with progress.step(scope.name, "coded and decoded"), heavy_work(progress.wait):
            return evaluate_lossless(
                root, settings, verify=True, rope=rope, executor=executor, progress=progress.amount
            ).to_json()

    def root(self, scope: Scope) -> Path:
        root: Path = self._settings["dump-dir"] or scope.root
        return root
