"""Small causal language models, built from `transformers` configurations and trained from scratch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class SmallModel:
    """A Llama of a CPU's size. The defaults with 14 tokens have 100,032 parameters."""

    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    intermediate_size: int = 172
    """About 8/3 of the hidden size, as in Llama."""
    max_positions: int = 64

    def build(self, vocab_size: int, *, seed: int) -> "PreTrainedModel":
        """The model with random weights, the same for the same seed whatever was drawn before."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config)
