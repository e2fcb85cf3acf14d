"""Encoders, one family a file. A file declares `MEMBER`: a frozen config with `kind`, `sizes` and `build()`."""
