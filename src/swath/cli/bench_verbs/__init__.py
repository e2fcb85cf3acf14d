"""The verbs of `swath bench`, one file each."""
