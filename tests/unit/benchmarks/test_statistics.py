import math

import numpy as np
import pytest

from easynlp.benchmarks.statistics import mean_interval, ratio_interval
from easynlp.metrics import share_interval


def test_mean_interval_matches_students_t():
    found = mean_interval([0.61, 0.711, 0.589, 0.698, 0.718])
    assert found.mean == pytest.approx(0.6652, abs=1e-4)
    assert found.sd == pytest.approx(np.std([0.61, 0.711, 0.589, 0.698, 0.718], ddof=1), abs=1e-5)
    assert found.half_width == pytest.approx(2.776 * found.sd / math.sqrt(5), abs=1e-3)


def test_mean_interval_of_one_run_is_unknown():
    assert mean_interval([0.5]).half_width is None


def test_share_interval_stays_within_bounds():
    assert share_interval(0, 10)[0] == pytest.approx(0, abs=1e-9)
    assert share_interval(10, 10)[1] == pytest.approx(1)
    low, high = share_interval(420, 500)
    assert low < 0.84 < high
    assert high - low == pytest.approx(0.064, abs=0.003)


def test_ratio_interval_pairs_rounds():
    # Both sides slow down in round 2; the ratio does not move.
    found = ratio_interval([8.0, 4.0, 8.0], [2.0, 1.0, 2.0])
    assert (found.median, found.low, found.high) == (4.0, 4.0, 4.0)
    spread = ratio_interval([8.0, 9.0, 7.0, 8.5], [2.0, 2.1, 2.2, 1.9])
    assert spread.low <= spread.median <= spread.high
