"""Solo-12, a quadruped of 2.85 kg, without meshes: the task of CaT on flat ground.

| symbol | shape | meaning |
|---|---|---|
| state | [E, 38] | time, position of base and joints (19), their velocities (18) |
| action | [E, 12] | joint targets are `STAND` + 0.5 action; unbounded, as the authors leave it |
| command | [E, 3] | wanted vx, vy in m/s and yaw rate in rad/s, in the base's frame |
| force | [E, 9, 3] | net contact force with the floor: 4 feet, 4 knees, base |
| signals | {name: [E, ...]} | what `margins` is made of |

All environments are stepped in batches by mujoco.rollout. Every one has a stream of random numbers
of its own, read in blocks, so its course does not depend on the others. Figures are those of the
authors' code, v1.0.0 (github.com/Gepetto/constraints-as-terminations), and its URDF.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlsuite.core import cores
from rlsuite.envs.costs import Constraint

TIME_LIMIT = 500  # steps of 0.02 s
DT, SUBSTEPS = 0.02, 4
LEGS = (("FL", 1, 1), ("FR", 1, -1), ("HL", -1, 1), ("HR", -1, -1))  # name, front, left
JOINTS = [f"{leg}_{joint}" for leg, _, _ in LEGS for joint in ("HAA", "HFE", "KFE")]
STAND = np.array([[0.05 * left, 0.4, -0.8] for _, _, left in LEGS]).reshape(-1)
HEIGHT = 0.3  # of the base at the start
TOUCH = 1.0  # newtons that count as contact
COMMANDS = np.array([[-0.3, 1.0], [-0.7, 0.7], [-0.78, 0.78]])
FORWARD = np.array([0.6, 0.0, 0.0])
PUSH = 0.5  # metres per second, along x and y
BLOCK, DRAWS = 64, 48  # steps drawn at once; uniform numbers of a step or a reset
# Half-widths of the uniform noise on spin, gravity, joint angles and joint speeds, as observed
NOISE = np.repeat([0.25 * 0.001, 0.05, 0.01, 0.05 * 0.2], [3, 3, 12, 12])

# ------------------------------------------------------------------------------------- model


def model():
    """The MuJoCo model: sensors are 12 actuator forces, then 9 contact forces."""
    import mujoco

    legs = "".join(_leg(*leg) for leg in LEGS)
    motors = "".join(f'<position name="{j}" joint="{j}"/>' for j in JOINTS)
    torques = "".join(f'<actuatorfrc actuator="{j}"/>' for j in JOINTS)
    bodies = [f"{leg}_{part}" for part in ("FOOT", "KNEE") for leg, _, _ in LEGS]
    touches = "".join(
        f'<contact geom1="{body}" geom2="floor" reduce="netforce" data="force"/>'
        for body in [*bodies, "BASE"]
    )
    return mujoco.MjModel.from_xml_string(f"""
<mujoco model="solo12">
  <compiler angle="radian" autolimits="true" inertiafromgeom="false"/>
  <option timestep="0.005" integrator="Euler" cone="pyramidal" iterations="10"/>
  <default>
    <joint armature="0.00036207"/>
    <geom contype="1" conaffinity="0" friction="0.8 0.02 0.01"/>
    <position kp="4" kv="0.2" forcerange="-10 10"/>
  </default>
  <worldbody>
    <geom name="floor" type="plane" size="0 0 1" contype="0" conaffinity="1" friction="0 0 0"/>
    <body name="BASE" pos="0 0 {HEIGHT}">
      <freejoint/>
      <inertial mass="1.572" pos="-0.00083 0 -0.0006"
                diaginertia="0.0026622 0.0138851 0.0160537"/>
      <geom name="BASE" type="box" size="0.25 0.05 0.05" pos="0 0 0.03"/>
      {legs}
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
  <sensor>{torques}{touches}</sensor>
</mujoco>""")


def _leg(name: str, sx: int, sy: int) -> str:
    haa = "-0.95 2.25" if sy > 0 else "-2.25 0.95"
    return f"""
