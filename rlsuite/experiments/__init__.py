"""From runs to evidence: run folders, evaluation, sweeps, statistics, tables, curves, report."""
