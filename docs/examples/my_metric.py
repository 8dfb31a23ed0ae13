"""A metric of one's own: how long the first token of an answer takes, which nothing else here gates."""

from pytest_h2o import RowMetric


def first_token_s(row):
    """Seconds to read the prompt; None if the row has no prefill speed."""
    speed = row.prefill_tok_per_s
    return None if speed is None or row.prompt_len is None else row.prompt_len / speed.mean


def pytest_h2o_metrics(config):
    return [
        RowMetric(
            "first_token_s",
            "time to the first token",
            unit="s",
            higher_is_better=False,
            target=2.0,
            value=first_token_s,
        )
    ]
