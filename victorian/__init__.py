"""Victorian: train a language model of your own on old books, and put it in front of readers."""

__version__ = "0.1.0"
