"""Benchmarks that anyone can repeat: `python -m benchmarks --help`.

- `rows.py`: the figures: what is compared with what, and the goals.
- `experiments.py`: what is run for them: contenders, topics and numbers of messages.
- `contenders/`: the programs that do the work, each in an environment of its own.
- `environments.py`, `broker.py`: what the contenders need.
- `runner.py`: runs the contenders of an experiment in turn, and checks that they did the same.
- `results.py`, `plots.py`: files, table and comparison.
"""
