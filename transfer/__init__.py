"""Does transfer help here, from which source, and how sure is that? Experiments in transfer learning, paired with their from-scratch twins."""

__version__ = "0.1.0"