<body pos="{sx * 0.2141} {sy * 0.0875} 0">
  <joint name="{name}_HAA" axis="1 0 0" range="{haa}"/>
  <inertial mass="0.14196" pos="{-sx * 0.09407} {-sy * 0.00439} 0"
            diaginertia="2.802e-5 3.8264e-4 3.805e-4"/>
  <body pos="{-sx * 0.0195} {sy * 0.014} 0">
    <joint name="{name}_HFE" axis="0 1 0" range="-4.22 1.57"/>
    <inertial mass="0.14737" pos="0 {sy * 0.01768} -0.07838"
              diaginertia="4.154e-4 4.1637e-4 2.982e-5"/>
    <geom name="{name}_KNEE" type="cylinder" size="0.02 0.08" pos="0 0 -0.08"/>
    <body pos="0 {sy * 0.03745} -0.16">
      <joint name="{name}_KFE" axis="0 1 0" range="-3.14 3.14"/>
      <inertial mass="0.02318" pos="0 {sy * 0.00777} -0.07004"
                diaginertia="8.508e-5 8.58e-5 1.39e-6"/>
      <geom type="cylinder" size="0.01 0.05" pos="0 0 -0.08"/>
      <body pos="0 {sy * 0.009} -0.16">
        <inertial mass="0.00694" pos="0 0 0" diaginertia="1e-6 1e-6 1e-6"/>
        <geom name="{name}_FOOT" type="sphere" size="0.02"/>
      </body>
    </body>
  </body>
