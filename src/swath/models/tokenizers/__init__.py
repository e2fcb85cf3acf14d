"""Tokenizers: pixels as ids of a finite codebook, and back."""

from __future__ import annotations

from swath.models.tokenizers.fsq import FiniteScalar
from swath.models.tokenizers.terramind import VQVAE, DiVAE, TokenizerPlan, build_tokenizer

__all__ = ["VQVAE", "DiVAE", "FiniteScalar", "TokenizerPlan", "build_tokenizer"]
