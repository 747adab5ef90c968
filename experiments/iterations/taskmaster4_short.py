"""Replies in the dialogues of Taskmaster-4, reduced for a CPU.

python -m experiments.iterate taskmaster4_short --data-from DIR

Of a dialogue the last 47 subwords are read, and ten crops of a fifth, 40 batches apart, take the
place of thirty. Dense: BLEU 28.7 on the held-out replies and on the test set by greedy search. At
79 % sparsity 22.3 (magnitude alone), 25.9 (L2) and 27.3 (irrelevance) on the test set, at 83 % 11.7
to 16.5; one seed. It took some 100 minutes on a core that other work shared.
"""

import dataclasses
from functools import partial
from typing import Any

from experiments.iterations import taskmaster4

__all__ = ["config"]

_writing: Any = taskmaster4.config.task  # which has more knobs than a task must have

config = dataclasses.replace(
    taskmaster4.config,
    task=partial(_writing, widths=(24, 48)),
    every=40,
    fraction=0.2,
    rounds=10,
)
