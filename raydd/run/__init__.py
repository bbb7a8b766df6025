"""One distillation in its folder: resolved, checked, run, saved and resumed."""
