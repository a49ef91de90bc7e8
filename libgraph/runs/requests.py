"""What people write for an intervention: `ln2.0/5=2x`, `module:3=0`, `ln2.0/5+=1.5`, `…=mean`.

What stands before the sign is a feature or a module; without a sign it is put to its mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from libgraph.errors import UsageError
from libgraph.interventions.changes import HOWS, VALUED, Change, How, Intervention
from libgraph.interventions.subject import Subject
from libgraph.runs.feature import graph_once
from libgraph.runs.run import Run
from libgraph.runs.subject import changes_of

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"

REQUEST = re.compile(rf"(?P<name>.*?)(?P<add>\+)?=(?P<value>{NUMBER}|[a-z-]+)(?P<times>[x×])?")


def read_request(text: str, how: How = "mean") -> tuple[str, How, float | None]:
    """Feature or module, what becomes of it, and the value that this needs.

    Args:
        text: as people write it.
        how: what becomes of it where the text does not say.

    Raises:
        UsageError: if it cannot be read.
    """
    found = REQUEST.fullmatch(text)
    if found is None:
        if "=" in text:
            raise UsageError(
                f"'{text}' cannot be read: write a feature or module:N, then =0 to set it, =2x to "
                "scale it, +=1.5 to add, or =mean, =position-mean, =resample."
            )
        return text, how, None
    name, value = found["name"], found["value"]
    if re.fullmatch(NUMBER, value) is None:
        words = [word for word in HOWS if word not in VALUED]
        if value not in words or found["add"] or found["times"]:
            raise UsageError(
                f"'{text}' cannot be read: after = stands a number, or {' or '.join(words)}."
            )
        return name, next(word for word in HOWS if word == value), None
    if found["add"] and found["times"]:
        raise UsageError(f"'{text}' adds and scales at once: do one of them.")
    chosen: How = "add" if found["add"] else "scale" if found["times"] else "set"
    return name, chosen, float(value)


def intervention_of(
    run: Run,
    texts: Sequence[str],
    *,
    how: How = "mean",
    positions: tuple[int, ...] | None = None,
    basis: str | None = None,
) -> Intervention:
    """One intervention that makes all these changes together.

    A feature that several texts put to the same, as a feature and its module do, is put there once.

    Raises:
        UsageError: if one cannot be read, or there is no such feature or module.
    """
    graph = graph_once(run, run.chosen(basis))
    changes: list[Change] = []
    for text in texts:
        name, chosen, value = read_request(text, how)
        for change in changes_of(graph, name, chosen, value, positions):
            # A feature that is named beside its module is changed once.
            done = {
                feature
                for other in changes
                if chosen not in ("scale", "add")
                and replace(other, features=()) == replace(change, features=())
                for feature in other.features
            }
            left = tuple(feature for feature in change.features if feature not in done)
            changes.append(replace(change, features=left))
    return Intervention(" + ".join(texts), tuple(changes))


def positions_of(text: str | None) -> tuple[int, ...] | None:
    """Positions from `3`, `0,2,-1` or None, which is all.

    Raises:
        UsageError: if it cannot be read.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"'{text}' are no positions: write such as 3 or 0,2,-1.") from None


def input_of(subject: Subject, text: str | None, sample: int | None) -> Tensor:
    """Raw inputs of one sample: of a text, or of the subject's data by its number.

    Raises:
        UsageError: if neither is given, or both, or there is no such sample.
    """
    if (text is None) == (sample is None):
        raise UsageError("Give a text, or the number of a sample: one of both.")
    if text is not None:
        inputs: Tensor = subject.backend.inputs_of(text).to(subject.data.device)
        return inputs
    number, seen = sample or 0, 0
    for batch in subject.data:
        if number < seen + len(batch.inputs):
            return batch.inputs[number - seen : number - seen + 1]
        seen += len(batch.inputs)
    raise UsageError(
        f"There is no sample {sample}: the {subject.data.split} split has {seen}, from 0 on."
    )