</body>"""


# ------------------------------------------------------------------------------- constraints


def _soft(name: str, columns: int) -> Constraint:
    return Constraint(name, 0.02, "step", columns)


def _hard(name: str, columns: int = 1) -> Constraint:
    return Constraint(name, 0.005, "step", columns, "hard")


def _style(name: str, columns: int, p_max: float | None = None) -> Constraint:
    return Constraint(name, None, "step", columns, "style", p_max)


CONSTRAINTS = (
    _soft("torque", 12), _soft("joint_speed", 12), _soft("joint_acceleration", 12),
    _soft("action_rate", 12), _hard("knee_contact"), _hard("base_contact"),
    _hard("foot_force", 4), _hard("front_angle", 2), _hard("upside_down"),
    _style("hip_angle", 4), _style("orientation", 1), _style("air_time", 4),
    _style("stand_still", 12, 0.1), _style("two_feet", 1),
)  # fmt: skip


def margins(obs, action, next_obs, reward, signals) -> NDArray:
    """Signed distances to the limits, [E, 79]: above zero is over. Columns as `CONSTRAINTS`."""
    feet, knees, base = np.split(np.linalg.norm(signals["force"], axis=-1), [4, 8], 1)
    angle, gravity, command = (signals[name] for name in ("angle", "gravity", "command"))
    wanted = np.linalg.norm(command, axis=1, keepdims=True)
    straight = np.abs(command[:, 1:2]) < 0.1
    swing = signals["swing"]  # seconds in the air of a foot that touches down now, else NaN
    late = np.where(np.isnan(swing) | (wanted <= 0.1), -1, 0.25 - np.nan_to_num(swing))
    pair = np.abs((feet > TOUCH).sum(1, keepdims=True) - 2.0)
    hips, fronts = np.abs(angle - STAND)[:, ::3], np.abs(angle)[:, [1, 4]]
    speed = np.abs(signals["speed"])
    return np.concatenate(
        (
            np.abs(signals["torque"]) - 3.0,
            speed - 16.0,
            np.abs(signals["acceleration"]) - 800.0,
            np.abs(signals["action_rate"]) - 80.0,
            (knees > TOUCH).any(1, keepdims=True),
            base > TOUCH,
            feet - 50.0,
            fronts - 1.3,
            gravity[:, 2:] > 0,
            np.where(straight, hips - 0.2, -1),
            np.linalg.norm(gravity[:, :2], axis=1, keepdims=True) - 0.1,
            late,
            np.where(wanted < 0.1, speed - 4.0, -1),
            np.where(wanted > 0.5, pair, 0),
        ),
        axis=1,
    )


# ------------------------------------------------------------------------------------ physics


class Solo12Physics:
    """`count` robots, without time limit or automatic reset, as `Environments` asks for them."""

    discrete, seeded, first_action = False, True, 0
    obs_size, action_size, time_limit = 45, 12, TIME_LIMIT
    action_dtype = np.dtype(np.float64)

    def __init__(self, task: str, count: int, threads: int | None = None) -> None:
        import mujoco
        from mujoco import rollout

        self.forward = task == "Solo12Forward-v0"  # one command, no noise, no pushes
        self.action_low = np.full(12, -np.inf, np.float32)
        self.action_high = np.full(12, np.inf, np.float32)
        self._count, self._model = count, model()
        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self._width = mujoco.mj_stateSize(self._model, kind)
        threads = threads or max(1, min(cores.usable(), count // 8))
        self._data = [mujoco.MjData(self._model) for _ in range(threads)]
        self._rollout = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._models = [self._with_friction(mu) for mu in np.linspace(0.5, 1.25, 16)]

    def _with_friction(self, friction: float):
        import copy

        model = copy.copy(self._model)
        feet = [model.geom(f"{leg}_FOOT").id for leg, _, _ in LEGS]
        model.geom_friction[feet, 0] = friction
        return model

    def open(self, seeds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Begin anew from `seeds` [E]; return the first observations [E, O]."""
        count = self._count
        self._streams = [np.random.default_rng(int(seed)) for seed in seeds]
        self._drawn = np.empty((count, BLOCK, DRAWS))
        self._next = np.full(count, BLOCK)  # of its block, what each reads next
        self._state = np.zeros((count, self._width))
        self._action, self._speed = np.zeros((2, count, 12))
        self._swing = np.zeros((count, 4))  # seconds that each foot has been in the air
        self._command = np.zeros((count, 3))
        self._own = [self._models[0]] * count
        return self.reset(np.arange(count))

    def _uniform(self, rows: NDArray) -> NDArray:
        """The next uniform numbers [K, DRAWS] of `rows`, each from its own stream."""
        for row in rows[self._next[rows] == BLOCK]:
            self._streams[row].random(out=self._drawn[row])
            self._next[row] = 0
        found = self._drawn[rows, self._next[rows]]
        self._next[rows] += 1
        return found

    def reset(self, rows: NDArray) -> NDArray[np.float64]:
        """New episodes in `rows` [K]: at the start pose, with noise where the task has it."""
        draw = self._uniform(rows)
        state = np.zeros((len(rows), self._width))
        position, velocity = state[:, 1:20], state[:, 20:38]
        position[:, 2], position[:, 3], position[:, 7:] = HEIGHT, 1, STAND
        self._command[rows] = FORWARD
        if not self.forward:
            position[:, :2] = 0.1 * draw[:, :2] - 0.05
            yaw = 1.57 * (2 * draw[:, 2] - 1)
            position[:, 3], position[:, 6] = np.cos(yaw / 2), np.sin(yaw / 2)
            position[:, 7:] *= 0.95 + 0.1 * draw[:, 3:15]
            velocity[:, 6:] = 0.1 * draw[:, 15:27] - 0.05
            self._command[rows] = _commands(draw[:, 27:30])
            for row, share in zip(rows, draw[:, 30], strict=True):
                self._own[row] = self._models[int(share * len(self._models))]
        self._state[rows] = state
        self._action[rows] = self._swing[rows] = 0
        self._speed[rows] = velocity[:, 6:]
        return self._observe(rows, velocity[:, 6:], self._uniform(rows))

    def step(self, action: NDArray, rows: NDArray | None = None) -> tuple:
        """Step all, or `rows` [K]; return obs, reward, terminated, no truncation, signals."""
        rows = np.arange(self._count) if rows is None else rows
        draw = self._uniform(rows)
        target = (STAND + 0.5 * action)[:, None].repeat(SUBSTEPS, 1)
        before = self._state[rows]
        models = [self._own[row] for row in rows]
        states, sensors = self._rollout.rollout(models, self._data, before, target)
        state, sensed = states[:, -1].copy(), sensors[:, -1]
        speed = (state[:, 8:20] - before[:, 8:20]) / DT  # finite differences, as observed
        now = state[:, 26:38]
        rotation = _rotation(state[:, 4:8])
        velocity = np.einsum("eji,ej->ei", rotation, state[:, 20:23])
        gravity, force = -rotation[:, 2], sensed[:, 12:].reshape(-1, 9, 3)
        command = self._command[rows].copy()
        error = ((velocity[:, :2] - command[:, :2]) ** 2).sum(1)
        spin = (state[:, 25] - command[:, 2]) ** 2
        reward = np.exp(-error / 0.25) + 0.5 * np.exp(-spin / 0.25)
        touching = np.linalg.norm(force, axis=2) > TOUCH
        terminated = touching[:, 4:].any(1) | (gravity[:, 2] > 0)
        signals = {
            "torque": sensed[:, :12], "speed": now, "force": force, "angle": state[:, 8:20],
            "acceleration": (now - self._speed[rows]) / DT, "gravity": gravity,
            "action_rate": (action - self._action[rows]) / DT, "command": command,
            "swing": self._landed(rows, touching[:, :4]), "velocity": velocity,
        }  # fmt: skip
        self._state[rows], self._speed[rows], self._action[rows] = state, now, action
        if not self.forward:
            self._disturb(rows, draw)
        return self._observe(rows, speed, draw), reward, terminated, None, signals

    def _landed(self, rows: NDArray, touching: NDArray) -> NDArray:
        """Seconds that each foot was in the air if it touches down now, else NaN: [K, 4]."""
        swing = self._swing[rows] + DT
        landed = np.where(touching & (self._swing[rows] > 0), swing, np.nan)
        self._swing[rows] = np.where(touching, 0, swing)
        return landed

    def _disturb(self, rows: NDArray, draw: NDArray) -> None:
        """Now and then another command, the opposite spin or a push, for the steps to come."""
        command, chance = self._command[rows], draw[:, 33:36]
        idle = ~command.any(1)
        other = chance[:, 0] < np.where(idle, 0.01, DT / 10)
        command[chance[:, 1] < DT / 10, 2] *= -1
        self._command[rows] = np.where(other[:, None], _commands(draw[:, 36:39]), command)
        pushed = rows[chance[:, 2] < DT / 20]
        push = PUSH * (2 * draw[chance[:, 2] < DT / 20, 39:41] - 1)
        self._state[pushed, 20:22] = push

    def _observe(self, rows: NDArray, speed: NDArray, draw: NDArray) -> NDArray[np.float64]:
        """What the robot senses and is told: [K, 45], with noise where the task has it."""
        state = self._state[rows]
        gravity = -_rotation(state[:, 4:8])[:, 2]
        spin, angle = state[:, 23:26], state[:, 8:20]
        command = self._command[rows] * (2, 2, 0.25)
        felt = np.concatenate((0.25 * spin, gravity, angle, 0.05 * speed), 1)
        if not self.forward:
            felt = felt + NOISE * (2 * draw[:, : len(NOISE)] - 1)
        return np.concatenate((felt[:, :3], command, felt[:, 3:], self._action[rows]), 1)

    def close(self) -> None:
        """Stop the threads."""
        self._rollout.close()


def _commands(draw: NDArray) -> NDArray:
    """Commands [K, 3] from uniform numbers; none at all where all three are small."""
    low, high = COMMANDS.T
    command = low + (high - low) * draw
    return np.where((np.abs(command) < 0.1).all(1, keepdims=True), 0, command)


def _rotation(quaternion: NDArray) -> NDArray:
    """Matrices [K, 3, 3] that rotate the base's frame into the world's."""
    w, x, y, z = quaternion.T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.array(rows).transpose(2, 0, 1)
