"""Training a small character-level GPT-2 on any text file, saved as a Hugging Face folder.

The last tenth of the text is held out: the validation loss is measured on all of it, and its first
part is saved beside the model as text to analyse. Windows of text are drawn anew at each step from
the seed and the number of the step, so that an interrupted training goes on as if it had not been.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from libgraph.backend import Course, DataError, Outcome, Progress, fit, writing
from libgraph_backends.lm.documents import decoded, read_content
from libgraph_backends.lm.libraries import quiet
from libgraph_backends.shared.schedules import falling, rising, set_learning_rate
from libgraph_backends.shared.streams import step_generator

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    from libgraph_backends.lm.options import TrainingOptions


HELD_OUT = 10
"""One part in so many is for validation, at the end of the text."""


KEPT_TEXT = 64_000
"""Characters of held-out text that are saved with the model."""


WARM_UP = 100
"""Steps in which the learning rate rises; afterwards it falls as a cosine to a tenth."""


EVALUATION_BATCH = 64


def train(options: TrainingOptions, directory: Path, progress: Progress) -> Outcome:
    """Train into a Hugging Face folder; returns the history of the validation loss (nats)."""
    text = read_text(options.text, options.encoding)
    tokenizer = character_tokenizer(text)
    tokens = torch.tensor(tokenizer(text)["input_ids"])
    split = len(tokens) - len(tokens) // HELD_OUT
    training, blocks = tokens[:split], _validation_blocks(options, tokens[split:])
    model = initial_model(options, len(tokenizer))
    # Autocast makes products in bfloat16 where the weights and their updates stay in float32.
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bfloat16)

    def loss(step: int) -> Tensor:
        share = learning_rate_share(step, options.steps)
        set_learning_rate(optimizer, options.learning_rate * share)
        generator = step_generator(options.seed, step)
        starts = torch.randint(
            len(training) - options.n_ctx, (options.batch_size, 1), generator=generator
        )
        windows = training[starts + torch.arange(options.n_ctx + 1)]
        with mixed:
            return _loss(model, windows)

    def evaluate() -> dict[str, float]:
        losses = [float(_loss(model, part)) * len(part) for part in blocks.split(EVALUATION_BATCH)]
        return {"validation_loss": sum(losses) / len(blocks)}

    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=options.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=options.weight_decay,
    )
    history = fit(
        parameters,
        loss,
        Course(
            steps=options.steps,
            directory=directory,
            settings=options.model_dump(mode="json") | {"characters": len(tokens)},
        ),
        optimizer=optimizer,
        evaluate=evaluate,
        progress=progress,
    )
    with quiet():
        model.half().save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    with writing(directory / "text.txt") as path:
        path.write_text(text[split:][:KEPT_TEXT], encoding="utf-8")
    return {"history": history, "parameters": sum(p.numel() for p in parameters.values())}


def _validation_blocks(options: TrainingOptions, validation: Tensor) -> Int[Tensor, "n length"]:
    """What is held out in blocks, each a character longer than a window of text."""
    if len(validation) <= options.n_ctx:
        raise DataError(
            f"'{options.text}' is too short: the tenth of it that is held out has "
            f"{len(validation)} characters, and needs more than n_ctx, {options.n_ctx}."
        )
    length = options.n_ctx + 1
    blocks: Tensor = validation[: len(validation) // length * length].unflatten(0, (-1, length))
    return blocks


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """A text file in UTF-8, or in the encoding that is named; `-` is standard input.

    Raises:
        DataError: if it cannot be read, is in another encoding, or is empty.
    """
    text = decoded(read_content(str(path)), str(path), encoding)
    if not text.strip():
        raise DataError(f"The text '{path}' is empty.")
    return text


def character_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """One token for each character of the text, in order; a new line begins a sequence."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = sorted(set(text) | {"\n"})
    vocabulary = {character: i for i, character in enumerate(characters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="\n"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="\n",  # noqa: S106
        bos_token="\n",  # noqa: S106
        eos_token="\n",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )


def initial_model(options: TrainingOptions, characters: int) -> GPT2LMHeadModel:
    """GPT-2 with random weights and no dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(options.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=characters,
            n_positions=options.n_ctx,
            n_embd=options.d_model,
            n_layer=options.layers,
            n_head=options.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step: it rises, then falls to a tenth."""
    if step < WARM_UP:
        return rising(step, WARM_UP)
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return falling(math.pi * done, lowest=0.1)


def _loss(model: GPT2LMHeadModel, windows: Tensor) -> Tensor:
    """Mean cross-entropy of each next character, in nats."""
    logits = model(windows[:, :-1]).logits.float()
    return cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
