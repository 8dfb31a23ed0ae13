"""The gates of KV-cache types: every preset is one."""


def test_bench(h2o_point):
    """There is a sound row of this type."""
    assert h2o_point.row.get("h2o_lossy").mean >= 1.0


def test_lossy(h2o_sweep, h2o_targets):
    """The type makes the cache small enough."""
    assert h2o_sweep.best("h2o_lossy") >= h2o_targets.lossy


def test_decode(h2o_sweep, h2o_targets):
    """Generation is not slowed down more than allowed against an f16 cache."""
    assert h2o_sweep.decode_drop() <= h2o_targets.decode_drop


def test_joint(h2o_sweep):
    """One row meets both."""
    assert h2o_sweep.joint_margin() >= 0
