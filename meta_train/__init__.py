"""Meta-training and evaluation of learned optimizers."""
