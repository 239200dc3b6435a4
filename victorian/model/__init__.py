"""The network itself, in plain PyTorch. Knows nothing of training, requests or files."""
