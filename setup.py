"""Packaging. `constraints.txt` has the exact versions that the tests run with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "rlsuite/__init__.py").read_text(), re.M)[1]
RAY = "ray>=2.50.0"

setup(
    name="rlsuite",
    version=VERSION,
    description="Reinforcement-learning papers, one file each, trained on many seeds at once",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    author="rlsuite contributors",
    python_requires=">=3.11",
    packages=[*find_packages(include=["rlsuite", "rlsuite.*"]), "rlsuite.published"],
    # The published values lie in results/ in a checkout and in rlsuite/published once installed.
    package_dir={"rlsuite.published": "results/published"},
    package_data={"rlsuite.published": ["*.csv"], "rlsuite.datasets.recipes": ["*.toml"]},
    entry_points={"console_scripts": ["rlsuite = rlsuite.cli.main:main"]},
    # The lowest versions that the tests were run with; older ones may work, nobody has tried.
    install_requires=[
        "torch>=2.13.0",
        "numpy>=2.0.2",
        "scipy>=1.17.1",  # linear programs: the optima of tabular tasks
        "gymnasium>=1.2.0",
        "pygame-ce>=2.5.2",  # with it Gymnasium draws CartPole and its like
        # EnvPool holds MuJoCo 3.6.0; from 3.8.1 on the two engines' physics differ
        "mujoco==3.6.0; sys_platform == 'linux'",
        "mujoco>=3.6.0,<4; sys_platform != 'linux'",
        "envpool>=1.2.5; sys_platform == 'linux'",  # elsewhere: Gymnasium alone
        "tensorboard>=2.20.0",
        "safetensors>=0.5.0",
        "rich>=13.9.0",
        "matplotlib>=3.9.0",
        "imageio>=2.36.0",
        "imageio-ffmpeg>=0.6.0",
        "minari[hdf5]>=0.5.3",
        "h5py>=3.12.1",
        "pillow>=11.0.0",  # Minari imports it for hdf5, without asking for it
    ],
    extras_require={
        "ray": [RAY],
        "tune": ["optuna>=5.0.0"],
        "wandb": ["wandb>=0.31.0"],
        "onnx": ["onnx>=1.23.2", "onnxruntime>=1.32.0", "onnxscript>=0.7.2"],
        "dev": [
            RAY,
            "pytest>=8.4.0",
            "pytest-cov>=6.2.0",
            "pytest-timeout>=2.4.0",
            "pytest-xdist>=3.8.0",
            "ruff>=0.14.0",
        ],
    },
)
