"""How fast this project is beside Hugging Face's `Trainer` and a bare PyTorch loop: `make bench`."""
