"""benchmarks: their arithmetic by hand, their processes for a fraction of a second."""

import csv
import json
from importlib import import_module

import pytest


@pytest.fixture
def module(monkeypatch):
    return import_module


@pytest.fixture
def speed(module):
    return module("benchmarks.speed")


@pytest.fixture
def plans(module):
    return module("benchmarks.plans")


@pytest.fixture
def tables(module):
    return module("benchmarks.tables")


def measured(name: str, *rates: float, **process: object) -> dict:
    rounds = [{"steps_per_second": rate, "processes": [process]} for rate in rates]
    return {"task": "Hopper-v4", "name": name, "rounds": rounds}


def test_ratios_are_taken_within_rounds_against_the_better_peer(tables):
    slow, fast = measured("slow", 4.0, 4.0, 4.0), measured("fast", 2.0, 10.0, 20.0)
    answer = tables.ratio([measured("ours", 8.0, 20.0, 60.0)], [slow, fast], 2.5)
    # By medians fast (10) beats slow (4): 8 / 2, 20 / 10, 60 / 20
    assert answer["against"] == "fast"
    assert answer["per_round"] == [4.0, 2.0, 3.0]
    assert (answer["median"], answer["lowest"], answer["highest"]) == (3.0, 2.0, 4.0)
    row = ("Hopper-v4", "ours", "fast", "3.0", "2.0-4.0", "2.5, reached")
    assert tables.ratio_row(answer) == row
    assert tables.ratio_row(answer | {"target": 3.5})[-1] == "3.5, missed"


def test_milliseconds_are_those_of_one_iteration(tables):
    profile = {"physics": 0.6, "inference": 0.2, "learning": 0.8}
    ours = measured("ours", 500.0, 700.0, iterations=4, seconds=1.6, profile=profile)
    # Two rounds of four iterations: 2 x 1.6 s / 8 = 400 ms, of which 150, 50 and 200
    expected = ("Hopper-v4", "ours", "600", "500-700", "400", "150", "50", "200")
    assert tables.rate_row(ours) == expected


@pytest.mark.parametrize("algorithm", ["ppo", "trpo", "mdpo", "fixpo"])
@pytest.mark.parametrize("quick", [False, True])
def test_every_question_is_about_contestants(plans, algorithm, quick):
    plan = plans.quick(algorithm) if quick else plans.PLANS[algorithm]
    has_peer = algorithm in plans.PEERS
    assert has_peer == (algorithm in plans.PEER_PACKAGES)
    for task in plan.tasks:
        asked = plans.questions(plan, task)
        compared = {name for ours, against, _ in asked for name in (*ours, *against)}
        assert compared == set(plans.contestants(plan, task, with_peer=has_peer))


def test_ten_seeds_compete_with_as_many_environments(plans):
    for algorithm, environments in {"trpo": 20, "mdpo": 10, "fixpo": 640}.items():
        found = plans.contestants(plans.PLANS[algorithm], "Hopper-v4", with_peer=False)
        halves, whole, alone = found.values()  # 10 seeds of 2, 1 and 64 environments
        assert [(p["seeds"], p["cores"]) for p in halves] == [(5, [c]) for c in plans.CORES]
        assert [(p["seeds"], p["threads"]) for p in whole] == [(10, 1)]
        assert [p["copies"] for p in alone] == [environments]


def test_sb3_contrib_gets_the_settings_of_the_zoo(plans):
    defaults, same = plans.trpo_peers("HalfCheetah-v4").values()
    assert [(p["settings"], p["copies"], p["normalize"]) for p in defaults] == [
        ({}, 1, False)
    ] * len(plans.CORES)
    # rl-baselines3-zoo, trpo.yml: HalfCheetah-v4, over sb3-contrib's defaults
    zoo = {"n_steps": 1024, "batch_size": 128, "gae_lambda": 0.95, "gamma": 0.99}
    zoo |= {"learning_rate": 1e-3, "n_critic_updates": 20, "cg_max_steps": 25, "cg_damping": 0.1}
    zoo |= {"sub_sampling_factor": 1, "target_kl": 0.04}
    assert {key: same[0]["settings"][key] for key in zoo} == zoo
    assert [(p["copies"], p["normalize"], p["cores"]) for p in same] == [
        (2, True, [core]) for core in plans.CORES
    ]


