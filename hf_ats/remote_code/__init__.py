"""The code that goes along with a core, so that it loads where this package is not: torch and transformers alone."""
