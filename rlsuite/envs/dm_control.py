"""The tasks of dm_control as EnvPool names them, `WalkerWalk-v1`: domain, then task.

Observations are the keys that EnvPool gives, in its order, flattened and joined. EnvPool gives all
tasks of a domain the same keys; those that a task lacks in dm_control, most of them zeros, are left
out. Its observation spaces are no bounds (the lowest value would be 2.2e-308): nothing is cut
to them or scaled by them. LQR's actions have no bounds either, and it is left out.
"""

TIME_LIMIT = 1000  # steps of the task, of 10 to 25 ms each
NOTE = (
    "Only EnvPool runs dm_control's tasks here. Observations are joined in EnvPool's order, which "
    "is not always dm_control's."
)

_TASKS = {
    "Acrobot": "Swingup SwingupSparse",
    "BallInCup": "Catch",
    "Cartpole": "Balance BalanceSparse Swingup SwingupSparse TwoPoles ThreePoles",
    "Cheetah": "Run",
    "Dog": "Fetch Run Stand Trot Walk",
    "Finger": "Spin TurnEasy TurnHard",
    "Fish": "Swim Upright",
    "Hopper": "Hop Stand",
    "Humanoid": "Run RunPureState Stand Walk",
    "HumanoidCMU": "Run Stand Walk",
    "Manipulator": "BringBall BringPeg InsertBall InsertPeg",
    "Pendulum": "Swingup",
    "PointMass": "Easy Hard",
    "Quadruped": "Escape Fetch Run Walk",
    "Reacher": "Easy Hard",
    "Stacker": "Stack2 Stack4",
    "Swimmer": "Swimmer6 Swimmer15",
    "Walker": "Run Stand Walk",
}
NAMES = [f"{domain}{task}-v1" for domain, tasks in _TASKS.items() for task in tasks.split()]

_BALL, _TARGET = "obs:ball_state", "obs:target_position"
_ORIGIN, _RANGE = "obs:origin", "obs:rangefinder"
_FEATURES = "joint_angles head_height extremities torso_vertical com_velocity"
# Keys that the task does not have in dm_control
FILLERS: dict[str, tuple[str, ...]] = {
    **{f"Dog{task}-v1": (_BALL, _TARGET) for task in ("Run", "Stand", "Trot", "Walk")},
    "FingerSpin-v1": (_TARGET, "obs:dist_to_target"),
    "FishUpright-v1": ("obs:target",),
    **{f"Humanoid{task}-v1": ("obs:position",) for task in ("Run", "Stand", "Walk")},
    "HumanoidRunPureState-v1": tuple(f"obs:{name}" for name in _FEATURES.split()),
    "QuadrupedEscape-v1": (_BALL, _TARGET),
    "QuadrupedFetch-v1": (_ORIGIN, _RANGE),
    **{f"Quadruped{task}-v1": (_ORIGIN, _RANGE, _BALL, _TARGET) for task in ("Run", "Walk")},
}
