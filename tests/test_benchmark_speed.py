"""scripts/benchmark_speed.py: its arithmetic by hand, its processes for a fraction of a second."""

from pathlib import Path

import pytest


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import benchmark_speed

    return benchmark_speed


def measured(name: str, *rates: float, **process: object) -> dict:
    rounds = [{"steps_per_second": rate, "processes": [process]} for rate in rates]
    return {"task": "Hopper-v4", "name": name, "rounds": rounds}


def test_ratios_are_taken_within_rounds_against_the_better_peer(speed):
    slow, fast = measured("slow", 4.0, 4.0, 4.0), measured("fast", 2.0, 10.0, 20.0)
    answer = speed.ratio([measured("ours", 8.0, 20.0, 60.0)], [slow, fast], 2.5)
    # By medians fast (10) beats slow (4): 8 / 2, 20 / 10, 60 / 20
    assert answer["against"] == "fast"
    assert answer["per_round"] == [4.0, 2.0, 3.0]
    assert (answer["median"], answer["lowest"], answer["highest"]) == (3.0, 2.0, 4.0)
    row = ("Hopper-v4", "ours", "fast", "3.0", "2.0-4.0", "2.5, reached")
    assert speed.ratio_row(answer) == row
    assert speed.ratio_row(answer | {"target": 3.5})[-1] == "3.5, missed"


def test_milliseconds_are_those_of_one_iteration(speed):
    profile = {"physics": 0.6, "inference": 0.2, "learning": 0.8}
    ours = measured("ours", 500.0, 700.0, iterations=4, seconds=1.6, profile=profile)
    # Two rounds of four iterations: 2 x 1.6 s / 8 = 400 ms, of which 150, 50 and 200
    expected = ("Hopper-v4", "ours", "600", "500-700", "400", "150", "50", "200")
    assert speed.rate_row(ours) == expected


@pytest.mark.parametrize("plan", ["Plan", "QUICK"])
def test_every_question_is_about_contestants(speed, plan):
    plan = speed.Plan() if plan == "Plan" else speed.QUICK
    known = speed.own_contestants("Hopper-v4", plan.counts, plan.many)
    known |= speed.peer_contestants("Hopper-v4")
    asked = speed.questions(plan.counts, plan.many)
    for ours, against, _ in asked:
        assert {*ours, *against} <= set(known)
    compared = {name for ours, against, _ in asked for name in (*ours, *against)}
    assert set(known) == compared


def test_processes_answer_with_whole_iterations(speed):
    pytest.importorskip("envpool")
    everyone = speed.own_contestants("HalfCheetah-v4", (1,), 2)
    names = (speed.ours_name(1, 1, speed.EAGER), speed.envpool_name(8))
    contestants = {name: everyone[name] for name in names}
    own, alone = speed.measure("HalfCheetah-v4", contestants, rounds=2, seconds=0.01)
    # An order of 10 ms is one iteration of 2048 steps, and some hundreds of steps of 8 environments
    for done in own["rounds"]:
        (process,) = done["processes"]
        assert (process["steps"], process["iterations"]) == (2048, 1)
        assert done["steps_per_second"] == pytest.approx(2048 / process["seconds"])
        kinds = process["profile"]
        assert set(kinds) == {"physics", "inference", "learning"}
        assert 0.9 * process["seconds"] <= sum(kinds.values()) <= process["seconds"]
    for done in alone["rounds"]:
        (process,) = done["processes"]
        assert process["steps"] == 800 * process["iterations"] and process["iterations"] >= 1


def test_a_contestant_that_dies_says_why(speed):
    specs = speed.own_contestants("Hoper-v4", (1,), 2)[speed.ours_name(1, 1, speed.EAGER)]
    with pytest.raises(RuntimeError, match="unknown task 'Hoper-v4'"):
        speed.start(specs)
