"""ListOps: the value of a nested expression of lists of digits."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from subquad.contract import Variant, Workload, at_least
from subquad.tasks.even import even
from subquad.tasks.model import Transformer
from subquad.tasks.task import IGNORED, Batch, Split, Task

OPERATORS = ("MIN", "MAX", "MED", "SM")
TOKENS = (*"0123456789", *(f"[{name}" for name in OPERATORS), "]", "=", "")
OPEN, CLOSE, ASK, EMPTY = 10, 14, 15, 16
NESTED = 0.25  # of the arguments are lists; lra_benchmarks/data/listops.py, VALUE_P
OF_EIGHT: dict[Split, tuple[int, ...]] = {"validation": (0,), "test": (1,), "train": (2, 3, 4, 5, 6, 7)}


@dataclass(frozen=True)
class ListOps(Task):
    """`[MAX 2 9 [MIN 4 7 ] 0 ]` is 9, asked for at the `=` behind it.

    Operators are MIN, MAX, MED (median) and SM (sum modulo 10). A list has 2 to `args` arguments, each
    a list with probability 1/4 down to `depth` levels, else a digit; kept are expressions of `shortest`
    to `longest` tokens. The median of an even number is the mean of the middle two, rounded down.
    A hash of the tokens says which split an expression belongs to, so no two splits share one.

    The operator in front tells much: the more arguments, the surer MIN is 0 and MAX is 9. What a table
    from it to the most frequent value scores is the shortcut `root operator`.
    """

    name: ClassVar[str] = "listops"
    source: ClassVar[str] = (
        "Nangia, Bowman 2018, arXiv 1804.06028; as in Tay et al. 2020, arXiv 2011.04006, section 2.2.1"
    )
    # A tenth above the root operator (0.24). Full attention comes to 0.45 and a mean of the values to
    # 0.42: beside control_mean the task is INVALID until sizes and steps are larger.
    solved: ClassVar[float] = 0.35

    depth: int = 2
    args: int = 5
    shortest: int = 8
    longest: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("depth", self.depth, 1)
        at_least("args", self.args, 2)
        at_least("shortest", self.shortest, 4)
        at_least("longest", self.longest, self.shortest)
        if self._most() < self.shortest:
            raise ValueError(
                f"shortest must be <= {self._most()} (all that depth={self.depth} and args={self.args} "
                f"allow), got {self.shortest}"
            )

    @property
    def seq_len(self) -> int:
        return self.longest + 1

    @property
    def classes(self) -> int:
        return 10

    def draw(self, split: Split, count: int, seed: int) -> Batch:
        chance = random.Random(f"{self.name}/{split}/{seed}")
        inputs = torch.full((count, self.seq_len), EMPTY)
        targets = torch.full((count, self.seq_len), IGNORED)
        for row in range(count):
            tokens, value = self._expression(split, chance)
            asked = len(tokens)
            inputs[row, : asked + 1] = torch.tensor([*tokens, ASK])
            targets[row, asked] = value
        return Batch(inputs, targets)

    def model(self, variant: Variant, w: Workload) -> nn.Module:
        return even(Transformer.of(self, variant, w, len(TOKENS)))

    def shortcuts(self, train: Batch, test: Batch) -> dict[str, float]:
        return {**super().shortcuts(train, test), "root operator": root_operator(train, test)}

    def _most(self) -> int:
        """Tokens of the longest expression there is."""
        tokens = 1
        for _ in range(self.depth):
            tokens = 2 + self.args * tokens
        return tokens

    def _expression(self, split: Split, chance: random.Random) -> tuple[list[int], int]:
        """The next expression of the split that is neither too short nor too long, and its value."""
        while True:
            tokens: list[int] = []
            value = self._write_list(tokens, self.depth, chance)
            fits = self.shortest <= len(tokens) <= self.longest
            if fits and zlib.crc32(bytes(tokens)) % 8 in OF_EIGHT[split]:
                return tokens, value

    def _write_list(self, tokens: list[int], depth: int, chance: random.Random) -> int:
        """Append a list of at most `depth` levels to `tokens`; gives its value.

        One that has become too long ends early: nobody asks for it.
        """
        operator = int(chance.random() * len(OPERATORS))
        tokens.append(OPEN + operator)
        values = []
        for _ in range(2 + int(chance.random() * (self.args - 1))):
            if depth > 1 and chance.random() < NESTED:
                values.append(self._write_list(tokens, depth - 1, chance))
            else:
                values.append(int(chance.random() * 10))
                tokens.append(values[-1])
            if len(tokens) > self.longest:
                break
        tokens.append(CLOSE)
        return value_of(operator, values)


def root_operator(train: Batch, test: Batch) -> float:
    """Accuracy of the most frequent value of expressions with the same first operator."""
    counts = torch.zeros(len(OPERATORS), 10, dtype=torch.int64)
    operator, value = train.inputs[:, 0] - OPEN, _answers(train)
    counts.index_put_((operator, value), torch.ones_like(value), accumulate=True)
    guess = counts.argmax(-1)[test.inputs[:, 0] - OPEN]
    return float((guess == _answers(test)).double().mean())


def _answers(batch: Batch) -> Tensor:
    return batch.targets[batch.targets != IGNORED]


def value_of(operator: int, values: list[int]) -> int:
    """What operator number `operator` makes of its arguments."""
    if OPERATORS[operator] == "MIN":
        return min(values)
    if OPERATORS[operator] == "MAX":
        return max(values)
    if OPERATORS[operator] == "SM":
        return sum(values) % 10
    ordered, half = sorted(values), len(values) // 2
    return (ordered[half] + ordered[~half]) // 2
