"""The lossless gates: every scope in scopes.yaml becomes these items.

Plain assertions: read them, copy them, change them. A scope is encoded, decoded and compared when it is first asked;
an entry of its dump that cannot be read fails it.
"""


def test_lossless(h2o_lossless, h2o_targets):
    """Coded as the runtime would code it, the KV cache shrinks enough."""
    assert h2o_lossless.ratio >= h2o_targets.lossless


def test_upper_bound(h2o_upper_bound, h2o_targets):
    """Coded as a whole: what no online coder reaches. Reported, unless the scope has a target."""
    assert h2o_upper_bound.ratio >= h2o_targets.lossless


def test_roundtrip(h2o_scope):
    """Every stream decodes from the counted bytes to the same bits."""
    assert h2o_scope.decoded_streams == h2o_scope.streams
    assert h2o_scope.streams > 0
