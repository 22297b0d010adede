"""What a bandit picks after so many evaluations, worked out by hand for two arms."""

import numpy as np
import pytest
from offline_samples import write_offline

from rlsuite.cli.main import main
from rlsuite.evidence import rows, tuning


def test_two_arms_by_hand():
    """One seed each. A always scores 0; B scores -10 or 30, so 10 on average.

    k = 1: one of the two, at random, is pulled and chosen: (0 + 10) / 2 = 5.
    k = 2: the other one is pulled. B has shown 30, and is chosen (10), or -10, and A is (0): 5.
    k = 3: UCB pulls the better one again, since sqrt(2 log 3) = 1.5 is less than the gap. After
           30, B's mean is 10 or 30, still above A's; after -10 A stays: 5.
    """
    arms = [np.array([[0.0, 0.0]]), np.array([[-10.0, 30.0]])]
    found = tuning.curve(arms, np.random.default_rng(0))
    # 40,000 trials of 0 or 10: a standard error of 5 / 200 = 0.025
    assert found.mean[:3] == pytest.approx(5, abs=0.1)
    assert np.isnan(found.low).all()  # one seed shows no spread


def test_many_pulls_find_the_better_arm_where_the_bonus_is_large_enough():
    """Scaled to a span of 1 the bonus exceeds the gap: B, unlucky at first, is tried again.

    The better arm's mean is 10, so what is chosen comes close to that, where it stays at 5 with the
    scale of the test above.
    """
    arms = [np.array([[0.0, 0.0]]), np.array([[-10.0, 30.0]])]
    assert tuning.curve(arms, np.random.default_rng(0), 1 / 40).mean[-1] > 9


def test_a_trial_has_one_seed_of_each_setting_and_the_interval_is_over_seeds():
    """A: seeds of 10 and 20; B: one seed of 0 twice. After two pulls A is chosen in every trial.

    Its true score is 10 or 20, each in half of the trials: 15. A resample of A's two seeds is both
    of 10 in a quarter of the cases, both of 20 in another, so the 95% interval is [10, 20].
    """
    arms = [np.array([[10.0] * 3, [20.0] * 3]), np.zeros((2, 3))]
    found = tuning.curve(arms, np.random.default_rng(0))
    assert found.mean[1] == pytest.approx(15, abs=0.1)
    assert (found.low[1], found.high[1]) == (10, 20)


def test_settings_of_results_are_arms_and_seeds_of_one_setting_join(tmp_path, capsys):
    name = "deep-ope/hopper/medium-v0"
    bench = write_offline(tmp_path / "bench", {("iql", name): [10.0, 20.0]})
    other = write_offline(tmp_path / "other", {("iql@warm", name): [30.0, 40.0]})
    (bench / "iql@warm").mkdir()
    for file in (other / "iql@warm").iterdir():
        text = file.read_text().replace('"algorithm": "iql@warm"', '"algorithm": "iql"')
        (bench / "iql@warm" / file.name).write_text(text.replace("ab12", "cd34"))
    results = rows.read(bench)
    # The last ten of twenty evaluations climb from 11/20 to 20/20 of 10: 7.75 on average
    (plain, warm), *_ = tuning._groups(results).values()
    assert tuning.arm(plain, "score").mean(1) == pytest.approx([7.75, 15.5])
    assert tuning.arm([*plain, *plain], "score").shape == (2, 10)
    assert tuning.arm(warm, "score").mean(1) == pytest.approx([23.25, 31.0])
    assert main(["plot", str(bench), "--tuning", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "tuning.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(bench / ".."), "--tuning", "--out", str(tmp_path)]) != 0