def measured_trpo(plans, task: str) -> list[dict]:
    """Hand-made rates: ours 6 and 2, EnvPool 12, sb3-contrib 1 and 3; 2 s an iteration."""
    halves, whole, *others = plans.contestants(plans.PLANS["trpo"], task, with_peer=True)
    profile = {"physics": 0.5, "inference": 0.25, "learning": 1.25}
    found = [
        measured(halves, 6.0, 6.0, iterations=1, seconds=2.0, profile=profile),
        measured(whole, 2.0, 2.0, iterations=1, seconds=2.0, profile=profile),
    ]
    for name, rate in zip(others, (12.0, 1.0, 3.0), strict=True):
        found.append(measured(name, rate, rate, iterations=1, seconds=2.0, profile={}))
    return [m | {"task": task, "ready": [{"compiled": True}]} for m in found]


def test_an_algorithm_gets_three_files(speed, plans, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speed, "measure", lambda task, *_: measured_trpo(plans, task))
    monkeypatch.setattr(speed, "peer_versions", lambda _: {"sb3-contrib": "1.2.3"})
    monkeypatch.setattr(speed, "FOLDER", tmp_path / "speed")
    speed.main(["trpo"])
    assert sorted(p.name for p in (tmp_path / "speed").iterdir()) == [
        *("trpo.csv", "trpo.json", "trpo.md")
    ]
    with (tmp_path / "speed" / "trpo.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["Task", "TRPO", "against", "Ratio", "Range", "Target"]
    # Halves at 6: 6 / 12 of EnvPool, 6 / 1 and 6 / 3 of the peers. Whole at 2: 2 / 12, 2 / 1, 2 / 3
    # The target belongs to the faster of ours
    assert [row[3:] for row in rows if row[0] == "HalfCheetah-v4"] == [
        ["0.50", "0.50-0.50", ""],
        ["0.17", "0.17-0.17", ""],
        ["6.0", "6.0-6.0", "4, reached"],
        ["2.0", "2.0-2.0", ""],
        ["2.0", "2.0-2.0", "4, missed"],
        ["0.67", "0.67-0.67", ""],
    ]
    page = (tmp_path / "speed" / "trpo.md").read_text()
    assert page.startswith("# Speed of TRPO\n") and page in capsys.readouterr().out
    assert "`python -m benchmarks.speed trpo`, 5 rounds" in page
    assert "2x1024 transitions" in page and "sb3-contrib 1.2.3" in page
    assert "Our update is compiled, as `--compile auto` decides." in page
    assert "| 6 | 6-6 | 2000 | 500 | 250 | 1250 |" in page
    results = json.loads((tmp_path / "speed" / "trpo.json").read_text())
    assert len(results["measurements"]) == 10 and results["compile_seconds"] is None


def test_quick_writes_nothing(speed, plans, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speed, "FOLDER", tmp_path)
    orders = []

    def measure(task, contestants, rounds, seconds):
        orders.append((task, [p["seeds"] for p in next(iter(contestants.values()))], rounds))
        answer = {"iterations": 1, "seconds": 1.0, "profile": {}}
        about = {"task": task, "ready": [{"compiled": False}]}
        return [measured(name, 1.0, **answer) | about for name in contestants]

    monkeypatch.setattr(speed, "measure", measure)
    speed.main(["--quick", "mdpo", "fixpo"])
    one_each = [1] * len(plans.CORES)
    assert orders == [("HalfCheetah-v4", one_each, 1)] * 2
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().out
    assert "# Speed of MDPO" in said and "# Speed of FixPO" in said
    assert "Our update is plain PyTorch" in said


def test_unknown_names_are_refused_before_anything_runs(speed, monkeypatch):
    monkeypatch.setattr(speed, "run", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(SystemExit, match=r"'tpro' is not known .* type one of: trpo"):
        speed.main(["mdpo", "tpro"])
    with pytest.raises(SystemExit, match="type one of: --quick"):
        speed.main(["--quik"])


def test_a_missing_peer_is_named_with_what_to_type(speed, monkeypatch, capsys):
    found = {"stable_baselines3": object(), "sb3_contrib": None}
    monkeypatch.setattr(speed.importlib.util, "find_spec", found.get)
    assert speed.peer_versions("trpo") == {}
    assert capsys.readouterr().out.endswith("\npip install sb3-contrib\n")
    assert speed.peer_versions("mdpo") == {} and capsys.readouterr().out == ""


@pytest.mark.slow
def test_processes_answer_with_whole_iterations(speed, plans):
    pytest.importorskip("envpool")
    everyone = plans.ppo_contestants("HalfCheetah-v4", (1,), 2)
    names = (plans.ours_name(1, 1, plans.EAGER), plans.envpool_name(8))
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


def test_a_contestant_that_dies_says_why(speed, plans):
    specs = plans.ppo_contestants("Hoper-v4", (1,), 2)[plans.ours_name(1, 1, plans.EAGER)]
    with pytest.raises(RuntimeError, match="unknown task 'Hoper-v4'"):
        speed.start(specs)
