"""Stable-Baselines3's PPO as a contestant of the speed benchmark. The suite never depends on it."""

from benchmark_contestants import Channel


def stable_baselines3(spec: dict, channel: Channel) -> None:
    """`spec["settings"]` are arguments of its PPO; the rest of it as its users get it.

    Environments by its `make_vec_env`, so a DummyVecEnv; VecNormalize where `normalize` is true.
    """
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(spec["threads"])
    environments = make_vec_env(spec["task"], n_envs=spec["copies"])
    if spec["normalize"]:
        environments = VecNormalize(environments)
    model = PPO("MlpPolicy", environments, device="cpu", **spec["settings"])
    steps = model.n_steps * spec["copies"]

    def iteration() -> None:
        model.learn(steps, reset_num_timesteps=False)

    iteration()
    channel.tell()
    channel.serve(iteration, steps)
