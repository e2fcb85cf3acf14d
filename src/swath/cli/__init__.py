"""The command `swath`: one file per verb; heavy imports stay inside the functions."""
