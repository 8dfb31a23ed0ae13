"""The sweep gates: every preset in presets/ becomes these items.

Plain assertions: read them, copy them, change them. `h2o_sweep` and `h2o_point` measure when they are first asked;
`h2o_targets` are the targets of the preset, each with where it was said.
"""


def test_bench(h2o_point):
    """The bench ran this point and its row is sound: right prompt, backend and columns, H2O at work."""
    assert h2o_point.row.get("h2o_lossy").mean >= 1.0


def test_lossy(h2o_sweep, h2o_targets):
    """Some row evicts enough."""
    assert h2o_sweep.best("h2o_lossy") >= h2o_targets.lossy


def test_decode(h2o_sweep, h2o_targets):
    """Decode is not slowed down more than allowed."""
    assert h2o_sweep.decode_drop() <= h2o_targets.decode_drop


def test_quality(h2o_sweep, h2o_targets):
    """The model still predicts text that it has not seen; with `--h2o-demo`, it still says about the same."""
    if h2o_sweep.compares_text:
        assert h2o_sweep.text_similarity() >= h2o_targets.similarity
    else:
        assert h2o_sweep.quality_rise() <= h2o_targets.quality


def test_demo(h2o_demo, h2o_targets):
    """With `--h2o-demo`: real prompts are not said more slowly than allowed, all together and those of each length."""
    assert h2o_demo.demo_drop() <= h2o_targets.demo_drop
    for bucket in h2o_demo.prompt_buckets:
        assert h2o_demo.demo_drop(bucket) <= h2o_targets.demo_bucket_drop
    assert not h2o_demo.demo_missed


def test_consistency(h2o_preset, h2o_targets):
    """What the bench says of its own lossless coding is what its KV dump comes to; of another build it is reported."""
    assert h2o_preset.runtime_difference() <= h2o_targets.consistency


def test_joint(h2o_preset):
    """One and the same row meets every target; of several workloads, one and the same configuration at each."""
    assert h2o_preset.joint_margin() >= 0


def test_health(h2o_health):
    """Every row holds what is asked of each: fallbacks, queues, waits and cache of lossless coding at run time.

    Presets with such a target have this item: `targets: {h2o_lossless_fallback: 0}`, `--h2o-target`.
    """
    assert not h2o_health.missed
