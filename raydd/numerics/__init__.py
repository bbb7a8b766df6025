"""Functions of tensors: no files, no clock, no global state; torch only."""
