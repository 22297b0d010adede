"""What a training run needs: its folder, checkpoints, evaluation, logs, sweeps, videos."""
