"""Tasks, tunings, merging and uncertainty: fitting an encoder to a job."""
