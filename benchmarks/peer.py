"""Stable-Baselines3's PPO and sb3-contrib's TRPO as contestants of the speed benchmark.

The suite never depends on them.
"""

from benchmarks.contestants import Channel


def peer(spec: dict, channel: Channel) -> None:
    """`spec["settings"]` are arguments of the algorithm; the rest of it as its users get it.

    Environments by their `make_vec_env`, so a DummyVecEnv; VecNormalize where `normalize` is true.
    """
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    if spec["algorithm"] == "trpo":
        from sb3_contrib import TRPO as Algorithm
    else:
        from stable_baselines3 import PPO as Algorithm

    torch.set_num_threads(spec["threads"])
    environments = make_vec_env(spec["task"], n_envs=spec["copies"])
    if spec["normalize"]:
        environments = VecNormalize(environments)
    model = Algorithm("MlpPolicy", environments, device="cpu", **spec["settings"])
    steps = model.n_steps * spec["copies"]

    def iteration() -> None:
        model.learn(steps, reset_num_timesteps=False)

    iteration()
    channel.tell()
    channel.serve(iteration, steps)
