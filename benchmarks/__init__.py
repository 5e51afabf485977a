"""Benchmarks that anyone can repeat: `python -m benchmarks --help`.

- `rows.py`: the figures: which numbers are compared, and the goals.
- `experiments.py`: the runs behind the figures: contenders, topics and numbers of messages.
- `contenders/`: the programs that do the work, each in its own environment.
- `environments.py`, `broker.py`: the environments and the broker that the contenders use.
- `runner.py`: runs the contenders of an experiment in turn, and checks that they did the same work.
- `results.py`, `plots.py`: the result files, the table, the comparison and the plots.
"""
