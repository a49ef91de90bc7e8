"""Binary addition in steps: a network whose weights are known, as a backend for libgraph."""

import itertools

import torch
from pydantic import Field

from libgraph.backend import Backend, Batch, Network, NodeLayer, TypedOptions
from libgraph.sections import Linear, SkipMLP


class AdderOptions(TypedOptions):
    """What `-o` sets."""

    bits: int = Field(3, ge=1, le=6, description="of each of the two numbers")


class Adder(Backend):
    """Bits of two numbers to their sum's: s ≥ c, nearly, is the sigmoid of 4(s − c + ½)."""

    name = "adder"
    summary = "binary addition in smooth steps, by hand"
    Options = AdderOptions
    options: AdderOptions
    score_name = "sums that are right"

    def network(self):
        """The sum against every number, then bits: bit k of s changes where 2^k divides c."""
        bits = self.options.bits
        places = 2.0 ** torch.arange(bits)
        numbers = torch.arange(1, 2 ** (bits + 1))  # every c that a sum may reach
        inner = torch.cat([places.repeat(2)[:, None].expand(-1, len(numbers)), 0.5 - numbers[None]])
        outer = torch.nn.functional.pad(torch.eye(len(numbers)), (0, 1))
        skip = torch.zeros(2 * bits + 1, len(numbers) + 1)
        skip[-1, -1] = 1  # the constant goes on
        powers = 2 ** torch.arange(bits + 1)
        changes = 1.0 - 2 * ((numbers[:, None] // powers) % 2 == 0)
        read = torch.where(numbers[:, None] % powers == 0, changes, 0.0)
        steps = SkipMLP(skip, 4 * inner, outer, torch.sigmoid)
        sections = [steps, Linear(torch.cat([read, read[:1] * 0 - 0.5]))]
        layers = [NodeLayer("bits", 2 * bits + 1), NodeLayer("at least", len(numbers) + 1)]
        output = NodeLayer("sum", bits + 1, constant=False, rotated=False)
        return Network(torch.nn.ConstantPad1d((0, 1), 1.0), sections, [*layers, output])

    def samples(self, split):
        """All pairs of numbers, in both splits."""
        return 4**self.options.bits

    def batches(self, split, batch_size):
        """Bits of both numbers, the lowest first, and those of the sum."""
        x = torch.tensor([*itertools.product((0.0, 1.0), repeat=2 * self.options.bits)])
        sums = (x @ (2.0 ** torch.arange(self.options.bits)).repeat(2)).long()
        y = sums[:, None] >> torch.arange(self.options.bits + 1) & 1
        yield from map(Batch, x[:, None].split(batch_size), y.split(batch_size))

    def score(self, outputs, targets):
        """1 where all bits are right."""
        return ((outputs[:, 0] > 0) == (targets > 0)).all(-1).to(outputs.dtype)
