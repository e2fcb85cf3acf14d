"""The checks, one file each: a file here that declares `MEMBER = Check(about, run)` is run by `swath check`."""
