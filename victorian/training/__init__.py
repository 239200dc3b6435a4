"""Everything between a batch and an artifact, in plain PyTorch. Knows no Ray."""
