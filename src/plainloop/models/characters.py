"""What all models of characters share: they write, character by character."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.errors import UserError, listed


class CharModel(nn.Module):
    """A model that says at every place of a text which character is next; its `read` is still to be written.

    Args:
        vocabulary: the characters, by their numbers, for `generate`; or a string of JSON that lists them.
    """

    for_tasks = ("sequence_labelling",)

    def __init__(self, vocabulary: str | Sequence[str] | None = None):
        super().__init__()
        self.vocabulary = list(json.loads(vocabulary) if isinstance(vocabulary, str) else vocabulary or ())

    def read(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Tokens (N, T), and what is kept of those before them, to logits (N, T, num_outputs) and what is to be kept
        for the next ones."""
        raise NotImplementedError

    @torch.no_grad()
    def generate(
        self,
        prompt: str,
        length: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        top_k: int | None = None,
    ) -> str:
        """What may come behind `prompt`: so many characters, each drawn by the probabilities that the model gives it
        after all before it.

        Args:
            prompt: one character at least.
            temperature: what the logits are divided by; with 0 the most probable character is always taken.
            generator: on the CPU, to draw from; None for torch's default one.
            top_k: draw among so many of the most probable ones; None for all.

        Raises:
            UserError: a character of the prompt isn't in the vocabulary, which has no sign for unknown ones either.
        """
        number_of = {character: number for number, character in enumerate(self.vocabulary)}
        unknown = number_of.get("\N{REPLACEMENT CHARACTER}")
        known = [number_of.get(character, unknown) for character in prompt]
        if not known or None in known:
            fault = repr(prompt[known.index(None)]) if known else "no character"
            raise UserError(f"generate: {fault} is no prompt for this model. It knows: {listed(self.vocabulary)}.")
        tokens = torch.tensor([known], device=next(self.parameters()).device)
        found: list[str] = []
        training, state = self.training, None
        self.eval()
        for _ in range(length):
            logits, state = self.read(tokens, state)
            scores = logits[0, -1].float().cpu()
            if unknown is not None:  # it is read, and never said
                scores[unknown] = -torch.inf
            if top_k is not None and top_k < len(scores):
                kept = scores.topk(top_k).indices
                scores = torch.full_like(scores, -torch.inf).index_copy(0, kept, scores[kept])
            if temperature > 0:
                drawn = int(torch.multinomial((scores / temperature).softmax(0), 1, generator=generator))
            else:
                drawn = int(scores.argmax())
            found.append(self.vocabulary[drawn])
            tokens = tokens.new_tensor([[drawn]])
        self.train(training)
        return "".join(found)
