"""Does transfer help here, from which source, and how sure is that? Each transfer beside its from-scratch twin."""

__version__ = "0.1.0"
