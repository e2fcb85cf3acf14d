"""Encoders, decoders, tokenizers and the records of published weights."""
